"""Rows of few classes, transposed into a tile that fits the first-level cache, and back.

In a tile the classes are ``width`` elements apart and the rows adjacent, as columns.py wants them. Four classes of as
many rows as a vector has lanes are transposed in registers at a time; of two in all, lanes of two vectors change
places.
"""

from typing import NamedTuple

from fastce.cpu._kernels.blocks import put_vector
from fastce.cpu._kernels.copied_tiles import copy_tile
from fastce.cpu._kernels.lines import FITTING, WIDTH
from fastce.cpu._kernels.states import GROUP
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.fours import FOUR, load_fewer, load_four, load_of_some, store_fewer, store_four, store_of_some
from fastce.cpu._vectors.lanes import interleaved, separated
from fastce.cpu._vectors.memory import (
    element,
    elements_ahead,
    elements_to_boundary,
    lanes_of,
    load,
    load_first,
    prefetch,
    row_pointer,
    set_element,
    store,
    to_real,
)
from fastce.cpu._vectors.rooms import storage_room

TILE = 4096  # elements of a tile
COPIED = 64  # classes at most that are copied into a tile where they are not adjacent

new_tile = storage_room(TILE + GROUP)  # a vector of its last class may begin anywhere


class Narrow(NamedTuple):
    """Which arrays of a call have their classes adjacent, and not their rows."""

    logits: bool
    probabilities: bool
    gradient: bool


