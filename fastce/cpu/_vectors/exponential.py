"""exp on vectors (and scalars) of float32 and float64.

Numba has had no vector mathematics library since 0.62, so this is our own. tests/test_vector.py checks exp against
every float32.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.compiler import by_type, real_of
from fastce.cpu._vectors.exp_tables import EXP_FLOAT32, EXP_FLOAT64, EXP_TABLE, SHORT_EXP_TABLE
from fastce.cpu._vectors.powers import geometric, looked_up_power, low_bits_to_exponent
from fastce.cpu._vectors.simd import Vector, fma, polynomial, where_less
from fastce.cpu._vectors.target import has_avx512, is_zen, vector_bits

LN2 = math.log(2.0)
LN2_LOW = 2.3190468138462996e-17  # ln 2 - LN2
LOG2E = 1.0 / LN2
SPARE = 60.0  # how far below the row's maximum a reference is put; see `rows.reference_near`

# What the binary formats fix: the exponent's bias, how far above the reference exp may rise before the kernels
# choose a new one, the number whose last mantissa bit is worth 1, and the largest exponent that leaves it room.
BIAS = {types.float32: 127.0, types.float64: 1023.0}
_HEADROOM = {types.float32: 100.0, types.float64: 900.0}
INTEGERS_END_HERE = {types.float32: 1.5 * 2.0**23, types.float64: 1.5 * 2.0**52}
_LARGEST_EXPONENT = {types.float32: 2.0**16, types.float64: 2.0**40}


def real_number(x: types.Type) -> Any:
    return x.dtype if isinstance(x, (Vector, types.CPointer)) else x


def _exp_table(real: types.Float) -> Any:
    """The table of T_j and the coefficients of q that this CPU's vectors look up, None if they have no instruction."""
    if has_avx512():
        return EXP_TABLE[real]
    return SHORT_EXP_TABLE if real == types.float32 and vector_bits() == 256 else None


def _by_table(x: types.Type) -> bool:
    return isinstance(x, Vector) and _exp_table(x.dtype) is not None


def scaling(row: Any, scale: Any, factor: Any) -> Any:
    """What `exp` needs to compute factor * exp(scale * x), in the dtype that the row is computed in.

    (scale, log2(e) * scale, ln(2) / scale in two parts, the polynomial's coefficients times factor * scale**k, factor)
    """


@intrinsic
def with_factor_1(typingctx, scaled_by):
    """A scaling of factor 1, in words that the compiler understands: it leaves a multiplication out."""

    def codegen(context, builder, sig, args):
        factor = builder.extract_value(args[0], 5)
        return builder.insert_value(args[0], ir.Constant(factor.type, 1.0), 5)

    return scaled_by(scaled_by), codegen


