"""Matrices copied into rows from whatever way they lie in memory, and back.

Where one side has its rows adjacent and the other its classes, an element at a time would touch a line of the cache
each. Memory is read, or written, some lines at a time in stretches as they lie; in between, squares are transposed in
registers. What lies at a distance of a power of two shares few places in the cache, so that no more than a few lines
are under way, and each is done with before the next begins.
"""

from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, outlined
from fastce.cpu._vectors.memory import finish_stores, row_pointer
from fastce.cpu._vectors.moves import copy_matrix, edge_of, put_line
from fastce.cpu._vectors.rooms import storage_room
from fastce.cpu._vectors.squares import lines_of_squares, transpose_square

STRETCH = 256  # elements of a line that are copied together at most
APART = STRETCH + 16  # lines of the room, for the same reason

_new_room = storage_room(8 * APART)


_along, _back, _along_seconds, _back_seconds = map(lines_of_squares, (1, -1, 2, -2))


@inline
def transpose_lines(source, at, stride, step, out, to, out_stride, count):
    """out[i, j] = source[j, i], of as many lines as a square has."""
    if step == 1:
        _along(source, at, stride, out, to, out_stride, count)
    elif step == -1:
        _back(source, at, stride, out, to, out_stride, count)
    elif step == 2:
        _along_seconds(source, at, stride, out, to, out_stride, count)
    elif step == -2:
        _back_seconds(source, at, stride, out, to, out_stride, count)
    else:
        edge, room = edge_of(source), _new_room(source)
        copy_matrix(source, at, stride, step, room, 0, APART, 1, edge, count)
        _along(room, 0, APART, out, to, out_stride, count)


@inline
def steps_of(stack):
    """(stride, step): elements from line to line, and along a line."""
    return stack.strides[-2] // stack.itemsize, stack.strides[-1] // stack.itemsize


def _stack(storage):
    return types.Array(storage, 3, "A")


def _stacks(storage):
    return types.Array(storage, 4, "A")


@kernel(lambda storage: (_stacks(storage), _stacks(storage)))
def copy_lines(source, out):
    """out[s, o, j, i] = source[s, o, j, i], line by line."""
    stacks, stack, lines, length = source.shape
    apart, out_apart = source.strides[1] // source.itemsize, out.strides[1] // out.itemsize
    (stride, step), (out_stride, out_step) = steps_of(source), steps_of(out)
    for s in range(stacks):
        line, place = row_pointer(source, s), row_pointer(out, s)
        for o in range(stack):
            at, to = o * apart, o * out_apart
            copy_matrix(line, at, stride, step, place, to, out_stride, out_step, lines, length)


@outlined
def copy_lines_into(matrix, start, stop, room):
    """room[k] = element start + k of a matrix, line after line, up to element ``stop``."""
    (stride, step), length, place = steps_of(matrix), matrix.shape[1], row_pointer(matrix, 0)
    to = 0
    while start < stop:
        first, before = start // length, start % length
        whole = (stop - start) // length
        lines = whole if before == 0 and whole > 0 else 1
        count = min(length - before, stop - start)
        copy_matrix(place, first * stride + before * step, stride, step, room, to, count, 1, lines, count)
        start += lines * count
        to += lines * count


@outlined
def read_matrix(line, stride, step, row, out_stride, lines, length):
    """`read_across` for one of the stack."""
    edge = edge_of(line)
    for start in range(0, length, STRETCH):
        first = min(start, length - edge)
        count, to = min(STRETCH, length - first), first * out_stride
        for number in range(0, lines, edge):
            j = min(number, lines - edge)
            at = j * stride + first * step
            transpose_lines(line, at, stride, step, row, to + j, out_stride, count)


@outlined
def write_matrix(row, stride, line, out_stride, lines, length, past_cache):
    """`write_across` for one of the stack."""
    edge, room = edge_of(row), _new_room(row)
    for start in range(0, length, STRETCH):
        first = min(start, length - edge)
        count = min(STRETCH, length - first)
        for number in range(0, lines, edge):
            i = min(number, lines - edge)
            for down in range(0, count, edge):
                j = min(down, count - edge)
                transpose_square(row, (first + j) * stride + i, stride, room, j, APART)
            for k in range(edge):
                put_line(room, k * APART, line, (i + k) * out_stride + first, count, past_cache)


@kernel(lambda storage: (_stack(storage), _stack(storage)))
def read_across(source, out):
    """out[o, i, j] = source[o, j, i], of lines far apart, read as they lie; both sides are at least a square's."""
    stack, lines, length = source.shape
    (stride, step), out_stride = steps_of(source), steps_of(out)[0]
    for o in range(stack):
        read_matrix(row_pointer(source, o), stride, step, row_pointer(out, o), out_stride, lines, length)


@kernel(lambda storage: (_stack(storage), _stack(storage), types.boolean))
def write_across(source, out, past_cache):
    """The same of an ``out`` whose lines are far apart and written as they lie, past the cache or not."""
    stack, length, lines = source.shape
    stride, out_stride = steps_of(source)[0], steps_of(out)[0]
    for o in range(stack):
        write_matrix(row_pointer(source, o), stride, row_pointer(out, o), out_stride, lines, length, past_cache)
    finish_stores()
