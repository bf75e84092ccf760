"""Fast losses for NumPy: logsumexp, cross entropy and its gradient in one pass, without a matrix of probabilities.

Importing fastce is quick and compiles nothing: each function is loaded when it is first used, and its kernels are
compiled, or read from the cache on disk, when they are first called.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastce.threads import get_num_threads, set_num_threads, threads

__version__ = "0.1.0"

_HOME = {
    "binary_cross_entropy_with_logits": "binary",
    "binary_cross_entropy_with_logits_value_and_grad": "binary",
    "clip_loss": "contrastive",
    "clip_loss_value_and_grad": "contrastive",
    "cross_entropy": "losses",
    "cross_entropy_grad_and_hess": "boosting",
    "cross_entropy_value_and_grad": "losses",
    "log_softmax": "special",
    "logsumexp": "special",
    "nll_loss": "nll",
    "nll_loss_value_and_grad": "nll",
    "row_stats": "statistics",
    "show_config": "configuration",
    "softmax": "special",
    "warmup": "configuration",
}

__all__ = [
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_value_and_grad",
    "clip_loss",
    "clip_loss_value_and_grad",
    "cross_entropy",
    "cross_entropy_grad_and_hess",
    "cross_entropy_value_and_grad",
    "get_num_threads",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "nll_loss_value_and_grad",
    "row_stats",
    "set_num_threads",
    "show_config",
    "softmax",
    "threads",
    "warmup",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'fastce' has no attribute {name!r}")
    value = getattr(import_module(f"fastce.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


if TYPE_CHECKING:
    from fastce.binary import (
        binary_cross_entropy_with_logits,
        binary_cross_entropy_with_logits_value_and_grad,
    )
    from fastce.boosting import cross_entropy_grad_and_hess
    from fastce.configuration import show_config, warmup
    from fastce.contrastive import clip_loss, clip_loss_value_and_grad
    from fastce.losses import cross_entropy, cross_entropy_value_and_grad
    from fastce.nll import nll_loss, nll_loss_value_and_grad
    from fastce.special import log_softmax, logsumexp, softmax
    from fastce.statistics import row_stats
