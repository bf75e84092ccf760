"""Products, sums and means in float64 that are right where what they are made of is beyond the largest number.

Such a number is a pair (f, e), standing for f * 2**e.
"""

import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, real_array
from fastce.arguments.numbers import is_one_number
from fastce.arguments.silence import silently

ROOM = 64  # bits that a sum which would overflow is given
TINY = np.finfo(np.float64).tiny
LEAST = 2.0**-960  # that is far from where numbers, and terms of sums, have fewer digits


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
    low, high = (
        float(np.minimum.reduce(factors, None, initial=np.inf)),
        float(np.maximum.reduce(factors, None, initial=0.0)),
    )
    if 0.0 < low <= high < math.inf:
        return math.log2(low), math.log2(high)
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


def sum_of_terms(terms: Array, exponents: Array | int = 0) -> tuple[float, int]:
    """(s, e): s * 2**e is the sum of terms * 2**exponents, and e is 0 unless float64 lacks room or digits for it."""
    total = float(np.add.reduce(terms if isinstance(exponents, int) else np.ldexp(terms, exponents)))
    if LEAST < abs(total) < math.inf or not np.isfinite(terms).all() or not terms.any():
        return total, 0
    fractions, own = np.frexp(terms)
    exponents = exponents + own
    unit = ROOM + int(exponents.max(where=fractions != 0.0, initial=-(1 << 20)))
    return float(np.add.reduce(np.ldexp(fractions, exponents - unit))), unit


def sums_of_parts(terms: Array, exponents: Array | int, starts: Sequence[int]) -> list[tuple[float, int]]:
    """`sum_of_terms` of each part of them, which begins at one of ``starts`` and ends where the next one does."""
    parts = [slice(start, stop) for start, stop in itertools.pairwise([*starts, terms.size])]
    return [sum_of_terms(terms[part], exponents if isinstance(exponents, int) else exponents[part]) for part in parts]


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


def smoothing(label_smoothing: float, over: str, classes: int) -> tuple[float, float]:
    """(keep, spread) with t' = keep * t + spread; "others" spreads over the classes that t leaves out."""
    if classes == 1 or label_smoothing == 0.0:
        return 1.0, 0.0
    if over == "all":
        return 1.0 - label_smoothing, label_smoothing / classes
    spread = label_smoothing / (classes - 1)
    return (1.0 - label_smoothing) - spread, spread


def factor_of_rows(reduction: str, total_weight: float) -> float:
    """What gradients of rows are multiplied by; of a mean 0 where there is nothing to divide by."""
    if reduction != "mean":
        return 1.0
    return 1.0 / total_weight if total_weight != 0.0 else 0.0


def upstream_of(
    grad_output: Any, reduction: str, lead: tuple[int, ...], total_weight: float, total_exponent: int = 0
) -> tuple[Array, int]:
    """(f, e): row gradients are multiplied by f * 2**e, f one number or one per row; e is 0 if float64 has that.

    A mean is divided by total_weight * 2**total_exponent.
    """
    factor, exponent = factor_of_rows(reduction, total_weight), -total_exponent if reduction == "mean" else 0
    if grad_output is None:
        return np.array([factor]), exponent
    array = real_array(grad_output, "grad_output").astype(np.float64)
    if is_one_number(array.shape):
        number = array.reshape(1)
        quotient = silently(np.multiply, number, factor)
        is_ordinary = exponent == 0 and (factor == 1.0 or LEAST < abs(quotient.item()) < math.inf)
        if is_ordinary or number == 0.0 or not np.isfinite(number):
            return quotient, 0
        fraction, power = math.frexp(number.item())
        return np.array([fraction * factor]), power + exponent
    if reduction != "none" or array.shape != lead:
        expected = f"{lead} or a number" if reduction == "none" else "a number"
        raise ValueError(f"grad_output has shape {array.shape}, expected {expected}")
    return array.ravel(), 0
