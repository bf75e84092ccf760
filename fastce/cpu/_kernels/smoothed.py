"""Rows of few float32 classes with class indices and label smoothing: as in hard.py, with masses of other classes.

    q_c = spread w_c        loss = sum_(c != y) q_c (lse - x_c) + q_y (lse - x_y)

The targets are left out of all sums while these are added, and most rows share a reference. Distances are those of the
logits from 0 then, in float64, as exact as others are in float32; rows far from it have their own, wherever they lie.
"""

import math

from fastce.cpu._kernels.columns import (
    ABREAST,
    NARROW,
    SUMMED_AT_A_TIME,
    bring,
    classes_at_a_time,
    find_largest,
    references_near,
    send_for_next,
)
from fastce.cpu._kernels.hard import (
    COMMON,
    LEAST,
    MOST,
    are_near,
    number_at,
    set_common_references,
    term,
)
from fastce.cpu._kernels.hard_states import finish_hard, put_hard_rows, weigh_hard_targets
from fastce.cpu._kernels.lines import (
    CHOSEN,
    DISTANCE_SUM,
    EXPS,
    HIGHEST,
    REFERENCE,
    X_CHOSEN,
    ZERO_POINT,
    load_sum,
    store_sum,
    whole_sum,
)
from fastce.cpu._kernels.narrow import send_for_four
from fastce.cpu._kernels.states import DISTANCES, LANES, NEAR, REST_MASS, TARGET
from fastce.cpu._kernels.targets import scale_of
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import LOG2E, with_factor_1
from fastce.cpu._vectors.lanes import chosen_elements, store_real
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.rooms import float64_room
from fastce.cpu._vectors.simd import copysign, where_equal, where_less
from fastce.cpu._vectors.wide import add_scaled, add_wide

OF_OTHERS = NARROW  # where the masses of all classes but one begin, behind those of single classes

_new_masses = float64_room(2 * NARROW)


@inline
def masses_by_class(spread, weight, has_weight, classes):
    """q_c of every class, and the sum of all others: added from both ends, so that nothing is subtracted."""
    table, before, behind = _new_masses(), 0.0, 0.0
    for c in range(classes):
        table[c] = spread * weight[c] if has_weight else spread
        table[OF_OTHERS + c] = before
        before += table[c]
    for c in range(classes - 1, -1, -1):
        table[OF_OTHERS + c] += behind
        behind += table[c]
    return table


@inline
def smoothed_term(place, at, count, numbers, table, c, of_row, found, distances):
    """exp of one class, 0 where it is the target, as in `hard.term`; q (x - near) is added. 0 * inf counts as 0."""
    (target, near, exponent, scaled_by), number, q = of_row, number_at(numbers, c), table[c]
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    x = elements(place, at, count, to_real(place, 0.0))
    e, _, found = term(x, at, number, target, exponent, scaled_by, found, place, False)
    distance = where_equal(target, number, zero, x - near)
    if q == 0.0:
        distance = zero
    return e, found, add_scaled(distances, q, distance)


@inline
def two_smoothed_terms(place, at, stride, count, numbers, table, c, of_row, found, distances):
    """The sum of those of classes c and c + 1, which are at ``at`` and a stride behind."""
    a, found, distances = smoothed_term(place, at, count, numbers, table, c, of_row, found, distances)
    b, found, distances = smoothed_term(place, at + stride, count, numbers, table, c + 1, of_row, found, distances)
    return a + b, found, distances


