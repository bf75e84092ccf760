"""logsumexp, softmax and log_softmax, a row in each lane.

The largest term is held back from its row's sum, so that  lse - x_max = log1p(s / e_max)  keeps its digits near 0.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import scratch_block
from fastce.cpu._kernels.columns import readable
from fastce.cpu._kernels.copied_tiles import nothing_comes
from fastce.cpu._kernels.exact_columns import (
    EXACT_AT_ONCE,
    EXACT_BY_SIZE,
    add_classes_exactly,
    sum_tile_by_size,
    sum_tile_exactly,
    where_low,
)
from fastce.cpu._kernels.guesses import sum_from_guesses
from fastce.cpu._kernels.lines import (
    ABOVE,
    EXPS,
    FITTING,
    HIGHEST,
    MASS_SUM,
    REFERENCE,
    SHARE,
    new_running,
    new_sums,
    put_exps,
    put_into_states,
    whole_sum,
)
from fastce.cpu._kernels.narrow import (
    cut_at,
    first_cut,
    new_tile,
    tile_and_source,
    tile_width,
    write_through,
)
from fastce.cpu._kernels.softmax import probability
from fastce.cpu._kernels.states import (
    EXP_TARGET,
    FITS,
    GROUP,
    LANES,
    LOSS,
    LSE,
    REST,
    TOP,
    TOTAL,
    mark_fitting,
    new_states,
    report_misfits,
    sum_in_full,
)
from fastce.cpu._kernels.written_columns import write_tile
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined
from fastce.cpu._vectors.exponential import headroom, scaling, with_factor_1
from fastce.cpu._vectors.lanes import any_nan, load_real
from fastce.cpu._vectors.logarithm import log1p_for
from fastce.cpu._vectors.memory import (
    elements,
    lanes_of,
    load,
    load_first,
    row_pointer,
    store,
    store_first,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.simd import where_less, where_zero

TINY = 2.0**-10  # of results, a few of what the carried sum keeps beyond its largest term


@inline
def no_masses(place):
    """The `masses` of rows without targets; see columns.py."""
    zero = to_real(place, 0.0)
    return zero, zero, False, scratch_block(place), False


@inline
def look_at_tile(running, sums, tile, source, classes, count):
    """The largest element of every row of the tile, and the sum without its term."""
    place = tile[0]
    cap = to_real(place, 0.0), to_real(place, 0.0)
    nothing = place, 0, 0, 0
    scaled_by = scaling(place, 1.0, 1.0)
    sum_from_guesses(running, sums, tile, source, classes, count, cap, 1.0, scaled_by, no_masses(place), nothing)


@outlined
def put_largest_exps(states, running, sums, first, count):
    """EXP_TARGET of a group of rows becomes that of the largest element."""
    lanes, scaled_by = lanes_of(running), with_factor_1(scaling(running, 1.0, 1.0))
    for k in range(0, count, lanes):
        put_exps(running, sums, lanes, HIGHEST, first + k, scaled_by)
    for k in range(0, count, LANES):
        store(states, EXP_TARGET + k, whole_sum(sums, lanes, MASS_SUM, first + k))


@outlined
def finish_log_sums(states, running, count):
    """LOSS becomes lse - x_max and TOTAL the whole sum, where REST is the sum without x_max."""
    for k in range(0, count, LANES):
        rest, exp_largest = load(states, REST + k), load(states, EXP_TARGET + k)
        store(states, LOSS + k, log1p_for(running, rest / exp_largest))
        store(states, TOTAL + k, rest + exp_largest)


@inline
def where_small(states, k):
    """NaN where a sum of float32 may be off by too much for one of these results, else a number.

    Such a sum may be off by 3.5 * 2**-24 of itself: 1.5 by exp, 2 by adding four terms. That is 0.44 ulp of a result
    from 4 on, so that with the last rounding it is below 1, and below 2 eps for results below 1 that come from a
    difference.
    """
    log_sum, largest = load(states, LOSS + k), load(states, TOP + k)
    square = (log_sum + largest) * (log_sum + largest)
    small = where_less(square, 1.0, where_less(largest * largest, log_sum * log_sum, math.nan, 0.0 * square), math.nan)
    return where_less(square, 16.0, small, 0.0)


@inline
def where_inexact(states, k, by_size):
    """NaN where a row is to be added up again."""
    return where_low(states, k) if by_size else where_small(states, k)


@outlined
def mend_small(running, sums, tile, group, classes, states, count, by_size):
    """Add up again, exactly, where results are small; only there, lest a row's bits depend on what lies beside it."""
    lanes = lanes_of(tile[0])
    mended = False
    for k in range(0, count, lanes):
        any_small = False
        for j in range(k, min(k + lanes, count), LANES):
            any_small = any_small or any_nan(where_inexact(states, j, by_size))
        if any_small:
            # all classes at once, in every layout: the same roundings
            here = readable(tile, group + k, group + count)
            add_classes_exactly(running, sums, tile, group + k, classes, here, nothing_comes(tile))
            for j in range(k, min(k + lanes, count), LANES):
                exps = whole_sum(sums, lanes, EXPS, group + j)
                odd = where_inexact(states, j, by_size)
                store(states, REST + j, where_less(odd, 1.0, load(states, REST + j), exps))
            mended = True
    if mended:
        finish_log_sums(states, running, count)


