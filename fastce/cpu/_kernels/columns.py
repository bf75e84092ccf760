"""Many rows at a time, one in each lane: for class axes that are not the last, and for few classes.

Going along the classes, a vector holds the same class of as many rows as it has lanes, so that nothing is left over at
the end of a short row and nothing is added across lanes. Where the classes of a row are adjacent, they are transposed
into a tile first (narrow.py); where the rows are, as along axis 0, the tile is the array itself. There a few classes
of many rows are taken at a time, as they lie in memory: classes a power of two apart push each other out of the cache.

A tile is looked at for its states, which one piece of code finishes for all (states.py), and a second time for its
gradient. In between, what a row has come to is in ``running``, one field a line, one row a column, in the dtype that
the rows are computed in, and its sums in float64. A row that does not fit (a NaN, an infinity, an outgrown reference)
is not mended here: it is left alone and reported, and the kernels that go along a row take it.
"""

import math

from fastce.cpu._kernels.copied_tiles import bring_first, carry, coming_beside, nothing_comes
from fastce.cpu._kernels.lines import (
    BESIDE,
    CHOSEN,
    DISTANCE_SUM,
    EXPS,
    HIGHEST,
    MASS_SUM,
    REFERENCE,
    load_sum,
    store_sum,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.elementary import rounded, tanh
from fastce.cpu._vectors.exponential import LN2, LOG2E, SPARE, exp, largest_exponent, with_factor_1
from fastce.cpu._vectors.lanes import lesser_and_top
from fastce.cpu._vectors.memory import (
    elements,
    lanes_of,
    load,
    load_first,
    prefetch,
    store,
    to_real,
)
from fastce.cpu._vectors.moves import copy_matrix
from fastce.cpu._vectors.simd import copysign, fma, where_equal, where_less, where_zero
from fastce.cpu._vectors.wide import add_products, add_wide

NARROW = 256  # classes that are few: all are looked at for a reference, and classes that are adjacent are transposed
ABREAST = 4  # classes whose terms are added before they go to a sum
SUMMED_AT_A_TIME, WRITTEN_AT_A_TIME = 4, 8  # classes, where an array is its own tile


@inline
def readable(tile, k, count):
    """How many rows from k on can be read: whole vectors of a copy, which masks would keep waiting for the cache."""
    lanes = lanes_of(tile[0])
    return lanes if tile[3] == 0 else min(lanes, count - k)


@inline
def logits_at(tile, place, count, cap):
    """A vector of logits, capped unless the cap is None: cap * tanh(ratio * x)."""
    x = elements(tile, place, count, to_real(tile, 0.0))
    if cap is not None and cap[1] > 0:
        x = tanh(x * cap[0]) * cap[1]
    return x


@inline
def masses_of_class(masses, probabilities, k, count, c):
    """The dense part of q_c: w_c (keep * t_c + spread)."""
    keep, spread, has_probabilities, weight, has_weight = masses
    tile, start, stride, _ = probabilities
    q = load_first(weight, 0, 0, spread)
    if has_probabilities:
        q = fma(elements(tile, start + k + c * stride, count, to_real(weight, 0.0)), keep, spread)
    if has_weight:
        q = q * weight[c]
    return q


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
def classes_at_a_time(tile, classes, number):
    """All of a copy, which is in the cache; this number where the array is its own tile."""
    return classes if tile[3] == 0 else number


@inline
def send_for_next(tile, source, k, first, classes, number):
    """Ask for the classes that come after this number from ``first`` on, unless the tile is a copy."""
    place, start, stride, step = source
    if tile[3] != 0:
        at, left = start + k * step + (first + number) * stride, classes - first - number
        if left >= number:  # nearly always: a loop whose length is known
            for c in range(number):
                prefetch(place, at + c * stride)
        else:
            for c in range(left):
                prefetch(place, at + c * stride)


@inline
def bring(tile, source, first, stop, count):
    """Copy these classes into the tile, if they are not there: the arithmetic then hides that memory is waited for."""
    place, start, stride, step = source
    if tile[3] != 0 and step != tile[3]:
        to = tile[1] + first * tile[2]
        copy_matrix(place, start + first * stride, stride, step, tile[0], to, tile[2], 1, stop - first, count)


@inline
def find_largest(running, tile, source, classes, count, cap):
    """HIGHEST becomes the largest of the first classes of every row; NaN is passed over. See `hard.sum_hard`."""
    place, start, stride, _ = tile
    step = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME)
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        if source is not None:
            bring(tile, source, first, stop, count)
        for k in range(0, count, lanes_of(place)):
            if source is not None:
                send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            tops = load_first(place, 0, 0, to_real(place, -math.inf))
            if first > 0:
                tops = load(running, HIGHEST + k)
            for c in range(first, stop):
                x = logits_at(place, start + k + c * stride, readable(tile, k, count), cap)
                _, tops = lesser_and_top(x, tops)
            store(running, HIGHEST + k, tops)


