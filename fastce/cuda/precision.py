"""In which dtype a call is computed: float32, unless its numbers need the range of float64."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T")

_RANGE = {4: (1e-30, 1e30), 8: (1e-290, 1e290)}  # of factors, by the size of a float


class BeyondRange(ValueError):
    """The dtype of a call has not the range for what its gradients are multiplied by, or for masses of its targets."""

    def __init__(self, is_float64: bool, is_written: bool, is_in_place: bool = False) -> None:
        """``is_written`` says that some of the gradient has been."""
        dtype, least, most = ("float64", 1e-308, 1e308) if is_float64 else ("float32", 1e-38, 1e38)
        place = "in the place of logits " if is_in_place else ""
        super().__init__(
            f"on a GPU, what gradients {place}of {dtype} are multiplied by (grad_output, weights, logit_scale, "
            f"2 z_loss logsumexp) must be 0 or between {least} and {most} in size"
            + (": give another out" if is_in_place else "")
        )
        self.is_float64 = is_float64
        self.is_written = is_written
        self.is_in_place = is_in_place


def with_range(compute: Callable[[bool], T]) -> T:
    """compute(False), or where float32 has not the range for the numbers of a call, compute(True): in float64."""
    try:
        return compute(False)
    except BeyondRange as error:
        if error.is_float64 or error.is_in_place:
            raise
    return compute(True)


def fits(dtype: np.dtype[Any], *factors: float) -> bool:
    """Whether elements of this dtype can be multiplied by these, and by ratios of them; zeros stand for no factor."""
    low, high = _RANGE[dtype.itemsize]
    sizes = [factor for factor in factors if factor != 0.0]
    return all(low <= size <= high for size in sizes) and (not sizes or max(sizes) / min(sizes) <= high)


def limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    """The smallest and the largest factor of elements of this dtype."""
    return _RANGE[dtype.itemsize]


def check_factors(**factors: float) -> None:
    """Refuse numbers that are beyond the range of float64, too."""
    if not fits(np.dtype(np.float64), *factors.values()):
        low, high = _RANGE[8]
        given = ", ".join(f"{name}={factor}" for name, factor in factors.items() if factor != 0.0)
        raise ValueError(f"on a GPU, factors and their ratios must be between {low} and {high}, got {given}")


def check_plain(within: Any) -> None:
    """Refuse features and scales that float64 needs powers of two for (`fastce.products.ranges.Range`)."""
    if not within.is_plain:
        low, high = _RANGE[8]
        raise ValueError(
            f"on a GPU, features, their products and both times the scale must be between {low} and {high} in size, "
            f"got a scale of {within.given_scale}"
        )
