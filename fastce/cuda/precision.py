"""In which dtype a call is computed: float32, unless its numbers need the range of float64."""

from typing import Any

import numpy as np

_RANGE = {4: (1e-30, 1e30), 8: (1e-290, 1e290)}  # of factors, by the size of a float


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
