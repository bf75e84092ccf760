"""What is done to panels of products where every pair is a yes-or-no question of its own (SigLIP)."""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.primitives import (
    chunk_of,
    device,
    fma,
    kernel,
    lanes_of,
    largest,
    load_chunk,
    load_part,
    new_reals,
    reals_of,
    store_chunk,
    store_part,
    to_real,
)
from fastce.cuda._kernels.states import MOST_WARPS, exp_of
from fastce.cuda._kernels.sums import sum_of_block

THREADS = 256


@device
def softplus_and_sigmoid(z, like, options):
    """With e = exp(-|z|): max(z, 0) + log1p(e), in which nothing cancels, and 1 / (1 + e) or e / (1 + e)."""
    e = exp_of(-abs(z), options.zero, options)
    sigmoid = (e if z < options.zero else options.one) / (options.one + e)
    return largest(z, options.zero) + to_real(like, math.log1p(e)), sigmoid


@kernel(THREADS, 4)
def sigmoid_rows(panel, columns, bias, factor, wants_slopes, options, losses, slopes):
    """Sums of softplus(z) and sigmoid(z) of each row, z = logit_scale * panel + bias; a block takes a row.

    The panel, whose rows follow each other from a multiple of 16 bytes on, becomes factor * sigmoid(z) if that is
    wanted.
    """
    board = cuda.shared.array(MOST_WARPS, np.float64)
    i, lanes = np.int64(cuda.blockIdx.x), lanes_of(panel)
    start = i * columns
    before = start % lanes  # elements of the first chunk that are of the row before
    loss, slope = 0.0, 0.0
    for chunk in range(cuda.threadIdx.x, (before + columns + lanes - 1) // lanes, cuda.blockDim.x):
        c = chunk * lanes - before
        is_whole = c >= 0 and c + lanes <= columns
        given = load_chunk(panel, start + c) if is_whole else load_part(panel, start + c, start, start + columns)
        reals, values = reals_of(panel, given), new_reals(panel)  # -inf beyond the row, which adds nothing
        some_losses, some_slopes = options.zero, options.zero
        for lane in range(lanes):
            z = fma(reals[lane], options.logit_scale, bias)
            softplus, sigmoid = softplus_and_sigmoid(z, panel, options)
            some_losses += softplus
            some_slopes += sigmoid
            values[lane] = factor * sigmoid
        loss += np.float64(some_losses)
        slope += np.float64(some_slopes)
        if wants_slopes:
            if is_whole:
                store_chunk(panel, start + c, chunk_of(panel, values))
            else:
                store_part(panel, start + c, start, start + columns, chunk_of(panel, values))
    loss, slope = sum_of_block(loss, board), sum_of_block(slope, board)
    if cuda.threadIdx.x == 0:
        losses[i] = loss
        slopes[i] = slope


@kernel(THREADS, 4)
def add_points(values, first_points, rows, totals):
    """Add to the total of each row the values of its points, in their order."""
    i = cuda.grid(1)
    if i < rows:
        total = totals[i]
        for k in range(first_points[i], first_points[i + 1]):
            total += values[k]
        totals[i] = total
