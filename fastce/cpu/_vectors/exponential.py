"""exp on vectors (and scalars) of float32 and float64.

Numba has had no vector mathematics library since 0.62, so this is our own. The polynomials are minimax fits (Remez) of
the stated relative error; tests/test_vector.py checks exp against every float32.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.compiler import by_type, real_of
from fastce.cpu._vectors.powers import geometric, looked_up_power, low_bits_to_exponent
from fastce.cpu._vectors.simd import Vector, fma, polynomial, where_less
from fastce.cpu._vectors.target import has_avx512, is_zen, vector_bits

LN2 = math.log(2.0)
LN2_LOW = 2.3190468138462996e-17  # ln 2 - LN2
LOG2E = 1.0 / LN2
SPARE = 60.0  # how far below the row's maximum a reference is put; see `rows.reference_near`

# exp(r) = 1 + r + r^2 q(r) for |r| <= ln(2)/2: relative error 3.1e-9 (float32), 3.6e-18 (float64)
EXP_FLOAT32 = (1.0, 1.0, 0.49999993448816854, 0.1666652063401881, 0.04166838761130942, 0.008368716752120798,
                0.0013814628324145882)  # fmt: skip
EXP_FLOAT64 = (1.0, 1.0, 0.5000000000000011, 0.16666666666666413, 0.04166666666653022, 0.008333333333494449,
                0.0013888888943612337, 0.0001984126950653971, 2.4801493118371442e-05, 2.7557586464408998e-06,
                2.763024125999839e-07, 2.500001743608508e-08)  # fmt: skip

# exp(r) = T_j 2**-(j/N) (1 + q(r)) for |r| <= ln(2)/(2 N) and a few percent more, where T_j = 2**(j/N) exp(sigma),
# N = 16 (float32) or 8 (float64), or 4 (float32 of 256-bit vectors): q(r) = exp(r - sigma) - 1. sigma >= 0 was found by
# trying random numbers below ln(2)/(2 N), such that all T_j lie within 0.2 ulp (0.06, 0.01) of a number of the format:
# sigma = 0.006260550452281447, 0.016108322847096027 and 0.0028975906525027764. q interpolates at Chebyshev's points:
# 2e-9, 7e-18 and 3e-9.
_EXP_TABLE = {
    types.float32: (
        (1.0062801837921143, 1.0508320331573486, 1.0973563194274902, 1.1459404230117798, 1.1966755390167236,
         1.2496569156646729, 1.3049839735031128, 1.3627605438232422, 1.4230951070785522, 1.4861009120941162,
         1.5518962144851685, 1.6206045150756836, 1.6923547983169556, 1.7672817707061768, 1.8455259799957275,
         1.927234411239624),
        (-0.006240995371862257, 0.9937590056945202, 0.4969005162634856, 0.1656307036323318),
    ),
    types.float64: (
        (1.0162387613200745, 1.1082162274537044, 1.2085183655033847, 1.3178986226494191, 1.437178638868084,
         1.5672544189069755, 1.7091030628718518, 1.8637901059836304),
        (-0.015979277644340865, 0.9840207223556592, 0.4920103611778806, 0.16400345372594885, 0.04100086330577672,
         0.008200172672329588, 0.0013667945320104743, 0.00019525321612055233),
    ),
}  # fmt: skip
_SHORT_EXP_TABLE = (
    (1.0029017925262451, 1.1926579475402832, 1.4183173179626465, 1.6866730451583862),
    (-0.002893396688482961, 0.9971064385696045, 0.4985532742004, 0.16626717056923912, 0.04155989726495299),
)


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
        return _EXP_TABLE[real]
    return _SHORT_EXP_TABLE if real == types.float32 and vector_bits() == 256 else None


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
