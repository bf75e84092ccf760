"""Rows whose classes come in pieces: what a piece has come to, and results from what all of them have.

A row's state is (top, rest): its largest element, and the sum of exp(scale (x - top)) over all others. So the state of
one class is (x, 0), that of none (-inf, -1), and  lse = scale top + log1p(rest)  keeps its digits near 0. The
reference is an element, not a power of two: states merge after the fact, and differences of elements are exact
wherever the row lies. The law by which they merge is in cpu/running.py.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import (
    scratch_block,
    wide_scratch_block,
    write_in_blocks,
    write_vectors,
)
from fastce.cpu._kernels.cross_entropy import fill_row
from fastce.cpu._kernels.rows import cleared_states, reference_near
from fastce.cpu._kernels.softmax import look_at_row, mend_small, write_row
from fastce.cpu._kernels.states import EXPONENT, LANES, OFFSET, REST, TOP, finish_logsumexp
from fastce.cpu._vectors.compiler import inline, kernel, matrix, vector
from fastce.cpu._vectors.exponential import add_exp, exp_in_float64, scaling
from fastce.cpu._vectors.memory import finish_stores, lanes_of, load_first, row_pointer, to_real

ROWS_AT_A_TIME = 16


@inline
def state_of(states, k, scale):
    """(top, rest); of rows with NaN or +inf, that and 0."""
    offset = states[OFFSET + k]
    if offset == -math.inf:
        return offset, -1.0
    if not math.isfinite(offset):
        return offset, 0.0
    if math.isnan(states[REST + k]):
        return math.nan, 0.0
    top = states[TOP + k]
    return offset + top, states[REST + k] / exp_in_float64(top, states[EXPONENT + k], scale)


@kernel(lambda storage: (matrix(storage), types.float64, vector(types.float64), vector(types.float64)))
def states_rows(logits, scale, tops, rests):
    """The state of every row."""
    rows, classes = logits.shape
    states = cleared_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    is_float32 = lanes_of(row_pointer(logits, 0)) != LANES
    for first in range(0, rows, ROWS_AT_A_TIME):
        count = min(ROWS_AT_A_TIME, rows - first)
        for k in range(count):
            look_at_row(row_pointer(logits, first + k), classes, scale, -math.inf, states, k, room, wide_room)
        if is_float32 and scale == 1.0:  # as of logsumexp, whose bound is an ulp
            finish_logsumexp(states, count)
            mend_small(logits, first, count, states, wide_room)
        for k in range(count):
            tops[first + k], rests[first + k] = state_of(states, k, scale)


@kernel(
    lambda storage: (
        matrix(storage), vector(types.float64), vector(types.float64), matrix(storage), types.boolean, types.boolean,
    )
)  # fmt: skip
def softmax_from_states(logits, tops, rests, out, logarithm, past_cache):
    """out[i] = exp(logits[i] - lse), or the logarithm of that, of rows with these states. out may be logits."""
    rows, classes = logits.shape
    room = scratch_block(row_pointer(logits, 0))
    for i in range(rows):
        row, top = row_pointer(logits, i), tops[i]
        found = top, 0.0, rests[i] if top != -math.inf else math.nan
        if not logarithm:
            offset, exponent = reference_near(row, top, 1.0)
            found = offset, exponent, (1.0 + rests[i]) * exp_in_float64(top - offset, exponent, 1.0)
        next_row = row_pointer(logits, min(i + 1, rows - 1))
        write_row(row, classes, row_pointer(out, i), next_row, found, logarithm, room, past_cache)
    if past_cache:
        finish_stores()


@inline
def gradient_of_vector(x, i, count, past_cache, rest):
    """The product factor exp(scale x) / 2**exponent, and a number added to it, by one fma."""
    added, exponent, scaled_by = rest
    return add_exp(added, x, exponent, scaled_by)


@inline
def write_block(block, first, start, stop, rest):
    """The result of the elements from ``start`` to ``stop``."""
    how, (added, of_vector) = rest
    vector = load_first(block, first, 0, added)
    write_vectors(gradient_of_vector, block, first, start, stop, how, (vector, *of_vector))


@inline
def write_gradient(row, classes, scale, top, factor, added, out, next_row, room, past_cache):
    """factor * exp(scale (x - top)) + added: the factor's power of two is part of exp's own."""
    offset, exponent = reference_near(row, top, scale)
    fraction, power = math.frexp(factor / exp_in_float64(top - offset, exponent, scale))
    rest = to_real(row, added), (to_real(row, exponent - power), scaling(row, scale, fraction))
    write_in_blocks(write_block, row, classes, out, past_cache, next_row, to_real(row, offset), room, rest)


@kernel(
    lambda storage: (
        matrix(storage), types.float64, vector(types.float64), vector(types.float64), vector(types.float64),
        matrix(storage), types.boolean,
    )
)  # fmt: skip
def gradient_from_tops(logits, scale, tops, factors, added, out, past_cache):
    """out[i] = factors[i] * exp(scale (logits[i] - tops[i])) + added[i], where no element is above its top.

    Rows whose both numbers are 0 are 0, whatever they hold. out may be logits.
    """
    rows, classes = logits.shape
    room = scratch_block(row_pointer(logits, 0))
    for i in range(rows):
        row, of_row = row_pointer(logits, i), row_pointer(out, i)
        if factors[i] == 0.0 and added[i] == 0.0:
            fill_row(row, classes, 0.0, of_row)
        elif not math.isfinite(tops[i]) or math.isnan(factors[i]):
            fill_row(row, classes, math.nan, of_row)
        else:
            next_row = row_pointer(logits, min(i + 1, rows - 1))
            write_gradient(row, classes, scale, tops[i], factors[i], added[i], of_row, next_row, room, past_cache)
    if past_cache:
        finish_stores()
