"""Rows cut in parts, each taken by a block: their states meet in global memory.

Blocks take parts in order of a ticket, not of their number. So whatever part a block waits for has been taken by a
block that runs already, as long as a row has no more parts than blocks run at once.
"""

import math

import numpy as np
from numba import cuda

from fastce.cuda.primitives import device, from_lane, load_fresh
from fastce.cuda.states import WARP, merged

FIELDS = 4  # of a state
PAUSE = 64  # nanoseconds between two looks at what has been posted


@device
def take_part(posted, rows, parts):
    """(row, part) of the next ticket, the same for all threads of a block; the last of ``posted`` counts tickets."""
    ticket = cuda.shared.array(1, np.int32)
    if cuda.threadIdx.x == 0:
        ticket[0] = cuda.atomic.add(posted, rows, 1) % (rows * parts)  # a second stage goes on counting
    cuda.syncthreads()
    return ticket[0] // parts, ticket[0] % parts


@device
def post(state, states, posted, row, part, parts):
    """Tell the others the state of a part; returns whether it was the row's last, the same for all threads."""
    is_last = cuda.shared.array(1, np.int32)
    if cuda.threadIdx.x == 0:
        first = (row * parts + part) * FIELDS
        states[first], states[first + 1], states[first + 2], states[first + 3] = state
        cuda.threadfence()
        is_last[0] = cuda.atomic.add(posted, row, 1) == parts - 1
        cuda.threadfence()
    cuda.syncthreads()
    return is_last[0] != 0


@device
def wait_for_row(posted, row, parts):
    """Wait until all parts of the row have been posted."""
    if cuda.threadIdx.x == 0:
        while load_fresh(posted, row) < parts:
            cuda.nanosleep(np.uint32(PAUSE))
    cuda.syncthreads()


@device
def merged_parts(states, row, parts, like, options):
    """The state of a row from those of its parts; every warp finds it for itself, in the same order."""
    whole = (-math.inf, 0.0, 0.0, 0.0)
    for part in range(cuda.threadIdx.x % WARP, parts, WARP):
        first = (row * parts + part) * FIELDS
        other = (
            load_fresh(states, first),
            load_fresh(states, first + 1),
            load_fresh(states, first + 2),
            load_fresh(states, first + 3),
        )
        whole = merged(whole, other, like, options)
    step = 1
    while step < WARP:
        top, rest, distance, mass = whole
        other = (from_lane(top, step), from_lane(rest, step), from_lane(distance, step), from_lane(mass, step))
        whole = merged(whole, other, like, options)
        step *= 2
    return whole
