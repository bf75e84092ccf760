"""Sums of exponentials of rows or columns, and what they are relative to; all of the size of the rows, in float64.

The law by which they merge is that of pieces.py. Here the reference of a sum is a similarity, so that only differences
of similarities are scaled: they are as exact as the similarities, of whatever size those are.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._vectors.exponential import LN2

LN2_PARTS = (0.6931471787393093, 1.8206359961303598e-09, 2.373786426741311e-18)  # 28 digits: exact times up to 2**24
SPLITTER = 2.0**27 + 1.0


class Sums(NamedTuple):
    """Of every row or column: the sum of exp(scale (x - top)); of nothing, 0 and -inf."""

    exps: Array
    tops: Array

    @classmethod
    def of_nothing(cls, size: int) -> "Sums":
        """The law's identity, for so many rows."""
        return cls(np.zeros(size), np.full(size, -np.inf))

    def relative_to(self, tops: Array, scale: float, is_wide: bool) -> Array:
        """The same sums relative to others, which are not lower."""
        return np.where(self.exps == 0.0, 0.0, self.exps * exp_of_difference(self.tops, tops, scale, is_wide))

    def add(self, place: slice, new: "Sums", scale: float, is_wide: bool) -> None:
        """Add the sums of further elements of these rows (or columns)."""
        here = Sums(self.exps[place], self.tops[place])
        if here.tops.max(initial=-np.inf) == -np.inf:  # of nothing yet
            here.exps[:], here.tops[:] = new
            return
        tops = np.maximum(here.tops, new.tops)
        here.exps[:] = here.relative_to(tops, scale, is_wide) + new.relative_to(tops, scale, is_wide)
        here.tops[:] = tops


class Means(NamedTuple):
    """The mean similarity of every row or column, near + 2 half_distances: differences keep their digits."""

    near: Array
    half_distances: Array


def half_difference(x: Array, top: Array, scale: float) -> Array:
    """Half of scale (x - top), 0 for what is the same; halves do not overflow."""
    return np.where(x == top, 0.0, scale * (0.5 * x - 0.5 * top))


def exp_of_difference(x: Array, top: Array | float, scale: float, is_wide: bool = True) -> Array:
    """The exponential of scale (x - top), whose two roundings are made good: exp(d + e) = exp(d) (1 + e).

    Unless the result ``is_wide``, of float64, this is of no use: e is 2**-44 at most where exp(d) is no 0.
    """
    if not is_wide:
        return np.where(x == top, 1.0, np.exp(scale * (x - top)))
    a, b = 0.5 * x, 0.5 * top
    difference = a - b
    part = difference - a
    lost = (a - (difference - part)) - (b + part)
    product, low = _exact_product(scale, difference)
    low = 2.0 * (low + scale * lost)
    result = np.exp(2.0 * product)
    return np.where(x == top, 1.0, result + result * np.where(np.isfinite(low), low, 0.0))


def sums_of_powers(exps: Array, exponent: Array, scale: float, is_wide: bool) -> Sums:
    """Positive sums relative to 2**exponent, relative to the similarity at which that is about all of the sum."""
    fraction, power = np.frexp(exps)
    exponent = exponent + power
    tops = exponent * (LN2 / scale)
    return Sums(fraction * np.exp(-above_power(tops, exponent, scale, is_wide)), tops)


def above_power(x: Array, exponent: Array, scale: float, is_wide: bool) -> Array:
    """How far scale x is above exponent ln(2); only the difference is rounded, for exponents up to 2**43.

    Unless the result ``is_wide``, both may be: exponents are below 2**19 then, and their roundings below 2**-34.
    """
    if not is_wide:
        return scale * x - exponent * LN2
    above, low_part = _exact_product(scale, x)
    high = np.rint(exponent * 2.0**-20) * 2.0**20
    low = exponent - high
    for part in LN2_PARTS:
        above = (above - high * part) - low * part
    return above + low_part


def _exact_product(scale: float, x: Array) -> tuple[Array, Array]:
    """The product scale * x as the sum of two numbers (Dekker)."""
    (a, a_low), (b, b_low) = _halves(np.float64(scale)), _halves(x)
    product = scale * x
    return product, ((a * b - product) + a * b_low + a_low * b) + a_low * b_low


def _halves(x: Any) -> tuple[Any, Any]:
    """Each x as the sum of two numbers of half its digits (Veltkamp)."""
    large = x * SPLITTER
    high = large - (large - x)
    return high, x - high
