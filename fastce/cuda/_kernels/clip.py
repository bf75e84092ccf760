"""Both directions of a contrastive loss on a GPU: from the states of rows and columns to losses and gradients.

With x = s y, and a_i what the loss of row i has for a factor in the value (b_j of column j):

    loss_i = sum of m_p (lse_i - x_p) over its positives p,    lse_i - x_p = s (top_i - y_p) + log1p(rest_i)
    dL/dx_ij = a_i (exp(x_ij - lse_i) - t_ij) + b_j (exp(x_ij - lse_j) - u_ij)
    exp(x_ij - lse_i) = exp(s (y_ij - top_i)) / (1 + rest_i)

A row without positives has the factor 0. Losses are multiplied by their factors in halves, and the sum of y dL/dx is
kept in parts, so that neither a distance nor a sum overflows before what comes of it does. The positives' gradients
(slopes) are found apart, in float64: they keep their digits where exp(x - lse) is near 1.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import PART
from fastce.cuda._kernels.primitives import (
    device,
    from_lane,
    kernel,
    lanes_of,
    load_real,
    new_reals,
    reals_of,
    store_real,
    to_real,
)
from fastce.cuda._kernels.similarity_tiles import (
    ROWS_OF_BLOCK,
    THREADS,
    four_chunks,
    next_point_by,
    place_of,
    store,
)
from fastce.cuda._kernels.states import MOST_WARPS, rough_exp_of
from fastce.cuda._kernels.sums import sum_of_block

SIDE_THREADS = 128
LANES = 8  # that share the points of a row
SMALL_PART = 2.0**-8  # of the elements of a thread, whose sums do not overflow then


class Factors(NamedTuple):
    """Of each row (or column): top, a / (1 + rest), and a times the mass that smoothing spreads, if there is any."""

    references: Any
    shares: Any
    spreads: Any


class Weights(NamedTuple):
    """Numbers of a direction, in float64."""

    scale: float
    of_halves: float  # 2 scale factor, of halves of distances of elements
    smoothing: float
    factor: float  # of the losses of rows that have positives
    classes: float
    lowered: float  # 2**-spare


@kernel(SIDE_THREADS, 4)
def gather(array, matrix, row_numbers, columns, start, end, elements):
    """elements[k] = the element at point k, from ``start`` to ``end``; points without numbers are on the diagonal."""
    k = start + cuda.grid(1)
    if k < end:
        i = np.int64(row_numbers[k]) if row_numbers.size > 0 else k
        c = np.int64(columns[k]) if columns.size > 0 else k
        place = matrix.origin + (i - matrix.first_row) * matrix.row_step + c * matrix.column_step
        elements[k] = np.float64(load_real(array, place))


@kernel(SIDE_THREADS, 4)
def add_directions(losses, count, results):
    """The losses of row i and of column i, both halved, together."""
    i = cuda.grid(1)
    if i < count:
        store_real(results, i, losses[i] + losses[count + i])


@functools.cache
def side_kernel(is_second: bool):
    """The kernel for the losses of rows (or columns) times their factors, and what their gradients are made of.

    The slopes of points become those of this direction; of the second, they are added.
    """

    @kernel(SIDE_THREADS, 4)
    def side(tops, rests, totals, near, count, elements, owners, weights, at, losses, factors, slopes):
        thread = cuda.grid(1)
        i, lane = thread // LANES, thread % LANES
        first = end = np.int64(0)
        top, rest = math.nan, 0.0
        if i < count:
            top, rest = tops[i], rests[i] * weights.lowered
            first, end = i, i + 1
            if owners.first.size > 0:
                first, end = owners.first[i], owners.first[i + 1]
        if math.isinf(top):
            top = math.nan  # neither is there a softmax of +inf, nor of -inf alone
        factor = weights.factor if end > first else 0.0
        tail, loss = math.log1p(rest), 0.0
        for k in range(first + lane, end, LANES):
            point = owners.order[k] if owners.order.size > 0 else k
            mass = owners.masses[point] if owners.masses.size > 0 else 1.0
            half = 0.5 * top - 0.5 * elements[point]
            distance = 2.0 * weights.scale * half + tail  # lse - x
            if weights.smoothing < 1.0:
                loss += (1.0 - weights.smoothing) * mass * (weights.of_halves * half + factor * tail)
            missing = (1.0 - mass) + weights.smoothing * (mass - 1.0 / weights.classes)  # 1 - target
            slope = factor * (math.expm1(-distance) + missing)
            if is_second:
                slope += slopes[point]
            slopes[point] = slope
        step = 1
        while step < LANES:
            loss += from_lane(loss, step)
            step *= 2
        if i < count and lane == 0:
            if weights.smoothing > 0.0:
                below = (PART * top - PART * np.float64(near[i])) - totals[i] / weights.classes  # a part of top - mean
                loss += weights.smoothing * (weights.of_halves * (0.5 * below / PART) + factor * tail)
            losses[at + i] = loss if factor > 0.0 else 0.0
            is_finite = not math.isnan(top)
            store_real(factors.references, i, top if is_finite else 0.0)
            share = factor / (1.0 + rest) if is_finite else math.nan
            store_real(factors.shares, i, share if factor != 0.0 else 0.0)
            if weights.smoothing > 0.0:
                store_real(factors.spreads, i, factor * weights.smoothing / weights.classes)

    return side


@functools.cache
def write_row_by(is_diagonal: bool, is_smoothed: bool):
    """Write a thread's elements of one row of the gradient; returns the sum of a small part of y dL/dx over them."""
    next_point = next_point_by(is_diagonal)

    @device
    def write_row(array, out, chunk, i, place, into, rows, of_columns, points, slopes, options):
        if i >= into.rows:
            return 0.0
        references, shares, spreads = of_columns
        lanes, reals, values, total = lanes_of(array), reals_of(array, chunk), new_reals(array), options.zero
        part = to_real(array, SMALL_PART)
        row = i + into.first_row
        reference, share = load_real(rows.references, row), load_real(rows.shares, row)
        column = next_point(row, place.first, points)[1]
        has_point = column < place.first + lanes * place.spread
        for k in range(lanes):
            y = reals[k]
            slope = share * rough_exp_of(y - reference, options)
            slope += shares[k] * rough_exp_of(y - references[k], options)
            if is_smoothed:
                slope -= load_real(rows.spreads, row) + spreads[k]
            if has_point:
                point, column = next_point(row, place.first + k * place.spread, points)
                if column == place.first + k * place.spread:
                    slope = to_real(array, slopes[point])
            values[k] = slope * options.logit_scale
            is_there = not is_smoothed or place.first + k * place.spread < into.columns  # else its slope is 0
            if is_there and slope != options.zero:
                total += slope * (part * y)
        store(out, i, place, into, values)
        return np.float64(total)

    return write_row


