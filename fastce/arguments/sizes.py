"""How large the numbers of arrays are, of NumPy or a module like it."""

import math
from collections.abc import Iterable
from typing import Any

NOTHING = -1100  # the power of two of zeros: below that of any number


def largest_finite(xp: Any, parts: Iterable[Any]) -> float:
    """The largest of the numbers of all parts that is finite, 0 if there is none; the host waits once, in the end."""
    largest: Any = 0.0
    for sizes in parts:
        if sizes.size:
            largest = xp.maximum(largest, xp.where(xp.isfinite(sizes), sizes, 0.0).max())
    return float(largest)


def power_of_largest(xp: Any, parts: Iterable[Any]) -> int:
    """The power of two above all finite elements of these parts, `NOTHING` for zeros."""
    largest = largest_finite(xp, map(xp.abs, parts))
    return math.frexp(largest)[1] if largest > 0.0 else NOTHING
