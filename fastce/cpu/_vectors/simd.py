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
from numba.core.typeconv import Conversion
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

from fastce.cpu._vectors import target

VECTOR_BYTES = 64


class Vector(types.Type):
    """The Numba type of a vector: ``dtype`` is float32 or float64. More lanes take two registers, see `wide_of`."""

    def __init__(self, dtype: types.Float, lanes: int | None = None) -> None:
        self.dtype = dtype
        self.lanes = lanes or VECTOR_BYTES * 8 // dtype.bitwidth
        super().__init__(name=f"Vector({dtype} x {self.lanes})")

    def can_convert_from(self, typingctx: Any, other: types.Type) -> Conversion | None:
        """A scalar of the same dtype becomes a vector by repeating it in every lane."""
        return Conversion.promote if other == self.dtype else None


float32_vector = Vector(types.float32)
float64_vector = Vector(types.float64)


def vector_of(dtype: types.Float) -> Vector:
    return float32_vector if dtype == types.float32 else float64_vector


def wide_of(vector: Vector) -> Vector:
    """As many lanes of float64."""
    return Vector(types.float64, vector.lanes)


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
    if not target.has_fma():
        target.tell_without_fma()
        if "float" in str(a.type):
            return _fma_in_float64(builder, a, b, c)
    return _call_llvm(builder, f"llvm.fma.{_llvm_name(a.type)}", a.type, [a, b, c])


def _fma_in_float64(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """The product of two float32 is exact in float64; that the sum is rounded there first shows in 2**-29 of an ulp."""
    wide = ir.VectorType(ir.DoubleType(), a.type.count) if isinstance(a.type, ir.VectorType) else ir.DoubleType()
    a64, b64, c64 = (builder.fpext(value, wide) for value in (a, b, c))
    return builder.fptrunc(builder.fadd(builder.fmul(a64, b64), c64), a.type)


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


def _where(comparison: str, args: tuple[Any, ...]) -> Any:
    ty = _real_like(args)

    def codegen(context, builder, sig, args):
        a, b, yes, no = args
        return builder.select(builder.fcmp_ordered(comparison, a, b), yes, no)

    return ty(ty, ty, ty, ty), codegen


@intrinsic
def where_less(typingctx, a, b, yes, no):
    """``yes`` where ``a < b``, ``no`` elsewhere (and where either is NaN)."""
    return _where("<", (a, b, yes, no))


@intrinsic
def where_equal(typingctx, a, b, yes, no):
    """``yes`` where ``a == b``, ``no`` elsewhere."""
    return _where("==", (a, b, yes, no))


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


def _coefficients(context: Any, builder: Any, sig: Any, args: Any) -> tuple[Any, list[Any]]:
    """x, and the constants of a polynomial of it in its dtype."""
    x, values = args
    real = sig.args[0].dtype if isinstance(sig.args[0], Vector) else sig.args[0]

    def coefficient(k: int) -> Any:
        value = context.cast(builder, builder.extract_value(values, k), sig.args[1].dtype, real)
        return _splat(builder, value, x.type.count) if isinstance(x.type, ir.VectorType) else value

    return x, [coefficient(k) for k in range(len(sig.args[1]))]


@intrinsic
def polynomial(typingctx, x, coefficients):
    """``coefficients[0] + coefficients[1] * x + ...`` by Horner's rule with fma; the coefficients are constants."""

    def codegen(context, builder, sig, args):
        x, (*others, total) = _coefficients(context, builder, sig, args)
        for coefficient in reversed(others):
            total = _fma(builder, total, x, coefficient)
        return total

    return x(x, coefficients), codegen


@intrinsic
def polynomial_by_pairs(typingctx, x, coefficients):
    """The same by Estrin's scheme: a few more operations, most beside each other, where the result is waited for."""

    def codegen(context, builder, sig, args):
        power, terms = _coefficients(context, builder, sig, args)
        while len(terms) > 1:
            pairs = [_fma(builder, b, power, a) for a, b in zip(terms[::2], terms[1::2], strict=False)]
            terms = pairs + terms[len(terms) - len(terms) % 2 :]
            power = builder.fmul(power, power)
        return terms[0]

    return x(x, coefficients), codegen


# --- lanes -----------------------------------------------------------------------------------------------------------


def _lane(builder: Any, vector: Any, k: int) -> Any:
    return builder.extract_element(vector, ir.Constant(ir.IntType(32), k))


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
