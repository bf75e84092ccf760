"""A tile's rows and columns from elements of ordinary magnitude, in float32: an exp for each element and direction.

Each element becomes a power of two and what is missing, exp(s y) = 2**u (1 + c), for its row and its column alike: see
`fastce.cuda._kernels.powers`. All that is left to each direction is 2**(u - u0) (1 + c), and c0 for the sum as a whole.

A row's y0 is its largest element, which the warp finds first; a column's, the largest of the first rows that have some.
So powers may come to more than 1, and what is held back is the largest power, not the largest element. They are held
larger by 2**spare, as rests are, and 0 where they are nothing beside that of y0. What comes out beyond float32 is found
anew, each row and column for itself.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.powers import MOST, finite_split_of, is_ordinary, power_of, with_power
from fastce.cuda._kernels.primitives import (
    device,
    exp2,
    from_lane,
    lanes_of,
    largest,
    of_lane,
    reals_of,
    smallest,
    to_real,
    top_of_chunk,
)
from fastce.cuda._kernels.similarity_exact import UNKNOWN
from fastce.cuda._kernels.similarity_tiles import ROWS, ROWS_OF_BLOCK, four_chunks, of_warp_by
from fastce.cuda._kernels.similarity_totals import totals_by
from fastce.cuda._kernels.states import WARP

NOWHERE = 1e9  # the reference of a column that has none yet, of which all elements are infinitely far below


class Columns(NamedTuple):
    """Of each column of a thread: largest element, reference, largest power, and sum of all others."""

    tops: Any
    references: Any
    powers: Any
    sums: Any


@device
def both(one, other, options):
    """The same of two sets of powers, with the same reference."""
    return largest(one[0], other[0]), one[1] + other[1] + smallest(one[0], other[0])


@device
def larger(one, other, options):
    return largest(one, other)


@device
def received(state, distance):
    """The state of the partner in a warp."""
    return from_lane(state[0], distance), from_lane(state[1], distance)


top_of_warp, state_of_warp = of_warp_by(from_lane, larger), of_warp_by(received, both)


@device
def take_tops(array, reals, columns):
    """Columns' largest elements with four more rows."""
    one, two, three, four = reals
    for k in range(lanes_of(array)):
        top = largest(largest(one[k], two[k]), largest(three[k], four[k]))
        columns.tops[k] = largest(columns.tops[k], top)


@device
def find_references(array, columns, options):
    """References of columns that had none, from their largest elements so far; whether some are still without."""
    nowhere, is_missing = to_real(array, NOWHERE), False
    for k in range(lanes_of(array)):
        if columns.references[k] == nowhere:
            if columns.tops[k] > to_real(array, MOST) * options.furthest:
                columns.references[k] = finite_split_of(array, columns.tops[k], options)[0] - options.spare
            else:
                is_missing = True
    return is_missing


@device
def take_powers(array, reals, references, columns, options):
    """Add four rows of a chunk to what is known of its columns; returns the (largest power, sum) of these rows."""
    zero = options.zero
    first, second, third, fourth = (zero, zero), (zero, zero), (zero, zero), (zero, zero)
    for k in range(lanes_of(array)):
        a, b = finite_split_of(array, reals[0][k], options), finite_split_of(array, reals[1][k], options)
        c, d = finite_split_of(array, reals[2][k], options), finite_split_of(array, reals[3][k], options)
        state, reference = (columns.powers[k], columns.sums[k]), columns.references[k]
        state = with_power(with_power(state, power_of(a, reference)), power_of(b, reference))
        state = with_power(with_power(state, power_of(c, reference)), power_of(d, reference))
        columns.powers[k], columns.sums[k] = state
        e, f = power_of(a, references[0]), power_of(b, references[1])
        g, h = power_of(c, references[2]), power_of(d, references[3])
        if k == 0:
            first, second, third, fourth = (e, zero), (f, zero), (g, zero), (h, zero)
        else:
            first, second = with_power(first, e), with_power(second, f)
            third, fourth = with_power(third, g), with_power(fourth, h)
    return first, second, third, fourth


@device
def rest_of_row(array, top, c, total, options):
    """The rest of a row, `UNKNOWN` if it must be found otherwise; of no account where the top is not finite."""
    rest = total - c * total
    if not is_ordinary(array, top, options):
        rest = to_real(array, UNKNOWN) if abs(top) < to_real(array, np.inf) else options.zero
    return rest


@device
def rest_of_column(array, top, reference, power, total, options):
    """The same of a column."""
    infinite = to_real(array, np.inf)
    if not abs(top) < infinite:
        return options.zero
    if not (is_ordinary(array, top, options) and power < infinite and total < infinite):
        return to_real(array, UNKNOWN)
    u, c = finite_split_of(array, top, options)
    scaled = np.float64(total) * exp2(np.float64(reference) + np.float64(options.spare) - np.float64(u))
    return to_real(array, scaled - scaled * np.float64(c))


def power_sweep_by(has_totals: bool):
    """Go down a tile: states of its rows are stored; returns whether the rest of one of them is `UNKNOWN`."""
    take_totals = totals_by(has_totals)

    @device
    def sweep(array, matrix, options, place, near, rows, columns, totals):
        row_tops, row_rests, row_totals = rows
        lanes, lane = lanes_of(array), cuda.threadIdx.x % WARP
        of_rows = place.tile // (WARP * lanes) * matrix.rows
        is_unknown, is_missing = False, True
        i, end = place.row, min(place.row + matrix.height, matrix.rows)
        while i < end:
            chunks = four_chunks(array, i, place, matrix)
            reals = (
                reals_of(array, chunks[0]), reals_of(array, chunks[1]), reals_of(array, chunks[2]),
                reals_of(array, chunks[3]),
            )  # fmt: skip
            top = top_of_warp(
                top_of_chunk(array, chunks[0]), top_of_chunk(array, chunks[1]), top_of_chunk(array, chunks[2]),
                top_of_chunk(array, chunks[3]), options,
            )  # fmt: skip
            u, c = finite_split_of(array, top, options)
            own = u - options.spare  # rounded, which c makes up for
            c -= ((own + options.spare) - u) * options.ln2
            references = of_lane(own, 0), of_lane(own, 1), of_lane(own, 2), of_lane(own, 3)
            take_tops(array, reals, columns)
            if is_missing:
                is_missing = find_references(array, columns, options)
            first, second, third, fourth = take_powers(array, reals, references, columns, options)
            total = take_totals(array, reals, i, near, totals, place, matrix, options)
            rest = rest_of_row(array, top, c, state_of_warp(first, second, third, fourth, options)[1], options)
            if lane < ROWS and i + lane < matrix.rows:
                at = of_rows + i + lane
                row_tops[at], row_rests[at] = top, rest
                is_unknown = is_unknown or rest == to_real(array, UNKNOWN)
                if has_totals:
                    row_totals[at] = total
            i += ROWS_OF_BLOCK
        return is_unknown

    return sweep
