"""Vectors whose lanes are rows: comparison with class numbers, and the way to float64 and back.

The row kernels go along a row; these serve the kernels that take as many rows as a vector has lanes at once.
"""

import math
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import element_pointer, lanes_mask, store_masked
from fastce.cpu._vectors.compiler import inline, real_of
from fastce.cpu._vectors.first_lanes import load_first_lanes
from fastce.cpu._vectors.half import _narrow, _stored_vector, _widen
from fastce.cpu._vectors.simd import _call_llvm, _llvm_name, _splat, vector_of, where_less
from fastce.cpu._vectors.target import has_avx512

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


@intrinsic
def lanes_in(typingctx, x):
    """How many lanes a vector has."""
    lanes = x.lanes
    return types.int64(x), lambda context, builder, sig, args: ir.Constant(ir.IntType(64), lanes)


@intrinsic
def has_32_registers(typingctx):
    """Whether there are twice as many registers for vectors as AVX2 has."""
    value = ir.Constant(ir.IntType(1), int(has_avx512()))
    return types.boolean(), lambda context, builder, sig, args: value


@intrinsic
def where_lane(typingctx, vector, lane, value):
    """The vector with ``value`` (of its dtype) in one lane; as it is if there is no such lane."""

    def codegen(context, builder, sig, args):
        vector, lane, value = args
        lanes = vector.type.count
        numbers = ir.Constant(ir.VectorType(ir.IntType(64), lanes), list(range(lanes)))
        chosen = builder.icmp_signed("==", numbers, _splat(builder, lane, lanes))
        return builder.select(chosen, _splat(builder, value, lanes), vector)

    return vector(vector, types.int64, vector.dtype), codegen


@intrinsic
def any_nan(typingctx, x):
    """Whether some lane is NaN."""

    def codegen(context, builder, sig, args):
        (x,) = args
        bits = ir.IntType(x.type.count)
        mask = builder.bitcast(builder.fcmp_unordered("uno", x, x), bits)
        return builder.icmp_unsigned("!=", mask, ir.Constant(bits, 0))

    return types.boolean(x), codegen


@intrinsic
def store_where(typingctx, row, i, vector, condition):
    """Write the lanes in which ``condition`` is positive, from element ``i`` on."""

    def codegen(context, builder, sig, args):
        row, i, vector, condition = args
        value = _narrow(builder, sig.args[0].dtype, vector)
        mask = builder.fcmp_ordered(">", condition, ir.Constant(condition.type, None))
        store_masked(builder, element_pointer(builder, context, sig.args[0], row, i), mask, value)

    return types.void(row, types.int64, vector, vector), codegen


@intrinsic
def split(typingctx, x):
    """(f, k, 2**-k) with x = f * 2**k and sqrt(1/2) <= f < sqrt(2), for positive normal float64."""

    def codegen(context, builder, sig, args):
        (x,) = args
        lanes = x.type.count if isinstance(x.type, ir.VectorType) else 0
        integer = ir.VectorType(ir.IntType(64), lanes) if lanes else ir.IntType(64)

        def constant(value: int) -> Any:
            return ir.Constant(integer, [value] * lanes if lanes else value)

        bits = builder.bitcast(x, integer)
        k = builder.ashr(builder.sub(bits, constant(_SQRT_HALF_BITS)), constant(52))
        f = builder.bitcast(builder.sub(bits, builder.shl(k, constant(52))), x.type)
        inverse = builder.bitcast(builder.shl(builder.sub(constant(1023), k), constant(52)), x.type)
        return context.make_tuple(builder, sig.return_type, [f, builder.sitofp(k, x.type), inverse])

    return types.UniTuple(x, 3)(x), codegen


@inline
def lesser_and_top(x, top):
    """Each lane holds its largest element back: (the smaller of x and top, the larger); NaN is never held back."""
    return where_less(top, x, top, x), where_less(top, x, x, top)


# --- float64 states of rows, and back --------------------------------------------------------------------------------


@intrinsic
def load_real(typingctx, row, states, i):
    """Float64s from element ``i`` of ``states`` on, one a lane, in the dtype that the row is computed in."""
    result = vector_of(real_of(row.dtype))

    def codegen(context, builder, sig, args):
        wide = ir.VectorType(ir.DoubleType(), result.lanes)
        place = element_pointer(builder, context, sig.args[1], args[1], args[2])
        value = builder.load(builder.bitcast(place, wide.as_pointer()), align=8, typ=wide)
        narrow = context.get_value_type(result)
        return value if narrow == wide else builder.fptrunc(value, narrow)

    return result(row, states, types.int64), codegen


@intrinsic
def load_numbers(typingctx, row, numbers, i, count):
    """The ``count`` integers from ``i`` on as numbers of the dtype that the row is computed in, -1 in other lanes."""
    result = vector_of(real_of(row.dtype))

    def codegen(context, builder, sig, args):
        _, numbers, i, count = args
        integers = ir.VectorType(ir.IntType(64), result.lanes)
        place = element_pointer(builder, context, sig.args[1], numbers, i)
        value = load_first_lanes(builder, place, integers, count, -1)
        return builder.sitofp(value, context.get_value_type(result))

    return result(row, numbers, types.int64, types.int64), codegen