@outlined
def leave_tiny(states, count):
    """Results that are tiny, and no differences, become misfits: their terms are below what the carried sum keeps, and
    rounded once each. Nothing is to be won where there is no other term.
    """
    for k in range(0, count, LANES):
        log_sum, largest = load(states, LOSS + k), load(states, TOP + k)
        result = log_sum + largest
        tiny = where_less(result * result, TINY * TINY, where_less(log_sum, TINY, math.nan, log_sum), log_sum)
        store(states, LOSS + k, where_zero(log_sum, log_sum, tiny))


@inline
def keep_for_writing(running, states, lanes, first, count):
    """What the results of a group of rows are made of, out of the table of states."""
    one = load_first(running, 0, 0, to_real(running, 1.0))
    for k in range(0, count, lanes):
        store(running, SHARE + first + k, one / load_real(running, states, TOTAL + k))
        store(running, FITTING + first + k, load_real(running, states, FITS + k))
        store(running, HIGHEST + first + k, load_real(running, states, TOP + k))
        store(running, ABOVE + first + k, load_real(running, states, LOSS + k))


@inline
def write_classes(running, tile, k, first, stop, count, out, past_cache, logarithm):
    """Softmax, or (x - x_max) - log(sum / exp(x_max)), of these classes of one vector of rows."""
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    exponent, factor = load(running, REFERENCE + k), load(running, SHARE + k)
    largest, log_sum = load(running, HIGHEST + k), load(running, ABOVE + k)
    scaled_by = scaling(place, 1.0, 1.0)
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        y = (x - largest) - log_sum if logarithm else probability(x, exponent, factor, scaled_by)
        store_whole(written, out_start + k + c * out_stride, y, past_cache)


@outlined
def write_results(running, tile, classes, count, out, to_copy, all_fit, past_cache, logarithm):
    """The results of every row of a tile."""
    write_tile(write_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, logarithm)


def _cube(storage):
    return types.Array(storage, 3, "A")


@kernel(lambda storage: (_cube(storage), _cube(storage), types.boolean, matrix(types.float64), matrix(types.uint8)))
def logsumexp_columns(source, logits, narrow, results, misfits):
    """results[o, i] = log(sum(exp(logits[o, :, i]))); where ``misfits`` becomes 1 it is for `logsumexp_rows`.

    ``logits`` are the source, or room for a copy of it: see `columns.CopiedColumns`.
    """
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    running, sums = new_running(room), new_sums()
    width = tile_width(classes, narrow)
    exactly = classes <= EXACT_AT_ONCE
    by_size = classes <= EXACT_BY_SIZE
    in_full = lanes_of(room) == LANES and not exactly
    for o in range(outer):
        for cut in range(first_cut(logits, narrow, o, width), rows, width):
            first, count = cut_at(cut, width, rows)
            tile, origin = tile_and_source(source, logits, narrow, o, first, count, room, width)
            if exactly:
                sum_tile_exactly(running, sums, tile, origin, classes, count)
            elif by_size:
                sum_tile_by_size(running, sums, tile, origin, classes, count)
            else:
                look_at_tile(running, sums, tile, origin, classes, count)
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                put_into_states(states, running, sums, lanes_of(room), group, here, no_masses(room))
                put_largest_exps(states, running, sums, group, here)
                finish_log_sums(states, running, here)
                if not exactly:
                    mend_small(running, sums, tile, group, classes, states, here, by_size)
                if lanes_of(room) > LANES:
                    leave_tiny(states, here)
                if not mark_fitting(states, here, 1.0, headroom(room)):
                    report_misfits(states, here, at, row_pointer(misfits, o))
                if in_full:
                    sum_in_full(states, here)
                for k in range(0, here, LANES):
                    lse = load(states, LSE + k) if in_full else load(states, LOSS + k) + load(states, TOP + k)
                    store_first(row_pointer(results, o), at + k, lse, min(LANES, here - k))


@kernel(
    lambda storage: (
        _cube(storage), _cube(storage), types.boolean, _cube(storage), types.boolean, types.boolean,
        matrix(types.uint8), types.boolean,
    )
)  # fmt: skip
def softmax_columns(source, logits, narrow, out, narrow_out, logarithm, misfits, past_cache):
    """out[o, :, i] = softmax(logits[o, :, i]) or its logarithm; rows where ``misfits`` becomes 1 are not written."""
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    running, sums = new_running(room), new_sums()
    lanes = lanes_of(room)
    width = tile_width(classes, narrow or narrow_out)
    for o in range(outer):
        for cut in range(first_cut(out, narrow_out, o, width), rows, width):
            first, count = cut_at(cut, width, rows)
            tile, origin = tile_and_source(source, logits, narrow, o, first, count, room, width)
            look_at_tile(running, sums, tile, origin, classes, count)
            all_fit = True
            for group in range(0, count, GROUP):
                here = min(GROUP, count - group)
                put_into_states(states, running, sums, lanes, group, here, no_masses(room))
                put_largest_exps(states, running, sums, group, here)
                finish_log_sums(states, running, here)
                if not mark_fitting(states, here, 1.0, headroom(room)):
                    all_fit = False
                    report_misfits(states, here, first + group, row_pointer(misfits, o))
                keep_for_writing(running, states, lanes, group, here)
            place = o, first, count, classes, width
            write_through(write_results, out, narrow_out, place, room, running, tile, all_fit, past_cache, logarithm)
