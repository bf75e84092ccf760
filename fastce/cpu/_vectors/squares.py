"""Squares of elements transposed in registers, as they are, bit by bit.

Vectors have 32 bytes here, so that a square of them fits the registers of AVX2.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.memory import prefetch
from fastce.cpu._vectors.moves import _edge, _load_every, _place, _shuffled, _words, edge_of, line_of

AHEAD = 32  # elements of a line between those that are copied and those that memory is asked for


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
    """The transpose of a square, or of the squares side by side that vectors of more lanes hold."""
    width, lanes_of_all, distance, order = len(vectors), vectors[0].type.count, 1, list(range(len(vectors)))

    def of_squares(lanes: list[int]) -> list[int]:
        return [
            first + k if k < width else lanes_of_all + first + k - width
            for first in range(0, lanes_of_all, width)
            for k in lanes
        ]

    while distance < width:
        lower, upper = map(of_squares, _interleaved(width, half, distance))
        for k in (k for k in range(width) if not k & distance):
            pair = vectors[k], vectors[k + distance]
            vectors[k], vectors[k + distance] = (_shuffled(builder, *pair, lanes) for lanes in (lower, upper))
        distance *= 2
    for k in range(width):  # within a part the halves have come in the opposite order: that of the bits of k
        bits = [d for d in (1, 2, 4) if d < half]
        order[k] = sum(bits[-1 - i] for i, d in enumerate(bits) if k & d) + (k & half)
    return [vectors[order.index(k)] for k in range(width)]


def _square(step: int) -> Any:
    """An intrinsic: lines of a square, ``stride`` apart, become columns of lines ``out_stride`` apart."""

    @intrinsic
    def transpose(typingctx, source, at, stride, out, to, out_stride):
        storage = source.dtype
        edge = _edge(storage)
        half = min(edge, 128 // storage.bitwidth)

        def codegen(context, builder, sig, args):
            source, at, stride, out, to, out_stride = args
            line, align = _words(storage, edge), storage.bitwidth // 8

            def start(first: Any, distance: Any, k: int) -> Any:
                return builder.add(first, builder.mul(distance, ir.Constant(distance.type, k)))

            lines = [
                _load_every(builder, context, sig.args[0], source, start(at, stride, k), step, edge)
                for k in range(edge)
            ]
            for k, column in enumerate(_transposed(builder, lines, half)):
                place = _place(builder, context, sig.args[3], out, start(to, out_stride, k), line)
                builder.store(column, place, align=align)
            return context.get_dummy_value()

        return types.void(source, types.int64, types.int64, out, types.int64, types.int64), codegen

    return transpose


transpose_square = _square(1)


def lines_of_squares(step: int) -> Any:
    """Lines whose elements are ``step`` apart transposed square by square."""
    square = _square(step)

    @inline
    def transpose(source, at, stride, out, to, out_stride, count):
        """out[i, j] = source[j, i], of as many lines as a square has; the last square overlaps the one before."""
        edge, of_line = edge_of(source), max(1, line_of(source) // abs(step))
        for i in range(0, count, edge):
            here = min(i, count - edge)
            if i % of_line < edge:  # once for a line of the cache; at the end, for those of the next square
                next_one = at + (i + AHEAD) * step
                if i + AHEAD >= count:
                    next_one += edge * stride - count * step
                for k in range(edge):
                    prefetch(source, next_one + k * stride)
            square(source, at + here * step, stride, out, to + here * out_stride, out_stride)

    return transpose
