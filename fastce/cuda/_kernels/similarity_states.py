"""The states of the rows and the columns of a similarity matrix, from one read: see `fastce.cuda._kernels.states`.

A thread meets the elements of its columns one after another; those of a row that a warp has met are put together at
once. So every tile has a state of each of its rows and of each of its columns; other kernels merge those of all tiles,
in float64 and always in the same order.

Smoothing asks for means, too. Totals are of what lies around a number near the row's (or column's) elements: those of
numbers with a common offset would have no digit of their differences, which is all that a loss depends on.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import PART
from fastce.cuda._kernels.primitives import (
    device,
    fma,
    from_lane,
    kernel,
    lanes_of,
    largest,
    load_real,
    new_reals,
    reals_of,
    smallest,
    store_real,
)
from fastce.cuda._kernels.similarity_tiles import MOST_WIDTH, ROWS, ROWS_OF_BLOCK, THREADS, four_chunks, place_of
from fastce.cuda._kernels.states import WARP, pushed, raised_exp_of, reference_of, with_block

WARPS = THREADS // WARP
MOST_LANES = MOST_WIDTH // WARP
MERGE_THREADS = 128
FEW = 8  # elements, of which the largest is near the others, unless these are all masked


@kernel(MERGE_THREADS, 4)
def find_near(array, origin, step, along, count, few, near):
    """near[i] = the largest of the first few elements of row (or column) i; 0 if that is not finite."""
    i = cuda.grid(1)
    if i < count:
        y = load_real(array, origin + i * step)
        for k in range(1, few):
            y = largest(y, load_real(array, origin + i * step + k * along))
        store_real(near, i, y if math.isfinite(y) else 0.0)


@device
def joined(one, other, options):
    """The (top, rest) of two sets of elements together, in the dtype of the reals."""
    high, low = largest(one[0], other[0]), smallest(one[0], other[0])
    term = raised_exp_of(low, reference_of(high, options.zero), options)
    of_high, of_low = (one[1], other[1]) if one[0] >= other[0] else (other[1], one[1])
    return high, of_high + fma(of_low, options.lowered, options.one) * term


@functools.cache
def of_threads_by(has_totals: bool):
    """The states and totals of four rows from those of their parts in each thread of a warp.

    Of two rows, threads whose number has not a bit keep the first, and get the part of it that their partner has.
    """

    @device
    def received(state, total, distance):
        state = (from_lane(state[0], distance), from_lane(state[1], distance))
        return state, from_lane(total, distance) if has_totals else total

    @device
    def exchanged(first, second, options, distance):
        keeps_first = cuda.threadIdx.x & distance == 0
        kept, given = (first, second) if keeps_first else (second, first)
        state, total = received(given[0], given[1], distance)
        return joined(kept[0], state, options), kept[1] + total

    @device
    def of_threads(one, two, three, four, totals, options):
        """(top, rest, total) of one of four rows: thread t has that of row t % 4."""
        first = exchanged((one, totals[0]), (two, totals[1]), options, 1)
        second = exchanged((three, totals[2]), (four, totals[3]), options, 1)
        row, total = exchanged(first, second, options, 2)
        distance = ROWS
        while distance < WARP:
            state, more = received(row, total, distance)
            row, total = joined(row, state, options), total + more
            distance *= 2
        return row[0], row[1], total

    return of_threads


@device
def of_four(a, b, c, d, options):
    """The (top, rest) of four elements: the largest is found first, so that there are three exps and no products."""
    high, low = largest(a, b), smallest(a, b)
    other_high, other_low = largest(c, d), smallest(c, d)
    top, middle = largest(high, other_high), smallest(high, other_high)
    reference = reference_of(top, options.zero)
    rest = raised_exp_of(low, reference, options) + raised_exp_of(other_low, reference, options)
    return top, rest + raised_exp_of(middle, reference, options)


@functools.cache
def of_chunk_by(is_float64: bool):
    """The (top, rest) of the elements of a chunk: of 2, 4 or 8."""

    @device
    def of_two(array, reals, options):
        return pushed(reals[0], options.zero, reals[1], options)

    @device
    def of_fours(array, reals, options):
        state = of_four(reals[0], reals[1], reals[2], reals[3], options)
        for k in range(4, lanes_of(array), 4):
            state = joined(state, of_four(reals[k], reals[k + 1], reals[k + 2], reals[k + 3], options), options)
        return state

    return of_two if is_float64 else of_fours


@device
def part_above(y, near):
    """A part of y - near."""
    return PART * np.float64(y) - PART * np.float64(near)


@device
def total_of_rows(a, b, c, d, i, near, matrix):
    """The sum of a part of what is near in a column's elements in rows i to i + 3, those that are there."""
    total = part_above(a, near) if i < matrix.rows else 0.0
    total += part_above(b, near) if i + 1 < matrix.rows else 0.0
    total += part_above(c, near) if i + 2 < matrix.rows else 0.0
    return total + (part_above(d, near) if i + 3 < matrix.rows else 0.0)


@device
def total_of_chunk(array, reals, i, nears, place, matrix):
    """The same of the elements of row i."""
    total = 0.0
    if i < matrix.rows:
        near = load_real(nears, i)
        for k in range(lanes_of(array)):
            if place.first + k * place.spread < matrix.columns:
                total += part_above(reals[k], near)
    return total


