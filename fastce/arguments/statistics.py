"""What `row_stats` is asked for, and what its targets may be."""

from collections.abc import Sequence
from typing import Any, get_args

from fastce.arguments.numbers import integer
from fastce.typing import Statistic

OUTPUTS: tuple[Statistic, ...] = get_args(Statistic)
OF_TARGETS: tuple[Statistic, ...] = ("target_log_prob", "target_rank", "in_top_k")


def asks_for_targets(names: Sequence[str], targets: Any) -> bool:
    """Whether some of these outputs need targets, which are there then."""
    needing = [name for name in names if name in OF_TARGETS]
    if needing and targets is None:
        raise ValueError(f"outputs {', '.join(map(repr, needing))} need targets, got None")
    return bool(needing)


def checked_top_k(value: Any) -> int:
    """At least 1."""
    top_k = integer(value, "top_k")
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    return top_k


def numbers_of_classes(shape: tuple[int, ...]) -> ValueError:
    """The complaint about a matrix of integers, of the shape of the logits."""
    return ValueError(
        f"targets of class indices have shape {shape}, one number for each class: give several targets in a row as a "
        "sparse array, scipy.sparse.csr_array(targets)"
    )
