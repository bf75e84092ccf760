"""Gradient and Hessian diagonal, a row in each lane, with one exponential for both; the formulas are boosting.py's.

Without a cap and z_loss, and with e = v a M p_c, the first term of the gradient, h_c = a e (1 - p_c), where p_c is
e / (v a M). Where p_c is more than half, 1 - p_c would lose its digits; only the row's largest class can be that. Its
term has been held back from the row's sum, which thereby is the sum of all others.
"""

from numba import types

from fastce.cpu._kernels.blocks import capping
from fastce.cpu._kernels.column_targets import choose_targets, look_at_rows, new_weights, without_ignored
from fastce.cpu._kernels.columns import masses_of_class
from fastce.cpu._kernels.cross_entropy_columns import masses_of, set_upstream, types_of_cube
from fastce.cpu._kernels.guesses import sum_from_guesses
from fastce.cpu._kernels.hard import are_hard, counted, sum_from_references, sum_hard_and_hold
from fastce.cpu._kernels.hard_states import look_at_hard_rows
from fastce.cpu._kernels.hessians import (
    finish_hard_hessians,
    finish_hessians,
    hessian_of,
    keep_others,
    new_group,
    new_lines,
    parts_of_hessian,
    put_kept_hessians,
)
from fastce.cpu._kernels.kept_gradients import finish_hard_gradients, finish_kept, new_kept, put_kept
from fastce.cpu._kernels.lines import (
    ABOVE,
    AT_CHOSEN,
    CHOSEN,
    REFERENCE,
    SHARE,
    keep_for_gradient,
    new_running,
    new_sums,
)
from fastce.cpu._kernels.narrow import (
    COPIED,
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
    GROUP,
    LANES,
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
from fastce.cpu._vectors.exponential import exp, headroom, with_factor_1
from fastce.cpu._vectors.lanes import store_where
from fastce.cpu._vectors.memory import (
    elements,
    finish_stores,
    keep_first,
    lanes_of,
    load,
    load_first,
    row_pointer,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.simd import fma, where_equal


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
    of_hessian, scaled_by, masses, probabilities = rest
    place, start, stride, is_array = tile
    written, out_start, out_stride = out
    exponent, share, target = load(running, REFERENCE + k), load(running, SHARE + k), load(running, CHOSEN + k)
    of_target, minus_upstream = load(running, AT_CHOSEN + k), load(running, ABOVE + k)
    parts = parts_of_hessian(running, k, of_hessian)
    number = load_first(place, 0, 0, to_real(place, first))
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        power = exp(x, exponent, scaled_by)
        store_whole(written, out_start + k + c * out_stride, hessian_of(x, power * share, parts), past_cache)
        if is_array == 0:
            minus_q = minus_upstream * masses_of_class(masses, probabilities, k, count, c)
            gradient = where_equal(target, number, of_target, fma(power, share, minus_q))
            put_in_place(place, start + k + c * stride, gradient, count)
            number += to_real(place, 1.0)


@inline
def write_sloping_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """The gradients of these classes of one vector of rows, where the array is its own tile."""
    _, scaled_by, masses, probabilities = rest
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


@inline
def finish_soft(states, group, count, scale, highest):
    """Whether all of these rows, which have been looked at with their targets among all classes, fit."""
    keep_others(states, group, count)
    leave_targets_out(states, count, scale, X_TARGET)
    finish_states(states, 0, count, scale, 0.0)
    return mark_fitting(states, count, scale, highest)


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
    states, running, sums, group_room, lines = new_states(), new_running(room), new_sums(), new_group(), new_lines(room)
    weights = new_weights()
    without_offset(states)
    upstream = new_group()
    upstream[0] = 1.0
    lanes, numbers, kept = lanes_of(room), counted(room, classes), new_kept(room)
    keeps = (narrow.logits or classes <= COPIED) and lanes != LANES
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
                    sum_hard_and_hold, running, sums, tile, origin, classes, count, scale, scaled_by, coming,
                    (numbers, kept), keeps, in_common,
                )  # fmt: skip
            else:
                sum_from_guesses(
                    running, sums, tile, origin, classes, count, cap, scale, scaled_by, masses, probabilities
                )
            all_fit, is_written = True, False
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                if hard:
                    of_group = group, here, classes, options, masses, scaled_by
                    fit = look_at_hard_rows(states, running, sums, *of_group, True)
                else:
                    of_targets = masses, probabilities, X_TARGET
                    look_at_rows(states, running, sums, tile, group, here, classes, options, cap, of_targets)
                    fit = finish_soft(states, group_room, here, scale, highest)
                fit = mark_by_masses(states, here, at, classes, masses, given_weights, lanes == LANES) and fit
                set_upstream(states, here, at, upstream, True, *row_weights, options.logit_scale)
                if hard:
                    of_sums = running, sums, group_room, group, here
                    fit = finish_hard_hessians(lines, states, *of_sums, factor, scaled_by) and fit
                else:
                    fit = finish_hessians(lines, states, group_room, group, here, scale, factor) and fit
                if not fit:
                    all_fit = False
                    report_misfits(states, here, at, row_pointer(misfits, o))
                if hard and keeps and all_fit and finish_kept(states, running, here, scaled_by):
                    is_written = True
                    continue
                if hard:
                    finish_hard_gradients(states, here)
                else:
                    finish_gradients(states, here, 0.0)
                keep_for_gradient(running, states, lanes, group, here)
            of_hessian = lines, factor, curvature.lowest
            if is_written:
                exps = running, numbers, room, kept
                put_kept_hessians(exps, width, count, hessian, narrow_hessian, o, first, past_cache, of_hessian)
                put_kept(exps, width, count, gradient, narrow.gradient, o, first, past_cache)
                continue
            rest = of_hessian, with_factor_1(scaled_by), masses, probabilities
            place = o, first, count, classes, width
            write_through(
                write_hessians, hessian, narrow_hessian, place, hessian_room, running, tile, all_fit, past_cache, rest
            )
            write_through(
                write_slopes, gradient, narrow.gradient, place, room, running, tile, all_fit, past_cache, rest
            )
    if past_cache:
        finish_stores()
