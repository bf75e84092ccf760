"""log1p, tanh and rounding on vectors (and scalars) of float32 and float64, with the constants of exponential.py."""

import math
from typing import Any

from numba import types

from fastce.cpu._vectors.compiler import by_type
from fastce.cpu._vectors.exponential import (
    BIAS,
    INTEGERS_END_HERE,
    LN2,
    LN2_LOW,
    LOG2E,
    real_number,
)
from fastce.cpu._vectors.powers import low_bits_to_exponent
from fastce.cpu._vectors.simd import clamp, fma, polynomial, where_less

# log(1 + f) = 2 s + s z p(z), s = f / (2 + f), z = s^2, for sqrt(1/2) <= 1 + f <= sqrt(2): 8.1e-10 and 1.2e-18
_LOG_FLOAT32 = (0.6666677671711004, 0.3997749559425261, 0.29873072915165927)
_LOG_FLOAT64 = (0.6666666666666735, 0.399999999994109, 0.2857142874329754, 0.22222198472965962, 0.181835698758222,
                0.15313900174827252, 0.14797535223167807)  # fmt: skip

# tanh(z) = z + z^3 p(z^2) for |z| <= ln(2)/4: 1.4e-10 and 3.8e-18
_TANH_FLOAT32 = (-0.33333319425582886, 0.13330912590026855, -0.05267414450645447)
_TANH_FLOAT64 = (-0.33333333333332094, 0.13333333332674652, -0.05396825265284739, 0.021869363329695937,
                 -0.008857106850044628, 0.0034427193776273013)  # fmt: skip


def log1p(u: Any) -> Any:
    """log(1 + u) for 0 <= u <= 1, relative error about 1 ulp for the smallest u as well.

    1 + u above sqrt(2) is halved: f = (u - 1)/2, exactly, and ln(2) is added. log(1 + f) is f - (h - s (h + z p)),
    h = f^2/2, which adds the small terms to each other before the large one.
    """


def tanh(x: Any) -> Any:
    """tanh(x) by exp(2 x) = 2**n (1 + t) / (1 - t), t = tanh(z), z = x - n ln(2)/2, |z| <= ln(2)/4: small x are all t.

    tanh(x) = (a + b t) / (b + a t) with a = 2**n - 1 and b = 2**n + 1, which round alike for n and -n. t is odd: it has
    half as many terms as exp, and no sign is taken off and put back.
    """


def rounded(x: Any) -> Any:
    """The nearest integer, for numbers up to 2**22 (float32) or 2**51 (float64)."""


@by_type(log1p)
def _log1p(u: Any) -> Any:
    real = real_number(u)
    root_of_two_less_one, half, one, two = real(math.sqrt(2.0) - 1.0), real(0.5), real(1.0), real(2.0)
    ln2 = real(LN2)
    ln2_low = real(LN2 - float(ln2) + LN2_LOW)
    zero = real(0.0)
    coefficients = _LOG_FLOAT32 if real == types.float32 else _LOG_FLOAT64

    def implementation(u):
        halved = where_less(u, root_of_two_less_one, zero, one)
        f = where_less(u, root_of_two_less_one, u, (u - one) * half)
        s = f / (f + two)
        z = s * s
        h = f * f * half
        return fma(halved, ln2, f - (h - fma(s, h + z * polynomial(z, coefficients), halved * ln2_low)))

    return implementation


@by_type(tanh)
def _tanh(x: Any) -> Any:
    real = real_number(x)
    largest = real(10.0 if real == types.float32 else 20.0)  # tanh is 1 from here on
    one, twice_log2e, half_ln2 = real(1.0), real(2.0 * LOG2E), real(0.5 * LN2)
    half_ln2_low = real(0.5 * LN2 - float(half_ln2) + 0.5 * LN2_LOW)
    to_low_bits = real(BIAS[real]) + real(INTEGERS_END_HERE[real])
    coefficients = _TANH_FLOAT32 if real == types.float32 else _TANH_FLOAT64

    def implementation(x):
        x = clamp(x, -largest, largest)
        low_bits = fma(x, twice_log2e, to_low_bits)
        n = low_bits - to_low_bits
        z = fma(n, -half_ln2_low, fma(n, -half_ln2, x))
        square = z * z
        t = fma(z * square, polynomial(square, coefficients), z)
        power = low_bits_to_exponent(low_bits)
        a, b = power - one, power + one
        return fma(b, t, a) / fma(a, t, b)

    return implementation


@by_type(rounded)
def _rounded(x: Any) -> Any:
    integers = real_number(x)(INTEGERS_END_HERE[real_number(x)])
    return lambda x: (x + integers) - integers
