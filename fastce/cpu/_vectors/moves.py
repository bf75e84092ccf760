"""Elements moved as they are, bit by bit: lines with gaps or backwards, stores past the cache.

Vectors have 32 bytes here, as those of squares.py.
"""

import functools
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import INDEX, ask_for, element_pointer, elements_missing
from fastce.cpu._vectors.compiler import inline, outlined

VECTOR_BITS = 256
LINE_BYTES = 64  # of the cache
LINES_AHEAD = 1024  # elements


def _edge(storage: Any) -> int:
    """Of a square: 4 elements of 8 bytes, 8 of less."""
    return min(8, VECTOR_BITS // storage.bitwidth)


def _words(storage: Any, number: int) -> ir.VectorType:
    return ir.VectorType(ir.IntType(storage.bitwidth), number)


def _place(builder: Any, context: Any, pointer_type: Any, pointer: Any, i: Any, vector: ir.VectorType) -> Any:
    """Where element ``i`` is, as the place of a vector."""
    return builder.bitcast(element_pointer(builder, context, pointer_type, pointer, i), vector.as_pointer())


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


def _constant(function: Callable[[Any], int]) -> Any:
    @intrinsic
    def number(typingctx, row):
        value = function(row.dtype)
        return types.int64(row), lambda context, builder, sig, args: ir.Constant(INDEX, value)

    return number


edge_of = _constant(_edge)
line_of = _constant(lambda storage: LINE_BYTES * 8 // storage.bitwidth)  # elements of a line of the cache


def _part_of(storage: Any, part: int) -> int:
    """Elements of a part of a vector."""
    return max(1, VECTOR_BITS // storage.bitwidth // part)


@intrinsic
def elements_to_line(typingctx, row, i):
    """How many elements lie between element ``i`` and the next line of the cache."""

    def codegen(context, builder, sig, args):
        return elements_missing(builder, sig.args[0], element_pointer(builder, context, sig.args[0], *args), LINE_BYTES)

    return types.int64(row, types.int64), codegen


# --- along a line ----------------------------------------------------------------------------------------------------


def _load_every(builder: Any, context: Any, row: Any, pointer: Any, at: Any, step: int, number: int) -> Any:
    """Elements ``at``, ``at + step``, ... of a row as a vector of so many.

    Of steps of two a second load begins at the last element of the first: nothing is read behind the last.
    """
    backwards, distance = step < 0, abs(step)
    reach, vector = (number - 1) * distance, _words(row.dtype, number)

    def loaded(ahead: int) -> Any:
        i = builder.add(at, ir.Constant(at.type, ahead - reach if backwards else ahead))
        place = _place(builder, context, row, pointer, i, vector)
        return builder.load(place, align=row.dtype.bitwidth // 8, typ=vector)

    if step == 0:
        single = _words(row.dtype, 1)
        place = _place(builder, context, row, pointer, at, single)
        one = builder.load(place, align=row.dtype.bitwidth // 8, typ=single)
        return _shuffled(builder, one, one, [0] * number)
    first = loaded(0)
    if step == 1:
        return first
    lanes = [k if k < number else k + 1 for k in range(0, reach + 1, distance)]
    return _shuffled(builder, first, loaded(reach - number + 1), lanes[::-1] if backwards else lanes)


_quarter = _constant(functools.partial(_part_of, part=4))


def _gather(step: int) -> Any:
    """An intrinsic: `spread` for a ``source`` of this step and lines of ``out`` without gaps, of a `_quarter` at least.

    It moves a vector at a time, or a part of one where lines are short. The last move ends with its line, and overlaps
    the one before.
    """

    @intrinsic
    def gather(typingctx, source, at, stride, out, to, out_stride, lines, length):
        storage = source.dtype

        def codegen(context, builder, sig, args):
            source, at, stride, out, to, out_stride, lines, length = args

            lines_ahead = builder.udiv(INDEX(LINES_AHEAD), length)
            is_long = builder.icmp_signed("==", lines_ahead, INDEX(0))
            ahead = builder.select(is_long, INDEX(LINES_AHEAD // 2 * step), builder.mul(lines_ahead, stride))

            def move(number: int, line: Any, place: Any, i: Any) -> None:
                start = builder.add(line, builder.mul(i, INDEX(step)))
                value = _load_every(builder, context, sig.args[0], source, start, step, number)
                ask_for(builder, context, sig.args[0], source, builder.add(start, ahead))
                here = _place(builder, context, sig.args[3], out, builder.add(place, i), value.type)
                builder.store(value, here, align=storage.bitwidth // 8)

            def in_moves_of(number: int) -> None:
                last = builder.sub(length, INDEX(number))
                with cgutils.for_range(builder, lines) as loop:
                    line = builder.add(at, builder.mul(loop.index, stride))
                    place = builder.add(to, builder.mul(loop.index, out_stride))
                    with cgutils.for_range_slice(builder, INDEX(0), last, INDEX(number)) as (i, _):
                        move(number, line, place, i)
                    move(number, line, place, last)

            def in_the_largest_moves(part: int) -> None:
                number = _part_of(storage, part)
                if part == 4:
                    in_moves_of(number)
                    return
                with builder.if_else(builder.icmp_signed(">=", length, INDEX(number))) as (long, short):
                    with long:
                        in_moves_of(number)
                    with short:
                        in_the_largest_moves(2 * part)

            in_the_largest_moves(1)
            return context.get_dummy_value()

        index = types.int64
        return types.void(source, index, index, out, index, index, index, index), codegen

    return gather


_repeatedly, _forwards, _backwards, _every_second, _every_second_backwards = map(_gather, (0, 1, -1, 2, -2))


@inline
def spread(source, at, stride, step, out, to, out_stride, out_step, lines, length):
    """out[to + j * out_stride + k * out_step] = source[at + j * stride + k * step], an element at a time."""
    for j in range(lines):
        for k in range(length):
            out[to + j * out_stride + k * out_step] = source[at + j * stride + k * step]


@outlined
def copy_matrix(source, at, stride, step, out, to, out_stride, out_step, lines, length):
    """The same, a vector at a time where the steps allow."""
    if out_step != 1 or abs(step) > 2 or length < _quarter(source):
        spread(source, at, stride, step, out, to, out_stride, out_step, lines, length)
    elif step == 0:
        _repeatedly(source, at, stride, out, to, out_stride, lines, length)
    elif step == 1:
        _forwards(source, at, stride, out, to, out_stride, lines, length)
    elif step == -1:
        _backwards(source, at, stride, out, to, out_stride, lines, length)
    elif step == 2:
        _every_second(source, at, stride, out, to, out_stride, lines, length)
    else:
        _every_second_backwards(source, at, stride, out, to, out_stride, lines, length)


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
