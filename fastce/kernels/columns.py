"""Many rows at a time, one in each lane: for class axes that are not the last, and for few classes.

Going along the classes, a vector holds the same class of as many rows as it has lanes, so that nothing is left over at
the end of a short row and nothing is added across lanes. Where the classes of a row are adjacent, they are transposed
into a tile first (narrow.py); where the rows are, as along axis 0, the tile is the array itself.

A group of rows is looked at for its states, which one piece of code finishes for all (states.py), and a second time for
its gradient. A row that does not fit (a NaN, an infinity, an outgrown reference) is not mended here: it is left alone
and reported, and the kernels that go along a row take it.
"""

import math

from fastce.kernels.jit import inline, outlined
from fastce.kernels.lanes import load_real, store_real, store_where, where_equal
from fastce.kernels.memory import lanes_of, load, load_first, prefetch, store, to_real
from fastce.kernels.simd import add_products, add_wide, fma, where_less, where_zero
from fastce.kernels.states import (
    DISTANCES,
    EXPONENT,
    FACTOR,
    FACTOR_EXPONENT,
    FITS,
    LANES,
    LOST,
    NEAR,
    OFFSET,
    REST,
    REST_MASS,
    TARGET,
    TARGET_GRADIENT,
    UPSTREAM,
    X_TARGET,
)
from fastce.kernels.vector import LN2, LOG2E, SPARE, exp, largest_exponent, not_too_large, rounded, tanh

NARROW = 256  # classes that are few: all are looked at for a reference, and classes that are adjacent are transposed
GUESS = 64  # classes that a reference is guessed from, where looking at all would be another read
CLASSES_AT_A_TIME = 16


@inline
def logits_at(tile, place, count, cap):
    """A vector of logits, capped: cap * tanh(ratio * x)."""
    x = load_first(tile, place, count, to_real(tile, 0.0))
    if cap[1] > 0:
        x = tanh(x * cap[0]) * cap[1]
    return x


@inline
def masses_at(masses, probabilities, k, count, c):
    """The dense part of q_c: w_c (keep * t_c + spread)."""
    keep, spread, has_probabilities, weight, has_weight = masses
    tile, start, stride, _ = probabilities
    q = load_first(weight, 0, 0, spread)
    if has_probabilities:
        q = fma(load_first(tile, start + k + c * stride, count, to_real(weight, 0.0)), keep, spread)
    if has_weight:
        q = q * weight[c]
    return q


@inline
def largest_of_lanes(tile, start, stride, classes, count, cap, ahead):
    """The largest of the first classes, lane by lane, and which class that is; NaN is passed over.

    ``ahead`` elements from here is what will be wanted next: the same classes of the next group of rows.
    """
    best = load_first(tile, 0, 0, to_real(tile, -math.inf))
    number = load_first(tile, 0, 0, to_real(tile, -1.0))
    for c in range(classes):
        if ahead > 0:
            prefetch(tile, start + c * stride + ahead)
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
def choose_references(states, tile, classes, count, cap, scale, leave_out):
    """The reference of every row of a tile, from all of its classes if they are few; or, to leave its class out, from
    all in any case. Returns how many were looked at."""
    place, start, stride, ahead = tile
    lanes = lanes_of(place)
    guessed_from = classes if classes <= NARROW or leave_out else GUESS
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, lanes):
        here = min(lanes, count - k)
        largest, number = largest_of_lanes(place, start + k, stride, guessed_from, here, cap, ahead)
        exponent, near = references_near(place, largest, scale)
        store_real(states, EXPONENT + k, exponent)
        store_real(states, NEAR + k, near)
        if leave_out:
            store_real(states, X_TARGET + k, largest)
            store_real(states, TARGET + k, number)
        for j in range(k, k + lanes, LANES):
            store(states, OFFSET + j, zero)
            for field in (REST, DISTANCES, REST_MASS):
                store(states, field + j, zero)
                store(states, field + LOST + j, zero)
    return guessed_from


@inline
def second_part(lanes, field, k):
    """Where the second vector of `add_wide` is kept: float32 has more lanes, float64 has lost digits."""
    return field + LOST + k if lanes == LANES else field + LANES + k


@inline
def load_totals(states, lanes, field, k):
    return load(states, field + k), load(states, second_part(lanes, field, k))


@inline
def store_totals(states, lanes, field, k, totals):
    store(states, field + k, totals[0])
    store(states, second_part(lanes, field, k), totals[1])


