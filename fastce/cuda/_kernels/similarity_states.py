"""The states of the rows and the columns of a similarity matrix, from one read: see `fastce.cuda._kernels.states`.

Every tile has a state of each of its rows and of each of its columns; other kernels merge those of all tiles, in
float64 and always in the same order.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.parts import any_of_warp
from fastce.cuda._kernels.primitives import device, kernel, lanes_of, load_real, new_reals, to_real
from fastce.cuda._kernels.similarity_exact import UNKNOWN, exact_sweep_by, joined
from fastce.cuda._kernels.similarity_powers import NOWHERE, Columns, power_sweep_by, rest_of_column
from fastce.cuda._kernels.similarity_tiles import MOST_WIDTH, THREADS, place_of
from fastce.cuda._kernels.states import WARP, with_block

WARPS = THREADS // WARP
MOST_LANES = MOST_WIDTH // WARP
MERGE_THREADS = 128


def sweep_by(is_float64: bool, has_totals: bool):
    """Go down a tile: states of its rows are stored, those of the thread's columns become (tops, rests)."""
    if is_float64:
        return exact_sweep_by(True, has_totals, False)
    by_powers, exactly = power_sweep_by(has_totals), exact_sweep_by(False, False, True)

    @device
    def sweep(array, matrix, options, place, near, rows, columns, totals):
        tops, rests = columns
        references, powers, sums = new_reals(array), new_reals(array), new_reals(array)
        for k in range(lanes_of(array)):
            references[k], powers[k], sums[k] = to_real(array, NOWHERE), options.zero, options.zero
        by_power = Columns(tops, references, powers, sums)
        is_unknown = by_powers(array, matrix, options, place, near, rows, by_power, totals)
        for k in range(lanes_of(array)):
            rests[k] = rest_of_column(array, tops[k], references[k], powers[k], sums[k], options)
            is_unknown = is_unknown or rests[k] == to_real(array, UNKNOWN)
        if any_of_warp(is_unknown):
            for k in range(lanes_of(array)):
                references[k], powers[k] = options.lowest, options.zero
            exactly(array, matrix, options, place, near, rows, (references, powers), totals)
            for k in range(lanes_of(array)):
                if rests[k] == to_real(array, UNKNOWN):
                    tops[k], rests[k] = references[k], powers[k]

    return sweep


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
    sweep, join_warps = sweep_by(is_float64, has_totals), join_warps_by(has_totals)
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
        lanes, warp = lanes_of(array), cuda.threadIdx.x // WARP
        place = place_of(array, matrix)
        tops, rests = new_reals(array), new_reals(array)
        totals, nears = cuda.local.array(MOST_LANES, np.float64), new_reals(array)
        for k in range(lanes):
            tops[k], rests[k], totals[k] = options.lowest, options.zero, 0.0
            if has_totals:
                c = place.first + k * place.spread
                nears[k] = load_real(column_near, c) if c < matrix.columns else options.zero
        rows = row_tops, row_rests, row_totals
        sweep(array, matrix, options, place, (row_near, nears), rows, (tops, rests), totals)
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
