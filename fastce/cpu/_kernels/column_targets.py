"""Targets of rows that lie in lanes: which class of a row is left out of its sums, its logit and its mass."""

import math

from fastce.cpu._kernels.columns import heaviest_of_lanes
from fastce.cpu._kernels.lines import CHOSEN, LINE, put_into_states
from fastce.cpu._kernels.states import (
    AT_TARGET,
    DISTANCES,
    LANES,
    LOSS,
    NEAR,
    REST_MASS,
    TARGET_MASS,
    X_TARGET,
)
from fastce.cpu._kernels.targets import capped
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.elementary import tanh
from fastce.cpu._vectors.lanes import chosen_elements, load_numbers, store_real
from fastce.cpu._vectors.memory import from_element, lanes_of, load, load_first, prefetch, store, to_real
from fastce.cpu._vectors.rooms import float64_room
from fastce.cpu._vectors.simd import where_equal, where_zero

AHEAD, A_LINE = 512, 8  # indices, of eight bytes

new_weights = float64_room(LINE)


@inline
def number_targets(running, tile, count, targets, first_row):
    """The class of each row's target, which is left out of its sums."""
    lanes = lanes_of(tile)
    for k in range(0, count, lanes):
        for j in range(0, lanes, A_LINE):
            prefetch(targets, first_row + k + j + AHEAD)
        store(running, CHOSEN + k, load_numbers(tile, targets, first_row + k, min(lanes, count - k)))


@inline
def without_ignored(running, tile, count, first_row, ignored, row_weights, room):
    """The weights of rows, (where they are, whether there are any), 0 where one is ignored, whose class becomes 0.

    They are put into the room, as float64, if there is an ignored class.
    """
    if math.isnan(ignored):
        return row_weights
    row_weight, has_row_weight = row_weights
    lanes, ignored = lanes_of(tile), to_real(tile, ignored)
    zero, one = load_first(tile, 0, 0, to_real(tile, 0.0)), load_first(tile, 0, 0, to_real(tile, 1.0))
    for k in range(0, count, lanes):
        number = load(running, CHOSEN + k)
        store(running, CHOSEN + k, where_equal(number, ignored, zero, number))
        store_real(room, k, where_equal(number, ignored, zero, one))
    if has_row_weight:
        for k in range(0, count, LANES):
            counts, nothing = load(room, k), load_first(room, 0, 0, 0.0)
            weight = load_first(row_weight, first_row + k, min(LANES, count - k), 0.0)
            store(room, k, where_zero(counts, nothing, weight))
    return from_element(room, -first_row), True


@inline
def choose_targets(running, tile, classes, count, targets, first_row, masses, probabilities):
    """The same; of rows of probabilities, the class with most of the mass."""
    if not masses[2]:
        number_targets(running, tile, count, targets, first_row)
        return
    lanes = lanes_of(tile)
    for k in range(0, count, lanes):
        number = heaviest_of_lanes(tile, k, classes, min(lanes, count - k), masses, probabilities)
        store(running, CHOSEN + k, number)


@inline
def look_at_targets(states, running, tile, first, classes, count, options, cap):
    """The logit of each row's target, capped in float64, and as the sums have met it.

    NaN where there is none: of probabilities that are all NaN, or of indices that have changed since they were checked.
    """
    place, start, stride, _ = tile
    lanes = lanes_of(place)
    for k in range(0, count, lanes):
        numbers, at = load(running, CHOSEN + first + k), start + first + k
        x = chosen_elements(place, at, 1, stride, numbers, classes, count - k)
        if options.softcap > 0.0:
            store_real(states, AT_TARGET + k, tanh(x * cap[0]) * cap[1])
        store_real(states, X_TARGET + k, x)
    if options.softcap > 0.0:
        for k in range(0, count, LANES):
            store(states, X_TARGET + k, capped(load(states, X_TARGET + k), options))


@outlined
def weigh_by_class(states, field, running, first, classes, count, weight):
    """A field becomes the class weight of each row's target."""
    lanes = lanes_of(running)
    for k in range(0, count, lanes):
        numbers = load(running, CHOSEN + first + k)
        store_real(states, field + k, chosen_elements(weight, 0, 0, 1, numbers, classes, count - k))


@inline
def weigh_targets(states, running, first, classes, count, probabilities, masses, options, at_target):
    """The mass of each row's target and of all others together; what DISTANCES lacks of a sum over the others."""
    _, _, has_probabilities, weight, has_weight = masses
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, LANES):
        store(states, TARGET_MASS + k, zero + (options.keep + options.spread))
    if has_probabilities:
        place, start, stride, _ = probabilities
        for k in range(0, count, lanes_of(place)):
            numbers, at = load(running, CHOSEN + first + k), start + first + k
            store_real(states, TARGET_MASS + k, chosen_elements(place, at, 1, stride, numbers, classes, count - k))
        for k in range(0, count, LANES):
            store(states, TARGET_MASS + k, load(states, TARGET_MASS + k) * options.keep + options.spread)
    if has_weight:
        weigh_by_class(states, LOSS, running, first, classes, count, weight)  # room, for now
        for k in range(0, count, LANES):
            store(states, TARGET_MASS + k, load(states, TARGET_MASS + k) * load(states, LOSS + k))
    elif options.spread > 0.0 and not has_probabilities:
        for k in range(0, count, LANES):
            of_target = load(states, at_target + k) - load(states, NEAR + k)
            store(states, DISTANCES + k, (load(states, DISTANCES + k) - of_target) * options.spread)
            store(states, REST_MASS + k, zero + options.spread * (classes - 1))


@inline
def look_at_rows(states, running, sums, tile, first, count, classes, options, cap, of_targets):
    """The states of a group of rows of a tile; their targets are still in the sums of exp."""
    masses, probabilities, at_target = of_targets
    put_into_states(states, running, sums, lanes_of(tile[0]), first, count, masses)
    look_at_targets(states, running, tile, first, classes, count, options, cap)
    weigh_targets(states, running, first, classes, count, probabilities, masses, options, at_target)
