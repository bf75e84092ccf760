"""Larger than memory."""

from fastce.streaming.cross_entropy import cross_entropy, cross_entropy_value_and_grad

__all__ = ["cross_entropy", "cross_entropy_value_and_grad"]
