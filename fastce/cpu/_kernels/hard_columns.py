"""Cross entropy of few classes with hard targets, a row in each lane: kernels of their own, so that most first calls
wait for no more than they need.

They do what cross_entropy_columns.py does of any targets, with the sums of hard.py.
"""

import math

from numba import types

from fastce.cpu._kernels.column_targets import new_weights, number_targets, without_ignored
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.cross_entropy_columns import (
    cross_entropy_columns,
    masses_of,
    put_losses,
    set_upstream,
    soft_columns,
    types_of_call,
    types_of_cube,
    write_classes,
)
from fastce.cpu._kernels.hard import counted, sum_from_references, sum_hard, sum_hard_and_keep
from fastce.cpu._kernels.hard_states import look_at_hard_rows
from fastce.cpu._kernels.kept_gradients import finish_hard_gradients, finish_kept, new_kept, put_kept
from fastce.cpu._kernels.lines import keep_for_gradient, new_running, new_sums
from fastce.cpu._kernels.narrow import (
    COPIED,
    Narrow,
    coming_rows,
    cut_at,
    fill_tile,
    first_cut,
    new_tile,
    row_stride_of,
    tile_and_source,
    tile_width,
    write_through,
)
from fastce.cpu._kernels.slope_products import put_hard_products
from fastce.cpu._kernels.states import (
    GROUP,
    LANES,
    new_states,
    report_misfits,
    without_offset,
)
from fastce.cpu._kernels.sunken import mark_by_weights
from fastce.cpu._kernels.targets import ColumnTargets, options_type
from fastce.cpu._kernels.written_columns import write_tile
from fastce.cpu._vectors.compiler import Kernel, inline, kernel, matrix, outlined
from fastce.cpu._vectors.exponential import scaling, with_factor_1
from fastce.cpu._vectors.memory import lanes_of, row_pointer


@outlined
def write_gradients(running, tile, classes, count, out, to_copy, all_fit, past_cache, rest):
    """The gradients of every row of a tile."""
    scaled_by, masses = rest
    rest = None, with_factor_1(scaled_by), masses, None
    write_tile(write_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, rest)


@inline
def over_tiles(summed, source, logits, narrow, targets, options, losses, misfits, slopes):
    """The losses of all rows, and their gradients or products, unless ``slopes``, where these go, is None.

    The source is None if the classes of a row are adjacent and all rows weigh the same, so that nothing else need be
    compiled: Numba leaves out what is not asked for.
    """
    outer, classes, rows = logits.shape
    room = new_tile(logits)
    states, running, sums, weights = new_states(), new_running(room), new_sums(), new_weights()
    without_offset(states)
    lanes, scale = lanes_of(room), options.logit_scale
    scaled_by, masses = scaling(room, scale, 1.0), masses_of(room, targets, options)
    numbers, kept, keeps, in_common = counted(room, classes), running, False, True
    written, is_narrow = logits, narrow.logits
    if slopes is not None:
        written, is_narrow = slopes[2], narrow.gradient
        with_products = slopes[1].shape[1] > 0
        kept, keeps = new_kept(room), (narrow.logits or classes <= COPIED) and lanes != LANES
    width = tile_width(classes, narrow.logits or narrow.gradient)
    for o in range(outer):
        given_weights = row_pointer(targets.row_weight, o), targets.row_weight.shape[0] > 0
        for cut in range(first_cut(written, is_narrow, o, width), rows, width):
            first, count = cut_at(cut, width, rows)
            if source is None:
                fill_tile(row_pointer(logits, o), row_stride_of(logits), first, count, classes, room, width)
                tile, origin = (room, 0, width, 0), None
            else:
                tile, origin = tile_and_source(source, logits, narrow.logits, o, first, count, room, width)
            number_targets(running, room, count, row_pointer(targets.classes, o), first)
            row_weights = given_weights
            if source is not None:
                row_weights = without_ignored(running, room, count, first, targets.ignored, given_weights, weights)
            coming = coming_rows(logits, narrow.logits, o, first + count, classes)
            in_common = sum_from_references(
                summed, running, sums, tile, origin, classes, count, scale, scaled_by, coming, (numbers, kept), keeps,
                in_common,
            )  # fmt: skip
            all_fit, is_written = True, False
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                fit = look_at_hard_rows(states, running, sums, group, here, classes, options, masses, scaled_by, source)
                put_losses(states, here, at, *row_weights, row_pointer(losses, o))
                if source is not None:
                    fit = mark_by_weights(states, here, at, classes, masses, given_weights, lanes == LANES) and fit
                if not fit:
                    all_fit = False
                    report_misfits(states, here, at, row_pointer(misfits, o))
                if slopes is not None:
                    upstream, products, gradient, past_cache = slopes
                    one_for_all = upstream.size == 1
                    from_above = row_pointer(upstream, 0 if one_for_all else o)
                    set_upstream(states, here, at, from_above, one_for_all, *row_weights, scale)
                    if with_products:
                        exps, to = (kept, keeps, scaled_by), row_pointer(products, o)
                        put_hard_products(states, running, sums, tile, exps, group, here, classes, row_weights, at, to)
                        continue
                    if keeps and all_fit and finish_kept(states, running, here, scaled_by):
                        tables = running, numbers, room, kept
                        put_kept(tables, width, count, gradient, narrow.gradient, o, first, past_cache)
                        is_written = True
                        continue
                    finish_hard_gradients(states, here)
                    keep_for_gradient(running, states, lanes, group, here)
            if slopes is not None:
                if is_written or with_products:
                    continue
                place, rest = (o, first, count, classes, width), (scaled_by, masses)
                write_through(
                    write_gradients, gradient, narrow.gradient, place, room, running, tile, all_fit, past_cache, rest
                )


