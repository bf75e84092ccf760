"""Sums in float64, always in the same order."""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import SHARE
from fastce.cuda._kernels.primitives import device, from_lane, kernel
from fastce.cuda._kernels.states import MOST_WARPS, WARP

THREADS = 256
PER_BLOCK = 1 << 14  # numbers that a block adds up


@device
def sum_of_block(value, board):
    """The sum of a number of each thread, known to all; blocks are one-dimensional and made of whole warps."""
    step = 1
    while step < WARP:
        value += from_lane(value, step)
        step *= 2
    if cuda.threadIdx.x % WARP == 0:
        board[cuda.threadIdx.x // WARP] = value
    cuda.syncthreads()
    total = 0.0
    for warp in range(cuda.blockDim.x // WARP):
        total += board[warp]
    cuda.syncthreads()
    return total


@kernel(THREADS, 4)
def sum_up(values, count, per_block, totals, at):
    """totals[at + b] becomes the sum of the numbers of block b."""
    board = cuda.shared.array(MOST_WARPS, np.float64)
    first = np.int64(cuda.blockIdx.x) * per_block
    total = 0.0
    for k in range(first + cuda.threadIdx.x, min(first + per_block, count), cuda.blockDim.x):
        total += values[k]
    total = sum_of_block(total, board)
    if cuda.threadIdx.x == 0:
        totals[at + cuda.blockIdx.x] = total


@kernel(THREADS, 4)
def sum_up_losses(losses, count, per_block, report, totals, at):
    """totals[at + b] becomes the sum of the losses of block b; after all of these, that of their shares comes.

    Shares are only added up, and only read after all losses if they stand there, where a sum or loss is not finite.
    """
    board = cuda.shared.array(MOST_WARPS, np.float64)
    first = np.int64(cuda.blockIdx.x) * per_block
    begin, end = first + cuda.threadIdx.x, min(first + per_block, count)
    total = 0.0
    for k in range(begin, end, cuda.blockDim.x):
        total += losses[k]
    total = sum_of_block(total, board)
    if not math.isfinite(total):
        shares = 0.0
        for k in range(begin, end, cuda.blockDim.x):
            has_share = losses.size > count and not math.isfinite(losses[k])
            shares += losses[count + k] if has_share else report[SHARE] * losses[k]
        shares = sum_of_block(shares, board)
        if cuda.threadIdx.x == 0:
            totals[at + cuda.gridDim.x + cuda.blockIdx.x] = shares
    if cuda.threadIdx.x == 0:
        totals[at + cuda.blockIdx.x] = total
