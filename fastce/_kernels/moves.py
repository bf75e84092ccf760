"""Elements moved as they are, bit by bit: lines with gaps or backwards, squares transposed, stores past the cache.

Vectors have 32 bytes here, so that a square of them fits the registers of AVX2.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce._kernels.jit import inline
from fastce._kernels.memory import _INDEX, _element_pointer

VECTOR_BITS = 256
LINE_BYTES = 64  # of the cache


def _edge(storage: Any) -> int:
    """Of a square: 4 elements of 8 bytes, 8 of less."""
    return min(8, VECTOR_BITS // storage.bitwidth)


def _words(storage: Any, number: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(storage.bitwidth), number)


def _place(builder: Any, context: Any, pointer_type: Any, pointer: Any, i: Any, vector: ir.VectorType) -> Any:
    """Where element ``i`` is, as the place of a vector."""
    return builder.bitcast(_element_pointer(builder, context, pointer_type, pointer, i), vector.as_pointer())


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _constant(function: Callable[[Any], int]) -> Any:
    @intrinsic
    def number(typingctx, row):
        value = function(row.dtype)
        return types.int64(row), lambda context, builder, sig, args: ir.Constant(_INDEX, value)

    return number


edge_of = _constant(_edge)
line_of = _constant(lambda storage: LINE_BYTES * 8 // storage.bitwidth)  # elements of a line of the cache
_vector_of = _constant(lambda storage: VECTOR_BITS // storage.bitwidth)


@intrinsic
def elements_to_line(typingctx, row, i):
    """How many elements lie between element ``i`` and the next line of the cache."""

    def codegen(context, builder, sig, args):
        place = builder.ptrtoint(_element_pointer(builder, context, sig.args[0], *args), _INDEX)
        missing = builder.and_(builder.neg(place), ir.Constant(_INDEX, LINE_BYTES - 1))
        return builder.sdiv(missing, ir.Constant(_INDEX, sig.args[0].dtype.bitwidth // 8))

    return types.int64(row, types.int64), codegen


# --- along a line ----------------------------------------------------------------------------------------------------


def _every(step: int) -> Any:
    """An intrinsic: elements ``at``, ``at + step``, ... of ``source``, as many as a vector has, from ``to`` on.

    One element beyond the last is read, in the direction of the step, if that is not 1 or -1.
    """

    @intrinsic
    def copy(typingctx, source, at, out, to):
        storage = source.dtype
        number = VECTOR_BITS // storage.bitwidth
        reach = number * abs(step)

        def codegen(context, builder, sig, args):
            source, at, out, to = args
            first = at if step > 0 else builder.sub(at, ir.Constant(at.type, reach - 1))
            align, wide = storage.bitwidth // 8, _words(storage, reach)
            value = builder.load(_place(builder, context, sig.args[0], source, first, wide), align=align, typ=wide)
            lanes = [k * step if step > 0 else reach - 1 + k * step for k in range(number)]
            place = _place(builder, context, sig.args[2], out, to, _words(storage, number))
            builder.store(_shuffled(builder, value, value, lanes), place, align=align)
            return context.get_dummy_value()

        return types.void(source, types.int64, out, types.int64), codegen

    return copy


_forwards, _backwards, _every_second, _every_second_backwards = (_every(step) for step in (1, -1, 2, -2))


@inline
def copy_line(source, at, step, out, to, count):
    """out[to + k] = source[at + k * step] for k below ``count``; nothing is read behind the last of them.

    The last vector of what has no gaps begins where it ends with the line, and overlaps the one before.
    """
    vector, k = _vector_of(source), 0
    if step == 1 and count >= vector:
        for i in range(0, count, vector):
            here = min(i, count - vector)
            _forwards(source, at + here, out, to + here)
        k = count
    elif step == -1 and count >= vector:
        for i in range(0, count, vector):
            here = min(i, count - vector)
            _backwards(source, at - here, out, to + here)
        k = count
    elif step == 2:
        while k + vector < count:
            _every_second(source, at + 2 * k, out, to + k)
            k += vector
    elif step == -2:
        while k + vector < count:
            _every_second_backwards(source, at - 2 * k, out, to + k)
            k += vector
    for i in range(k, count):
        out[to + i] = source[at + i * step]


@inline
def spread_line(source, at, step, out, to, out_step, count):
    """out[to + k * out_step] = source[at + k * step] for k below ``count``."""
    for k in range(count):
        out[to + k * out_step] = source[at + k * step]


@intrinsic
def _copy_whole_line(typingctx, source, at, out, to, past_cache):
    """A line of the cache, past it or not."""

    def codegen(context, builder, sig, args):
        source, at, out, to, past_cache = args
        storage = sig.args[0].dtype
        line, align = _words(storage, LINE_BYTES * 8 // storage.bitwidth), storage.bitwidth // 8
        value = builder.load(_place(builder, context, sig.args[0], source, at, line), align=align, typ=line)
        place = _place(builder, context, sig.args[2], out, to, line)
        with builder.if_else(past_cache) as (past, into):
            with past:
                instruction = builder.store(value, place, align=LINE_BYTES)
                instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            with into:
                builder.store(value, place, align=align)  # if it were the same, LLVM would make one of both
        return context.get_dummy_value()

    return types.void(source, types.int64, out, types.int64, types.boolean), codegen


@inline
def put_line(source, at, out, to, count, past_cache):
    """out[to + k] = source[at + k] for k below ``count``, in whole lines of the cache but for the ends."""
    line, k = line_of(source), min(elements_to_line(out, to), count)
    for i in range(k):
        out[to + i] = source[at + i]
    while k + line <= count:
        _copy_whole_line(source, at + k, out, to + k, past_cache)
        k += line
    for i in range(k, count):
        out[to + i] = source[at + i]


# --- squares ---------------------------------------------------------------------------------------------------------


def _interleaved(width: int, half: int, distance: int) -> tuple[list[int], list[int]]:
    """The lanes of two vectors, in units of ``distance``, alternating: of both lower halves, and of both upper.

    Halves are those of parts of ``half`` lanes, which have 128 bits: x86 shuffles within these at once. Units as large
    as a part change places across parts.
    """
    if distance >= half:
        lower, upper = ([first + part + k for first in (0, width) for k in range(half)] for part in (0, half))
        return lower, upper
    lanes: tuple[list[int], list[int]] = [], []
    for part in range(0, width, half):
        for which, start in enumerate((part, part + half // 2)):
            for unit in range(start, start + half // 2, distance):
                lanes[which].extend(first + unit + k for first in (0, width) for k in range(distance))
    return lanes


def _transposed(builder: Any, vectors: list[Any], half: int) -> list[Any]:
    width, distance, order = len(vectors), 1, list(range(len(vectors)))
    while distance < width:
        lower, upper = _interleaved(width, half, distance)
        for k in (k for k in range(width) if not k & distance):
            pair = vectors[k], vectors[k + distance]
            vectors[k], vectors[k + distance] = (_shuffled(builder, *pair, lanes) for lanes in (lower, upper))
        distance *= 2
    for k in range(width):  # within a part the halves have come in the opposite order: that of the bits of k
        bits = [d for d in (1, 2, 4) if d < half]
        order[k] = sum(bits[-1 - i] for i, d in enumerate(bits) if k & d) + (k & half)
    return [vectors[order.index(k)] for k in range(width)]


@intrinsic
def transpose_square(typingctx, source, at, stride, out, to, out_stride):
    """Lines of a square, ``stride`` apart, become columns of lines ``out_stride`` apart."""
    storage = source.dtype
    edge = _edge(storage)
    half = min(edge, 128 // storage.bitwidth)

    def codegen(context, builder, sig, args):
        source, at, stride, out, to, out_stride = args
        line, align = _words(storage, edge), storage.bitwidth // 8

        def place(which: int, pointer: Any, start: Any, step: Any, k: int) -> Any:
            i = builder.add(start, builder.mul(step, ir.Constant(step.type, k)))
            return _place(builder, context, sig.args[which], pointer, i, line)

        lines = [builder.load(place(0, source, at, stride, k), align=align, typ=line) for k in range(edge)]
        for k, column in enumerate(_transposed(builder, lines, half)):
            builder.store(column, place(3, out, to, out_stride, k), align=align)
        return context.get_dummy_value()

    return types.void(source, types.int64, types.int64, out, types.int64, types.int64), codegen
