"""Logarithms in float64, of single numbers and of vectors, for what is computed once per row."""

from typing import Any

from numba import types

from fastce.cpu._vectors.compiler import by_type, real_of
from fastce.cpu._vectors.elementary import _LOG_FLOAT64
from fastce.cpu._vectors.exponential import LN2, LN2_LOW
from fastce.cpu._vectors.lanes import split
from fastce.cpu._vectors.simd import Vector, fma, polynomial_by_pairs

# log(1 + f) = f p(f) for sqrt(1/2) <= 1 + f <= sqrt(2), to 7.4e-10 of itself: a sixtieth of what float32 shows
_SHORT_LOG = (1.0000000006010195, -0.49999999414017127, 0.3333330266101698, -0.2500006237443588, 0.20002535640193383,
              -0.16666555575670008, 0.1421229125042129, -0.12420821262732774, 0.11945878227356821,
              -0.11620648400270366, 0.06572327158522019)  # fmt: skip


def log_of_one_plus(f: Any) -> Any:
    """log(1 + f) for sqrt(1/2) <= 1 + f < sqrt(2): f - (h - s (h + z p(z))), h = f^2/2, s = f / (2 + f), z = s^2."""


def log1p(u: Any) -> Any:
    """log(1 + u) for u >= 0, right to about 1 ulp for the smallest u as well.

    y = 1 + u, rounded, is g 2**k; what the rounding lost, times 2**-k, is given back to g - 1 (exact for k = 0, where
    g - 1 becomes u itself).
    """


def log1p_for(row: Any, u: Any) -> Any:
    """`log1p` in float64 of what is rounded to the dtype of the row: of float32 a polynomial will do, no division."""


def sum_with_log1p(u: Any, low: Any, x: Any) -> Any:
    """x + log(1 + u + low), rounded once, as little where the two nearly cancel.

    k ln(2) is a number p and what that has lost; so is x + p (Knuth's two-sum). ``low`` is what u has lost.
    """


def log_times_power(total: Any, exponent: Any) -> Any:
    """log(total * 2**exponent), rounded once where it matters.

    total = f 2**k makes (exponent + k) ln(2) and log(f) unable to cancel; ln(2) has two parts, so that the product is
    exact to twice the precision.
    """


def _is_wide(x: Any) -> bool:
    return x == types.float64 or (isinstance(x, Vector) and x.dtype == types.float64)


@by_type(log_of_one_plus)
def _log_of_one_plus(f: Any) -> Any:
    if not _is_wide(f):
        return None

    def implementation(f):
        s = f / (f + 2.0)
        z = s * s
        h = f * f * 0.5
        return f - (h - s * (h + z * polynomial_by_pairs(z, _LOG_FLOAT64)))

    return implementation


def _log1p_in_parts(u: Any, low: Any) -> Any:
    """(k, l) with log(1 + u + low) = k LN2 + l."""


@by_type(_log1p_in_parts)
def _log1p_in_parts_of(u: Any, low: Any) -> Any:
    if not _is_wide(u):
        return None

    def implementation(u, low):
        y = u + 1.0
        g, k, inverse = split(y)
        lost = (u - (y - 1.0)) + low
        log_g = log_of_one_plus((g - 1.0) + lost * inverse)
        return k, log_g + k * LN2_LOW

    return implementation


@by_type(log1p)
def _log1p(u: Any) -> Any:
    if not _is_wide(u):
        return None

    def implementation(u):
        k, low = _log1p_in_parts(u, -0.0)  # which adds nothing, even to -0
        return fma(k, LN2, low)

    return implementation


@by_type(log1p_for)
def _log1p_for(row: types.CPointer, u: Any) -> Any:
    def shortly(row, u):
        y = u + 1.0
        g, k, inverse = split(y)
        f = (g - 1.0) + (u - (y - 1.0)) * inverse
        return fma(k, LN2, f * polynomial_by_pairs(f, _SHORT_LOG))

    def fully(row, u):
        return log1p(u)

    return fully if real_of(row.dtype) == types.float64 else shortly


@by_type(sum_with_log1p)
def _sum_with_log1p(u: Any, low: Any, x: Any) -> Any:
    if not _is_wide(u):
        return None

    def implementation(u, low, x):
        k, low = _log1p_in_parts(u, low)
        high = k * LN2
        total = x + high
        part = total - x
        lost = (x - (total - part)) + (high - part)
        return total + (lost + (fma(k, LN2, high * -1.0) + low))

    return implementation


@by_type(log_times_power)
def _log_times_power(total: Any, exponent: Any) -> Any:
    if not _is_wide(total):
        return None

    def implementation(total, exponent):
        f, k, _ = split(total)
        power = exponent + k
        high = power * LN2
        return high + (log_of_one_plus(f - 1.0) + (fma(power, LN2, -1.0 * high) + power * LN2_LOW))

    return implementation
