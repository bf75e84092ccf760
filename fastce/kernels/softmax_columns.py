"""logsumexp, softmax and log_softmax, a row in each lane.

The largest term is left out of its row's sum, so that  lse - x_max = log1p(s / e_max)  keeps its digits near 0. Along
an axis of many classes finding it first would be another read, so logsumexp does without it, and leaves the rows
whose result is near 0 to the kernels of rows.py.
"""

import math

from numba import types

from fastce.kernels.columns import NARROW, choose_references, sum_tile
from fastce.kernels.jit import inline, kernel, matrix, outlined
from fastce.kernels.lanes import any_nan, load_real, store_real, store_where, where_equal
from fastce.kernels.logarithm import log_times_power
from fastce.kernels.memory import lanes_of, load, load_first, row_pointer, scratch_block, store, store_first, to_real
from fastce.kernels.narrow import new_tile, put_tile, row_stride_of, tile_of, tile_width
from fastce.kernels.simd import where_less
from fastce.kernels.states import (
    EXPONENT,
    FITS,
    LANES,
    LOSS,
    REST,
    TARGET,
    TOTAL,
    UPSTREAM,
    X_TARGET,
    finish_logsumexp,
    mark_fitting,
    new_states,
)
from fastce.kernels.vector import exp, overflow_bound, scaling


@inline
def look_at_tile(states, tile, classes, count, leave_out, weight):
    """The sums of every row of the tile; without its largest term, which is then in X_TARGET."""
    place = tile[0]
    cap = (to_real(place, 0.0), to_real(place, 0.0))
    masses = (to_real(place, 0.0), to_real(place, 0.0), False, weight, False)
    if not leave_out:
        for k in range(count):
            states[TARGET + k] = -1.0
    looked_at = choose_references(states, tile, classes, count, cap, 1.0, leave_out)
    sum_tile(states, tile, classes, count, looked_at, cap, scaling(place, 1.0, 1.0), masses, (weight, 0, 0, 0))


@inline
def finish_sums(states, count, leave_out):
    """`finish_logsumexp`; without x_max, LOSS becomes lse itself, NaN if it is near 0."""
    if leave_out:
        finish_logsumexp(states, count)
        return
    for k in range(0, count, LANES):
        rest = load(states, REST + k)
        lse = log_times_power(rest, load(states, EXPONENT + k))
        store(states, LOSS + k, where_less(lse * lse, 0.25, math.nan, where_less(rest, math.inf, lse, math.nan)))


@outlined
def sum_again_in_float64(states, tile, k, classes, count):
    """The sums of one vector of float32 rows, every step in float64."""
    place, start, stride, _ = tile
    scaled_by = scaling(states, 1.0, 1.0)
    zero = load_first(states, 0, 0, 0.0)
    for j in range(k, k + lanes_of(place), LANES):
        store(states, REST + j, zero)
    for c in range(classes):
        store_real(states, UPSTREAM + k, load_first(place, start + k + c * stride, count, to_real(place, 0.0)))
        for j in range(k, k + lanes_of(place), LANES):
            e = exp(load(states, UPSTREAM + j), load(states, EXPONENT + j), scaled_by)
            others = where_equal(load(states, TARGET + j), float(c), zero, e)
            store(states, REST + j, load(states, REST + j) + others)


@inline
def mend_near_zero(states, tile, classes, count):
    """A logsumexp near 0 that no cancellation brought there is as exact as its sum: float64 for those of float32."""
    lanes = lanes_of(tile[0])
    if lanes == LANES:
        return
    any_near_zero = False
    for k in range(0, count, lanes):
        near_zero = False
        for j in range(k, min(k + lanes, count), LANES):
            log_sum, largest = load(states, LOSS + j), load(states, X_TARGET + j)
            small = where_less((log_sum + largest) * (log_sum + largest), 0.25, math.nan, log_sum)
            near_zero = near_zero or any_nan(where_less(largest * largest, log_sum * log_sum, small, 0.0))
        if near_zero:
            sum_again_in_float64(states, tile, k, classes, min(lanes, count - k))
            any_near_zero = True
    if any_near_zero:
        finish_logsumexp(states, count)


