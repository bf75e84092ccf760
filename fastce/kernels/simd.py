"""Vectors of 64 bytes as a Numba type: 16 float32 or 8 float64 lanes, in the kernels' own hands.

Why not leave it to the compiler? LLVM vectorises a loop only when it can prove a dozen things about it, and says
nothing when it cannot. A vector that is a value of its own is always a vector: on AVX-512 one register, on AVX2 or
NEON two or four. The lanes, and with them the order of every sum, are the same on every machine; loads and stores
need no alias checks, so a gradient may replace its logits; a row's last, partial vector is one masked operation; and
whole vectors can be stored past the cache.
"""

import operator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.imputils import lower_cast
from numba.core.registry import cpu_target
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

VECTOR_BYTES = 64


class Vector(types.Type):
    """The Numba type of a vector: ``dtype`` is float32 or float64."""

    def __init__(self, dtype: types.Float) -> None:
        self.dtype = dtype
        self.lanes = VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype})")

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        """A scalar of the same dtype becomes a vector by repeating it in every lane."""
        return Conversion.promote if other == self.dtype else None


float32_vector = Vector(types.float32)
float64_vector = Vector(types.float64)


def vector_of(dtype: types.Float) -> Vector:
    return float32_vector if dtype == types.float32 else float64_vector


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, dmm: Any, fe_type: Vector) -> None:
        element = ir.FloatType() if fe_type.dtype == types.float32 else ir.DoubleType()
        super().__init__(dmm, fe_type, ir.VectorType(element, fe_type.lanes))


def _splat(builder: Any, value: Any, lanes: int) -> Any:
    vector = ir.VectorType(value.type, lanes)
    first = builder.insert_element(ir.Constant(vector, ir.Undefined), value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), lanes), [0] * lanes)
    return builder.shuffle_vector(first, first, zeros)


@lower_cast(types.Float, Vector)
def _repeat_in_every_lane(context: Any, builder: Any, fromty: Any, toty: Vector, value: Any) -> Any:
    return _splat(builder, value, toty.lanes)