@inline
def put_reference(running, place, k, tops, scale):
    """The reference of one vector of rows, near these elements; no lane holds any back yet."""
    exponent, near = references_near(place, tops, scale)
    store(running, REFERENCE + k, exponent)
    store(running, BESIDE + k, near)
    store(running, HIGHEST + k, load_first(place, 0, 0, to_real(place, -math.inf)))


@inline
def choose_reference(running, tile, k, classes, count, cap, scale):
    """The reference of one vector of rows of a copy, from all of its classes."""
    place, start, stride, _ = tile
    tops = load_first(place, 0, 0, to_real(place, -math.inf))
    for c in range(classes):
        _, tops = lesser_and_top(logits_at(place, start + k + c * stride, count, cap), tops)
    put_reference(running, place, k, tops, scale)


@inline
def add_terms(x, tops, exponent, scaled_by):
    """exp of four vectors, together, and the largest of all; each lane's largest x so far is held back."""
    a, tops = lesser_and_top(x[0], tops)
    b, tops = lesser_and_top(x[1], tops)
    c, tops = lesser_and_top(x[2], tops)
    d, tops = lesser_and_top(x[3], tops)
    ab = exp(a, exponent, scaled_by) + exp(b, exponent, scaled_by)
    return ab + (exp(c, exponent, scaled_by) + exp(d, exponent, scaled_by)), tops


@inline
def add_classes(running, sums, tile, k, first, stop, count, cap, scaled_by, smoothed, coming):
    """Add exp (and x - near, if asked to) of these classes to one vector of rows; see `copied_tiles.carry`."""
    place, start, stride, _ = tile
    lanes = lanes_of(place)
    exponent, near, tops = load(running, REFERENCE + k), load(running, BESIDE + k), load(running, HIGHEST + k)
    exps, distances = load_sum(sums, lanes, EXPS, k, first), load_sum(sums, lanes, DISTANCE_SUM, k, first)
    end = stop - (stop - first) % ABREAST
    for c in range(first, end, ABREAST):
        carry(tile, coming, c, ABREAST)
        at = start + k + c * stride
        x = (
            logits_at(place, at, count, cap),
            logits_at(place, at + stride, count, cap),
            logits_at(place, at + 2 * stride, count, cap),
            logits_at(place, at + 3 * stride, count, cap),
        )
        terms, tops = add_terms(x, tops, exponent, scaled_by)
        exps = add_wide(exps, terms)
        if smoothed:
            distances = add_wide(distances, ((x[0] - near) + (x[1] - near)) + ((x[2] - near) + (x[3] - near)))
    for c in range(end, stop):
        carry(tile, coming, c, 1)
        x = logits_at(place, start + k + c * stride, count, cap)
        lesser, tops = lesser_and_top(x, tops)
        exps = add_wide(exps, exp(lesser, exponent, scaled_by))
        if smoothed:
            distances = add_wide(distances, x - near)
    store(running, HIGHEST + k, tops)
    store_sum(sums, lanes, EXPS, k, exps)
    if smoothed:
        store_sum(sums, lanes, DISTANCE_SUM, k, distances)


