"""Sums of what lies around a number near the elements of a row, or column, of a similarity matrix.

Smoothing asks for means. Totals of numbers with a common offset would have no digit of their differences, which is all
that a loss depends on; so they are of differences to one of the elements, in float64.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import PART
from fastce.cuda._kernels.primitives import device, from_lane, kernel, lanes_of, largest, load_real, store_real
from fastce.cuda._kernels.similarity_tiles import of_warp_by

NEAR_THREADS = 128
FEW = 8  # elements, of which the largest is near the others, unless these are all masked


@kernel(NEAR_THREADS, 4)
def find_near(array, origin, step, along, count, few, near):
    """near[i] = the largest of the first few elements of row (or column) i; 0 if that is not finite."""
    i = cuda.grid(1)
    if i < count:
        y = load_real(array, origin + i * step)
        for k in range(1, few):
            y = largest(y, load_real(array, origin + i * step + k * along))
        store_real(near, i, y if math.isfinite(y) else 0.0)


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


@device
def received(total, distance):
    """The total of the partner in a warp."""
    return from_lane(total, distance)


@device
def together(one, other, options):
    """Both totals."""
    return one + other


@functools.cache
def totals_by(has_totals: bool):
    """Add four rows of a chunk to the totals of its columns; returns that of the thread's row, 0 if none are wanted."""
    of_warp = of_warp_by(received, together)

    @device
    def take_totals(array, reals, i, near, totals, place, matrix, options):
        one, two, three, four = reals
        row_near, column_near = near
        for k in range(lanes_of(array)):
            if place.first + k * place.spread < matrix.columns:
                totals[k] += total_of_rows(one[k], two[k], three[k], four[k], i, column_near[k], matrix)
        return of_warp(
            total_of_chunk(array, one, i, row_near, place, matrix),
            total_of_chunk(array, two, i + 1, row_near, place, matrix),
            total_of_chunk(array, three, i + 2, row_near, place, matrix),
            total_of_chunk(array, four, i + 3, row_near, place, matrix),
            options,
        )

    @device
    def none(array, reals, i, near, totals, place, matrix, options):
        return 0.0

    return take_totals if has_totals else none
