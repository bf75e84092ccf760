"""Rows of few classes with probabilities: as in hard.py, where other classes have masses, too.

    loss = q_y (lse - x_y) + (lse - near) sum_(c != y) q_c - sum_(c != y) q_c (x_c - near)

The class y with most of the mass is left out of all sums: lse - x_y = log1p(rest / e_y) keeps its digits. The largest
logit is near: all terms but the first are small where masses are on likely classes, and none is negative elsewhere.
"""

import math

from fastce.cpu._kernels.columns import (
    SUMMED_AT_A_TIME,
    bring,
    classes_at_a_time,
    masses_of_class,
    readable,
    references_near,
    send_for_next,
)
from fastce.cpu._kernels.copied_tiles import bring_first
from fastce.cpu._kernels.hard_states import finish_hard
from fastce.cpu._kernels.lines import (
    CHOSEN,
    DISTANCE_SUM,
    EXPS,
    HIGHEST,
    MASS_CHOSEN,
    MASS_SUM,
    REFERENCE,
    X_CHOSEN,
    load_sum,
    store_sum,
    whole_sum,
)
from fastce.cpu._kernels.states import DISTANCES, LANES, NEAR, REST_MASS, TARGET_MASS
from fastce.cpu._kernels.targets import scale_of
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import exp, with_factor_1
from fastce.cpu._vectors.lanes import lesser_and_top, store_real
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.simd import copysign, where_equal, where_less, where_zero
from fastce.cpu._vectors.wide import add_products, add_wide


@inline
def find_in_classes(running, tile, k, first, stop, count, masses, probabilities):
    """Of one vector of rows, and of the classes so far: the largest logit, and the one with most of the mass."""
    place, start, stride, _ = tile
    lanes, nothing = lanes_of(place), to_real(place, 0.0)
    zero, one = load_first(place, 0, 0, nothing), load_first(place, 0, 0, to_real(place, 1.0))
    minus_one, top = load_first(place, 0, 0, to_real(place, -1.0)), load_first(place, 0, 0, to_real(place, -math.inf))
    number, best = minus_one, minus_one
    x_y, q_y = load_first(place, 0, 0, to_real(place, math.nan)), zero
    if first > 0:
        top, number = load(running, HIGHEST + k), load(running, CHOSEN + k)
        x_y, q_y = load(running, X_CHOSEN + k), load(running, MASS_CHOSEN + k)
        best = copysign(q_y, one)
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, readable(tile, k, count), nothing)
        q = masses_of_class(masses, probabilities, k, min(lanes, count - k), c)
        size = copysign(q, one)
        _, top = lesser_and_top(x, top)
        number, x_y = where_less(best, size, to_real(place, c), number), where_less(best, size, x, x_y)
        q_y, best = where_less(best, size, q, q_y), where_less(best, size, size, best)
    store(running, HIGHEST + k, top)
    store(running, CHOSEN + k, number)
    store(running, X_CHOSEN + k, x_y)
    store(running, MASS_CHOSEN + k, q_y)


@outlined
def find_heaviest(running, tile, source, classes, count, scale, masses, probabilities):
    """The class of each row of a tile with most of the mass, its logit and its mass; and the row's reference."""
    step, lanes = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME), lanes_of(tile[0])
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        bring(tile, source, first, stop, count)
        for k in range(0, count, lanes):
            send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            if tile[3] == 0:
                bring_first(tile, source, k, classes, count, True)
            find_in_classes(running, tile, k, first, stop, count, masses, probabilities)
    for k in range(0, count, lanes):
        exponent, _ = references_near(tile[0], load(running, HIGHEST + k), scale)
        store(running, REFERENCE + k, exponent)


@inline
def add_soft_classes(running, sums, tile, k, first, stop, count, scaled_by, masses, probabilities):
    """Add exp, q (x - near) and q of these classes to one vector of rows, but for y. 0 * inf counts as 0."""
    place, start, stride, _ = tile
    lanes, nothing = lanes_of(place), to_real(place, 0.0)
    zero, lowest = load_first(place, 0, 0, nothing), load_first(place, 0, 0, to_real(place, -math.inf))
    exponent, target, near = load(running, REFERENCE + k), load(running, CHOSEN + k), load(running, HIGHEST + k)
    exps, distances = load_sum(sums, lanes, EXPS, k, first), load_sum(sums, lanes, DISTANCE_SUM, k, first)
    mass = load_sum(sums, lanes, MASS_SUM, k, first)
    for c in range(first, stop):
        number = to_real(place, c)
        x = elements(place, start + k + c * stride, readable(tile, k, count), nothing)
        q = masses_of_class(masses, probabilities, k, min(lanes, count - k), c)
        exps = add_wide(exps, exp(where_equal(target, number, lowest, x), exponent, scaled_by))
        q = where_equal(target, number, zero, q)
        distances = add_products(distances, q, where_zero(q, near, x), near)
        mass = add_wide(mass, q)
    store_sum(sums, lanes, EXPS, k, exps)
    store_sum(sums, lanes, DISTANCE_SUM, k, distances)
    store_sum(sums, lanes, MASS_SUM, k, mass)


@outlined
def sum_soft(running, sums, tile, classes, count, scaled_by, masses, probabilities):
    """The sums of every row of a tile, which holds all of them, of classes that `find_heaviest` has found."""
    scaled_by = with_factor_1(scaled_by)
    step = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME)
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        for k in range(0, count, lanes_of(tile[0])):
            send_for_next(tile, tile, k, first, classes, SUMMED_AT_A_TIME)
            add_soft_classes(running, sums, tile, k, first, stop, count, scaled_by, masses, probabilities)


@outlined
def put_masses(states, running, sums, lanes, first, count):
    """What the masses of a group of rows come to, into the table of states."""
    for k in range(0, count, lanes):
        store_real(states, NEAR + k, load(running, HIGHEST + first + k))
        store_real(states, TARGET_MASS + k, load(running, MASS_CHOSEN + first + k))
    for k in range(0, count, LANES):
        store(states, DISTANCES + k, whole_sum(sums, lanes, DISTANCE_SUM, first + k))
        store(states, REST_MASS + k, whole_sum(sums, lanes, MASS_SUM, first + k))


@inline
def look_at_soft_rows(states, running, sums, tile, first, count, options, scaled_by):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit."""
    lanes = lanes_of(tile[0])
    put_masses(states, running, sums, lanes, first, count)
    return finish_hard(states, running, sums, first, count, scale_of(options), options.z_loss, scaled_by, True)