@intrinsic
def chosen_elements(typingctx, row, i, step, apart, numbers, classes, count):
    """Element ``i + k * step + numbers[k] * apart`` in lane k, as numbers that are computed with.

    Lanes from ``count`` on, and those whose number is not one of the classes, are NaN, and nothing is read for them.
    """
    real = real_of(row.dtype)

    def codegen(context, builder, sig, args):
        row, i, step, apart, numbers, classes, count = args
        lanes, storage = numbers.type.count, sig.args[0].dtype
        nothing, integers = ir.Constant(numbers.type, None), ir.VectorType(ir.IntType(64), lanes)
        most = _splat(builder, builder.sitofp(classes, numbers.type.element), lanes)
        exists = builder.and_(builder.fcmp_ordered(">=", numbers, nothing), builder.fcmp_ordered("<", numbers, most))
        exists = builder.and_(exists, lanes_mask(builder, count, lanes))
        short = ir.VectorType(ir.IntType(32), lanes)  # which every processor converts to
        number = builder.zext(builder.fptosi(builder.select(exists, numbers, nothing), short), integers)
        lane = ir.Constant(integers, list(range(lanes)))
        place = builder.add(builder.mul(number, _splat(builder, apart, lanes)), _splat(builder, i, lanes))
        place = builder.add(place, builder.mul(lane, _splat(builder, step, lanes)))
        value = _gathered(builder, row, place, exists, _stored_vector(context, storage, lanes), storage.bitwidth // 8)
        not_there = ir.Constant(numbers.type, [math.nan] * lanes)
        return builder.select(exists, _widen(builder, storage, value), not_there)

    vector = vector_of(real)
    return vector(row, types.int64, types.int64, types.int64, vector, types.int64, types.int64), codegen


def _gathered(builder: Any, row: Any, place: Any, mask: Any, stored: ir.VectorType, size: int) -> Any:
    """The elements at these places, as they are stored; zeros outside the mask."""
    start = _splat(builder, builder.ptrtoint(row, ir.IntType(64)), stored.count)
    addresses = builder.add(start, builder.mul(place, ir.Constant(place.type, [size] * stored.count)))
    places = builder.inttoptr(addresses, ir.VectorType(ir.PointerType(), stored.count))
    name = f"llvm.masked.gather.{_llvm_name(stored)}.v{stored.count}p0"
    nothing = ir.Constant(stored, None)
    return _call_llvm(builder, name, stored, [places, ir.Constant(ir.IntType(32), size), mask, nothing])


def _store_wide(builder: Any, context: Any, pointer_type: Any, states: Any, i: Any, value: Any) -> None:
    place = element_pointer(builder, context, pointer_type, states, i)
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=pointer_type.dtype.bitwidth // 8)


@intrinsic
def store_real(typingctx, states, i, x):
    """Write the lanes of ``x`` as float64s."""

    def codegen(context, builder, sig, args):
        states, i, x = args
        wide = ir.VectorType(ir.DoubleType(), x.type.count)
        _store_wide(builder, context, sig.args[0], states, i, x if x.type == wide else builder.fpext(x, wide))

    return types.void(states, types.int64, x), codegen


@intrinsic
def store_rounded(typingctx, row, i, x):
    """Write the float64 lanes of ``x`` as numbers of the row's dtype."""

    def codegen(context, builder, sig, args):
        row, i, x = args
        stored = ir.VectorType(context.get_data_type(sig.args[0].dtype), x.type.count)
        _store_wide(builder, context, sig.args[0], row, i, x if x.type == stored else builder.fptrunc(x, stored))

    return types.void(row, types.int64, x), codegen


# --- pairs: rows of two classes --------------------------------------------------------------------------------------


def _shuffled_pair(order: Callable[[int], tuple[list[int], list[int]]]) -> Any:
    """An intrinsic: two vectors whose lanes are those of two others, in this order."""

    @intrinsic
    def shuffled(typingctx, a, b):
        def codegen(context, builder, sig, args):
            lanes = args[0].type.count
            numbers = ir.VectorType(ir.IntType(32), lanes)
            vectors = [builder.shuffle_vector(*args, ir.Constant(numbers, of_one)) for of_one in order(lanes)]
            return context.make_tuple(builder, sig.return_type, vectors)

        return types.UniTuple(a, 2)(a, a), codegen

    return shuffled


def _alternating(lanes: int) -> tuple[list[int], list[int]]:
    both = [j + k for j in range(lanes) for k in (0, lanes)]
    return both[:lanes], both[lanes:]


# (a0, b0, a1, b1, ...), and what brings that back
interleaved = _shuffled_pair(_alternating)
separated = _shuffled_pair(lambda lanes: (list(range(0, 2 * lanes, 2)), list(range(1, 2 * lanes, 2))))
