"""One or two numbers for each lane, as they lie in memory one after the other."""

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


def _load_apart(number: int) -> Any:
    """An intrinsic: elements i + k, i + k + number, ... for each k below the number, as so many vectors."""

    @intrinsic
    def load_apart(typingctx, row, numbers, i):
        real = real_of(row.dtype)
        result = vector_of(real)

        def codegen(context, builder, sig, args):
            size = number * result.lanes
            whole = _loaded(builder, context, sig.args[1], args[1], args[2], size)
            parts = []
            for k in range(number):
                lanes = ir.Constant(ir.VectorType(ir.IntType(32), result.lanes), list(range(k, size, number)))
                part = builder.shuffle_vector(whole, whole, lanes)
                parts.append(_as_real(builder, context, sig.args[1].dtype, part, real))
            return context.make_tuple(builder, sig.return_type, parts)

        return types.UniTuple(result, number)(row, numbers, types.int64), codegen

    return load_apart


def _are_ends(number: int) -> Any:
    """An intrinsic: whether as many integers as a vector has lanes, behind element i, rise by this number."""

    @intrinsic
    def are_ends(typingctx, row, ends, i):
        lanes = vector_of(real_of(row.dtype)).lanes

        def codegen(context, builder, sig, args):
            _, ends, i = args
            first = builder.load(element_pointer(builder, context, sig.args[1], ends, i))
            behind = _loaded(builder, context, sig.args[1], ends, builder.add(i, ir.Constant(i.type, 1)), lanes)
            steps = ir.Constant(behind.type, list(range(number, number * lanes + 1, number)))
            same = builder.icmp_signed("==", behind, builder.add(_splat(builder, first, lanes), steps))
            mask = ir.IntType(lanes)
            return builder.icmp_signed("==", builder.bitcast(same, mask), ir.Constant(mask, -1))

        return types.boolean(row, ends, types.int64), codegen

    return are_ends


load_ones, load_pairs = _load_apart(1), _load_apart(2)
are_ends_of_ones, are_ends_of_pairs = _are_ends(1), _are_ends(2)