@inline
def add_smoothed(running, sums, tile, k, first, stop, count, scaled_by, coming, numbers, table):
    """Add exp and q (x - near) of these classes to one vector of rows, but for targets; see `hard.add_others`."""
    (place, start, stride, _), (rows, next_one, line) = tile, coming
    lanes, c, at = lanes_of(place), first, start + k + first * stride
    of_row = load(running, CHOSEN + k), load(running, ZERO_POINT + k), load(running, REFERENCE + k), scaled_by
    zero, lowest = load_first(place, 0, 0, to_real(place, 0.0)), load_first(place, 0, 0, to_real(place, -math.inf))
    found = lowest, load_first(place, 0, 0, to_real(place, math.nan)), zero
    if first > 0:
        found = load(running, HIGHEST + k), load(running, X_CHOSEN + k), zero
    exps, distances = load_sum(sums, lanes, EXPS, k, first), load_sum(sums, lanes, DISTANCE_SUM, k, first)
    for _ in range((stop - first) // ABREAST):
        send_for_four(rows, next_one, line, c)
        ab, found, distances = two_smoothed_terms(place, at, stride, count, numbers, table, c, of_row, found, distances)
        cd, found, distances = two_smoothed_terms(
            place, at + 2 * stride, stride, count, numbers, table, c + 2, of_row, found, distances
        )
        exps, at, c = add_wide(exps, ab + cd), at + ABREAST * stride, c + ABREAST
    if c < stop:
        send_for_four(rows, next_one, line, c)
    if stop - c >= 2:
        ab, found, distances = two_smoothed_terms(place, at, stride, count, numbers, table, c, of_row, found, distances)
        exps, at, c = add_wide(exps, ab), at + 2 * stride, c + 2
    if c < stop:
        a, found, distances = smoothed_term(place, at, count, numbers, table, c, of_row, found, distances)
        exps = add_wide(exps, a)
    store_sum(sums, lanes, EXPS, k, exps)
    store_sum(sums, lanes, DISTANCE_SUM, k, distances)
    store(running, HIGHEST + k, found[0])
    store(running, X_CHOSEN + k, found[1])


@outlined
def add_all_smoothed(running, sums, tile, source, classes, count, scaled_by, coming, numbers, table):
    """EXPS, DISTANCE_SUM, HIGHEST and X_CHOSEN of the rows of a tile, which holds all of them then."""
    scaled_by, (rows, next_one, row_stride, line) = with_factor_1(scaled_by), coming
    lanes, step = lanes_of(tile[0]), classes_at_a_time(tile, classes, SUMMED_AT_A_TIME)
    whole = count if tile[3] == 0 else count - count % lanes
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        bring(tile, source, first, stop, count)
        for k in range(0, whole, lanes):
            send_for_next(source, k, first, classes, SUMMED_AT_A_TIME)
            ahead = rows, next_one + k * row_stride, line
            add_smoothed(running, sums, tile, k, first, stop, lanes, scaled_by, ahead, numbers, table)
        for k in range(whole, count, lanes):
            send_for_next(source, k, first, classes, SUMMED_AT_A_TIME)
            ahead = rows, next_one, 0
            add_smoothed(running, sums, tile, k, first, stop, count - k, scaled_by, ahead, numbers, table)


@outlined
def set_references(running, tile, source, classes, count, scale):
    """The common reference of every row that is near it, and others their own."""
    find_largest(running, tile, source, classes, count, None)
    middle, reach = to_real(running, 0.5 * (MOST + LEAST)), to_real(running, 0.5 * (MOST - LEAST))
    zero, common = load_first(running, 0, 0, to_real(running, 0.0)), to_real(running, COMMON)
    for k in range(0, count, lanes_of(running)):
        highest = load(running, HIGHEST + k)
        distance = copysign((highest * to_real(running, scale * LOG2E) - common) - middle, zero)
        exponent, near = references_near(tile[0], highest, scale)
        store(running, REFERENCE + k, where_less(distance, reach, common, exponent))
        store(running, ZERO_POINT + k, where_less(distance, reach, zero, near))


@inline
def sum_smoothed(running, sums, tile, source, classes, count, scale, scaled_by, coming, numbers, table, in_common):
    """The sums of every row of a tile; whether one reference is near all of them. See `hard.sum_from_references`."""
    if in_common:
        set_common_references(running, count)
        zero = load_first(running, 0, 0, to_real(running, 0.0))
        for k in range(0, count, lanes_of(running)):
            store(running, ZERO_POINT + k, zero)
        add_all_smoothed(running, sums, tile, source, classes, count, scaled_by, coming, numbers, table)
        if are_near(running, count, scale):
            return True
    set_references(running, tile, source, classes, count, scale)
    add_all_smoothed(running, sums, tile, source, classes, count, scaled_by, coming, numbers, table)
    return are_near(running, count, scale)


@outlined
def put_others(states, running, sums, lanes, first, classes, count, table):
    """What the masses of all classes but the targets come to in a group of rows."""
    for k in range(0, count, lanes):
        store_real(states, NEAR + k, load(running, ZERO_POINT + first + k))
        store_real(states, TARGET + k, load(running, CHOSEN + first + k))
    for k in range(0, count, LANES):
        numbers = load(states, TARGET + k)
        store(states, DISTANCES + k, whole_sum(sums, lanes, DISTANCE_SUM, first + k))
        store(states, REST_MASS + k, chosen_elements(table, OF_OTHERS, 0, 1, numbers, classes, count - k))


@inline
def look_at_smoothed_rows(states, running, sums, tile, first, count, classes, options, masses, scaled_by, table):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit."""
    put_others(states, running, sums, lanes_of(tile[0]), first, classes, count, table)
    put_hard_rows(states, running, sums, lanes_of(tile[0]), first, count, scaled_by)
    weigh_hard_targets(states, running, first, classes, count, masses, options.keep + options.spread)
    return finish_hard(states, count, scale_of(options), options.z_loss, True)