def take_rows_by(has_totals: bool):
    """Add four rows of a chunk to what is known of its columns; returns their totals, zeros if none are wanted."""

    @device
    def take_rows(array, reals, i, row_near, columns, place, matrix, options):
        one, two, three, four = reals
        tops, rests, totals, nears = columns
        for k in range(lanes_of(array)):
            column = (tops[k], rests[k])
            tops[k], rests[k] = joined(column, of_four(one[k], two[k], three[k], four[k], options), options)
        sums = (0.0, 0.0, 0.0, 0.0)
        if has_totals:
            for k in range(lanes_of(array)):
                if place.first + k * place.spread < matrix.columns:
                    totals[k] += total_of_rows(one[k], two[k], three[k], four[k], i, nears[k], matrix)
            sums = (
                total_of_chunk(array, one, i, row_near, place, matrix),
                total_of_chunk(array, two, i + 1, row_near, place, matrix),
                total_of_chunk(array, three, i + 2, row_near, place, matrix),
                total_of_chunk(array, four, i + 3, row_near, place, matrix),
            )
        return sums

    return take_rows


def join_warps_by(has_totals: bool):
    """The states of columns from those that each warp has put on the boards."""

    @device
    def join_warps(boards, columns, place, matrix, lanes, options):
        board_of_tops, board_of_rests, board_of_totals = boards
        tops, rests, totals = columns
        of_columns = np.int64(cuda.blockIdx.x) // matrix.across * matrix.columns
        for at in range(cuda.threadIdx.x, min(WARP * lanes, matrix.columns - place.tile), THREADS):
            state = (board_of_tops[0, at], board_of_rests[0, at])
            for other in range(1, WARPS):
                state = joined(state, (board_of_tops[other, at], board_of_rests[other, at]), options)
            c = of_columns + place.tile + at
            tops[c], rests[c] = state
            if has_totals:
                total = board_of_totals[0, at]
                for other in range(1, WARPS):
                    total += board_of_totals[other, at]
                totals[c] = total

    return join_warps


@functools.cache
def states_kernel(is_float64: bool, has_totals: bool, blocks: int):
    """The kernel for the states of each tile: that of row i at [its number in the row of tiles, i], likewise columns'.

    With ``has_totals``, the sums of a part of what their elements are above what is near them, too.
    """
    of_chunk, of_threads = of_chunk_by(is_float64), of_threads_by(has_totals)
    take_rows, join_warps = take_rows_by(has_totals), join_warps_by(has_totals)
    real = np.float64 if is_float64 else np.float32
    room, room_of_totals = (WARPS, MOST_WIDTH), (WARPS, MOST_WIDTH if has_totals else 1)

    @kernel(THREADS, blocks)
    def states(
        array, matrix, options, row_near, column_near, row_tops, row_rests, row_totals, column_tops, column_rests,
        column_totals,
    ):  # fmt: skip
        board_of_tops = cuda.shared.array(room, real)
        board_of_rests = cuda.shared.array(room, real)
        board_of_totals = cuda.shared.array(room_of_totals, np.float64)
        lanes, lane, warp = lanes_of(array), cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
        place = place_of(array, matrix)
        tops, rests = new_reals(array), new_reals(array)
        totals, nears = cuda.local.array(MOST_LANES, np.float64), new_reals(array)
        for k in range(lanes):
            tops[k], rests[k], totals[k] = options.lowest, options.zero, 0.0
            if has_totals:
                c = place.first + k * place.spread
                nears[k] = load_real(column_near, c) if c < matrix.columns else options.zero
        of_rows = place.tile // (WARP * lanes) * matrix.rows
        for step in range(0, matrix.height, ROWS_OF_BLOCK):
            i = place.row + step
            chunks = four_chunks(array, i, place, matrix)
            one, two = reals_of(array, chunks[0]), reals_of(array, chunks[1])
            three, four = reals_of(array, chunks[2]), reals_of(array, chunks[3])
            sums = take_rows(
                array, (one, two, three, four), i, row_near, (tops, rests, totals, nears), place, matrix, options
            )
            top, rest, total = of_threads(
                of_chunk(array, one, options),
                of_chunk(array, two, options),
                of_chunk(array, three, options),
                of_chunk(array, four, options),
                sums,
                options,
            )
            if lane < ROWS and i + lane < matrix.rows:
                row_tops[of_rows + i + lane] = top
                row_rests[of_rows + i + lane] = rest
                if has_totals:
                    row_totals[of_rows + i + lane] = total
        boards = board_of_tops, board_of_rests, board_of_totals
        for k in range(lanes):
            at = place.first + k * place.spread - place.tile
            board_of_tops[warp, at], board_of_rests[warp, at] = tops[k], rests[k]
            if has_totals:
                board_of_totals[warp, at] = totals[k]
        cuda.syncthreads()
        join_warps(boards, (column_tops, column_rests, column_totals), place, matrix, lanes, options)

    return states


@kernel(MERGE_THREADS, 4)
def merge(tops, rests, totals, count, parts, together, merged_tops, merged_rests, merged_totals, like, options):
    """Of each ``together`` parts of an item, state and total become one; part p of item i is at p * count + i."""
    k = cuda.grid(1)
    group, i = k // count, k % count
    first = group * together
    if first < parts:
        whole, total = (-math.inf, 0.0), 0.0
        for part in range(first, min(first + together, parts)):
            at = part * count + i
            whole = with_block(whole, load_real(tops, at), load_real(rests, at), like, options)
            if totals.size > 0:
                total += totals[at]
        merged_tops[k], merged_rests[k] = whole
        if totals.size > 0:
            merged_totals[k] = total
