"""logsumexp, softmax and log_softmax, a row at a time."""

import math

from numba import types

from fastce.cpu._kernels.blocks import (
    NO_CLASS,
    guessed_maximum,
    scratch_block,
    wide_scratch_block,
    write_in_blocks,
    write_vectors,
)
from fastce.cpu._kernels.rows import cleared_states, row_state
from fastce.cpu._kernels.states import (
    EXPONENT,
    LANES,
    LOSS,
    LSE,
    NEAR,
    OFFSET,
    REST,
    TOP,
    finish_logsumexp,
    sum_in_full,
)
from fastce.cpu._kernels.targets import no_dense_part
from fastce.cpu._kernels.tops import is_coarse, row_sum_in_float64, sum_of_tops
from fastce.cpu._vectors.compiler import inline, kernel, matrix, real_of, vector
from fastce.cpu._vectors.exponential import exp, exp_in_float64, keeps_exps, scaling
from fastce.cpu._vectors.memory import finish_stores, lanes_of, pointer, row_pointer, to_real
from fastce.cpu._vectors.simd import largest_lane, where_less

ROWS_AT_A_TIME = 16


@inline
def look_at_row(row, classes, scale, at_least, states, k, room, wide_room):
    """`look_and_keep`, which keeps nothing."""
    look_and_keep(row, classes, scale, at_least, states, k, room, wide_room, (room, False, False, False, 0.0))


@inline
def look_and_keep(row, classes, scale, at_least, states, k, room, wide_room, kept):
    """Write the reference, the largest element and the sum without it to the states; see `rows.row_state`.

    NEAR becomes the lowest of the lanes' largest elements.
    The reference is not lower than one near ``at_least``, for a piece of a row that has seen larger elements.
    """
    uncapped = (to_real(row, 0.0), to_real(row, 0.0))
    guess = max(guessed_maximum(row, classes, uncapped, room), at_least)
    offset, exponent, _, sums, tops, top = row_state(
        row, classes, -1, guess, uncapped, scaling(row, scale, 1.0), room, no_dense_part(row), kept
    )
    states[OFFSET + k] = offset
    states[EXPONENT + k] = exponent
    states[TOP + k] = top
    states[REST + k] = sums[0]
    states[NEAR + k] = -largest_lane(tops * to_real(row, -1.0))
    if math.isfinite(offset):
        states[REST + k] += sum_of_tops(tops, top, exponent, scale, wide_room)


@inline
def logsumexp_of_state(states, k, in_full):
    """An offset that is not finite is the result."""
    offset = states[OFFSET + k]
    if not math.isfinite(offset):
        return offset
    if math.isnan(states[REST + k]):
        return math.nan
    return states[LSE + k] if in_full and offset == 0.0 else (offset + states[TOP + k]) + states[LOSS + k]


@inline
def mend_small(logits, first, count, states, wide_room):
    """Results of which `is_coarse` get sums of float64."""
    any_small = False
    classes = logits.shape[1]
    for k in range(count):
        log_sum, top = states[LOSS + k], states[TOP + k]
        if is_coarse(states[OFFSET + k] + top + log_sum, log_sum, states[NEAR + k] == top):
            row = row_pointer(logits, first + k)
            states[REST + k] = row_sum_in_float64(row, classes, top, states[EXPONENT + k], wide_room)
            any_small = True
    if any_small:
        finish_logsumexp(states, count)


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def logsumexp_rows(logits, results):
    """results[i] = log(sum(exp(logits[i]))) as float64.

    The largest term is left out of its row's sum, so that  x_max + log1p(s / e_max)  keeps its digits near 0.
    """
    rows, classes = logits.shape
    states = cleared_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    in_full = lanes_of(row_pointer(logits, 0)) == LANES  # float64
    for first in range(0, rows, ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, rows - first)
        for k in range(count):
            look_at_row(row_pointer(logits, first + k), classes, 1.0, -math.inf, states, k, room, wide_room)
        finish_logsumexp(states, count)
        if in_full:
            sum_in_full(states, count)
        else:
            mend_small(logits, first, count, states, wide_room)
        for k in range(count):
            results[first + k] = logsumexp_of_state(states, k, in_full)


