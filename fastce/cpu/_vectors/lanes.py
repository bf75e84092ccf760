"""Vectors whose lanes are rows: transposition, comparison with class numbers, and the way to float64 and back.

The row kernels go along a row; these serve the kernels that take as many rows as a vector has lanes at once.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.compiler import inline, real_of
from fastce.cpu._vectors.half import _narrow, _stored_vector, _widen
from fastce.cpu._vectors.memory import _element_pointer, _lanes_mask, _load_masked, _store_masked
from fastce.cpu._vectors.simd import _splat, vector_of, where_less

_SQRT_HALF_BITS = 0x3FE6A09E667F3BCD


@intrinsic
def lanes_in(typingctx, x):
    """How many lanes a vector has."""
    lanes = x.lanes
    return types.int64(x), lambda context, builder, sig, args: ir.Constant(ir.IntType(64), lanes)


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
        _store_masked(builder, _element_pointer(builder, context, sig.args[0], row, i), mask, value)

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
        place = _element_pointer(builder, context, sig.args[1], args[1], args[2])
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
        place = _element_pointer(builder, context, sig.args[1], numbers, i)
        mask = _lanes_mask(builder, count, result.lanes)
        value = _load_masked(builder, place, mask, ir.Constant(integers, [-1] * result.lanes))
        return builder.sitofp(value, context.get_value_type(result))

    return result(row, numbers, types.int64, types.int64), codegen


def _store_wide(builder: Any, context: Any, pointer_type: Any, states: Any, i: Any, value: Any) -> None:
    place = _element_pointer(builder, context, pointer_type, states, i)
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=8)


@intrinsic
def store_real(typingctx, states, i, x):
    """Write the lanes of ``x`` as float64s."""

    def codegen(context, builder, sig, args):
        states, i, x = args
        wide = ir.VectorType(ir.DoubleType(), x.type.count)
        _store_wide(builder, context, sig.args[0], states, i, x if x.type == wide else builder.fpext(x, wide))

    return types.void(states, types.int64, x), codegen


# --- squares: as many rows as a vector has lanes ---------------------------------------------------------------------


def _square_places(builder: Any, context: Any, pointer_type: Any, row: Any, i: Any, stride: Any, rows: Any) -> Any:
    """Where each row of a square starts; rows that are not there are the last one again."""
    last = builder.sub(rows, ir.Constant(rows.type, 1))
    for k in range(vector_of(real_of(pointer_type.dtype)).lanes):
        number = ir.Constant(rows.type, k)
        there = builder.icmp_signed("<", number, rows)
        number = builder.select(there, number, last)
        place = builder.add(i, builder.mul(stride, number))
        yield there, _element_pointer(builder, context, pointer_type, row, place)


@intrinsic
def load_square(typingctx, row, i, stride, rows, count):
    """Vectors from ``i``, ``i + stride``, ... with ``count`` elements each; after ``rows`` of them the last again."""
    vector = vector_of(real_of(row.dtype))
    result = types.UniTuple(vector, vector.lanes)

    def codegen(context, builder, sig, args):
        row, i, stride, rows, count = args
        storage = sig.args[0].dtype
        none = ir.Constant(_stored_vector(context, storage, vector.lanes), None)
        mask = _lanes_mask(builder, count, vector.lanes)
        vectors = []
        for _, place in _square_places(builder, context, sig.args[0], row, i, stride, rows):
            vectors.append(_widen(builder, storage, _load_masked(builder, place, mask, none)))
        return context.make_tuple(builder, result, vectors)

    return result(row, types.int64, types.int64, types.int64, types.int64), codegen


@intrinsic
def store_square(typingctx, row, i, stride, rows, count, vectors):
    """Write vectors from ``i``, ``i + stride``, ... on: ``rows`` of them, ``count`` elements each."""

    def codegen(context, builder, sig, args):
        row, i, stride, rows, count, vectors = args
        storage, lanes = sig.args[0].dtype, len(sig.args[5])
        mask = _lanes_mask(builder, count, lanes)
        none = ir.Constant(mask.type, None)
        places = _square_places(builder, context, sig.args[0], row, i, stride, rows)
        for k, (there, place) in enumerate(places):
            value = _narrow(builder, storage, builder.extract_value(vectors, k))
            _store_masked(builder, place, builder.select(there, mask, none), value)

    return types.void(row, types.int64, types.int64, types.int64, types.int64, vectors), codegen


@intrinsic
def store_whole_square(typingctx, row, i, stride, vectors):
    """As `store_square`, all of it: a masked store would make whoever reads it soon wait for the cache."""

    def codegen(context, builder, sig, args):
        row, i, stride, vectors = args
        storage, lanes = sig.args[0].dtype, ir.Constant(stride.type, len(sig.args[3]))
        for k, (_, place) in enumerate(_square_places(builder, context, sig.args[0], row, i, stride, lanes)):
            value = _narrow(builder, storage, builder.extract_value(vectors, k))
            builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=storage.bitwidth // 8)

    return types.void(row, types.int64, types.int64, vectors), codegen


@intrinsic
def transposed(typingctx, vectors):
    """Lane k of vector j becomes lane j of vector k.

    Squares of 1, 2, 4, ... elements beside the diagonal change places, one shuffle a vector each time.
    """

    def codegen(context, builder, sig, args):
        lanes = len(sig.args[0])
        rows = [builder.extract_value(args[0], k) for k in range(lanes)]
        distance = 1
        while distance < lanes:
            upper = [j if not j & distance else lanes + j - distance for j in range(lanes)]
            lower = [j + distance if not j & distance else lanes + j for j in range(lanes)]
            exchanged = list(rows)
            for k in range(lanes):
                if not k & distance:
                    pair = rows[k], rows[k + distance]
                    for place, lanes_from in ((k, upper), (k + distance, lower)):
                        mask = ir.Constant(ir.VectorType(ir.IntType(32), lanes), lanes_from)
                        exchanged[place] = builder.shuffle_vector(*pair, mask)
            rows = exchanged
            distance *= 2
        return context.make_tuple(builder, sig.return_type, rows)

    return vectors(vectors), codegen


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