@inline
def tile_width(classes, any_narrow):
    """How many rows are taken at a time: whole vectors, so many that the tile has room for their classes."""
    if not any_narrow and classes > COPIED:
        return WIDTH
    padded = (classes + 15) // 16 * 16
    return min(GROUP, max(16, TILE // padded // 16 * 16))


@inline
def lines_from(rows, place, row_stride, classes, lanes):
    """(start, line): where to send for rows some way behind ``place``, a ``line`` of the cache after the other.

    The line is 0 where rows do not follow each other: the lines between are nobody's.
    """
    follow = 0 < row_stride < classes + lanes
    return place + max(elements_ahead(rows), lanes * row_stride), lanes if follow else 0


@inline
def send_for_rows(rows, start, row_stride, classes):
    """Ask for as many rows as a vector has lanes, where there are gaps between them."""
    for j in range(lanes_of(rows)):
        for c in range(0, classes, lanes_of(rows)):
            prefetch(rows, start + j * row_stride + c)


@inline
def send_for_four(rows, start, line, c):
    """Ask for what four of the classes of as many rows as a vector has lanes are: as many lines."""
    if line > 0:
        for j in range(FOUR):
            prefetch(rows, start + (c + j) * line)


@inline
def put_columns(tile, at, width, columns):
    """Four lines of a tile, from a vector of each on."""
    store(tile, at, columns[0])
    store(tile, at + width, columns[1])
    store(tile, at + 2 * width, columns[2])
    store(tile, at + 3 * width, columns[3])


@inline
def four_from(first, classes):
    """The first of four classes from ``first`` on; the last of them may be among those before."""
    return max(0, min(first, classes - FOUR))


@inline
def fill_lanes(rows, place, row_stride, count, classes, tile, k, width):
    """`fill_tile` for one vector of rows."""
    start, line = lines_from(rows, place, row_stride, classes, lanes_of(rows))
    if line == 0:
        send_for_rows(rows, start, row_stride, classes)
    if count < lanes_of(rows):
        for first in range(0, classes, FOUR):
            c = four_from(first, classes)
            put_columns(tile, c * width + k, width, load_of_some(rows, place + c, row_stride, count, classes))
    elif classes >= FOUR:
        for first in range(0, classes, FOUR):
            c = four_from(first, classes)
            send_for_four(rows, start, line, c)
            put_columns(tile, c * width + k, width, load_four(rows, place + c, row_stride, count, classes))
    else:
        send_for_four(rows, start, line, 0)
        put_columns(tile, k, width, load_fewer(rows, place, row_stride, count, classes))


@inline
def pairs_at(rows, place, count):
    """So many elements from there on, zeros for those that are not there."""
    return load_first(rows, place, min(max(count, 0), lanes_of(rows)), to_real(rows, 0.0))


@outlined
def fill_tile_of_pairs(rows, first, count, tile, width):
    """`fill_tile` for two classes in rows without gaps."""
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        place, left = 2 * (first + k), 2 * (count - k)
        prefetch(rows, place + elements_ahead(rows))
        prefetch(rows, place + lanes + elements_ahead(rows))
        classes = separated(pairs_at(rows, place, left), pairs_at(rows, place + lanes, left - lanes))
        store(tile, k, classes[0])
        store(tile, width + k, classes[1])


@outlined
def fill_tile(rows, row_stride, first, count, classes, tile, width):
    """tile[c * width + k] = class c of row first + k; the last row again where the last vector has none."""
    if classes == 2 and row_stride == 2:
        fill_tile_of_pairs(rows, first, count, tile, width)
        return
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        place, here = (first + k) * row_stride, min(lanes, count - k)
        fill_lanes(rows, place, row_stride, here, classes, tile, k, width)


@inline
def columns_at(tile, c, k, width, _):
    """What `put_columns` has put."""
    at = c * width + k
    return load(tile, at), load(tile, at + width), load(tile, at + 2 * width), load(tile, at + 3 * width)


@inline
def put_pairs(rows, place, left, pairs):
    """Two vectors of pairs, as many of their elements as are ``left``."""
    lanes = lanes_of(rows)
    put_vector(rows, place, pairs[0], min(left, lanes), False)
    if left > lanes:
        put_vector(rows, place + lanes, pairs[1], min(left - lanes, lanes), False)


@inline
def put_lanes(columns_of, tile, k, width, count, classes, rows, place, row_stride, rest):
    """Write four classes, ``columns_of(tile, c, k, width, rest)``, of one vector of rows after the other.

    Whoever writes a part of a line of the cache must have it first: those to come are sent for.
    """
    if classes == 2 and row_stride == 2:
        columns = columns_of(tile, 0, k, width, rest)
        put_pairs(rows, place, 2 * count, interleaved(columns[0], columns[1]))
        return
    start, line = lines_from(rows, place, row_stride, classes, lanes_of(rows))
    if line == 0:
        send_for_rows(rows, start, row_stride, classes)
    if count < lanes_of(rows):
        for first in range(0, classes, FOUR):
            c = four_from(first, classes)
            store_of_some(rows, place + c, row_stride, count, classes, columns_of(tile, c, k, width, rest))
    elif classes >= FOUR:
        for first in range(0, classes, FOUR):
            c = four_from(first, classes)
            send_for_four(rows, start, line, c)
            store_four(rows, place + c, row_stride, count, classes, columns_of(tile, c, k, width, rest))
    else:
        send_for_four(rows, start, line, 0)
        store_fewer(rows, place, row_stride, count, classes, columns_of(tile, 0, k, width, rest))


@outlined
def put_tile(tile, width, count, classes, rows, row_stride, first, running, all_fit):
    """The inverse of `fill_tile`, of the rows that fit."""
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        place, here = (first + k) * row_stride, min(lanes, count - k)
        if all_fit:
            put_lanes(columns_at, tile, k, width, here, classes, rows, place, row_stride, ())
        else:
            for j in range(k, k + here):
                if running[FITTING + j] > 0.0:
                    for c in range(classes):
                        set_element(rows, (first + j) * row_stride + c, element(tile, c * width + j))


@inline
def row_stride_of(array):
    """Elements from one row to the next of an (outer, classes, rows) array."""
    return array.strides[2] // array.itemsize


@inline
def tile_of(array, is_narrow, outer, first, count, room, width):
    """(tile, start, stride, itself): class c of row first + k is at ``tile[start + c * stride + k]``.

    The last is 1 where the array is its own tile, and 0 for a copy, whose vectors are whole.
    """
    whole = row_pointer(array, outer)
    if not is_narrow:
        stride, classes = array.strides[1] // array.itemsize, array.shape[1]
        if classes > COPIED:
            return whole, first, stride, 1
        copy_tile(whole, first, count, stride, classes, room, width)
        return room, 0, width, 0
    fill_tile(whole, row_stride_of(array), first, count, array.shape[1], room, width)
    return room, 0, width, 0


@inline
def coming_rows(array, is_narrow, outer, first, classes):
    """(place, start, row stride, line) to send for the rows from ``first`` on, a ``line`` of the cache after the other.

    The line is 0 where rows do not follow each other: the lines between are nobody's.
    """
    place, row_stride = row_pointer(array, outer), row_stride_of(array)
    follow = is_narrow and 0 < row_stride < classes + lanes_of(place)
    return place, first * row_stride, row_stride, lanes_of(place) if follow else 0


@inline
def tile_and_source(source, logits, is_narrow, outer, first, count, room, width):
    """`tile_of` the logits, and (place, start, stride, step) of what it is filled from while it is first read.

    Class c of row first + k is at ``place[start + k * step + c * stride]``. The source is the tile itself, unless there
    are few classes, or gaps between rows.
    """
    if is_narrow:
        tile = tile_of(logits, True, outer, first, count, room, width)
        return tile, tile
    itself = row_pointer(logits, outer), first, logits.strides[1] // logits.itemsize, 1
    if logits.shape[1] <= COPIED:
        return (room, 0, width, 0), itself
    step = row_stride_of(source)
    if step == 1:
        return itself, itself
    return itself, (row_pointer(source, outer), first * step, source.strides[1] // source.itemsize, step)


@inline
def first_cut(array, is_narrow, outer, width):
    """Where the first tile would begin, so that all others begin at a multiple of a vector's size; see `cut_at`.

    Else two tiles write to the same line of the cache, and to memory that is not in it twice; none is 0.
    """
    place, stride = row_pointer(array, outer), array.strides[1] // array.itemsize
    if is_narrow or stride % lanes_of(place) != 0:
        return 0
    before = elements_to_boundary(place, 0)
    return before - width if before > 0 else 0


@inline
def cut_at(cut, width, rows):
    """(first, count) of the rows of a tile: the first one may be narrower, and the last."""
    first = max(cut, 0)
    return first, min(cut + width, rows) - first


@inline
def tile_to_write(array, is_narrow, outer, first, room, width):
    """(tile, start, stride) of where results go: into the array itself, or into a room for `put_tile`."""
    if is_narrow:
        return room, 0, width
    return row_pointer(array, outer), first, array.strides[1] // array.itemsize


@inline
def write_through(write, array, is_narrow, place, room, running, tile, all_fit, past_cache, rest):
    """What ``write`` makes of a tile, in the array; if that is narrow, by way of the room.

    The place is (outer, first, count, classes, width).
    """
    outer, first, count, classes, width = place
    out = tile_to_write(array, is_narrow, outer, first, room, width)
    write(running, tile, classes, count, out, is_narrow, all_fit, past_cache, rest)
    if is_narrow:
        to = row_pointer(array, outer)
        put_tile(room, width, count, classes, to, row_stride_of(array), first, running, all_fit)