@inline
def probability(x, exponent, factor, scaled_by):
    """factor * exp(x) / 2**exponent, which roundings must not take above 1.

    The factor comes last, so that results below the smallest normal number are not lost.
    """
    p = exp(x, exponent, scaled_by) * factor
    one = scaled_by[5]
    return where_less(one, p, one, p)


@inline
def result_of_vector(x, i, count, past_cache, rest):
    """Either factor * exp(x) / 2**exponent or (x - largest) - log(sum / exp(largest))."""
    (exponent, factor, scaled_by), (largest, log_sum), logarithm = rest
    return (x - largest) - log_sum if logarithm else probability(x, exponent, factor, scaled_by)


@inline
def kept_probability(e, i, count, past_cache, rest):
    """`probability` from exp, which the first look has kept."""
    factor, one = rest
    p = e * factor
    return where_less(one, p, one, p)


@inline
def write_kept_row(kept, classes, out, total, past_cache):
    """A row's softmax from its exps and their sum."""
    factor, one, zero = to_real(kept, 1.0 / total), to_real(kept, 1.0), to_real(kept, 0.0)
    how = out, past_cache, (out, False), (NO_CLASS, zero)
    write_vectors(kept_probability, kept, 0, 0, classes, how, (factor, one))


@inline
def write_block(block, first, start, stop, rest):
    """The result of the elements from ``start`` to ``stop``."""
    how, rest_of_vector = rest
    write_vectors(result_of_vector, block, first, start, stop, how, rest_of_vector)


@inline
def found_in_row(states, logarithm):
    """What `write_row` must know: (offset, exponent, sum), or (largest, 0, rest / exp(largest)).

    Rows whose largest element is not finite are NaN; but finite elements beside +inf have the logarithm -inf.
    """
    offset, exponent, largest, rest = states[OFFSET], states[EXPONENT], states[TOP], states[REST]
    exp_largest = exp_in_float64(largest, exponent, 1.0)
    if not logarithm:
        return offset, exponent, rest + exp_largest
    if not math.isfinite(offset):
        return offset, 0.0, math.nan if offset != math.inf else 0.0
    return offset + largest, 0.0, rest / exp_largest


@inline
def write_row(row, classes, out, next_row, found, logarithm, room, past_cache):
    """A row's softmax from ``found``: (offset, exponent, sum); its logarithm from (largest, 0, rest / exp(largest))."""
    zero = to_real(row, 0.0)
    shifts, offset, exponent, factor = (zero, zero), zero, zero, zero
    if logarithm:
        shifts = to_real(row, found[0]), to_real(row, math.log1p(found[2]))
    else:
        offset, exponent, factor = to_real(row, found[0]), to_real(row, found[1]), to_real(row, 1.0 / found[2])
        if not math.isfinite(found[0]):
            offset, factor = zero, to_real(row, math.nan)
    rest = (exponent, factor, scaling(row, 1.0, 1.0)), shifts, logarithm
    write_in_blocks(write_block, row, classes, out, past_cache, next_row, offset, room, rest)


@kernel(lambda storage: (matrix(storage), matrix(storage), vector(real_of(storage)), types.boolean, types.boolean))
def softmax_rows(logits, out, room_for_exps, logarithm, past_cache):
    """out[i] = softmax(logits[i]), or its logarithm. out may be logits. The exps of a row are kept if there is room.

    Rows whose largest element is not finite are NaN; but finite elements beside +inf have the logarithm -inf.
    """
    rows, classes = logits.shape
    states = cleared_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    exps = pointer(room_for_exps)
    keeps = not logarithm and keeps_exps(row_pointer(logits, 0)) and room_for_exps.shape[0] > 0
    for i in range(rows):
        row, out_row = row_pointer(logits, i), row_pointer(out, i)
        next_row = row_pointer(logits, min(i + 1, rows - 1))
        if keeps:
            look_and_keep(row, classes, 1.0, -math.inf, states, 0, room, wide_room, (exps, True, True, False, 0.0))
            found = found_in_row(states, False)
            if math.isfinite(found[0]):
                write_kept_row(exps, classes, out_row, found[2], past_cache)
                continue
        else:
            look_at_row(row, classes, 1.0, -math.inf, states, 0, room, wide_room)
        found = found_in_row(states, logarithm)
        write_row(row, classes, out_row, next_row, found, logarithm, room, past_cache)
    if past_cache:
        finish_stores()
