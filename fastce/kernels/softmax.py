"""logsumexp, softmax and log_softmax of rows."""

import math

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, outlined, vector
from fastce.kernels.memory import (
    BLOCK,
    element,
    lanes_of,
    load,
    load_first,
    row_pointer,
    scratch_block,
    store,
    store_first,
    wide_scratch_block,
)
from fastce.kernels.rows import (
    block_sums,
    guessed_maximum,
    log_times_power,
    no_masses,
    prepared,
    row_maximum,
    row_state,
    row_sums,
    to_real,
)
from fastce.kernels.vector import exp, exp_in_float64, scaling


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
def logsumexp_of_row(row, classes, room, wide_room):
    """log(sum(exp(x))) of one row as float64.

    Near 0, in a row such as [0, -40] that one term dominates, that term is left out of the sum: x_y + log1p(s / e_y).
    """
    uncapped = (to_real(row, 0.0), to_real(row, 0.0))
    guess = guessed_maximum(row, classes, uncapped[0], uncapped[1], room)
    offset, exponent, _, sums = row_state(
        row, classes, -1, guess, uncapped, scaling(row, 1.0, 1.0), room, no_masses(row), room
    )
    result = offset + log_times_power(sums[0], exponent)
    if not abs(result) < 0.5:
        return result
    largest, left_out = row_maximum(row, classes, uncapped[0], uncapped[1], room)
    if result - largest > 0.75:  # no term dominates
        return result
    while element(row, left_out) != largest:
        left_out += 1
    rest = sum_in_float64(row, classes, left_out, exponent, wide_room)
    return largest + math.log1p(rest / exp_in_float64(largest, exponent, 1.0))


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def logsumexp_rows(logits, results):
    """results[i] = log(sum(exp(logits[i]))) as float64."""
    for i in range(logits.shape[0]):
        row = row_pointer(logits, i)
        results[i] = logsumexp_of_row(row, logits.shape[1], scratch_block(row), wide_scratch_block())


@kernel(lambda storage: (matrix(storage), types.float64, vector(types.float64), vector(types.float64)))
def row_states(logits, scale, sums, exponents):
    """The state of each row: sums[i] * 2**exponents[i] = sum(exp(scale * logits[i])), for rows of moderate size."""
    for i in range(logits.shape[0]):
        row = row_pointer(logits, i)
        room = scratch_block(row)
        uncapped = (to_real(row, 0.0), to_real(row, 0.0))
        largest = guessed_maximum(row, logits.shape[1], uncapped[0], uncapped[1], room)
        offset, exponent, _, of_row = row_state(
            row,
            logits.shape[1],
            -1,
            largest,
            uncapped,
            scaling(row, scale, 1.0),
            room,
            no_masses(row),
            room,
        )
        sums[i] = of_row[0] if math.isfinite(offset) else math.exp(offset)
        exponents[i] = exponent if math.isfinite(offset) else 0.0


@inline
def write_block(block, first, out, start, stop, exponent, factor, shift, scaled_by, logarithm):
    """Either factor * exp(x) / 2**exponent or x - shift, as whole vectors and a last partial one."""
    lanes = lanes_of(block)
    for i in range(start, stop, lanes):
        count = min(lanes, stop - i)
        j = first + i - start
        x = load(block, j) if count == lanes else load_first(block, j, count, shift)
        y = x - shift if logarithm else exp(x, exponent, scaled_by) * factor
        if count == lanes:
            store(out, i, y)
        else:
            store_first(out, i, y, count)


@kernel(lambda storage: (matrix(storage), matrix(storage), types.boolean))
def softmax_rows(logits, out, logarithm):
    """out[i] = softmax(logits[i]), or its logarithm (x - max) - log(sum(exp(x - max))). out may be logits.

    The logarithm leaves the largest term out of the sum, so that it keeps its digits near 0.
    """
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        row, out_row = row_pointer(logits, i), row_pointer(out, i)
        room = scratch_block(row)
        zero = to_real(row, 0.0)
        scaled_by = scaling(row, 1.0, 1.0)
        largest, left_out = row_maximum(row, classes, zero, zero, room)
        if math.isfinite(largest):
            while element(row, left_out) != largest:
                left_out += 1
        offset = to_real(row, largest if math.isfinite(largest) else 0.0)
        sums = row_sums(
            row, classes, left_out if math.isfinite(largest) else -1, (zero, zero), offset, to_real(row, 0.0), zero,
            scaled_by, room, no_masses(row), room,
        )  # fmt: skip
        rest = sums[0]
        shift, factor = to_real(row, math.log1p(rest)), to_real(row, 1.0 / (1.0 + rest))
        if not math.isfinite(largest):
            # as SciPy: nan throughout, but for a logarithm with +inf, where finite elements become -inf
            factor, shift = to_real(row, math.nan), to_real(row, largest)
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            block, first = prepared(row, start, stop, zero, zero, offset, room)
            write_block(block, first, out_row, start, stop, to_real(row, 0.0), factor, shift, scaled_by, logarithm)