def _register_operator(function: Any, instruction: str) -> None:
    @infer_global(function)
    class _Operator(AbstractTemplate):
        def generic(self, args: Any, kws: Any) -> Any:
            vectors = [a for a in args if isinstance(a, Vector)]
            if len(args) == 2 and vectors and all(a in (vectors[0], vectors[0].dtype) for a in args):
                return signature(vectors[0], vectors[0], vectors[0])
            return None

    @lower_builtin(function, Vector, Vector)
    def _lower(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        return getattr(builder, instruction)(*args)


for _function, _instruction in (
    (operator.add, "fadd"),
    (operator.iadd, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _register_operator(_function, _instruction)


# --- arithmetic on vectors and scalars alike -------------------------------------------------------------------------


def _llvm_name(ty: ir.Type) -> str:
    if isinstance(ty, ir.VectorType):
        return f"v{ty.count}{_llvm_name(ty.element)}"
    return {ir.FloatType(): "f32", ir.DoubleType(): "f64", ir.HalfType(): "f16"}.get(ty) or f"i{ty.width}"


def _call_llvm(builder: Any, name: str, result: ir.Type, args: list[Any]) -> Any:
    """Call the LLVM intrinsic of this full name (llvmlite's own helper does not know vectors)."""
    function_type = ir.FunctionType(result, [a.type for a in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    return _call_llvm(builder, f"llvm.fma.{_llvm_name(a.type)}", a.type, [a, b, c])


def _real_like(args: tuple[Any, ...]) -> Any:
    """The one type that all arguments can have: a vector if any of them is one."""
    return next((a for a in args if isinstance(a, Vector)), args[0])


@intrinsic
def fma(typingctx, a, b, c):
    """``a * b + c``, rounded once."""
    ty = _real_like((a, b, c))
    return ty(ty, ty, ty), lambda context, builder, sig, args: _fma(builder, *args)


@intrinsic
def clamp(typingctx, x, low, high):
    """``x`` between ``low`` and ``high``; NaN stays NaN (hence the order of the comparisons)."""
    ty = _real_like((x, low, high))

    def codegen(context, builder, sig, args):
        x, low, high = args
        x = builder.select(builder.fcmp_ordered("<", x, low), low, x)
        return builder.select(builder.fcmp_ordered(">", x, high), high, x)

    return ty(ty, ty, ty), codegen


@intrinsic
def maximum(typingctx, a, b):
    """The larger of the two; NaN if either is NaN."""
    ty = _real_like((a, b))

    def codegen(context, builder, sig, args):
        a, b = args
        larger = builder.select(builder.fcmp_ordered(">", a, b), a, b)  # b if either is NaN
        return builder.select(builder.fcmp_unordered("uno", a, a), a, larger)

    return ty(ty, ty), codegen


@intrinsic
def where_less(typingctx, a, b, yes, no):
    """``yes`` where ``a < b``, ``no`` elsewhere (and where either is NaN)."""
    ty = _real_like((a, b, yes, no))

    def codegen(context, builder, sig, args):
        a, b, yes, no = args
        return builder.select(builder.fcmp_ordered("<", a, b), yes, no)

    return ty(ty, ty, ty, ty), codegen


@intrinsic
def where_zero(typingctx, a, yes, no):
    """``yes`` where ``a == 0``, ``no`` elsewhere (and where it is NaN)."""
    ty = _real_like((a, yes, no))

    def codegen(context, builder, sig, args):
        a, yes, no = args
        return builder.select(builder.fcmp_ordered("==", a, ir.Constant(a.type, None)), yes, no)

    return ty(ty, ty, ty), codegen


@intrinsic
def copysign(typingctx, magnitude, sign):
    """``magnitude`` (not negative) with the sign of ``sign``."""

    def codegen(context, builder, sig, args):
        return _call_llvm(builder, f"llvm.copysign.{_llvm_name(args[0].type)}", args[0].type, list(args))

    return magnitude(magnitude, magnitude), codegen


@intrinsic
def polynomial(typingctx, x, coefficients):
    """``coefficients[0] + coefficients[1] * x + ...`` by Horner's rule with fma; the coefficients are constants."""

    def codegen(context, builder, sig, args):
        x, values = args
        real = sig.args[0].dtype if isinstance(sig.args[0], Vector) else sig.args[0]

        def coefficient(k: int) -> Any:
            value = context.cast(builder, builder.extract_value(values, k), sig.args[1].dtype, real)
            return _splat(builder, value, x.type.count) if isinstance(x.type, ir.VectorType) else value

        total = coefficient(len(sig.args[1]) - 1)
        for k in reversed(range(len(sig.args[1]) - 1)):
            total = _fma(builder, total, x, coefficient(k))
        return total

    return x(x, coefficients), codegen


@intrinsic
def geometric(typingctx, coefficients, factor, ratio, like):
    """``coefficients[k] * factor * ratio**k``, computed in float64, in the dtype of ``like``."""
    result = types.UniTuple(like, len(coefficients))

    def codegen(context, builder, sig, args):
        values, power, ratio, _ = args
        scaled = []
        for k in range(len(sig.args[0])):
            value = builder.fmul(builder.extract_value(values, k), power)
            scaled.append(context.cast(builder, value, types.float64, like))
            power = builder.fmul(power, ratio)
        return context.make_tuple(builder, result, scaled)

    return result(coefficients, types.float64, types.float64, like), codegen


@intrinsic
def low_bits_to_exponent(typingctx, x):
    """The float whose sign and exponent fields are the lowest bits of ``x``."""

    def codegen(context, builder, sig, args):
        (x,) = args
        element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
        bits, mantissa = (32, 23) if element == ir.FloatType() else (64, 52)
        integer, amount = ir.IntType(bits), ir.Constant(ir.IntType(bits), mantissa)
        if isinstance(x.type, ir.VectorType):
            integer, amount = ir.VectorType(integer, x.type.count), _splat(builder, amount, x.type.count)
        return builder.bitcast(builder.shl(builder.bitcast(x, integer), amount), x.type)

    return x(x), codegen


# --- AVX-512 --------------------------------------------------------------------------------------------------------


def has_avx512() -> bool:
    """Whether the CPU that Numba compiles for has AVX-512F (NUMBA_CPU_FEATURES is heeded)."""
    _, _, features = cpu_target.target_context.codegen().magic_tuple()
    return "+avx512f" in features.split(",")


@intrinsic
def looked_up_power(typingctx, table, t):
    """table[j] * 2**k, where the lowest bits of ``t`` are k N + j, the table's N constants being normal numbers.

    N is the number of lanes: one instruction permutes the table. k and j are shifted to where the exponent and the
    mantissa's first bits are; k adds to the exponent, and j has been subtracted from the constants before.
    """
    bits, mantissa, letter = (32, 23, "s") if t.dtype == types.float32 else (64, 52, "d")

    def codegen(context, builder, sig, args):
        integers = ir.VectorType(ir.IntType(bits), t.lanes)
        shift = mantissa - (t.lanes.bit_length() - 1)
        floats = ir.Constant(args[1].type, ir.Undefined)
        for j in range(t.lanes):
            value = context.cast(builder, builder.extract_value(args[0], j), types.float64, t.dtype)
            floats = builder.insert_element(floats, value, ir.Constant(ir.IntType(32), j))
        less_j = ir.Constant(integers, [j << shift for j in range(t.lanes)])
        floats = builder.bitcast(builder.sub(builder.bitcast(floats, integers), less_j), floats.type)
        low_bits = builder.bitcast(args[1], integers)
        found = _call_llvm(builder, f"llvm.x86.avx512.permvar.{letter}f.512", floats.type, [floats, low_bits])
        shifted = builder.shl(low_bits, ir.Constant(integers, [shift] * t.lanes))
        return builder.bitcast(builder.add(builder.bitcast(found, integers), shifted), floats.type)

    return t(table, t), codegen


# --- lanes -----------------------------------------------------------------------------------------------------------


def _lane(builder: Any, vector: Any, k: int) -> Any:
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), k))


def _add_by_halves(builder: Any, vector: Any) -> Any:
    values = [_lane(builder, vector, k) for k in range(vector.type.count)]
    while len(values) > 1:
        half = len(values) // 2
        values = [builder.fadd(a, b) for a, b in zip(values[:half], values[half:], strict=True)]
    return values[0]


@intrinsic
def zeros_wide(typingctx):
    """Two float64 vectors of zeros, for `add_wide`."""
    pair = types.UniTuple(float64_vector, 2)
    return pair(), lambda context, builder, sig, args: ir.Constant(context.get_value_type(pair), None)


def _half(builder: Any, x: Any, half: int) -> Any:
    """Eight of sixteen float32 lanes, in float64."""
    lanes = x.type.count // 2
    mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), list(range(half * lanes, (half + 1) * lanes)))
    return builder.fpext(builder.shuffle_vector(x, x, mask), ir.VectorType(ir.DoubleType(), lanes))