@inline
def add_weighted_classes(
    running, sums, tile, k, first, stop, count, cap, scaled_by, masses, probabilities, of_probabilities
):
    """The same with q (x - near), and q itself, one by one and without the targets. 0 * inf counts as 0."""
    place, start, stride, _ = tile
    lanes = lanes_of(place)
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    exponent, near, tops = load(running, REFERENCE + k), load(running, BESIDE + k), load(running, HIGHEST + k)
    target = load(running, CHOSEN + k)
    exps, distances = load_sum(sums, lanes, EXPS, k, first), load_sum(sums, lanes, DISTANCE_SUM, k, first)
    mass = load_sum(sums, lanes, MASS_SUM, k, first)
    for c in range(first, stop):
        at = start + k + c * stride
        x = logits_at(place, at, count, cap)
        lesser, tops = lesser_and_top(x, tops)
        exps = add_wide(exps, exp(lesser, exponent, scaled_by))
        q = where_equal(target, to_real(place, c), zero, masses_of_class(masses, probabilities, k, of_probabilities, c))
        distances = add_products(distances, q, where_zero(q, near, x), near)
        mass = add_wide(mass, q)
    store(running, HIGHEST + k, tops)
    store_sum(sums, lanes, EXPS, k, exps)
    store_sum(sums, lanes, DISTANCE_SUM, k, distances)
    store_sum(sums, lanes, MASS_SUM, k, mass)


@outlined
def sum_tile(running, sums, tile, source, classes, count, cap, scale, scaled_by, masses, probabilities):
    """The sums of every row of a tile, which holds all of them then; see `narrow.tile_and_source`.

    Those of a copy get their references first.

    Without weights and probabilities DISTANCE_SUM is that of x - near over all classes, targets too, and there only if
    q is not 0.
    """
    scaled_by, lanes = with_factor_1(scaled_by), lanes_of(tile[0])
    step, no_cap = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME), (to_real(tile[0], 0.0), to_real(tile[0], 0.0))
    varies, smoothed = masses[2] or masses[4], masses[1] > 0
    asks_nothing = not varies and cap[1] == 0
    whole = count - count % lanes if asks_nothing and tile[3] != 0 else 0  # rows of a loop that need not ask
    nothing = nothing_comes(tile)
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        bring(tile, source, first, stop, count)
        for k in range(0, whole, lanes):
            send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            add_classes(running, sums, tile, k, first, stop, lanes, no_cap, scaled_by, smoothed, nothing)
        for k in range(whole, count, lanes):
            send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            here, coming = readable(tile, k, count), coming_beside(tile, source, nothing, k, count)
            if tile[3] == 0:
                bring_first(tile, source, k, classes, count, varies)
                choose_reference(running, tile, k, classes, here, cap, scale)
            if varies:
                of_probabilities = min(lanes, count - k)
                add_weighted_classes(
                    running, sums, tile, k, first, stop, here, cap, scaled_by, masses, probabilities, of_probabilities
                )
            elif asks_nothing and here == lanes:
                add_classes(running, sums, tile, k, first, stop, lanes, no_cap, scaled_by, smoothed, coming)
            else:
                add_classes(running, sums, tile, k, first, stop, here, cap, scaled_by, smoothed, coming)


@inline
def heaviest_of_lanes(tile, k, classes, count, masses, probabilities):
    """The class of the largest mass, whatever its sign, lane by lane."""
    one = load_first(tile, 0, 0, to_real(tile, 1.0))
    best = load_first(tile, 0, 0, to_real(tile, -1.0))
    number = load_first(tile, 0, 0, to_real(tile, -1.0))
    for c in range(classes):
        q = copysign(masses_of_class(masses, probabilities, k, count, c), one)
        number = where_less(best, q, to_real(tile, c), number)
        best = where_less(best, q, q, best)
    return number
