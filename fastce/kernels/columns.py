"""Many rows at a time, one in each lane: for class axes that are not the last, and for few classes.

Going along the classes, a vector holds the same class of as many rows as it has lanes, so that nothing is left over at
the end of a short row and nothing is added across lanes. Where the classes of a row are adjacent, they are transposed
into a tile first (narrow.py); where the rows are, as along axis 0, the tile is the array itself.

A group of rows is looked at for its states, which one piece of code finishes for all (states.py), and a second time for
its gradient. What does not fit (a NaN, an infinity, a row that outgrows its guessed reference) is not mended here: its
vector is left alone and reported, and the kernels of rows.py take it.
"""

import math

from fastce.kernels.jit import inline
from fastce.kernels.lanes import store_where, where_equal
from fastce.kernels.memory import load_first, store
from fastce.kernels.rows import to_real
from fastce.kernels.simd import add_products, add_wide, fma, where_less, where_zero, zeros_wide
from fastce.kernels.vector import LN2, LOG2E, SPARE, exp, largest_exponent, not_too_large, rounded, tanh

GUESS = 64  # classes that a reference is guessed from, where looking at all would be another read


@inline
def logits_at(tile, place, count, cap):
    """A vector of logits, capped: cap * tanh(ratio * x)."""
    x = load_first(tile, place, count, to_real(tile, 0.0))
    if cap[1] > 0:
        x = tanh(x * cap[0]) * cap[1]
    return x


@inline
def masses_at(masses, probabilities, count, c):
    """The dense part of q_c: w_c (keep * t_c + spread)."""
    keep, spread, has_probabilities, weight, has_weight = masses
    tile, start, stride = probabilities
    q = load_first(weight, 0, 0, spread)
    if has_probabilities:
        q = fma(load_first(tile, start + c * stride, count, to_real(weight, 0.0)), keep, spread)
    if has_weight:
        q = q * weight[c]
    return q


@inline
def largest_of_lanes(tile, start, stride, classes, count, cap):
    """The largest of the first classes, lane by lane, and which class that is; NaN is passed over."""
    best = load_first(tile, 0, 0, to_real(tile, -math.inf))
    number = load_first(tile, 0, 0, to_real(tile, -1.0))
    for c in range(classes):
        x = logits_at(tile, start + c * stride, count, cap)
        number = where_less(best, x, to_real(tile, c), number)
        best = where_less(best, x, x, best)
    return best, number


@inline
def references_near(tile, largest, scale):
    """(exponent, near) of references near these; NaN where there is none. See `rows.reference_near`."""
    power = largest * to_real(tile, scale * LOG2E)
    bound = to_real(tile, largest_exponent(tile))
    exponent = rounded(power) - to_real(tile, SPARE)
    exponent = where_less(power, bound, exponent, to_real(tile, math.nan))
    exponent = where_less(to_real(tile, 0.0) - bound, power, exponent, to_real(tile, math.nan))
    return exponent, (exponent + to_real(tile, SPARE)) * to_real(tile, LN2 / scale)


@inline
def sum_lanes(tile, start, stride, classes, count, target, reference, cap, scaled_by, masses, probabilities):
    """Each lane's sums of exp, of q (x - near) and of q without its target, as `add_wide` keeps them.

    All is added in float64 (compensated, for float64): a sum of ten float32 would already have lost a digit.
    """
    exponent, near = reference
    dense = masses[1] > 0 or masses[2]
    zero = load_first(tile, 0, 0, to_real(tile, 0.0))
    exps, distances, mass = zeros_wide(), zeros_wide(), zeros_wide()
    for c in range(classes):
        number = to_real(tile, c)
        x = logits_at(tile, start + c * stride, count, cap)
        e = exp(not_too_large(x, exponent, scaled_by), exponent, scaled_by)
        exps = add_wide(exps, where_equal(target, number, zero, e))
        if dense:
            q = where_equal(target, number, zero, masses_at(masses, probabilities, count, c))
            distances = add_products(distances, q, where_zero(q, near, x), near)
            mass = add_wide(mass, q)
    return exps, distances, mass


@inline
def write_gradient_of_lanes(
    tile, start, stride, classes, count, target, of_lanes, cap, scaled_by, masses, probabilities, out, out_start,
    out_stride, to_tile,
):  # fmt: skip
    """upstream * (p_c * mass - q_c) of one vector of rows, and their targets' from float64.

    Into the array itself, only where rows fit: the others may still be needed as logits.
    """
    exponent, factor, minus_upstream, of_target, fitting = of_lanes
    dense = masses[1] > 0 or masses[2]
    one = load_first(tile, 0, 0, to_real(tile, 1.0))
    for c in range(classes):
        place = start + c * stride
        x = logits_at(tile, place, count, cap)
        gradient = exp(x, exponent, scaled_by) * factor
        if dense:
            gradient = fma(minus_upstream, masses_at(masses, probabilities, count, c), gradient)
        if cap[1] > 0:
            gradient = gradient * (one - (x / cap[1]) * (x / cap[1]))
        gradient = where_equal(target, to_real(tile, c), of_target, gradient)
        if to_tile:  # all of it: after a masked store, who reads it soon must wait for the cache
            store(out, out_start + c * out_stride, gradient)
        else:
            store_where(out, out_start + c * out_stride, gradient, fitting)


@inline
def heaviest_of_lanes(tile, classes, count, masses, probabilities):
    """The class of the largest mass, lane by lane."""
    best = load_first(tile, 0, 0, to_real(tile, -math.inf))
    number = load_first(tile, 0, 0, to_real(tile, -1.0))
    for c in range(classes):
        q = masses_at(masses, probabilities, count, c)
        number = where_less(best, q, to_real(tile, c), number)
        best = where_less(best, q, q, best)
    return number
