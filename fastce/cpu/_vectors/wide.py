"""Sums in float64 of vectors: two vectors of totals for float32, a total and what its roundings lost for float64."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import element_pointer
from fastce.cpu._vectors.compiler import real_of
from fastce.cpu._vectors.simd import _fma, _lane, float64_vector, vector_of, wide_of


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
def widened(typingctx, x):
    """The lanes of ``x`` in float64: two vectors of float32, one of float64 beside zeros."""

    def codegen(context, builder, sig, args):
        (x,) = args
        parts = [x] if x.type.element == ir.DoubleType() else [_half(builder, x, half) for half in range(2)]
        pair = ir.Constant(context.get_value_type(sig.return_type), None)
        for k, part in enumerate(parts):
            pair = builder.insert_value(pair, part, k)
        return pair

    return types.UniTuple(float64_vector, 2)(x), codegen


@intrinsic
def wide(typingctx, x):
    """The lanes of ``x`` in float64, as one vector of two registers: what is done with it is done with both."""
    result = wide_of(x)
    return result(x), lambda context, builder, sig, args: _in_float64(context, builder, result, args[0])


def _in_float64(context: Any, builder: Any, result: Any, x: Any) -> Any:
    vector = context.get_value_type(result)
    return x if x.type == vector else builder.fpext(x, vector)


@intrinsic
def load_wide(typingctx, row, states, i):
    """As many float64 from element ``i`` of ``states`` on as a vector of this row has lanes; see `wide`."""
    result = wide_of(vector_of(real_of(row.dtype)))

    def codegen(context, builder, sig, args):
        vector = context.get_value_type(result)
        place = element_pointer(builder, context, sig.args[1], args[1], args[2])
        return builder.load(builder.bitcast(place, vector.as_pointer()), align=8, typ=vector)

    return result(row, states, types.int64), codegen


@intrinsic
def narrowed(typingctx, row, pair):
    """What `widened` gives, as one vector of the dtype that the row is computed in."""
    result = vector_of(real_of(row.dtype))

    def codegen(context, builder, sig, args):
        first, second = (builder.extract_value(args[1], k) for k in range(2))
        if result.dtype == types.float64:
            return first
        half = ir.VectorType(ir.FloatType(), first.type.count)
        order = ir.Constant(ir.VectorType(ir.IntType(32), result.lanes), list(range(result.lanes)))
        return builder.shuffle_vector(builder.fptrunc(first, half), builder.fptrunc(second, half), order)

    return result(row, pair), codegen


@intrinsic
def sum_wide(typingctx, totals):
    """The sum of both vectors' lanes."""

    def codegen(context, builder, sig, args):
        return _add_by_halves(builder, builder.fadd(*(builder.extract_value(args[0], k) for k in range(2))))

    return types.float64(totals), codegen