@functools.cache
def gradient_kernel(is_diagonal: bool, is_smoothed: bool, blocks: int):
    """The kernel that writes dL/dy = s dL/dx, and for each block the sum of a part of y dL/dx.

    That part is SMALL_PART times ``part``; ``out`` may be the array itself.
    """
    write_row = write_row_by(is_diagonal, is_smoothed)

    @kernel(THREADS, blocks)
    def gradient(array, out, matrix, into, options, rows, columns, points, slopes, part, sums):
        board = cuda.shared.array(MOST_WARPS, np.float64)
        references, shares, spreads = new_reals(array), new_reals(array), new_reals(array)
        of_columns = (references, shares, spreads)
        place, total = place_of(array, matrix), 0.0
        for k in range(lanes_of(array)):
            c = place.first + k * place.spread
            references[k] = shares[k] = spreads[k] = options.zero
            if c < matrix.columns:
                references[k], shares[k] = load_real(columns.references, c), load_real(columns.shares, c)
                if is_smoothed:
                    spreads[k] = load_real(columns.spreads, c)
        for step in range(0, matrix.height, ROWS_OF_BLOCK):
            i = place.row + step
            chunks = four_chunks(array, i, place, matrix)
            some = write_row(array, out, chunks[0], i, place, into, rows, of_columns, points, slopes, options)
            some += write_row(array, out, chunks[1], i + 1, place, into, rows, of_columns, points, slopes, options)
            some += write_row(array, out, chunks[2], i + 2, place, into, rows, of_columns, points, slopes, options)
            some += write_row(array, out, chunks[3], i + 3, place, into, rows, of_columns, points, slopes, options)
            total += part * some
        total = sum_of_block(total, board)
        if cuda.threadIdx.x == 0:
            sums[cuda.blockIdx.x] = total

    return gradient