@inline
def add_classes(states, tile, k, first, stop, count, cap, scaled_by, masses, probabilities, ahead):
    """Add exp, q (x - near) and q of these classes to one vector of rows, without their targets.

    All is added in float64 (compensated, for float64): a sum of ten float32 would already have lost a digit.
    """
    place, start, stride, _ = tile
    lanes = lanes_of(place)
    dense = masses[1] > 0 or masses[2]
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    exponent, near = load_real(place, states, EXPONENT + k), load_real(place, states, NEAR + k)
    target = load_real(place, states, TARGET + k)
    exps = load_totals(states, lanes, REST, k)
    distances, mass = load_totals(states, lanes, DISTANCES, k), load_totals(states, lanes, REST_MASS, k)
    for c in range(first, stop):
        number = to_real(place, c)
        at = start + k + c * stride
        if ahead > 0:
            prefetch(place, at + ahead)
        x = logits_at(place, at, count, cap)
        e = exp(not_too_large(x, exponent, scaled_by), exponent, scaled_by)
        exps = add_wide(exps, where_equal(target, number, zero, e))
        if dense:
            q = where_equal(target, number, zero, masses_at(masses, probabilities, k, count, c))
            distances = add_products(distances, q, where_zero(q, near, x), near)
            mass = add_wide(mass, q)
    store_totals(states, lanes, REST, k, exps)
    if dense:
        store_totals(states, lanes, DISTANCES, k, distances)
        store_totals(states, lanes, REST_MASS, k, mass)


@outlined
def sum_tile(states, tile, classes, count, looked_at, cap, scaled_by, masses, probabilities):
    """The sums of every row of a tile: some classes of all rows, then the next, as they lie in memory."""
    place, _, stride, _ = tile
    lanes = lanes_of(place)
    ahead = CLASSES_AT_A_TIME * stride if looked_at < classes else 0
    for first in range(0, classes, CLASSES_AT_A_TIME):
        stop = min(first + CLASSES_AT_A_TIME, classes)
        for k in range(0, count, lanes):
            add_classes(
                states, tile, k, first, stop, min(lanes, count - k), cap, scaled_by, masses, probabilities, ahead
            )
    if lanes == LANES:
        for k in range(0, count, LANES):
            for field in (REST, DISTANCES, REST_MASS):
                store(states, field + k, load(states, field + k) + load(states, field + LOST + k))


@inline
def write_classes(states, tile, k, first, stop, count, cap, scaled_by, masses, probabilities, out):
    """upstream * (p_c * mass - q_c) of these classes of one vector of rows, and their targets' from float64.

    Into the array itself, only where rows fit: the others may still be needed as logits.
    """
    place, start, stride, _ = tile
    written, out_start, out_stride, to_tile = out
    dense = masses[1] > 0 or masses[2]
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    one = load_first(place, 0, 0, to_real(place, 1.0))
    exponent, factor = load_real(place, states, FACTOR_EXPONENT + k), load_real(place, states, FACTOR + k)
    minus_upstream = zero - load_real(place, states, UPSTREAM + k)
    target, of_target = load_real(place, states, TARGET + k), load_real(place, states, TARGET_GRADIENT + k)
    fitting = load_real(place, states, FITS + k)
    for c in range(first, stop):
        x = logits_at(place, start + k + c * stride, count, cap)
        gradient = exp(x, exponent, scaled_by) * factor
        if dense:
            gradient = fma(minus_upstream, masses_at(masses, probabilities, k, count, c), gradient)
        if cap[1] > 0:
            gradient = gradient * (one - (x / cap[1]) * (x / cap[1]))
        gradient = where_equal(target, to_real(place, c), of_target, gradient)
        if to_tile:  # all of it: after a masked store, who reads it soon must wait for the cache
            store(written, out_start + k + c * out_stride, gradient)
        else:
            store_where(written, out_start + k + c * out_stride, gradient, fitting)


@outlined
def write_tile(states, tile, classes, count, cap, scaled_by, masses, probabilities, out):
    """The gradients of every row of a tile."""
    lanes = lanes_of(tile[0])
    for first in range(0, classes, CLASSES_AT_A_TIME):
        stop = min(first + CLASSES_AT_A_TIME, classes)
        for k in range(0, count, lanes):
            here = min(lanes, count - k)
            write_classes(states, tile, k, first, stop, here, cap, scaled_by, masses, probabilities, out)


@inline
def heaviest_of_lanes(tile, k, classes, count, masses, probabilities):
    """The class of the largest mass, lane by lane."""
    best = load_first(tile, 0, 0, to_real(tile, -math.inf))
    number = load_first(tile, 0, 0, to_real(tile, -1.0))
    for c in range(classes):
        q = masses_at(masses, probabilities, k, count, c)
        number = where_less(best, q, to_real(tile, c), number)
        best = where_less(best, q, q, best)
    return number