def exp(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """factor * exp(scale * x) / 2**exponent, at most 1 ulp from exact for factor 1; 0 below the smallest normal number.

    The reference 2**exponent is a power of two, so dividing by it costs and rounds nothing: it is part of the
    constant that brings n = round(log2(e) scale x) to the low bits of a float, from where one shift makes 2**n. Scale
    and factor are in the polynomial's coefficients and cost nothing either.

        r = x - n ln(2) / scale,  |scale r| <= ln(2)/2;   the result is polynomial(r) 2**(n - exponent)

    ln(2)/scale in two parts and fma make the reduction exact to 2**-49 n. Nobody looks for those whose result would be
    too large: see `not_too_large`. NaN stays NaN. With AVX-512, vectors take `_table_parts`: fewer terms.
    """


def least_argument(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """The least x whose `exp`, of numbers or vectors like this one, is not 0."""


def add_exp(total: Any, x: Any, exponent: Any, scaled_by: Any) -> Any:
    """total + `exp`, the last multiplication and the addition in one fma."""


def exp_in_parts(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """(q, power) with `exp` = power + q power, for factor 1 and |q| below 0.42: their sums round less than its.

    A power of two is exact (T_j 2**k is to 0.2 ulp), and what q has lost is little beside the power. See `add_exactly`.
    """


@intrinsic
def keeps_exps(typingctx, row):
    """Whether exps are kept from the first look at a row to the second: where exp costs more than memory does.

    With AVX-512 it does on Intel's CPUs, which begin two vector instructions in a cycle: a gradient of float32 takes
    0.86 of the time, of float64 0.79, but of half precision 1.1, which has half of the memory. On AMD's, which begin
    four, exps that were kept were no faster at any row length.
    """
    keeps = not has_avx512() or (not is_zen() and isinstance(row.dtype, types.Float))
    value = ir.Constant(ir.IntType(1), int(keeps))
    return types.boolean(row), lambda context, builder, sig, args: value


def inverse_exp_in_parts(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """The same of 2**exponent / exp(scale * x), for vectors: a quotient by exp is a product with it.

    Where `exp` is 0, it is as of the least number that it is not. Of such that are too large nothing is known.
    """


def not_too_large(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """x, but at most what makes exp 2**headroom: enough for a kernel to notice, finite when a few are added."""


def exp_in_float64(x: float, exponent: float, scale: float) -> float:
    """exp(scale * x) / 2**exponent of one number, for what is computed once per row."""


def _constant(values: dict[types.Float, float]) -> Callable[[Any], float]:
    """A function of a row: the constant, a float64, that belongs to the dtype that it is computed in."""

    @intrinsic
    def constant(typingctx, row):
        value = values[real_of(row.dtype)]
        return types.float64(row), lambda context, builder, sig, args: ir.Constant(ir.DoubleType(), value)

    return constant


# References up to 2**(+-this) leave exp exact; a row beyond is recentred first.
largest_exponent = _constant(_LARGEST_EXPONENT)
# How far above the reference, as a power of two, exp may rise before a new one is needed.
headroom = _constant(_HEADROOM)
# A sum of exp from here on says that the reference was too small.
overflow_bound = _constant({real: 2.0 ** (headroom - 1.0) for real, headroom in _HEADROOM.items()})


@by_type(scaling)
def _scaling(row: types.CPointer, scale: types.Float, factor: types.Float) -> Any:
    real = real_of(row.dtype)
    table = _exp_table(real)
    coefficients = table[1] if table else EXP_FLOAT32 if real == types.float32 else EXP_FLOAT64
    nothing = real(0.0)

    def implementation(row, scale, factor):
        high = real(LN2 / scale)
        low = (fma(-types.float64(high), scale, LN2) + LN2_LOW) / scale
        return (
            real(scale),
            real(LOG2E * scale),
            high,
            real(low),
            geometric(coefficients, factor, scale, nothing),
            real(factor),
        )

    return implementation


def _table_parts(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """(factor * q, T_j 2**k) with factor * exp(scale x) / 2**exponent = (factor q + factor) T_j 2**k.

    n = round(N log2(e) scale x) / N has a fraction j/N. One permutation of a register looks up T_j, so that
    |scale r| <= ln(2)/(2 N) and a polynomial of degree 3 (7) does. For a result not below the smallest normal number,
    T_0 >= 1 keeps T_j 2**k normal too; below, both are anything, and the last fma is masked.
    """


@by_type(_table_parts)
def _table_parts_of(x: Any, exponent: Any, scaled_by: Any) -> Any:
    real = real_number(x)
    table = _exp_table(real)[0]
    integers = real(INTEGERS_END_HERE[real] / len(table))

    def implementation(x, exponent, scaled_by):
        _, log2e, ln2, ln2_low, coefficients, _ = scaled_by
        to_low_bits = integers - exponent
        t = fma(x, log2e, to_low_bits)
        n = t - to_low_bits
        r = fma(n, -ln2_low, fma(n, -ln2, x))
        return polynomial(r, coefficients), looked_up_power(table, t)

    return implementation


def _reduced(x: Any, exponent: Any, scaled_by: Any) -> Any:
    """(r, coefficients, 2**k) with factor * exp(scale x) / 2**exponent = polynomial(r) 2**k.

    Arguments whose result would be subnormal are clamped to k = -bias, whose exponent field is 0: 2**k is exactly 0.
    """


@by_type(_reduced)
def _reduced_of(x: Any, exponent: Any, scaled_by: Any) -> Any:
    real = real_number(x)
    bias, integers = real(BIAS[real]), real(INTEGERS_END_HERE[real])

    def implementation(x, exponent, scaled_by):
        _, log2e, ln2, ln2_low, coefficients, _ = scaled_by
        lowest = (exponent - bias) * ln2
        x = where_less(x, lowest, lowest, x)
        to_low_bits = (integers + bias) - exponent
        t = fma(x, log2e, to_low_bits)
        n = t - to_low_bits
        r = fma(n, -ln2_low, fma(n, -ln2, x))
        return r, coefficients, low_bits_to_exponent(t)

    return implementation


@by_type(exp)
def _exp(x: Any, exponent: Any, scaled_by: Any) -> Any:
    zero = real_number(x)(0.0)

    def by_table(x, exponent, scaled_by):
        # rounded twice, T_j and here: q is too small for its own error to matter
        q, power = _table_parts(x, exponent, scaled_by)
        return where_less(x, least_argument(x, exponent, scaled_by), zero, fma(q, power, scaled_by[5] * power))

    def by_polynomial(x, exponent, scaled_by):
        r, coefficients, power = _reduced(x, exponent, scaled_by)
        return polynomial(r, coefficients) * power

    return by_table if _by_table(x) else by_polynomial


@by_type(least_argument)
def _least_argument(x: Any, exponent: Any, scaled_by: Any) -> Any:
    real = real_number(x)
    smallest = real(BIAS[real] - (1.0 if _by_table(x) else 0.5))  # below it, the polynomial's power is rounded to none

    def implementation(x, exponent, scaled_by):
        return (exponent - smallest) * scaled_by[2]

    return implementation


@by_type(add_exp)
def _add_exp(total: Any, x: Any, exponent: Any, scaled_by: Any) -> Any:
    def by_table(total, x, exponent, scaled_by):
        q, power = _table_parts(x, exponent, scaled_by)
        return where_less(x, least_argument(x, exponent, scaled_by), total, fma(q + scaled_by[5], power, total))

    def by_polynomial(total, x, exponent, scaled_by):
        r, coefficients, power = _reduced(x, exponent, scaled_by)
        return fma(polynomial(r, coefficients), power, total)

    return by_table if _by_table(x) else by_polynomial


@by_type(exp_in_parts)
def _exp_in_parts(x: Any, exponent: Any, scaled_by: Any) -> Any:
    zero = real_number(x)(0.0)

    def by_table(x, exponent, scaled_by):
        q, power = _table_parts(x, exponent, scaled_by)
        lowest = least_argument(x, exponent, scaled_by)
        return where_less(x, lowest, zero, q), where_less(x, lowest, zero, power)

    def by_polynomial(x, exponent, scaled_by):
        r, coefficients, power = _reduced(x, exponent, scaled_by)
        return r * polynomial(r, coefficients[1:]), power

    return by_table if _by_table(x) else by_polynomial


@by_type(inverse_exp_in_parts)
def _inverse_exp_in_parts(x: Any, exponent: Any, scaled_by: Any) -> Any:
    minus = real_number(x)(-1.0)

    def by_table(x, exponent, scaled_by):
        lowest = least_argument(x, exponent, scaled_by)
        return _table_parts(where_less(x, lowest, lowest, x) * minus, exponent * minus, scaled_by)

    def by_polynomial(x, exponent, scaled_by):
        lowest = least_argument(x, exponent, scaled_by)
        x = where_less(x, lowest, lowest, x) * minus
        r, coefficients, power = _reduced(x, exponent * minus, scaled_by)
        return r * polynomial(r, coefficients[1:]), power

    return by_table if _by_table(x) else by_polynomial


@by_type(not_too_large)
def _not_too_large(x: Any, exponent: Any, scaled_by: Any) -> Any:
    headroom = real_number(x)(_HEADROOM[real_number(x)])

    def implementation(x, exponent, scaled_by):
        largest = (exponent + headroom) * scaled_by[2]
        return where_less(largest, x, largest, x)

    return implementation


@by_type(exp_in_float64)
def _exp_in_float64(x: types.Float, exponent: types.Float, scale: types.Float) -> Any:
    def implementation(x, exponent, scale):
        high = LN2 / scale
        low = (fma(-high, scale, LN2) + LN2_LOW) / scale
        return exp(x, exponent, (scale, LOG2E * scale, high, low, geometric(EXP_FLOAT64, 1.0, scale, 0.0), 1.0))

    return implementation
