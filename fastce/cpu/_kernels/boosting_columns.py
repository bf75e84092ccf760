"""Gradient and Hessian diagonal, a row in each lane, with one exponential for both; the formulas are boosting.py's.

Without a cap and z_loss, and with e = v a M p_c, the first term of the gradient, h_c = a e (1 - p_c), where p_c is
e / (v a M). Where p_c is more than half, 1 - p_c would lose its digits; only the row's largest class can be that. Its
term has been held back from the row's sum, which thereby is the sum of all others.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import capping
from fastce.cpu._kernels.column_targets import choose_targets, look_at_rows, new_weights, without_ignored
from fastce.cpu._kernels.columns import choose_references, masses_of_class, sum_tile
from fastce.cpu._kernels.cross_entropy_columns import masses_of, set_upstream, types_of_cube
from fastce.cpu._kernels.hard import (
    are_hard,
    counted,
    sum_from_references,
    sum_hard_and_hold,
)
from fastce.cpu._kernels.hard_states import look_at_hard_rows, put_largest
from fastce.cpu._kernels.lines import (
    ABOVE,
    AT_CHOSEN,
    CHOSEN,
    LINE,
    REFERENCE,
    SHARE,
    keep_for_gradient,
    new_running,
    new_sums,
)
from fastce.cpu._kernels.narrow import (
    coming_rows,
    cut_at,
    first_cut,
    new_tile,
    tile_and_source,
    tile_of,
    tile_width,
    write_through,
)
from fastce.cpu._kernels.states import (
    EXPONENT,
    FITS,
    GROUP,
    LANES,
    REST,
    REST_MASS,
    TARGET_MASS,
    TOP,
    TOTAL,
    UPSTREAM,
    X_TARGET,
    finish_gradients,
    finish_states,
    leave_targets_out,
    mark_fitting,
    new_states,
    report_misfits,
    without_offset,
)
from fastce.cpu._kernels.sunken import mark_by_masses
from fastce.cpu._kernels.targets import Curvature, options_type, scale_of
from fastce.cpu._kernels.written_columns import write_tile
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure
from fastce.cpu._vectors.exponential import exp, headroom, scaling, with_factor_1
from fastce.cpu._vectors.lanes import any_nan, load_real, store_where
from fastce.cpu._vectors.memory import (
    elements,
    finish_stores,
    keep_first,
    lanes_of,
    load,
    load_first,
    row_pointer,
    store,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.rooms import float64_room, real_room
from fastce.cpu._vectors.simd import fma, where_equal, where_less, where_zero

OTHERS, INVERSE, OF_LARGEST = 0 * GROUP, 1 * GROUP, 2 * GROUP  # of a group of rows, in float64
LARGEST, AT_LARGEST, TO_P = 0 * LINE, 1 * LINE, 2 * LINE  # of a tile: x of the largest class, its Hessian, 1 / (v a M)
WIDEST = 2.0**60  # v a M beyond, or its inverse, is for other kernels

_new_group = float64_room(3 * GROUP)
_new_lines = real_room(3 * LINE)


@inline
def keep_others(states, group, count):
    """What REST is while the largest class is held back."""
    for k in range(0, count, LANES):
        store(group, OTHERS + k, load(states, REST + k))


@outlined
def finish_hessians(states, group, count, scale, factor):
    """The largest class's Hessian, and what makes p of a gradient's first term; FITS becomes 0 where neither fits."""
    scaled_by = scaling(states, scale, 1.0)
    zero = load_first(states, 0, 0, 0.0)
    all_fit = True
    for k in range(0, count, LANES):
        product = load(states, UPSTREAM + k) * (load(states, REST_MASS + k) + load(states, TARGET_MASS + k))
        total, others = load(states, TOTAL + k), load(group, OTHERS + k)
        largest = exp(load(states, TOP + k), load(states, EXPONENT + k), scaled_by)
        store(group, OF_LARGEST + k, product * factor * (largest / total) * (others / total))
        store(group, INVERSE + k, where_zero(product, zero, (zero + 1.0) / product))
        size = where_less(product, 0.0, product * -1.0, product)
        odd = where_less(size, 1.0 / WIDEST, math.nan, where_less(size, WIDEST, zero, math.nan))
        odd = keep_first(where_zero(product, zero, odd), min(LANES, count - k))
        if any_nan(odd):
            all_fit = False
            for j in range(k, min(k + LANES, count)):
                mass = abs(states[UPSTREAM + j] * (states[REST_MASS + j] + states[TARGET_MASS + j]))
                if mass != 0.0 and not (1.0 / WIDEST <= mass < WIDEST):
                    states[FITS + j] = 0.0
    return all_fit


@inline
def keep_for_hessian(lines, states, group, lanes, first, count):
    """What the Hessians of a group of rows are made of."""
    for k in range(0, count, lanes):
        store(lines, LARGEST + first + k, load_real(lines, states, TOP + k))
        store(lines, AT_LARGEST + first + k, load_real(lines, group, OF_LARGEST + k))
        store(lines, TO_P + first + k, load_real(lines, group, INVERSE + k))


@inline
def put_in_place(place, i, vector, count):
    """Write into a tile, of which other elements are still to be read."""
    if count == lanes_of(place):
        store_whole(place, i, vector, False)
    else:
        one = load_first(place, 0, 0, to_real(place, 1.0))
        store_where(place, i, vector, keep_first(one, count))


@inline
def write_curved_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """The Hessians of these classes of one vector of rows; in a copy, the gradient takes the place of the logits."""
    lines, scaled_by, masses, probabilities, factor, lowest = rest
    place, start, stride, is_array = tile
    written, out_start, out_stride = out
    exponent, share, target = load(running, REFERENCE + k), load(running, SHARE + k), load(running, CHOSEN + k)
    of_target, minus_upstream = load(running, AT_CHOSEN + k), load(running, ABOVE + k)
    largest, at_largest = load(lines, LARGEST + k), load(lines, AT_LARGEST + k)
    linear = to_real(place, factor)
    quadratic = load(lines, TO_P + k) * linear
    smallest = to_real(place, lowest)
    number = load_first(place, 0, 0, to_real(place, first))
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        power = exp(x, exponent, scaled_by)
        of_p = power * share
        hessian = where_equal(x, largest, at_largest, of_p * (linear - of_p * quadratic))
        hessian = where_less(hessian, smallest, smallest, hessian)
        store_whole(written, out_start + k + c * out_stride, hessian, past_cache)
        if is_array == 0:
            minus_q = minus_upstream * masses_of_class(masses, probabilities, k, count, c)
            gradient = where_equal(target, number, of_target, fma(power, share, minus_q))
            put_in_place(place, start + k + c * stride, gradient, count)
            number += to_real(place, 1.0)


@inline
def write_sloping_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """The gradients of these classes of one vector of rows, where the array is its own tile."""
    _, scaled_by, masses, probabilities, _, _ = rest
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    exponent, share, target = load(running, REFERENCE + k), load(running, SHARE + k), load(running, CHOSEN + k)
    of_target, minus_upstream = load(running, AT_CHOSEN + k), load(running, ABOVE + k)
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        minus_q = minus_upstream * masses_of_class(masses, probabilities, k, count, c)
        gradient = fma(exp(x, exponent, scaled_by), share, minus_q)
        gradient = where_equal(target, to_real(place, c), of_target, gradient)
        store_whole(written, out_start + k + c * out_stride, gradient, past_cache)


@inline
def copy_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """These classes of one vector of rows as the tile has them."""
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        store_whole(written, out_start + k + c * out_stride, x, past_cache)


@outlined
def write_hessians(running, tile, classes, count, out, to_copy, all_fit, past_cache, rest):
    """The Hessians of every row of a tile."""
    write_tile(write_curved_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)


@outlined
def write_slopes(running, tile, classes, count, out, to_copy, all_fit, past_cache, rest):
    """The gradients of every row of a tile; in a copy they are in their places already."""
    if tile[3] != 0:
        write_tile(write_sloping_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)
    elif not to_copy:
        write_tile(copy_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)


def _types(storage):
    cube, narrow, targets = types_of_cube(storage)
    curvature = structure(Curvature, types.float64, types.float64)
    return (
        cube, cube, narrow, targets, options_type, curvature, matrix(types.uint8), cube, cube, types.boolean,
        types.boolean,
    )  # fmt: skip


@kernel(_types)
def gradient_and_hessian_columns(
    source, logits, narrow, targets, options, curvature, misfits, gradient, hessian, narrow_hessian, past_cache
):
    """gradient[o, :, i] and hessian[o, :, i]: the derivatives of v_i times the loss of row i; no cap, no z_loss.

    Rows where ``misfits`` becomes 1 are not written: they are for `gradient_and_hessian_rows`.
    """
    outer, classes, rows = logits.shape
    has_probabilities = targets.probabilities.shape[1] > 0
    room, other_room, hessian_room = new_tile(logits), new_tile(targets.class_weight), new_tile(logits)
    states, running, sums, group_room, lines = (
        new_states(), new_running(room), new_sums(), _new_group(), _new_lines(room)
    )  # fmt: skip
    weights = new_weights()
    without_offset(states)
    upstream = _new_group()
    upstream[0] = 1.0
    lanes, for_hard = lanes_of(room), (counted(room, classes), running)
    ratio, capped_at, scaled_by = capping(room, options.logit_scale, options.softcap)
    cap = ratio, capped_at
    scale = scale_of(options)
    masses, in_common = masses_of(room, targets, options), True
    hard, highest = are_hard(classes, cap, masses), headroom(room)
    factor = options.logit_scale * curvature.factor
    width = tile_width(classes, narrow.logits or narrow.probabilities or narrow.gradient or narrow_hessian)
    for o in range(outer):
        given_weights = row_pointer(targets.row_weight, o), targets.row_weight.shape[0] > 0
        of_rows = row_pointer(targets.classes, o)
        for cut in range(first_cut(gradient, narrow.gradient, o, width), rows, width):
            first, count = cut_at(cut, width, rows)
            tile, origin = tile_and_source(source, logits, narrow.logits, o, first, count, room, width)
            probabilities = (other_room, 0, 0, 0)
            if has_probabilities:
                probabilities = tile_of(targets.probabilities, narrow.probabilities, o, first, count, other_room, width)
            choose_targets(running, room, classes, count, of_rows, first, masses, probabilities)
            row_weights = without_ignored(running, room, count, first, targets.ignored, given_weights, weights)
            coming = coming_rows(logits, narrow.logits, o, first + count, classes)
            if hard:
                in_common = sum_from_references(
                    sum_hard_and_hold, running, sums, tile, origin, classes, count, scale, scaled_by, coming, for_hard,
                    False, in_common,
                )  # fmt: skip
            else:
                if tile[3] != 0:
                    choose_references(running, tile, origin, classes, count, cap, scale)
                sum_tile(running, sums, tile, origin, classes, count, cap, scale, scaled_by, masses, probabilities)
            all_fit = True
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                if hard:
                    fit = look_at_hard_rows(states, running, sums, group, here, classes, options, masses, scaled_by)
                    put_largest(states, running, sums, group_room, OTHERS, lanes, group, here)
                else:
                    of_targets = masses, probabilities, X_TARGET
                    look_at_rows(states, running, sums, tile, group, here, classes, options, cap, of_targets)
                    keep_others(states, group_room, here)
                    leave_targets_out(states, here, scale, X_TARGET)
                    finish_states(states, 0, here, scale, 0.0)
                    fit = mark_fitting(states, here, scale, highest)
                fit = mark_by_masses(states, here, at, classes, masses, given_weights, lanes == LANES) and fit
                set_upstream(states, here, at, upstream, True, *row_weights, options.logit_scale)
                fit = finish_hessians(states, group_room, here, scale, factor) and fit
                if not fit:
                    all_fit = False
                    report_misfits(states, here, at, row_pointer(misfits, o))
                finish_gradients(states, here, 0.0)
                keep_for_gradient(running, states, lanes, group, here)
                keep_for_hessian(lines, states, group_room, lanes, group, here)
            rest = lines, with_factor_1(scaled_by), masses, probabilities, factor, curvature.lowest
            place = o, first, count, classes, width
            write_through(
                write_hessians, hessian, narrow_hessian, place, hessian_room, running, tile, all_fit, past_cache, rest
            )
            write_through(
                write_slopes, gradient, narrow.gradient, place, room, running, tile, all_fit, past_cache, rest
            )
    if past_cache:
        finish_stores()
