"""What the threads of a row find together: ``lanes`` of them, a part of a warp or all of a block, as blockDim.x says.

All threads of the block ask at once. What is found is in float64, known to all of the group, and the same in every run.
"""

import numpy as np
from numba import cuda

from fastce.cuda._kernels.primitives import device, from_lane
from fastce.cuda._kernels.states import WARP

THREADS = 256  # of a block
FIELDS = 2  # rows of a board, of MOST_WARPS each


@device
def sum_of_group(value, board):
    """The sum of a number of each thread."""
    lanes, step = cuda.blockDim.x, 1
    while step < min(lanes, WARP):
        value += from_lane(value, step)
        step *= 2
    if lanes > WARP:
        if cuda.threadIdx.x % WARP == 0:
            board[0, cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()
        value = np.float64(0.0)
        for warp in range(lanes // WARP):
            value += board[0, warp]
        cuda.syncthreads()
    return value


@device
def is_before(key, place, other_key, other_place):
    """Whether a key comes before another: larger, NaN before all, the first of equal ones."""
    if key == other_key or (key != key and other_key != other_key):
        return place < other_place
    return key != key or key > other_key


@device
def first_of_group(key, place, board):
    """(key, place) of the thread whose key comes before all others; places are of float64, too."""
    lanes, step = cuda.blockDim.x, 1
    while step < min(lanes, WARP):
        other_key, other_place = from_lane(key, step), from_lane(place, step)
        if is_before(other_key, other_place, key, place):
            key, place = other_key, other_place
        step *= 2
    if lanes > WARP:
        if cuda.threadIdx.x % WARP == 0:
            warp = cuda.threadIdx.x // WARP
            board[0, warp], board[1, warp] = key, place
        cuda.syncthreads()
        for warp in range(lanes // WARP):
            if is_before(board[0, warp], board[1, warp], key, place):
                key, place = board[0, warp], board[1, warp]
        cuda.syncthreads()
    return key, place