@inline
def report(states, count, first, misfits):
    """Note the rows that do not fit."""
    for k in range(count):
        if states[FITS + k] == 0.0:
            misfits[first + k] = 1


@inline
def write_lanes(states, tile, k, classes, count, written, to_tile, logarithm):
    """Softmax, or (x - x_max) - log(sum / exp(x_max)), of one vector of rows."""
    place, start, stride, _ = tile
    out, out_start, out_stride = written
    exponent, largest = load_real(place, states, EXPONENT + k), load_real(place, states, X_TARGET + k)
    total, log_sum = load_real(place, states, TOTAL + k), load_real(place, states, LOSS + k)
    fitting = load_real(place, states, FITS + k)
    factor = load_first(place, 0, 0, to_real(place, 1.0)) / total
    scaled_by = scaling(place, 1.0, 1.0)
    for c in range(classes):
        x = load_first(place, start + k + c * stride, count, to_real(place, 0.0))
        y = (x - largest) - log_sum if logarithm else exp(x, exponent, scaled_by) * factor
        if to_tile:
            store(out, out_start + k + c * out_stride, y)
        else:
            store_where(out, out_start + k + c * out_stride, y, fitting)


def _cube(storage):
    return types.Array(storage, 3, "A")


@kernel(lambda storage: (_cube(storage), types.boolean, matrix(types.float64), matrix(types.uint8)))
def logsumexp_columns(logits, narrow, results, misfits):
    """results[o, i] = log(sum(exp(logits[o, :, i]))); where ``misfits`` becomes 1 it is for `logsumexp_rows`."""
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    weight = scratch_block(room)
    leave_out = classes <= NARROW
    width = tile_width(classes, narrow)
    for o in range(outer):
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = tile_of(logits, narrow, o, first, count, room, width)
            look_at_tile(states, tile, classes, count, leave_out, weight)
            finish_sums(states, count, leave_out)
            if leave_out:
                mend_near_zero(states, tile, classes, count)
            if not mark_fitting(states, count, overflow_bound(room)):
                report(states, count, first, row_pointer(misfits, o))
            for k in range(0, count, LANES):
                lse = load(states, LOSS + k)
                if leave_out:
                    lse += load(states, X_TARGET + k)
                store_first(row_pointer(results, o), first + k, lse, min(LANES, count - k))


@kernel(
    lambda storage: (
        _cube(storage), types.boolean, _cube(storage), types.boolean, types.boolean, matrix(types.uint8)
    )
)  # fmt: skip
def softmax_columns(logits, narrow, out, narrow_out, logarithm, misfits):
    """out[o, :, i] = softmax(logits[o, :, i]) or its logarithm; rows where ``misfits`` becomes 1 are not written."""
    outer, classes, rows = logits.shape
    room, states = new_tile(logits), new_states()
    weight = scratch_block(room)
    lanes = lanes_of(room)
    width = tile_width(classes, narrow or narrow_out)
    for o in range(outer):
        for first in range(0, rows, width):
            count = min(width, rows - first)
            tile = tile_of(logits, narrow, o, first, count, room, width)
            look_at_tile(states, tile, classes, count, True, weight)
            finish_sums(states, count, True)
            all_fit = mark_fitting(states, count, overflow_bound(room))
            if not all_fit:
                report(states, count, first, row_pointer(misfits, o))
            written = (room, 0, width)
            if not narrow_out:
                to, to_start, to_stride, _ = tile_of(out, False, o, first, count, room, width, False)
                written = (to, to_start, to_stride)
            for k in range(0, count, lanes):
                write_lanes(states, tile, k, classes, min(lanes, count - k), written, narrow_out, logarithm)
            if narrow_out:
                put_tile(room, width, count, classes, row_pointer(out, o), row_stride_of(out), first, states, all_fit)
