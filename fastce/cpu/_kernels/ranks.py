"""Where a row's largest element is, and how many classes come before one: exact, by comparisons alone."""

import math

from fastce.cpu._kernels.blocks import BLOCK, block_maximum, on_block
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.memory import element, lanes_of, load, load_first, to_real
from fastce.cpu._vectors.simd import maximum_of_lanes, where_less
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide


@outlined
def first_index(row, start, stop, value):
    """The first index of the largest element, or of a NaN (value NaN), between start and stop.

    From the end to the beginning, every lane notes the last vector in which it has found the value.
    """
    lanes = lanes_of(row)
    if math.isnan(value):
        while start < stop and not math.isnan(element(row, start)):
            start += 1
        return start
    largest, lowest = to_real(row, value), to_real(row, -math.inf)
    whole = (stop - start) // lanes
    at = load_first(row, start, 0, lowest)
    for k in range(whole - 1, -1, -1):
        at = where_less(load(row, start + k * lanes), largest, at, to_real(row, -k))
    nearest = maximum_of_lanes(at)
    start += int(-nearest) * lanes if nearest > lowest else whole * lanes
    while start < stop and element(row, start) != value:
        start += 1
    return start


@inline
def count(row, start, stop, threshold, larger):
    """How many elements are larger than the threshold, or else how many are smaller."""
    lanes = lanes_of(row)
    one = to_real(row, 1.0)
    a = load_first(row, start, 0, to_real(row, 0.0))
    b = a
    whole = stop - (stop - start) % (2 * lanes)
    for i in range(start, whole, 2 * lanes):
        x, x_next = load(row, i), load(row, i + lanes)
        a = where_less(threshold, x, a + one, a) if larger else where_less(x, threshold, a + one, a)
        b = where_less(threshold, x_next, b + one, b) if larger else where_less(x_next, threshold, b + one, b)
    for i in range(whole, stop, lanes):
        x = load_first(row, i, stop - i, threshold)
        a = where_less(threshold, x, a + one, a) if larger else where_less(x, threshold, a + one, a)
    return int(sum_wide(add_wide(zeros_wide(), a + b)))


@outlined
def rank_in_block(row, start, stop, y, x_y):
    """How many of the block's classes come before class y: larger ones, and equal ones of a smaller index."""
    rank = 0
    if start < y:
        end = min(stop, y)
        rank += end - start - count(row, start, end, x_y, False)
    if y + 1 < stop:
        rank += count(row, max(start, y + 1), stop, x_y, True)
    return rank


@outlined
def maximum_and_rank(row, classes, y, room):
    """(largest element, NaN if there is one; the start of its first block; the rank of class y)."""
    zero = to_real(row, 0.0)
    x_y = to_real(row, element(row, y) if y >= 0 else 0.0)
    largest, at, rank = -math.inf, 0, 0
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        here = float(on_block(block_maximum, row, start, stop, (zero, zero), zero, room, ()))
        if here > largest or (math.isnan(here) and not math.isnan(largest)):
            largest, at = here, start
        if y >= 0:
            rank += rank_in_block(row, start, stop, y, x_y)
    return largest, at, rank
