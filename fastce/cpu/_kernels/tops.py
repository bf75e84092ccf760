"""What the lanes of a row have held back: their largest elements, whose exps are added in float64 at its end."""

import math

from fastce.cpu._kernels.states import LANES
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import exp, exp_in_float64, scaling
from fastce.cpu._vectors.lanes import lanes_in, store_real
from fastce.cpu._vectors.memory import lanes_of, load, load_first, to_real
from fastce.cpu._vectors.simd import fma, where_equal, where_zero
from fastce.cpu._vectors.wide import sum_wide, zeros_wide


@inline
def add_in_float64(sums, x, but, exponent, scaled_by, wide_room):
    """(exps, ties) with exp of these lanes added in float64; those that equal ``but`` are only counted."""
    exps, ties = sums
    zero = load_first(wide_room, 0, 0, 0.0)
    store_real(wide_room, 0, x)
    for k in range(0, lanes_in(x), LANES):
        lanes = load(wide_room, k)
        exps += where_equal(lanes, but, zero, exp(lanes, zero + exponent, scaled_by))
        ties += where_equal(lanes, but, zero + 1.0, zero)
    return exps, ties


@inline
def sum_without(sums, but, exponent, scale):
    """The sum that `add_in_float64` has come to, without one of those that equal ``but``.

    Counted, because a difference of sums would leave their rounding where there is no tie.
    """
    exps, ties = sums
    others = sum_wide((ties, zeros_wide()[0])) - 1.0
    return sum_wide((exps, zeros_wide()[0])) + (others * exp_in_float64(but, exponent, scale) if others > 0.0 else 0.0)


@outlined
def row_sum_in_float64(row, classes, but, exponent, wide_room):
    """The sum of a row without one that equals ``but``, every step in float64."""
    scaled_by = scaling(wide_room, 1.0, 1.0)
    zero = load_first(wide_room, 0, 0, 0.0)
    sums = zero, zero
    for i in range(0, classes, lanes_of(row)):
        x = load_first(row, i, classes - i, to_real(row, -math.inf))
        sums = add_in_float64(sums, x, but, exponent, scaled_by, wide_room)
    return sum_without(sums, but, exponent, 1.0)


@inline
def is_coarse(lse, log_sum, all_largest):
    """Whether the ulp of a logsumexp, which is log_sum above its row's largest, is too small for sums of float32.

    Up to 16 terms have been added in float32: usually 0.3 eps of the sum, which is much for results below 4 in size.
    Where the roundings do not average out it may be some eps, too much for those below 16 as well. That takes many
    equal elements; among the largest of all, or they would not count, so that every lane has one.
    """
    return abs(lse) < (16.0 if all_largest else 4.0) and log_sum > 0.125


@inline
def sum_of_tops(tops, but, exponent, scale, wide_room):
    """The sum of the tops' exp, each in float64, without one that equals ``but`` (NaN: without none)."""
    zero = load_first(wide_room, 0, 0, 0.0)
    sums = add_in_float64((zero, zero), tops, but, exponent, scaling(wide_room, scale, 1.0), wide_room)
    return sum_without(sums, but, exponent, scale)


@inline
def sum_but_target(exps, tops, x, exp_x, exponent, scale, wide_room):
    """The sum of a row without its target x, whose exp is among the terms of ``exps`` or among the tops.

    A lane's top that equals x is left out instead: its own, or that of another lane, whose x is in ``exps``. If none
    does, the tops make up for what is taken off: one of them is larger, so that no digits are lost.
    """
    zero = load_first(wide_room, 0, 0, 0.0)
    of_tops, ties = add_in_float64((zero, zero), tops, x, exponent, scaling(wide_room, scale, 1.0), wide_room)
    times = sum_wide((ties, zeros_wide()[0])) - 1.0
    return (exps + times * exp_x) + sum_wide((of_tops, zeros_wide()[0]))


@inline
def products_of_tops(tops, x_target, exponent, scale, wide_room):
    """The sum of the tops' exp (x - x_target), each in float64."""
    zero = load_first(wide_room, 0, 0, 0.0)
    total, scaled_by = zero, scaling(wide_room, scale, 1.0)
    store_real(wide_room, 0, tops)
    for k in range(0, lanes_in(tops), LANES):
        x = load(wide_room, k)
        e = exp(x, zero + exponent, scaled_by)
        total = fma(e, where_zero(e, zero, x - x_target), total)
    return sum_wide((total, zeros_wide()[0]))
