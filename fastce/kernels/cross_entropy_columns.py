"""Cross entropy and its gradient, a row in each lane; the formulas are those of cross_entropy.py and states.py."""

import math
from typing import Any, NamedTuple

from numba import types

from fastce.kernels.blocks import capping
from fastce.kernels.columns import choose_references, heaviest_of_lanes, sum_tile, write_tile
from fastce.kernels.jit import inline, kernel, matrix, real_of, structure, vector
from fastce.kernels.lanes import load_numbers, store_real
from fastce.kernels.memory import element, lanes_of, load, load_first, pointer, row_pointer, store, store_first, to_real
from fastce.kernels.narrow import Narrow, new_tile, put_tile, row_stride_of, tile_of, tile_width
from fastce.kernels.states import (
    FITS,
    LANES,
    LOSS,
    TARGET,
    TARGET_MASS,
    UPSTREAM,
    X_TARGET,
    finish_gradients,
    finish_states,
    mark_fitting,
    new_states,
)
from fastce.kernels.targets import Options
from fastce.kernels.vector import overflow_bound, tanh


class ColumnTargets(NamedTuple):
    """As `targets.Targets`, with one point per row (or none) and rows along the last axis."""

    classes: Any  # int64 (outer, rows), or (0, 0)
    probabilities: Any  # (outer, classes, rows) in the compute dtype, or (0, 0, 0)
    class_weight: Any  # (classes,) in the compute dtype, or (0,)
    row_weight: Any  # float64 (outer, rows), or (0, 0)


@inline
def choose_targets(states, tile, classes, count, targets, first_row, masses, probabilities):
    """The class of each row that is left out of its sums: the target, or the one with most of the mass."""
    lanes = lanes_of(tile)
    for k in range(0, count, lanes):
        here = min(lanes, count - k)
        if masses[2]:
            number = heaviest_of_lanes(tile, k, classes, here, masses, probabilities)
        else:
            number = load_numbers(tile, targets, first_row + k, here)
        store_real(states, TARGET + k, number)


@inline
def look_at_targets(states, tile, classes, count, probabilities, class_weight, options, masses):
    """The logit and the mass of each row's target."""
    place, start, stride, _ = tile
    _, _, has_probabilities, _, has_weight = masses
    for k in range(count):
        y = int(states[TARGET + k])
        if not 0 <= y < classes:  # probabilities that are all NaN, or indices that have changed since they were checked
            states[X_TARGET + k] = math.nan
            continue
        x = element(place, start + y * stride + k)
        if options.softcap > 0.0:
            x = options.softcap * tanh(x * (options.logit_scale / options.softcap))
        mass = options.keep
        if has_probabilities:
            mass *= element(probabilities[0], probabilities[1] + y * probabilities[2] + k)
        mass += options.spread
        states[X_TARGET + k] = x
        states[TARGET_MASS + k] = mass * class_weight[y] if has_weight else mass


@inline
def put_losses(states, count, first, row_weight, has_row_weight, losses, misfits, all_fit):
    """Each row's weight times its loss; rows that do not fit are reported."""
    for k in range(0, count, LANES):
        here = min(LANES, count - k)
        loss = load(states, LOSS + k)
        if has_row_weight:
            loss = loss * load_first(row_weight, first + k, here, 0.0)
        store_first(losses, first + k, loss, here)
    if not all_fit:
        for k in range(count):
            if states[FITS + k] == 0.0:
                misfits[first + k] = 1


@inline
def set_upstream(states, count, first, upstream, one_for_all, row_weight, has_row_weight, scale):
    """What each row's gradient is multiplied by."""
    for k in range(0, count, LANES):
        here = min(LANES, count - k)
        above = load_first(upstream, 0 if one_for_all else first + k, 0 if one_for_all else here, upstream[0])
        if has_row_weight:
            above = above * load_first(row_weight, first + k, here, 0.0)
        store(states, UPSTREAM + k, above * scale)


def _types(storage):
    real = real_of(storage)
    cube = types.Array(storage, 3, "A")
    targets = structure(
        ColumnTargets, matrix(types.int64), types.Array(real, 3, "A"), vector(real), matrix(types.float64)
    )
    options = structure(Options, *(types.float64 for _ in Options._fields))
    narrow = structure(Narrow, *(types.boolean for _ in Narrow._fields))
    per_row = matrix(types.float64)
    return cube, narrow, targets, options, per_row, matrix(types.uint8), per_row, cube


@kernel(_types)
def cross_entropy_columns(logits, narrow, targets, options, losses, misfits, upstream, gradient):
    """losses[o, i] = v_i times the loss of row i, and its gradient if there is room for one.

    Rows where ``misfits`` becomes 1 have no gradient written: they are for `cross_entropy_rows`.
    """
    outer, classes, rows = logits.shape
    with_gradient = gradient.shape[1] > 0
    has_probabilities = targets.probabilities.shape[1] > 0
    room, other_room = new_tile(logits), new_tile(targets.class_weight)
    states = new_states()
    ratio, cap, scaled_by = capping(room, options.logit_scale, options.softcap)
    scale = 1.0 if options.softcap > 0.0 else options.logit_scale
    weight = pointer(targets.class_weight)
    masses = (
        to_real(room, options.keep), to_real(room, options.spread), has_probabilities, weight,
        targets.class_weight.shape[0] > 0,
    )  # fmt: skip
    bound = overflow_bound(room)
    width = tile_width(classes, narrow.logits or narrow.probabilities or narrow.gradient)
    for o in range(outer):
        row_weight, has_row_weight = row_pointer(targets.row_weight, o), targets.row_weight.shape[0] > 0
        one_for_all = upstream.size == 1
        from_above = row_pointer(upstream, 0 if one_for_all else o)
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = tile_of(logits, narrow.logits, o, first, count, room, width)
            probabilities = (other_room, 0, 0, 0)
            if has_probabilities:
                probabilities = tile_of(targets.probabilities, narrow.probabilities, o, first, count, other_room, width)
            looked_at = choose_references(states, tile, classes, count, (ratio, cap), scale, False)
            numbers = row_pointer(targets.classes, o)
            choose_targets(states, room, classes, count, numbers, first, masses, probabilities)
            sum_tile(states, tile, classes, count, looked_at, (ratio, cap), scaled_by, masses, probabilities)
            look_at_targets(states, tile, classes, count, probabilities, weight, options, masses)
            finish_states(states, 0, count, scale, options.z_loss)
            all_fit = mark_fitting(states, count, bound)
            put_losses(
                states, count, first, row_weight, has_row_weight, row_pointer(losses, o), row_pointer(misfits, o),
                all_fit,
            )  # fmt: skip
            if not with_gradient:
                continue
            set_upstream(states, count, first, from_above, one_for_all, row_weight, has_row_weight, options.logit_scale)
            finish_gradients(states, count, options.softcap)
            out, out_start, out_stride = room, 0, width
            if not narrow.gradient:
                out, out_start, out_stride, _ = tile_of(gradient, False, o, first, count, room, width, False)
            write_tile(
                states, tile, classes, count, (ratio, cap), scaled_by, masses, probabilities,
                (out, out_start, out_stride, narrow.gradient),
            )  # fmt: skip
            if narrow.gradient:
                to = row_pointer(gradient, o)
                put_tile(room, width, count, classes, to, row_stride_of(gradient), first, states, all_fit)