def _add_compensated(builder: Any, totals: Any, x: Any) -> Any:
    total, lost = builder.extract_value(totals, 0), builder.extract_value(totals, 1)
    new = builder.fadd(total, x)
    x_part = builder.fsub(new, total)
    error = builder.fadd(builder.fsub(total, builder.fsub(new, x_part)), builder.fsub(x, x_part))
    infinite = builder.fcmp_unordered("uno", error, error)  # inf - inf: the total tells already
    error = builder.select(infinite, ir.Constant(error.type, None), error)
    kept = builder.insert_value(totals, new, 0)
    return builder.insert_value(kept, builder.fadd(lost, error), 1)


@intrinsic
def add_wide(typingctx, totals, x):
    """``totals`` (two float64 vectors) plus the lanes of ``x``, added in float64.

    Sixteen float32 fill both vectors. Eight float64 fill one; the other keeps what rounding loses (Knuth's two-sum).
    """

    def codegen(context, builder, sig, args):
        totals, x = args
        if x.type.element == ir.DoubleType():
            return _add_compensated(builder, totals, x)
        for half in range(2):
            part = builder.fadd(builder.extract_value(totals, half), _half(builder, x, half))
            totals = builder.insert_value(totals, part, half)
        return totals

    pair = types.UniTuple(float64_vector, 2)
    return pair(pair, x), codegen


@intrinsic
def add_products(typingctx, totals, q, x, near):
    """``totals`` plus ``q * (x - near)``, in float64 from the start, as `add_wide` adds."""

    def codegen(context, builder, sig, args):
        totals, q, x, near = args
        if x.type.element == ir.DoubleType():
            return _add_compensated(builder, totals, builder.fmul(q, builder.fsub(x, near)))
        for half in range(2):
            distance = builder.fsub(_half(builder, x, half), _half(builder, near, half))
            part = _fma(builder, _half(builder, q, half), distance, builder.extract_value(totals, half))
            totals = builder.insert_value(totals, part, half)
        return totals

    pair = types.UniTuple(float64_vector, 2)
    return pair(pair, q, q, q), codegen


@intrinsic
def sum_wide(typingctx, totals):
    """The sum of both vectors' lanes."""

    def codegen(context, builder, sig, args):
        return _add_by_halves(builder, builder.fadd(*(builder.extract_value(args[0], k) for k in range(2))))

    return types.float64(totals), codegen


@intrinsic
def largest_lane(typingctx, x):
    """The largest lane of a vector without NaN."""

    def codegen(context, builder, sig, args):
        (x,) = args
        while x.type.count > 1:
            half = x.type.count // 2
            low, high = (
                builder.shuffle_vector(
                    x, x, ir.Constant(ir.VectorType(ir.IntType(32), half), list(range(first, first + half)))
                )
                for first in (0, half)
            )
            x = builder.select(builder.fcmp_ordered(">", low, high), low, high)
        return _lane(builder, x, 0)

    return x.dtype(x), codegen


@intrinsic
def maximum_of_lanes(typingctx, x):
    """The largest lane, NaN if any lane is NaN."""

    def codegen(context, builder, sig, args):
        (x,) = args
        best = _lane(builder, x, 0)
        for k in range(1, x.type.count):
            lane = _lane(builder, x, k)
            larger = builder.select(builder.fcmp_ordered(">", lane, best), lane, best)
            best = builder.select(builder.fcmp_unordered("uno", lane, lane), lane, larger)
        return best

    return x.dtype(x), codegen