def types_of_plain_call(storage):
    """Those of the arguments of `plain_losses`."""
    cube, _, targets = types_of_cube(storage)
    return cube, targets.types[0], options_type, matrix(types.float64), matrix(types.uint8)


@kernel(types_of_call)
def hard_losses(source, logits, narrow, targets, options, losses, misfits, upstream, products, gradient, past_cache):
    """`cross_entropy_columns` without gradients."""
    over_tiles(sum_hard, source, logits, narrow, targets, options, losses, misfits, None)


@kernel(types_of_plain_call)
def plain_losses(logits, classes, options, losses, misfits):
    """The same of adjacent classes, without weights: what most first calls wait for.

    It is given no more than it needs: a small call would take a third of its time for handing over what is empty.
    """
    targets = ColumnTargets(classes, logits[:0], logits[0, 0, :0], losses[:0], math.nan)
    over_tiles(sum_hard, None, logits, Narrow(True, False, False), targets, options, losses, misfits, None)


@kernel(types_of_call)
def hard_gradients(source, logits, narrow, targets, options, losses, misfits, upstream, products, gradient, past_cache):
    """`cross_entropy_columns` with gradients, or with products, which are made of exps."""
    slopes = upstream, products, gradient, past_cache
    over_tiles(sum_hard_and_keep, source, logits, narrow, targets, options, losses, misfits, slopes)


def kernel_of_columns(classes, options, has_indices, with_gradient, is_plain) -> Kernel:
    """What computes such rows: these kernels where all mass is on a target, of so few classes that all are counted.

    Plain are rows whose classes are adjacent, without weights and without ignored ones among them. Of the arguments of
    the others, `plain_losses` takes those that `of_plain` leaves.
    """
    if classes > NARROW or options.softcap > 0.0 or (has_indices and options.spread > 0.0):
        return cross_entropy_columns
    if not has_indices:
        return soft_columns
    return hard_gradients if with_gradient else plain_losses if is_plain else hard_losses


def of_plain(source, logits, narrow, targets, options, losses, misfits, *of_gradient):
    """The arguments of `plain_losses`, from those of the other kernels."""
    return logits, targets.classes, options, losses, misfits
