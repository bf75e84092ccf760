"""Larger than memory: losses and statistics of logits that come in pieces.

>>> import numpy as np, fastce.streaming
"""

from fastce.streaming.cross_entropy import cross_entropy, cross_entropy_value_and_grad
from fastce.streaming.running import LogSumExp
from fastce.streaming.statistics import row_stats

__all__ = ["LogSumExp", "cross_entropy", "cross_entropy_value_and_grad", "row_stats"]
