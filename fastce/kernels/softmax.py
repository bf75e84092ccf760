"""logsumexp, softmax and log_softmax, a row at a time."""

import math

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, outlined, vector
from fastce.kernels.logarithm import log_times_power
from fastce.kernels.memory import (
    BLOCK,
    element,
    finish_stores,
    lanes_of,
    load,
    load_first,
    next_step,
    prefetch,
    row_pointer,
    scratch_block,
    store,
    store_first,
    store_past_cache,
    wide_scratch_block,
)
from fastce.kernels.rows import (
    block_sums,
    guessed_maximum,
    no_masses,
    on_block,
    row_maximum,
    row_state,
    to_real,
)
from fastce.kernels.states import EXPONENT, LANES, LOSS, OFFSET, REST, new_states
from fastce.kernels.vector import exp, exp_in_float64, scaling

ROWS_AT_A_TIME = 16
PREFETCHED = 65_536  # elements of the next row that are asked for while this row's result is written


@outlined
def sum_in_float64(row, classes, left_out, exponent, room):
    """The row's sum of exponentials without one class, every step in float64."""
    total = 0.0
    scaled_by = scaling(room, 1.0, 1.0)
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        for c in range(start, stop):
            room[c - start] = element(row, c) if c != left_out else -math.inf
        total += block_sums(room, 0, stop - start, float(exponent), 0.0, scaled_by)[0]
    return total


@inline
def look_at_row(row, classes, scale, states, k, room):
    """Write the row's reference and sum to the states; the offset is NaN or infinite where they mean nothing."""
    uncapped = (to_real(row, 0.0), to_real(row, 0.0))
    guess = guessed_maximum(row, classes, uncapped, room)
    offset, exponent, _, sums = row_state(
        row, classes, -1, guess, uncapped, scaling(row, scale, 1.0), room, no_masses(row)
    )
    states[OFFSET + k] = offset
    states[EXPONENT + k] = exponent
    states[REST + k] = sums[0]


@outlined
def logsumexp_near_zero(row, classes, result, exponent, room, wide_room):
    """log(sum(exp(x))) of a row such as [0, -40] that one term dominates: x_y + log1p(s / e_y), s without that term."""
    uncapped = (to_real(row, 0.0), to_real(row, 0.0))
    largest, left_out = row_maximum(row, classes, uncapped, room)
    if result - largest > 0.75:  # no term dominates
        return result
    while element(row, left_out) != largest:
        left_out += 1
    rest = sum_in_float64(row, classes, left_out, exponent, wide_room)
    return largest + math.log1p(rest / exp_in_float64(largest, exponent, 1.0))


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def logsumexp_rows(logits, results):
    """results[i] = log(sum(exp(logits[i]))) as float64."""
    rows, classes = logits.shape
    states = new_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    for first in range(0, rows, ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, rows - first)
        for k in range(count):
            look_at_row(row_pointer(logits, first + k), classes, 1.0, states, k, room)
        for k in range(0, count, LANES):
            lse = load(states, OFFSET + k) + log_times_power(load(states, REST + k), load(states, EXPONENT + k))
            store(states, LOSS + k, lse)
        for k in range(count):
            result = states[LOSS + k]
            if not math.isfinite(states[OFFSET + k]):
                result = states[OFFSET + k]
            elif math.isnan(states[REST + k]):
                result = math.nan
            elif abs(result) < 0.5:
                row = row_pointer(logits, first + k)
                result = logsumexp_near_zero(row, classes, result, states[EXPONENT + k], room, wide_room)
            results[first + k] = result


@kernel(lambda storage: (matrix(storage), types.float64, vector(types.float64), vector(types.float64)))
def row_states(logits, scale, sums, exponents):
    """The state of each row: sums[i] * 2**exponents[i] = sum(exp(scale * logits[i])), for rows of moderate size."""
    states = new_states()
    room = scratch_block(row_pointer(logits, 0))
    for i in range(logits.shape[0]):
        look_at_row(row_pointer(logits, i), logits.shape[1], scale, states, 0, room)
        offset = states[OFFSET]
        sums[i] = states[REST] if math.isfinite(offset) else math.exp(offset)
        exponents[i] = states[EXPONENT] if math.isfinite(offset) else 0.0


@inline
def softmax_vector(x, reference, shifts, logarithm):
    """Either factor * exp(x) / 2**exponent or (x - largest) - log(sum / exp(largest)).

    The factor comes last, so that results below the smallest normal number are not lost.
    """
    exponent, factor, scaled_by = reference
    largest, log_sum = shifts
    if logarithm:
        return (x - largest) - log_sum
    return exp(x, exponent, scaled_by) * factor


@inline
def write_block(block, first, start, stop, rest):
    """Whole vectors, past the cache if so asked, and the partial ones at either end; the next row is sent for."""
    out, reference, shifts, logarithm, past_cache, next_row = rest
    lanes = lanes_of(block)
    to_block, i = first - start, start
    while i < stop:
        whole, count = next_step(out, i, stop, past_cache)
        if count > 0:
            x = load_first(block, i + to_block, count, to_real(block, 0.0))
            store_first(out, i, softmax_vector(x, reference, shifts, logarithm), count)
            i += count
            continue
        for _ in range(whole):
            y = softmax_vector(load(block, i + to_block), reference, shifts, logarithm)
            if past_cache:
                if i < PREFETCHED:
                    prefetch(next_row, i)
                store_past_cache(out, i, y)
            else:
                store(out, i, y)
            i += lanes


@inline
def largest_and_rest(row, classes, room):
    """(largest, log(sum / exp(largest))) of a row; the largest term is left out of the sum, which keeps its digits.

    Where the largest is NaN or infinite the second is NaN; but log_softmax of finite elements beside +inf is -inf.
    """
    zero = to_real(row, 0.0)
    largest, left_out = row_maximum(row, classes, (zero, zero), room)
    if not math.isfinite(largest):
        return largest, math.nan if largest != math.inf else 0.0
    while element(row, left_out) != largest:
        left_out += 1
    offset, exponent, _, sums = row_state(
        row, classes, left_out, largest, (zero, zero), scaling(row, 1.0, 1.0), room, no_masses(row)
    )
    return largest, math.log1p(sums[0] / exp_in_float64(largest - offset, exponent, 1.0))


@kernel(lambda storage: (matrix(storage), matrix(storage), types.boolean, types.boolean))
def softmax_rows(logits, out, logarithm, past_cache):
    """out[i] = softmax(logits[i]), or its logarithm. out may be logits."""
    rows, classes = logits.shape
    states = new_states()
    room = scratch_block(row_pointer(logits, 0))
    for i in range(rows):
        row, out_row = row_pointer(logits, i), row_pointer(out, i)
        next_row = row_pointer(logits, min(i + 1, rows - 1))
        zero = to_real(row, 0.0)
        shifts, offset, exponent, factor = (zero, zero), zero, zero, zero
        if logarithm:
            largest, log_sum = largest_and_rest(row, classes, room)
            shifts = to_real(row, largest), to_real(row, log_sum)
        else:
            look_at_row(row, classes, 1.0, states, 0, room)
            offset, exponent = to_real(row, states[OFFSET]), to_real(row, states[EXPONENT])
            factor = to_real(row, 1.0 / states[REST])
            if not math.isfinite(states[OFFSET]):
                offset, factor = zero, to_real(row, math.nan)
        reference = exponent, factor, scaling(row, 1.0, 1.0)
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            rest = out_row, reference, shifts, logarithm, past_cache, next_row
            on_block(write_block, row, start, stop, (zero, zero), offset, room, rest)
    if past_cache:
        finish_stores()
