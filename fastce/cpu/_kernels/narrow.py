"""Rows of few classes, transposed into a tile that fits the first-level cache, and back.

In a tile the classes are ``width`` elements apart and the rows adjacent, as columns.py wants them. Squares of as many
rows and classes as a vector has lanes are transposed in registers; of two classes, lanes of two vectors change places.
"""

from typing import NamedTuple

from fastce.cpu._kernels.blocks import AHEAD, put_vector
from fastce.cpu._kernels.lines import FITTING, WIDTH
from fastce.cpu._kernels.states import GROUP
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.lanes import (
    interleaved,
    load_square,
    separated,
    store_square,
    store_whole_square,
    transposed,
)
from fastce.cpu._vectors.memory import (
    element,
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

new_tile = storage_room(TILE)


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
def pairs_at(rows, place, count):
    """So many elements from there on, zeros for those that are not there."""
    return load_first(rows, place, min(max(count, 0), lanes_of(rows)), to_real(rows, 0.0))


@outlined
def fill_tile_of_pairs(rows, first, count, tile, width):
    """`fill_tile` for two classes in rows without gaps."""
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        place, left = 2 * (first + k), 2 * (count - k)
        prefetch(rows, place + AHEAD)
        prefetch(rows, place + lanes + AHEAD)
        classes = separated(pairs_at(rows, place, left), pairs_at(rows, place + lanes, left - lanes))
        store(tile, k, classes[0])
        store(tile, width + k, classes[1])


@outlined
def put_tile_of_pairs(tile, width, count, rows, first):
    """The inverse."""
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        place, left = 2 * (first + k), 2 * (count - k)
        pairs = interleaved(load(tile, k), load(tile, width + k))
        put_vector(rows, place, pairs[0], min(left, lanes), False)
        if left > lanes:
            put_vector(rows, place + lanes, pairs[1], min(left - lanes, lanes), False)


@outlined
def fill_tile(rows, row_stride, first, count, classes, tile, width):
    """tile[c * width + k] = class c of row first + k; zeros where the last vector has no row."""
    if classes == 2 and row_stride == 2:
        fill_tile_of_pairs(rows, first, count, tile, width)
        return
    lanes = lanes_of(rows)
    ahead = max(AHEAD, lanes * row_stride)
    for k in range(0, count, lanes):
        for c in range(0, classes, lanes):
            place = (first + k) * row_stride + c
            for j in range(lanes):
                prefetch(rows, place + j * row_stride + ahead)
            square = load_square(rows, place, row_stride, min(lanes, count - k), min(lanes, classes - c))
            store_whole_square(tile, c * width + k, width, transposed(square))


@outlined
def copy_tile(array, first, count, stride, classes, tile, width):
    """tile[c * width + k] = class c of row first + k, of an array whose rows are adjacent.

    Classes a power of two apart would push each other out of the cache, where they are wanted twice or three times.
    """
    lanes = lanes_of(array)
    for c in range(classes):
        for k in range(0, count, lanes):
            place = c * stride + first + k
            prefetch(array, place + 2 * width)
            store(tile, c * width + k, load_first(array, place, min(lanes, count - k), to_real(array, 0.0)))


@outlined
def put_tile(tile, width, count, classes, rows, row_stride, first, running, all_fit):
    """The inverse of `fill_tile`, of the rows that fit."""
    if all_fit and classes == 2 and row_stride == 2:
        put_tile_of_pairs(tile, width, count, rows, first)
        return
    lanes = lanes_of(rows)
    ahead = max(AHEAD, lanes * row_stride)
    for k in range(0, count, lanes):
        here = min(lanes, count - k)
        for c in range(0, classes, lanes):
            if all_fit:
                for j in range(lanes):  # whoever writes a part of a line must have it first
                    prefetch(rows, (first + k + j) * row_stride + c + ahead)
                square = load_square(tile, c * width + k, width, min(lanes, classes - c), lanes)
                place = (first + k) * row_stride + c
                store_square(rows, place, row_stride, here, min(lanes, classes - c), transposed(square))
        if not all_fit:
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
def source_of(array, outer, first, tile):
    """(place, start, stride, step) of what a tile is filled from while it is first read; itself, unless rows have gaps.

    Class c of row first + k is at ``place[start + k * step + c * stride]``.
    """
    step = row_stride_of(array)
    if tile[3] == 0 or step == 1:
        return tile
    return row_pointer(array, outer), first * step, array.strides[1] // array.itemsize, step


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
