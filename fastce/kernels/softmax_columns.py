"""logsumexp, softmax and log_softmax, a row in each lane.

The largest term is held back from its row's sum, so that  lse - x_max = log1p(s / e_max)  keeps its digits near 0.
"""

import math

from numba import types

from fastce.kernels.blocks import scratch_block
from fastce.kernels.columns import choose_references, put_lanes, sum_tile, write_tile
from fastce.kernels.exponential import exp, headroom, scaling
from fastce.kernels.jit import inline, kernel, matrix, outlined
from fastce.kernels.lanes import any_nan, lesser_and_top, load_real, store_real
from fastce.kernels.lines import ABOVE, FITTING, HIGHEST, REFERENCE, SHARE, new_running, new_sums, put_into_states
from fastce.kernels.memory import (
    elements,
    keep_first,
    lanes_of,
    load,
    load_first,
    row_pointer,
    store,
    store_first,
    to_real,
)
from fastce.kernels.narrow import new_tile, put_tile, row_stride_of, tile_of, tile_to_write, tile_width
from fastce.kernels.simd import where_less
from fastce.kernels.softmax import probability
from fastce.kernels.states import (
    EXPONENT,
    FITS,
    GROUP,
    LANES,
    LOSS,
    REST,
    TOP,
    TOTAL,
    UPSTREAM,
    finish_logsumexp,
    mark_fitting,
    new_states,
    report_misfits,
)


@inline
def look_at_tile(running, sums, tile, classes, count):
    """The largest element of every row of the tile, and the sum without its term."""
    place = tile[0]
    zero = to_real(place, 0.0)
    masses = (zero, zero, False, scratch_block(place), False)
    choose_references(running, tile, classes, count, (zero, zero), 1.0)
    scaled_by = scaling(place, 1.0, 1.0)
    sum_tile(running, sums, tile, classes, count, (zero, zero), scaled_by, masses, (place, 0, 0, 0))
    return masses


@outlined
def sum_again_in_float64(states, tile, k, first, classes, count):
    """The sums of one vector of float32 rows, every step in float64."""
    place, start, stride, _ = tile
    scaled_by = scaling(states, 1.0, 1.0)
    zero = load_first(states, 0, 0, 0.0)
    for j in range(k, k + lanes_of(place), LANES):
        store(states, REST + j, zero)
        store(states, TOP + j, zero - math.inf)
    for c in range(classes):
        store_real(states, UPSTREAM + k, elements(place, start + first + k + c * stride, count, to_real(place, 0.0)))
        for j in range(k, k + lanes_of(place), LANES):
            lesser, top = lesser_and_top(load(states, UPSTREAM + j), load(states, TOP + j))
            store(states, TOP + j, top)
            store(states, REST + j, load(states, REST + j) + exp(lesser, load(states, EXPONENT + j), scaled_by))


@inline
def mend_near_zero(states, tile, first, classes, count):
    """A logsumexp near 0 that no cancellation brought there is as exact as its sum: float64 for those of float32."""
    lanes = lanes_of(tile[0])
    if lanes == LANES:
        return
    any_near_zero = False
    for k in range(0, count, lanes):
        near_zero = False
        for j in range(k, min(k + lanes, count), LANES):
            log_sum, largest = load(states, LOSS + j), load(states, TOP + j)
            small = where_less((log_sum + largest) * (log_sum + largest), 0.25, math.nan, log_sum)
            near_zero = near_zero or any_nan(where_less(largest * largest, log_sum * log_sum, small, 0.0))
        if near_zero:
            sum_again_in_float64(states, tile, k, first, classes, min(lanes, count - k))
            any_near_zero = True
    if any_near_zero:
        finish_logsumexp(states, count)


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
def write_classes(running, tile, k, first, stop, count, out, how, logarithm):
    """Softmax, or (x - x_max) - log(sum / exp(x_max)), of these classes of one vector of rows."""
    place, start, stride, _ = tile
    written, out_start, out_stride = out
    exponent, factor, fitting = (
        load(running, REFERENCE + k),
        load(running, SHARE + k),
        keep_first(load(running, FITTING + k), count),
    )
    largest, log_sum = load(running, HIGHEST + k), load(running, ABOVE + k)
    scaled_by = scaling(place, 1.0, 1.0)
    for c in range(first, stop):
        x = elements(place, start + k + c * stride, count, to_real(place, 0.0))
        y = (x - largest) - log_sum if logarithm else probability(x, exponent, factor, scaled_by)
        put_lanes(written, out_start + k + c * out_stride, y, how, fitting)


@outlined
def write_results(running, tile, classes, count, out, to_copy, all_fit, past_cache, logarithm):
    """The results of every row of a tile."""
    write_tile(write_classes, running, tile, classes, count, out, to_copy, all_fit, past_cache, logarithm)


def _cube(storage):
    return types.Array(storage, 3, "A")


@kernel(lambda storage: (_cube(storage), types.boolean, matrix(types.float64), matrix(types.uint8)))
def logsumexp_columns(logits, narrow, results, misfits):
    """results[o, i] = log(sum(exp(logits[o, :, i]))); where ``misfits`` becomes 1 it is for `logsumexp_rows`."""
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    running, sums = new_running(room), new_sums()
    width = tile_width(classes, narrow)
    for o in range(outer):
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = tile_of(logits, narrow, o, first, count, room, width)
            masses = look_at_tile(running, sums, tile, classes, count)
            for group in range(0, count, GROUP):
                here, at = min(GROUP, count - group), first + group
                put_into_states(states, running, sums, lanes_of(room), group, here, masses)
                finish_logsumexp(states, here)
                mend_near_zero(states, tile, group, classes, here)
                if not mark_fitting(states, here, 1.0, headroom(room)):
                    report_misfits(states, here, at, row_pointer(misfits, o))
                for k in range(0, here, LANES):
                    lse = load(states, LOSS + k) + load(states, TOP + k)
                    store_first(row_pointer(results, o), at + k, lse, min(LANES, here - k))


@kernel(
    lambda storage: (
        _cube(storage), types.boolean, _cube(storage), types.boolean, types.boolean, matrix(types.uint8), types.boolean,
    )
)  # fmt: skip
def softmax_columns(logits, narrow, out, narrow_out, logarithm, misfits, past_cache):
    """out[o, :, i] = softmax(logits[o, :, i]) or its logarithm; rows where ``misfits`` becomes 1 are not written."""
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    running, sums = new_running(room), new_sums()
    lanes = lanes_of(room)
    width = tile_width(classes, narrow or narrow_out)
    for o in range(outer):
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = tile_of(logits, narrow, o, first, count, room, width)
            masses = look_at_tile(running, sums, tile, classes, count)
            all_fit = True
            for group in range(0, count, GROUP):
                here = min(GROUP, count - group)
                put_into_states(states, running, sums, lanes, group, here, masses)
                finish_logsumexp(states, here)
                if not mark_fitting(states, here, 1.0, headroom(room)):
                    all_fit = False
                    report_misfits(states, here, first + group, row_pointer(misfits, o))
                keep_for_writing(running, states, lanes, group, here)
            written = tile_to_write(out, narrow_out, o, first, room, width)
            write_results(running, tile, classes, count, written, narrow_out, all_fit, past_cache, logarithm)
            if narrow_out:
                put_tile(room, width, count, classes, row_pointer(out, o), row_stride_of(out), first, running, all_fit)
