"""Sums of exp of few classes, a row in each lane, whose own roundings are made good: for results near 0."""

import math

from fastce.cpu._kernels.columns import add_classes, choose_reference, readable
from fastce.cpu._kernels.copied_tiles import bring_first, carry, coming_beside, nothing_comes
from fastce.cpu._kernels.lines import CHOSEN, EXPS, HIGHEST, REFERENCE, store_sum
from fastce.cpu._kernels.states import EXPONENT, TARGET
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import SPARE, exp_in_parts, scaling, with_factor_1
from fastce.cpu._vectors.lanes import any_nan, lesser_and_top
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.simd import fma, where_equal, where_less
from fastce.cpu._vectors.wide import add_wide, zeros_wide

EXACT_AT_ONCE = 16  # up to so many classes results are nearly always small
EXACT_BY_SIZE = 32  # up to so many they are, where logits are: there the largest one decides
EXACT_IN_A_ROW = 64  # classes whose sum is carried in float32 before it goes into one of float64
ABOVE_ALL = 2.0 ** (SPARE + 10.0)  # more than any term of a row whose reference has been chosen from all its elements
LOW = 6.5 - SPARE  # references from here on are those of logits, and so of results, beyond 4


@inline
def add_exactly(seen, place, at, count, exponent, scaled_by):
    """(high, low, tops) with one class more: exp(x) / 2**exponent is added, or that of the top if x is larger.

    What high + y loses is y - ((high + y) - high), exactly, because high is never less than y (Dekker). With exp in two
    parts, low gets what y has lost as well. So low stays 2**-14 of the largest term for each class or less, and its own
    roundings are nothing for a few of them: the error of the sum is that of the parts, about a quarter of an ulp, for
    equal elements and any others.
    """
    high, low, tops = seen
    x, tops = lesser_and_top(elements(place, at, count, to_real(place, 0.0)), tops)
    q, power = exp_in_parts(x, exponent, scaled_by)
    new = high + fma(q, power, power)
    return new, low + fma(q, power, power - (new - high)), tops


@inline
def add_pair_exactly(seen, place, at, stride, count, exponent, scaled_by):
    """`add_exactly` for two classes."""
    seen = add_exactly(seen, place, at, count, exponent, scaled_by)
    return add_exactly(seen, place, at + stride, count, exponent, scaled_by)


@inline
def add_classes_exactly(running, sums, tile, k, classes, count, coming):
    """Sum exp of all classes, but for the largest, of one vector of rows; see `copied_tiles.carry`."""
    place, start, stride, _ = tile
    lanes = lanes_of(place)
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    above = zero + to_real(place, ABOVE_ALL)
    scaled_by = scaling(place, 1.0, 1.0)
    exponent = load(running, REFERENCE + k)
    tops, wide = zero - to_real(place, math.inf), zeros_wide()
    for first in range(0, classes, EXACT_IN_A_ROW):
        seen = above, zero, tops
        at, left = start + k + first * stride, min(EXACT_IN_A_ROW, classes - first)
        c = first
        while left >= 4:
            carry(tile, coming, c, 4)
            seen = add_pair_exactly(seen, place, at, stride, count, exponent, scaled_by)
            seen = add_pair_exactly(seen, place, at + 2 * stride, stride, count, exponent, scaled_by)
            at, left, c = at + 4 * stride, left - 4, c + 4
        if left > 0:
            carry(tile, coming, c, left)
        if left >= 2:
            seen = add_pair_exactly(seen, place, at, stride, count, exponent, scaled_by)
            at, left = at + 2 * stride, left - 2
        if left > 0:
            seen = add_exactly(seen, place, at, count, exponent, scaled_by)
        wide, tops = add_wide(add_wide(wide, seen[0] - above), seen[1]), seen[2]
    store(running, HIGHEST + k, tops)
    store_sum(sums, lanes, EXPS, k, wide)


@outlined
def sum_tile_exactly(running, sums, tile, source, classes, count):
    """`look_at_tile`, for a few classes."""
    cap = to_real(tile[0], 0.0), to_real(tile[0], 0.0)
    for k in range(0, count, lanes_of(tile[0])):
        here, coming = readable(tile, k, count), coming_beside(tile, source, nothing_comes(tile), k, count)
        bring_first(tile, source, k, classes, count, False)
        choose_reference(running, tile, k, classes, here, cap, 1.0)
        add_classes_exactly(running, sums, tile, k, classes, here, coming)


@outlined
def sum_tile_by_size(running, sums, tile, source, classes, count):
    """The same where all rows of a vector are low, which CHOSEN becomes 1 for; else the usual sums, see `where_low`."""
    place, lanes = tile[0], lanes_of(tile[0])
    zero, nothing = load_first(place, 0, 0, to_real(place, 0.0)), to_real(place, 0.0)
    cap, scaled_by = (nothing, nothing), with_factor_1(scaling(place, 1.0, 1.0))
    for k in range(0, count, lanes):
        here, coming = readable(tile, k, count), coming_beside(tile, source, nothing_comes(tile), k, count)
        bring_first(tile, source, k, classes, count, False)
        choose_reference(running, tile, k, classes, here, cap, 1.0)
        if any_nan(where_less(load(running, REFERENCE + k), to_real(place, LOW), zero, to_real(place, math.nan))):
            add_classes(running, sums, tile, k, 0, classes, here, cap, scaled_by, False, coming)
            store(running, CHOSEN + k, zero)
        else:
            add_classes_exactly(running, sums, tile, k, classes, here, coming)
            store(running, CHOSEN + k, zero + to_real(place, 1.0))


@inline
def where_low(states, k):
    """NaN where a row is low and stands beside others in its vector, so that it is still to be added up exactly."""
    zero = load_first(states, 0, 0, 0.0)
    low = where_less(load(states, EXPONENT + k), LOW, math.nan, zero)
    return where_equal(load(states, TARGET + k), 1.0, zero, low)
