"""How large the numbers of arrays are, of NumPy or a module like it."""

import math
from collections.abc import Iterable
from typing import Any

NOTHING = -1100  # the power of two of zeros: below that of any number


def largest_finite(xp: Any, sizes: Any) -> float:
    """The largest of these that is finite, 0 if there is none."""
    return float(xp.where(xp.isfinite(sizes), sizes, 0.0).max()) if sizes.size else 0.0


def power_of_largest(xp: Any, parts: Iterable[Any]) -> int:
    """The power of two above all finite elements of these parts, `NOTHING` for zeros."""
    largest = max((largest_finite(xp, xp.abs(part)) for part in parts), default=0.0)
    return math.frexp(largest)[1] if largest > 0.0 else NOTHING
