"""Products, sums and means in float64 that are right where what they are made of is beyond the largest number.

Such a number is a pair (f, e), standing for f * 2**e.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments import Array, compute_dtype
from fastce.layout import Rows
from fastce.silence import silently, store

ROOM = 64  # bits that a sum which would overflow is given
TINY = np.finfo(np.float64).tiny
LEAST_SUM = 2.0**-960  # whose terms have all their digits


def product(*factors: Array | float) -> tuple[Array, Array | int]:
    """The product of factors, element by element, as pairs, the exponent 0 if that will do; 0 times anything is 0.

    It will if no product on the way is subnormal or infinite.
    """
    *partial, plain = silently(_products, factors)
    sizes = [np.abs(x) for x in (*partial, plain)]
    if all(size.min(initial=1.0) >= TINY and size.max(initial=1.0) < np.inf for size in sizes):
        return plain, 0
    is_zero = functools.reduce(np.logical_or, (np.equal(factor, 0.0) for factor in factors))
    plain = np.where(is_zero, 0.0, plain)
    if all((is_zero | ((size >= TINY) & (size < np.inf))).all() for size in sizes):
        return plain, 0
    fractions, exponents = zip(*(np.frexp(factor) for factor in factors), strict=True)
    result = silently(_products, fractions)[-1]
    return np.where(is_zero, 0.0, result), functools.reduce(np.add, exponents)


def _products(factors: Sequence[Array | float]) -> list[Array]:
    """Those of the first two factors, the first three, and so on."""
    return list(itertools.accumulate(factors, np.multiply))[1:]


def powers_of(factors: Array | None) -> tuple[float, float]:
    """The powers of two of the smallest and the largest factor that is not 0."""
    if factors is None:
        return 0.0, 0.0
    if factors.size == 1:
        size = abs(float(factors.item()))
        power = math.log2(size) if 0.0 < size < math.inf else 0.0
        return power, power
    sizes = np.abs(factors)
    low, high = float(sizes.min(initial=np.inf)), float(sizes.max(initial=0.0))
    if low == 0.0:
        low = float(sizes.min(initial=np.inf, where=sizes > 0.0))
    return (math.log2(low), math.log2(high)) if high > 0.0 and low < math.inf else (0.0, 0.0)


def sum_of(pairs: tuple[Array, Array | int]) -> tuple[float, int]:
    """The sum of pairs as one, with a fraction below 1."""
    fractions, exponents = np.frexp(pairs[0])
    exponents = exponents + pairs[1]
    unit = int(exponents.max(initial=-(1 << 20), where=fractions != 0.0))
    fraction, exponent = math.frexp(silently(_sum_in_units, fractions, exponents - unit))
    return fraction, exponent + unit


def _sum_in_units(fractions: Array, exponents: Array) -> float:
    return float(np.add.reduce(np.ldexp(fractions, exponents), axis=None))


def _sum(terms: Array, exponents: Array | int = 0) -> tuple[float, int]:
    """(s, e): s * 2**e is the sum of terms * 2**exponents, and e is 0 unless float64 lacks room or digits for it."""
    total = float(np.add.reduce(terms if isinstance(exponents, int) else np.ldexp(terms, exponents)))
    if LEAST_SUM < abs(total) < math.inf or not np.isfinite(terms).all() or not terms.any():
        return total, 0
    fractions, own = np.frexp(terms)
    exponents = exponents + own
    unit = ROOM + int(exponents.max(where=fractions != 0.0, initial=-(1 << 20)))
    return float(np.add.reduce(np.ldexp(fractions, exponents - unit))), unit


def sum_in_order(parts: Sequence[tuple[float, int]]) -> tuple[float, int]:
    """The same of such pairs, one after the other."""
    if len(parts) == 1:
        return parts[0]
    if not any(exponent for _, exponent in parts):
        total = sum((part for part, _ in parts), 0.0)
        if math.isfinite(total) or not all(math.isfinite(part) for part, _ in parts):
            return total, 0
    unit = ROOM + max((math.frexp(part)[1] + exponent for part, exponent in parts if part != 0.0), default=-ROOM)
    return sum(math.ldexp(part, max(exponent - unit, -4000)) for part, exponent in parts), unit


def reduced(total: float, reduction: str, total_weight: float, exponent: int = 0) -> float:
    """The sum or mean of row losses, of which total * 2**exponent is the sum, as a Python float."""
    if reduction == "mean":
        if total_weight == 0.0:
            return math.nan
        if exponent == 0:
            return total / total_weight
        (total, own), (fraction, more) = math.frexp(total), math.frexp(total_weight)  # the quotient is ordinary
        total, exponent = total / fraction, exponent + own - more
    return float(silently(np.ldexp, total, exponent)) if exponent else total


EACH = "each"  # a reduction of our own: losses are kept as they are, to be added in another order


class RowLosses:
    """Where the row losses go: kept for "none" and EACH, else summed block by block."""

    def __init__(self, rows: Rows, reduction: str, blocks: int) -> None:
        self.rows = rows
        self.reduction = reduction
        self.sums: list[tuple[float, int]] = [(0.0, 0)] * blocks
        self.kept: Array | None = np.empty(rows.rows, compute_dtype(rows.dtype)) if reduction == "none" else None
        self.each: tuple[Array, Array] | None = None
        if reduction == EACH:
            self.each = np.empty(rows.rows), np.zeros(rows.rows, np.int32)

    def put(self, block: int, rows: slice | Array, losses: Array, exponents: Array | int = 0) -> None:
        """Take the losses of these rows, which belong to this block; each is to be multiplied by 2**exponent."""
        if self.each is not None:
            self.each[0][rows], self.each[1][rows] = losses, exponents
        elif self.kept is None:
            self.sums[block] = silently(_sum, losses, exponents)
        else:
            store(self.kept, rows, losses if isinstance(exponents, int) else silently(np.ldexp, losses, exponents))

    def total(self, axes: tuple[int, ...] | None = None) -> tuple[float, int]:
        """The sum of all losses, which are not kept, as a pair; of EACH in the order that these axes have."""
        if self.each is None:
            return sum_in_order(self.sums)
        losses, exponents = (part.reshape(self.rows.lead).transpose(axes).ravel() for part in self.each)
        return silently(_sum, losses, exponents if exponents.any() else 0)

    def value(self, total_weight: float, total_exponent: int = 0) -> Any:
        """What the reduction asks for; a mean is divided by total_weight * 2**total_exponent."""
        if self.kept is not None:
            return self.kept.reshape(self.rows.lead)[()]
        total, exponent = self.total()
        return reduced(total, self.reduction, total_weight, exponent - total_exponent)
