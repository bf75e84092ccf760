"""Blocks of a row: prepared where exp could not take the elements as they are, looked through, and written."""

import math
from typing import Any

import numpy as np
from numba import types

from fastce.cpu._vectors.compiler import by_type, inline, outlined
from fastce.cpu._vectors.elementary import tanh
from fastce.cpu._vectors.exponential import scaling
from fastce.cpu._vectors.lanes import lesser_and_top, where_lane
from fastce.cpu._vectors.memory import (
    elements_ahead,
    elements_to_boundary,
    lanes_of,
    load,
    load_first,
    prefetch,
    store,
    store_first,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.rooms import float64_room, real_room
from fastce.cpu._vectors.simd import largest_lane, maximum, maximum_of_lanes
from fastce.cpu._vectors.stretches import next_step

BLOCK = 2048  # elements that are prepared at a time; fits the smallest first-level cache
NO_CLASS = -1
SENT_FOR = 65_536  # elements of the next row that are asked for while this row's result is written

scratch_block = real_room(BLOCK)
wide_scratch_block = float64_room(BLOCK)


@inline
def capping(row, logit_scale, softcap):
    """(scale / cap, cap) for `on_block`, zeros without a cap, and the scaling that is left for exp."""
    if softcap > 0:
        return to_real(row, logit_scale / softcap), to_real(row, softcap), scaling(row, 1.0, 1.0)
    return to_real(row, 0.0), to_real(row, 0.0), scaling(row, logit_scale, 1.0)


@outlined
def fill_prepared(row, start, stop, ratio, cap, offset, room):
    lanes = lanes_of(row)
    for i in range(start, stop, lanes):
        x = load(row, i) if i + lanes <= stop else load_first(row, i, stop - i, offset)
        if cap > 0:
            x = tanh(x * ratio) * cap
        store(room, i - start, x - offset)


def on_block(function: Any, row: Any, start: int, stop: int, capped_by: Any, offset: Any, room: Any, rest: Any) -> Any:
    """function(block, first, start, stop, rest), where element ``start`` of the row is element ``first`` of the block.

    The block holds numbers that exp can take: it is the row itself where that will do, else cap(x) - offset in
    ``room``, cap(x) = cap * tanh(ratio * x). For half precision these two have different types, so that the function
    is compiled for both.
    """


@by_type(on_block)
def _on_block(
    function: Any, row: types.CPointer, start: Any, stop: Any, capped_by: Any, offset: Any, room: Any, rest: Any
) -> Any:
    def for_either(function, row, start, stop, capped_by, offset, room, rest):
        block, first = row, start
        if capped_by[1] != 0 or offset != 0:
            fill_prepared(row, start, stop, capped_by[0], capped_by[1], offset, room)
            block, first = room, 0
        return function(block, first, start, stop, rest)

    def for_each_type(function, row, start, stop, capped_by, offset, room, rest):
        if capped_by[1] != 0 or offset != 0:
            fill_prepared(row, start, stop, capped_by[0], capped_by[1], offset, room)
            return function(room, 0, start, stop, rest)
        return function(row, start, start, stop, rest)

    return for_either if row == room else for_each_type


@inline
def end_of_block(start, classes, lanes, first=0):
    """Where the block around ``start`` ends, if blocks begin at class ``first``; between two vectors, with this one.

    After a class that is handled alone, vectors soon lie again where they would have lain without it: a load across
    two cache lines costs two.
    """
    if start < first:
        return min(first, classes)
    if (start - first) % lanes > 0:
        return min(start - (start - first) % lanes + lanes, classes)
    return min(start - (start - first) % BLOCK + BLOCK, classes)


@inline
def first_block(out, past_cache):
    """The class at which blocks begin that are written past the cache: there whole lines must be."""
    return elements_to_boundary(out, 0) if past_cache else 0


@inline
def put_vector(out, i, y, count, past_cache):
    """Write a vector of ``count`` elements from i on; past the cache, only whole ones at multiples of their size."""
    if count < lanes_of(out):
        store_first(out, i, y, count)
    else:
        store_whole(out, i, y, past_cache)


@inline
def row_to_send_for(row, next_row, start, is_sent_for=True):
    """The next row, as far as it will stay in the cache; this one, which is there already, beyond. And whether to."""
    return next_row if start < SENT_FOR else row, is_sent_for


@inline
def step_around(out, i, stop, past_cache, alone):
    """`next_step`, with the vector that class ``alone`` is in by itself."""
    whole, count = next_step(out, i, stop, past_cache)
    before = (alone - i) // lanes_of(out)
    if before < 0 or before >= whole:
        return whole, count
    return (before, 0) if before > 0 else (0, lanes_of(out))


@inline
def write_vectors(function, block, first, start, stop, how, rest):
    """out[i:] = function(x, i, count, past_cache, rest) for every vector x of a block.

    Whole vectors, and the partial ones at either end where ``out`` is to be written past the cache. What lies at the
    same place of ``ahead`` is sent for, if it says so: see `row_to_send_for`. ``alone`` is (a class, what becomes of
    it), or NO_CLASS: what is written to a line later, the line would have to be read for.
    """
    out, past_cache, (ahead, is_sent_for), alone = how
    lanes = lanes_of(block)
    to_block, i = first - start, start
    while i < stop:
        whole, count = step_around(out, i, stop, past_cache, alone[0])
        if count > 0:
            x = load_first(block, i + to_block, count, to_real(block, 0.0))
            y = function(x, i, count, past_cache, rest)
            put_vector(out, i, where_lane(y, alone[0] - i, alone[1]), count, past_cache)
            i += count
        for _ in range(whole):
            if is_sent_for:
                prefetch(ahead, i)
            y = function(load(block, i + to_block), i, lanes, past_cache, rest)
            store_whole(out, i, y, past_cache)
            i += lanes


@inline
def write_in_blocks(function, row, classes, out, past_cache, next_row, offset, room, rest):
    """function(block, first, start, stop, (how, rest)) for every block of a row without a cap, no class of it alone."""
    start, first, zero = 0, first_block(out, past_cache), to_real(row, 0.0)
    while start < classes:
        stop = end_of_block(start, classes, lanes_of(row), first)
        how = out, past_cache, row_to_send_for(row, next_row, start), (NO_CLASS, zero)
        on_block(function, row, start, stop, (zero, zero), offset, room, (how, rest))
        start = stop


@inline
def block_maximum(block, first, start, stop, _):
    """The largest element, NaN if there is one."""
    lanes = lanes_of(block)
    lowest = to_real(block, -math.inf)
    best = load_first(block, first, 0, lowest)
    end = first + stop - start
    fours_end = end - (end - first) % (4 * lanes)
    for i in range(first, fours_end, 4 * lanes):
        a = maximum(load(block, i), load(block, i + lanes))
        b = maximum(load(block, i + 2 * lanes), load(block, i + 3 * lanes))
        for k in range(4):
            prefetch(block, i + k * lanes + elements_ahead(block))
        best = maximum(best, maximum(a, b))
    for i in range(fours_end, end, lanes):
        best = maximum(best, load_first(block, i, end - i, lowest))
    return maximum_of_lanes(best)


@outlined
def row_maximum(row, classes, capped_by, room):
    """The largest element of the capped row as float64, NaN if there is one."""
    best = -math.inf
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        here = np.float64(on_block(block_maximum, row, start, stop, capped_by, to_real(row, 0.0), room, ()))
        if math.isnan(here):
            return here
        best = max(best, here)
    return best


@inline
def largest_of_block(block, first, start, stop, _):
    """The largest element as float64; NaN is passed over."""
    lanes = lanes_of(block)
    lowest = to_real(block, -math.inf)
    tops = load_first(block, first, 0, lowest)
    end = first + stop - start
    for i in range(first, end, lanes):
        x = load_first(block, i, min(lanes, end - i), lowest)
        _, tops = lesser_and_top(x, tops)
    return np.float64(largest_lane(tops))


@inline
def guessed_maximum(row, classes, capped_by, room):
    """The largest of the first elements, as float64."""
    stop = min(classes, 4 * lanes_of(row))
    return on_block(largest_of_block, row, 0, stop, capped_by, to_real(row, 0.0), room, ())
