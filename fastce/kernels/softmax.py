"""logsumexp, softmax and log_softmax of rows."""

import math

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, vector
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
)
from fastce.kernels.rows import (
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


@inline
def logsumexp_of_row(row, classes, room):
    """log(sum(exp(x))) of one row as float64.

    Near 0 the largest term is left out of the sum, x_y + log1p(s / e_y), or a row such as [0, -40] would give 0.
    """
    uncapped = (to_real(row, 0.0), to_real(row, 0.0))
    scaled_by = scaling(row, 1.0)
    largest, left_out = guessed_maximum(row, classes, uncapped[0], uncapped[1], room), -1
    while True:
        offset, exponent, _, sums = row_state(
            row, classes, left_out, largest, uncapped, scaled_by, room, no_masses(row), room
        )
        if left_out >= 0:
            return largest + math.log1p(sums[0] / exp_in_float64(largest, exponent))
        result = offset + log_times_power(sums[0], exponent)
        if not abs(result) < 0.5:
            return result
        largest, left_out = row_maximum(row, classes, uncapped[0], uncapped[1], room)
        while element(row, left_out) != largest:
            left_out += 1


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def logsumexp_rows(logits, results):
    """results[i] = log(sum(exp(logits[i]))) as float64."""
    for i in range(logits.shape[0]):
        row = row_pointer(logits, i)
        results[i] = logsumexp_of_row(row, logits.shape[1], scratch_block(row))


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
        scaled_by = scaling(row, 1.0)
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
