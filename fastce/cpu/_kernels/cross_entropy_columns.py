"""Cross entropy and its gradient, a row in each lane; the formulas are those of cross_entropy.py and states.py."""

from numba import types

from fastce.cpu._kernels.blocks import capping
from fastce.cpu._kernels.column_targets import choose_targets, look_at_rows, new_weights, without_ignored
from fastce.cpu._kernels.columns import logits_at, masses_of_class
from fastce.cpu._kernels.guesses import sum_from_guesses
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
    Narrow,
    cut_at,
    first_cut,
    new_tile,
    tile_and_source,
    tile_of,
    tile_to_write,
    tile_width,
    write_through,
)
from fastce.cpu._kernels.points import points_type, put_points
from fastce.cpu._kernels.slope_products import keep_common_slopes, put_products_of_tile
from fastce.cpu._kernels.soft import find_heaviest, look_at_soft_rows, sum_soft
from fastce.cpu._kernels.states import (
    AT_TARGET,
    GROUP,
    LANES,
    LOSS,
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
from fastce.cpu._kernels.targets import column_targets_type, options_type, scale_of
from fastce.cpu._kernels.written_columns import write_tile
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure
from fastce.cpu._vectors.exponential import exp, headroom, with_factor_1
from fastce.cpu._vectors.memory import (
    elements,
    lanes_of,
    load,
    load_first,
    pointer,
    row_pointer,
    store,
    store_first,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.simd import fma, where_equal


@inline
def look_at_group(states, running, sums, tile, first, count, classes, options, of_logits, masses, probabilities):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit."""
    cap, scale = of_logits
    at_target = AT_TARGET if options.softcap > 0.0 else X_TARGET
    of_targets = masses, probabilities, at_target
    look_at_rows(states, running, sums, tile, first, count, classes, options, cap, of_targets)
    leave_targets_out(states, count, scale, at_target)
    finish_states(states, 0, count, scale, options.z_loss)
    return mark_fitting(states, count, scale, headroom(tile[0]))


@inline
def put_losses(states, count, first, row_weight, has_row_weight, losses):
    """Each row's weight times its loss."""
    for k in range(0, count, LANES):
        here = min(LANES, count - k)
        loss = load(states, LOSS + k)
        if has_row_weight:
            loss = loss * load_first(row_weight, first + k, here, 0.0)
        store_first(losses, first + k, loss, here)


@inline
def set_upstream(states, count, first, upstream, one_for_all, row_weight, has_row_weight, scale):
    """What each row's gradient is multiplied by."""
    for k in range(0, count, LANES):
        here = min(LANES, count - k)
        above = load_first(upstream, 0 if one_for_all else first + k, 0 if one_for_all else here, upstream[0])
        if has_row_weight:
            above = above * load_first(row_weight, first + k, here, 0.0)
        store(states, UPSTREAM + k, above * scale)


@inline
def write_varied_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """upstream * (p_c * mass - q_c) of these classes of one vector of rows, and their targets' from float64."""
    cap, scaled_by, masses, probabilities = rest
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    one = load_first(place, 0, 0, to_real(place, 1.0))
    exponent, factor, target = load(running, REFERENCE + k), load(running, SHARE + k), load(running, CHOSEN + k)
    of_target, minus_upstream = load(running, AT_CHOSEN + k), load(running, ABOVE + k)
    for c in range(first, stop):
        x = logits_at(place, start + k + c * stride, count, cap)
        minus_q = minus_upstream * masses_of_class(masses, probabilities, k, count, c)
        gradient = fma(exp(x, exponent, scaled_by), factor, minus_q)
        if cap[1] > 0:
            gradient = gradient * (one - (x / cap[1]) * (x / cap[1]))
        gradient = where_equal(target, to_real(place, c), of_target, gradient)
        store_whole(written, out_start + k + c * out_stride, gradient, past_cache)


@inline
def write_classes(running, tile, k, first, stop, count, out, past_cache, rest):
    """The same where q is one number and there is no cap."""
    _, scaled_by, masses, _ = rest
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    exponent, factor, target = load(running, REFERENCE + k), load(running, SHARE + k), load(running, CHOSEN + k)
    of_target, minus_q = load(running, AT_CHOSEN + k), load(running, ABOVE + k) * masses[1]
    number = load_first(place, 0, 0, to_real(place, first))
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        gradient = fma(exp(x, exponent, scaled_by), factor, minus_q)
        gradient = where_equal(target, number, of_target, gradient)
        store_whole(written, out_start + k + c * out_stride, gradient, past_cache)
        number += to_real(place, 1.0)


@outlined
def write_gradients(running, tile, classes, count, out, to_copy, all_fit, past_cache, rest):
    """The gradients of every row of a tile."""
    cap, scaled_by, masses, probabilities = rest
    rest = cap, with_factor_1(scaled_by), masses, probabilities
    if cap[1] > 0 or masses[2] or masses[4]:
        write_tile(write_varied_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)
    else:
        write_tile(write_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)


@inline
def masses_of(room, targets, options):
    """What `masses_of_class` needs to know of these targets, in the dtype of the tile."""
    return (
        to_real(room, options.keep),
        to_real(room, options.spread),
        targets.probabilities.shape[1] > 0,
        pointer(targets.class_weight),
        targets.class_weight.shape[0] > 0,
    )


def types_of_cube(storage):
    """Those of a cube of logits, of what is known of how it lies, and of its targets."""
    narrow = structure(Narrow, *(types.boolean for _ in Narrow._fields))
    return types.Array(storage, 3, "A"), narrow, column_targets_type(storage)


def types_of_call(storage):
    cube, narrow, targets = types_of_cube(storage)
    per_row = matrix(types.float64)
    outputs = per_row, matrix(types.uint8)
    return cube, cube, narrow, targets, options_type, *outputs, per_row, per_row, cube, types.boolean


@inline
def over_tiles(soft, points, source, logits, narrow, targets, options, losses, misfits, slopes):
    """`cross_entropy_columns`, or what is the same with the sums of soft.py if ``soft`` is not None.

    Unless they are None, the points are those of a sparse matrix, and the row of it that is the first of the logits:
    they are the probabilities.
    """
    upstream, products, gradient, past_cache = slopes
    outer, classes, rows = logits.shape
    with_gradient, with_products = gradient.shape[1] > 0, products.shape[1] > 0
    has_probabilities = targets.probabilities.shape[1] > 0
    room, other_room = new_tile(logits), new_tile(targets.class_weight)
    states, running, sums, weights = new_states(), new_running(room), new_sums(), new_weights()
    without_offset(states)
    lanes = lanes_of(room)
    ratio, capped_at, scaled_by = capping(room, options.logit_scale, options.softcap)
    cap, scale = (ratio, capped_at), scale_of(options)
    masses = masses_of(room, targets, options)
    of_logits = cap, scale
    width = tile_width(classes, narrow.logits or narrow.probabilities or narrow.gradient)
    for o in range(outer):
        given_weights = row_pointer(targets.row_weight, o), targets.row_weight.shape[0] > 0
        one_for_all = upstream.size == 1
        from_above = row_pointer(upstream, 0 if one_for_all else o)
        start = first_cut(gradient, narrow.gradient, o, width) if with_gradient else 0
        for cut in range(start, rows, width):
            first, count = cut_at(cut, width, rows)
            tile, origin = tile_and_source(source, logits, narrow.logits, o, first, count, room, width)
            probabilities = (other_room, 0, 0, 0)
            if points is not None:
                put_points(points[0], points[1] + o * rows + first, classes, count, other_room, width)
                probabilities = (other_room, 0, width, 0)
            elif has_probabilities:
                probabilities = tile_of(targets.probabilities, narrow.probabilities, o, first, count, other_room, width)
            of_rows, row_weights = row_pointer(targets.classes, o), given_weights
            if soft is None:
                choose_targets(running, room, classes, count, of_rows, first, masses, probabilities)
                row_weights = without_ignored(running, room, count, first, targets.ignored, given_weights, weights)
                sum_from_guesses(
                    running, sums, tile, origin, classes, count, cap, scale, scaled_by, masses, probabilities
                )
            else:
                find_heaviest(running, tile, origin, classes, count, scale, masses, probabilities)
                sum_soft(running, sums, tile, classes, count, scaled_by, masses, probabilities)
            all_fit = True
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                if soft is None:
                    fit = look_at_group(
                        states, running, sums, tile, group, here, classes, options, of_logits, masses, probabilities
                    )
                else:
                    fit = look_at_soft_rows(states, running, sums, tile, group, here, options, scaled_by)
                put_losses(states, here, at, *row_weights, row_pointer(losses, o))
                if not (mark_by_masses(states, here, at, classes, masses, given_weights, lanes == LANES) and fit):
                    all_fit = False
                    report_misfits(states, here, at, row_pointer(misfits, o))
                if with_gradient:
                    set_upstream(states, here, at, from_above, one_for_all, *row_weights, options.logit_scale)
                    finish_gradients(states, here, options.softcap)
                    if with_products:
                        keep_common_slopes(states, here, at, row_pointer(products, o))
                    keep_for_gradient(running, states, lanes, group, here)
            if not with_gradient:
                continue
            place, rest = (o, first, count, classes, width), (cap, scaled_by, masses, probabilities)
            write_through(
                write_gradients, gradient, narrow.gradient, place, room, running, tile, all_fit, past_cache, rest
            )
            if with_products:  # of gradients that no tile has replaced
                slopes = tile_to_write(gradient, False, o, first, room, width)
                of_rows = row_pointer(products, o)
                put_products_of_tile(sums, tile, slopes, first, count, classes, capped_at > 0, row_weights, of_rows)


@kernel(types_of_call)
def cross_entropy_columns(
    source, logits, narrow, targets, options, losses, misfits, upstream, products, gradient, past_cache
):
    """losses[o, i] = v_i times the loss of row i, and its gradient if there is room for one.

    Any targets will do; where all mass is on one class of few, the kernels of hard_columns.py are faster.
    If there are products, products[o, i] = sum_c gradient_c x_c of the row; the gradient is only room then, and not
    narrow. Rows where ``misfits`` becomes 1 have no gradient written: they are for `cross_entropy_rows`.
    """
    slopes = upstream, products, gradient, past_cache
    over_tiles(None, None, source, logits, narrow, targets, options, losses, misfits, slopes)


@kernel(types_of_call)
def soft_columns(source, logits, narrow, targets, options, losses, misfits, upstream, products, gradient, past_cache):
    """The same of few classes with probabilities, without a cap."""
    slopes = upstream, products, gradient, past_cache
    over_tiles(True, None, source, logits, narrow, targets, options, losses, misfits, slopes)


@kernel(lambda storage: (*types_of_call(storage), points_type, types.int64))
def point_columns(
    source, logits, narrow, targets, options, losses, misfits, upstream, products, gradient, past_cache, points,
    first_row,
):  # fmt: skip
    """The same of a sparse matrix of up to 64 classes, from a row on; the targets say that there are probabilities."""
    slopes = upstream, products, gradient, past_cache
    over_tiles(True, (points, first_row), source, logits, narrow, targets, options, losses, misfits, slopes)
