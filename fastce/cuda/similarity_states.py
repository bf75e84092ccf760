"""The states of the rows and the columns of a similarity matrix, from one read of it: see `fastce.cuda.states`.

A thread meets the elements of its columns one after another; those of a row that a warp has met are put together at
once. So every tile has a state of each of its rows and of each of its columns; other kernels merge those of all tiles,
in float64 and always in the same order.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda.primitives import (
    device,
    from_lane,
    kernel,
    lanes_of,
    largest,
    load_real,
    new_reals,
    reals_of,
    smallest,
)
from fastce.cuda.similarity_tiles import BLOCKS, MOST_WIDTH, ROWS, ROWS_OF_BLOCK, THREADS, four_chunks, place_of
from fastce.cuda.states import WARP, exp_of, pushed, reference_of, with_block

WARPS = THREADS // WARP
MOST_LANES = MOST_WIDTH // WARP
MERGE_THREADS = 128


@device
def joined(one, other, options):
    """The (top, rest) of two sets of elements together, in the dtype of the reals."""
    high, low = largest(one[0], other[0]), smallest(one[0], other[0])
    term = exp_of(low - reference_of(high, options.zero), options)
    of_high, of_low = (one[1], other[1]) if one[0] >= other[0] else (other[1], one[1])
    return high, of_high + (of_low + options.one) * term


@functools.cache
def of_threads_by(has_totals: bool):
    """The states (top, rest, total) of two rows, a part of which is in each thread, after one exchange.

    Threads whose number has not this bit keep the first row, and get the part of it that their partner has.
    """

    @device
    def with_partner(row, options, distance):
        top, rest = joined(row, (from_lane(row[0], distance), from_lane(row[1], distance)), options)
        return top, rest, row[2] + from_lane(row[2], distance) if has_totals else row[2]

    @device
    def exchanged(first, second, options, distance):
        keeps_first = cuda.threadIdx.x & distance == 0
        kept, given = (first, second) if keeps_first else (second, first)
        received = (from_lane(given[0], distance), from_lane(given[1], distance))
        top, rest = joined(kept, received, options)
        return top, rest, kept[2] + from_lane(given[2], distance) if has_totals else kept[2]

    @device
    def of_threads(one, two, three, four, options):
        """The state of one of four rows: thread t has that of row t % 4."""
        first = exchanged(one, two, options, 1)
        second = exchanged(three, four, options, 1)
        row = exchanged(first, second, options, 2)
        distance = ROWS
        while distance < WARP:
            row = with_partner(row, options, distance)
            distance *= 2
        return row

    return of_threads


@functools.cache
def met_by(has_totals: bool):
    """The (top, rest, total) of a thread's elements of a row, each of which its column's state is told of."""

    @device
    def met(array, chunk, i, place, matrix, tops, rests, totals, options):
        reals = reals_of(array, chunk)
        top = reals[0]
        for k in range(1, lanes_of(array)):
            top = largest(top, reals[k])
        reference = reference_of(top, options.zero)
        own, rest, total = reals[0], options.zero, 0.0
        for k in range(lanes_of(array)):
            y = reals[k]
            if k > 0:
                rest += exp_of(smallest(own, y) - reference, options)
                own = largest(own, y)
            tops[k], rests[k] = pushed(tops[k], rests[k], y, options)
            if has_totals and i < matrix.rows and place.first + k * place.spread < matrix.columns:
                total += np.float64(y)
                totals[k] += np.float64(y)
        return top, rest, total

    return met


@functools.cache
def states_kernel(is_float64: bool, has_totals: bool):
    """The kernel for the states of each tile: that of row i at [its number in the row of tiles, i], likewise columns'.

    With ``has_totals``, the sums of their elements too.
    """
    met, of_threads = met_by(has_totals), of_threads_by(has_totals)
    real = np.float64 if is_float64 else np.float32
    room, room_of_totals = (WARPS, MOST_WIDTH), (WARPS, MOST_WIDTH if has_totals else 1)

    @kernel(THREADS, BLOCKS)
    def states(array, matrix, options, row_tops, row_rests, row_totals, column_tops, column_rests, column_totals):
        board_of_tops = cuda.shared.array(room, real)
        board_of_rests = cuda.shared.array(room, real)
        board_of_totals = cuda.shared.array(room_of_totals, np.float64)
        lanes, lane, warp = lanes_of(array), cuda.threadIdx.x % WARP, cuda.threadIdx.x // WARP
        place = place_of(array, matrix)
        tops, rests = new_reals(array), new_reals(array)
        totals = cuda.local.array(MOST_LANES, np.float64)
        for k in range(lanes):
            tops[k], rests[k], totals[k] = options.lowest, options.zero, 0.0
        of_rows = place.tile // (WARP * lanes) * matrix.rows
        for step in range(0, matrix.height, ROWS_OF_BLOCK):
            i = place.row + step
            chunks = four_chunks(array, i, place, matrix)
            one = met(array, chunks[0], i, place, matrix, tops, rests, totals, options)
            two = met(array, chunks[1], i + 1, place, matrix, tops, rests, totals, options)
            three = met(array, chunks[2], i + 2, place, matrix, tops, rests, totals, options)
            four = met(array, chunks[3], i + 3, place, matrix, tops, rests, totals, options)
            top, rest, total = of_threads(one, two, three, four, options)
            if lane < ROWS and i + lane < matrix.rows:
                row_tops[of_rows + i + lane] = top
                row_rests[of_rows + i + lane] = rest
                if has_totals:
                    row_totals[of_rows + i + lane] = total
        for k in range(lanes):
            at = place.first + k * place.spread - place.tile
            board_of_tops[warp, at], board_of_rests[warp, at] = tops[k], rests[k]
            if has_totals:
                board_of_totals[warp, at] = totals[k]
        cuda.syncthreads()
        of_columns = np.int64(cuda.blockIdx.x) // matrix.across * matrix.columns
        for at in range(cuda.threadIdx.x, min(WARP * lanes, matrix.columns - place.tile), THREADS):
            state = (board_of_tops[0, at], board_of_rests[0, at])
            for other in range(1, WARPS):
                state = joined(state, (board_of_tops[other, at], board_of_rests[other, at]), options)
            c = of_columns + place.tile + at
            column_tops[c], column_rests[c] = state
            if has_totals:
                total = board_of_totals[0, at]
                for other in range(1, WARPS):
                    total += board_of_totals[other, at]
                column_totals[c] = total

    return states


@kernel(MERGE_THREADS, 4)
def merge(tops, rests, totals, count, parts, together, merged_tops, merged_rests, merged_totals, like, options):
    """Of each ``together`` parts of an item, state and total become one; part p of item i is at p * count + i."""
    k = np.int64(cuda.blockIdx.x) * cuda.blockDim.x + cuda.threadIdx.x
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
