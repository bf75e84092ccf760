"""Targets of rows that lie in lanes: which class of a row is left out of its sums, its logit and its mass."""

import math

from fastce.cpu._kernels.columns import heaviest_of_lanes
from fastce.cpu._kernels.lines import CHOSEN, put_into_states
from fastce.cpu._kernels.states import (
    AT_TARGET,
    DISTANCES,
    LANES,
    NEAR,
    REST_MASS,
    TARGET,
    TARGET_MASS,
    X_TARGET,
)
from fastce.cpu._kernels.targets import capped
from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.elementary import tanh
from fastce.cpu._vectors.lanes import load_numbers, load_real, store_real
from fastce.cpu._vectors.memory import element, lanes_of, load, load_first, prefetch, store

AHEAD, A_LINE = 512, 8  # indices, of eight bytes


@inline
def choose_targets(running, tile, classes, count, targets, first_row, masses, probabilities):
    """The class of each row that is left out of its sums: the target, or the one with most of the mass."""
    lanes = lanes_of(tile)
    for k in range(0, count, lanes):
        here = min(lanes, count - k)
        if masses[2]:
            number = heaviest_of_lanes(tile, k, classes, here, masses, probabilities)
        else:
            for j in range(0, lanes, A_LINE):
                prefetch(targets, first_row + k + j + AHEAD)
            number = load_numbers(tile, targets, first_row + k, here)
        store(running, CHOSEN + k, number)


@inline
def look_at_targets(states, tile, first, classes, count, options, cap):
    """The logit of each row's target, capped in float64, and as the sums have met it."""
    place, start, stride, _ = tile
    for k in range(count):
        y = int(states[TARGET + k])
        x = math.nan  # probabilities that are all NaN, or indices that have changed since they were checked
        if 0 <= y < classes:
            x = element(place, start + first + y * stride + k)
        states[X_TARGET + k] = x
    if options.softcap > 0.0:
        for k in range(0, count, lanes_of(place)):
            store_real(states, AT_TARGET + k, tanh(load_real(place, states, X_TARGET + k) * cap[0]) * cap[1])
        for k in range(0, count, LANES):
            store(states, X_TARGET + k, capped(load(states, X_TARGET + k), options))


@inline
def weigh_targets(states, first, classes, count, probabilities, masses, options, at_target):
    """The mass of each row's target and of all others together; what DISTANCES lacks of a sum over the others."""
    _, _, has_probabilities, weight, has_weight = masses
    if has_probabilities or has_weight:
        for k in range(count):
            y = min(max(int(states[TARGET + k]), 0), classes - 1)
            mass = options.keep
            if has_probabilities:
                mass *= element(probabilities[0], probabilities[1] + first + y * probabilities[2] + k)
            mass += options.spread
            states[TARGET_MASS + k] = mass * weight[y] if has_weight else mass
        return
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, LANES):
        store(states, TARGET_MASS + k, zero + (options.keep + options.spread))
        if options.spread > 0.0:
            of_target = load(states, at_target + k) - load(states, NEAR + k)
            store(states, DISTANCES + k, (load(states, DISTANCES + k) - of_target) * options.spread)
            store(states, REST_MASS + k, zero + options.spread * (classes - 1))


@inline
def look_at_rows(states, running, sums, tile, first, count, classes, options, cap, of_targets):
    """The states of a group of rows of a tile; their targets are still in the sums of exp."""
    masses, probabilities, at_target = of_targets
    put_into_states(states, running, sums, lanes_of(tile[0]), first, count, masses)
    look_at_targets(states, tile, first, classes, count, options, cap)
    weigh_targets(states, first, classes, count, probabilities, masses, options, at_target)
