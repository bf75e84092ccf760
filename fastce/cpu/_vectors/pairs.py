"""Two numbers for each lane, as they lie in memory one after the other."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import element_pointer
from fastce.cpu._vectors.compiler import real_of
from fastce.cpu._vectors.simd import _splat, vector_of


def _loaded(builder: Any, context: Any, pointer_type: types.CPointer, pointer: Any, i: Any, count: int) -> Any:
    """So many elements from ``i`` on, as they are."""
    element = context.get_data_type(pointer_type.dtype)
    place = element_pointer(builder, context, pointer_type, pointer, i)
    vector = ir.VectorType(element, count)
    return builder.load(builder.bitcast(place, vector.as_pointer()), align=pointer_type.dtype.bitwidth // 8, typ=vector)


def _as_real(builder: Any, context: Any, given: types.Number, value: Any, real: types.Float) -> Any:
    vector = ir.VectorType(context.get_data_type(real), value.type.count)
    if isinstance(given, types.Integer):
        return builder.sitofp(value, vector)
    if given == real:
        return value
    return builder.fptrunc(value, vector) if given.bitwidth > real.bitwidth else builder.fpext(value, vector)


@intrinsic
def load_pairs(typingctx, row, numbers, i):
    """Elements i, i + 2, ... and i + 1, i + 3, ... as two vectors of the dtype that the row is computed in."""
    real = real_of(row.dtype)
    result = vector_of(real)

    def codegen(context, builder, sig, args):
        both = _loaded(builder, context, sig.args[1], args[1], args[2], 2 * result.lanes)
        halves = []
        for k in range(2):
            lanes = ir.Constant(ir.VectorType(ir.IntType(32), result.lanes), list(range(k, 2 * result.lanes, 2)))
            half = builder.shuffle_vector(both, both, lanes)
            halves.append(_as_real(builder, context, sig.args[1].dtype, half, real))
        return context.make_tuple(builder, sig.return_type, halves)

    return types.UniTuple(result, 2)(row, numbers, types.int64), codegen


@intrinsic
def are_ends_of_pairs(typingctx, row, ends, i):
    """Whether as many integers as make a vector of the row, those behind element ``i``, are each 2 above the last."""
    lanes = vector_of(real_of(row.dtype)).lanes

    def codegen(context, builder, sig, args):
        _, ends, i = args
        first = builder.load(element_pointer(builder, context, sig.args[1], ends, i))
        behind = _loaded(builder, context, sig.args[1], ends, builder.add(i, ir.Constant(i.type, 1)), lanes)
        steps = ir.Constant(behind.type, list(range(2, 2 * lanes + 1, 2)))
        same = builder.icmp_signed("==", behind, builder.add(_splat(builder, first, lanes), steps))
        mask = ir.IntType(lanes)
        return builder.icmp_signed("==", builder.bitcast(same, mask), ir.Constant(mask, -1))

    return types.boolean(row, ends, types.int64), codegen
