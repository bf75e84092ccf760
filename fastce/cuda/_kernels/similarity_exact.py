"""A tile's rows and columns from elements of any magnitude: an exact difference for each element and direction.

A thread meets the elements of its columns one after another; those of a row that a warp has met are put together at
once. Tiles whose elements are computed in float32 mostly do with `fastce.cuda._kernels.similarity_powers`.
"""

import functools

from numba import cuda

from fastce.cuda._kernels.primitives import (
    device,
    fma,
    from_lane,
    lanes_of,
    largest,
    reals_of,
    smallest,
)
from fastce.cuda._kernels.similarity_tiles import ROWS, ROWS_OF_BLOCK, four_chunks, of_warp_by
from fastce.cuda._kernels.similarity_totals import totals_by
from fastce.cuda._kernels.states import WARP, pushed, raised_exp_of, reference_of


@device
def joined(one, other, options):
    """The (top, rest) of two sets of elements together, in the dtype of the reals."""
    high, low = largest(one[0], other[0]), smallest(one[0], other[0])
    term = raised_exp_of(low, reference_of(high, options.zero), options)
    of_high, of_low = (one[1], other[1]) if one[0] >= other[0] else (other[1], one[1])
    return high, of_high + fma(of_low, options.lowered, options.one) * term


@device
def received(state, distance):
    """The state of the partner in a warp."""
    return from_lane(state[0], distance), from_lane(state[1], distance)


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


UNKNOWN = -1.0  # the rest of a row whose state is still to be found


@device
def take_columns(array, reals, columns, options):
    """Add four rows of a chunk to what is known of its columns."""
    one, two, three, four = reals
    tops, rests = columns
    for k in range(lanes_of(array)):
        tops[k], rests[k] = joined((tops[k], rests[k]), of_four(one[k], two[k], three[k], four[k], options), options)


@functools.cache
def exact_sweep_by(is_float64: bool, has_totals: bool, is_second: bool):
    """Go down a tile: states of its rows are stored, those of the thread's columns become `columns`.

    A second sweep, for what the first could not do, stores only rows whose rest is `UNKNOWN`.
    """
    of_chunk, of_warp, take_totals = of_chunk_by(is_float64), of_warp_by(received, joined), totals_by(has_totals)

    @device
    def sweep(array, matrix, options, place, near, rows, columns, totals):
        row_tops, row_rests, row_totals = rows
        lanes, lane = lanes_of(array), cuda.threadIdx.x % WARP
        of_rows = place.tile // (WARP * lanes) * matrix.rows
        i, end = place.row, min(place.row + matrix.height, matrix.rows)
        while i < end:
            chunks = four_chunks(array, i, place, matrix)
            one, two = reals_of(array, chunks[0]), reals_of(array, chunks[1])
            three, four = reals_of(array, chunks[2]), reals_of(array, chunks[3])
            take_columns(array, (one, two, three, four), columns, options)
            total = take_totals(array, (one, two, three, four), i, near, totals, place, matrix, options)
            top, rest = of_warp(
                of_chunk(array, one, options),
                of_chunk(array, two, options),
                of_chunk(array, three, options),
                of_chunk(array, four, options),
                options,
            )
            if lane < ROWS and i + lane < matrix.rows:
                at = of_rows + i + lane
                if not is_second or row_rests[at] == UNKNOWN:
                    row_tops[at], row_rests[at] = top, rest
                if has_totals:
                    row_totals[at] = total
            i += ROWS_OF_BLOCK

    return sweep
