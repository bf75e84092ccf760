"""Rows cut in parts, each taken by a block: their states meet in global memory.

Blocks take parts in order of a ticket, not of their number. So whatever part a block waits for has been taken by a
block that runs already, as long as a row has no more parts than blocks run at once.

A state is written before its part is counted, by a release; and read after all are counted, by an acquire. Who reads
the last count has read, through the additions between, what each of them released [1]: so loads after that are plain.

[1] PTX ISA, Memory Consistency Model: an acquire synchronizes with a release whose write it observes, also through a
chain of atomic operations (observation order), and causality order is transitive.
"""

import functools

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import KNOWN_STATES, Job
from fastce.cuda._kernels.primitives import count_released, device, from_lane, load_fresh, pause
from fastce.cuda._kernels.scale import merged_by, nothing_by
from fastce.cuda._kernels.states import WARP


@device
def take_part(posted, ticket, shape):
    """(row, part) of the next ticket, the same for all threads of a block; the last of ``posted`` counts tickets."""
    if cuda.threadIdx.x == 0:
        ticket[0] = cuda.blockIdx.x  # nobody waits where states are known
        if shape.stage != KNOWN_STATES:
            ticket[0] = cuda.atomic.add(posted, shape.rows, 1)
    cuda.syncthreads()
    number, parts = np.uint32(ticket[0]), np.uint32(shape.parts)  # divided in 32 bits, which is much faster
    return np.int64(number // parts), np.int64(number % parts)


@device
def post(state, states, posted, row, part, parts):
    """Tell the others the state of a part; returns whether it was the row's last. One thread does it."""
    first = (row * parts + part) * len(state)
    for k in range(len(state)):
        states[first + k] = state[k]
    return count_released(posted, row, 1) == parts - 1


@device
def wait_for_row(posted, row, parts):
    """Wait until all parts of the row have been posted; each thread that is to read their states does."""
    while load_fresh(posted, row) < parts:
        pause()


@device
def any_of_warp(flag):
    """Whether any thread of the warp says so; all of them take part."""
    found, step = np.int32(flag), 1
    while step < WARP:
        found = max(found, from_lane(found, step))
        step *= 2
    return found != 0


@functools.cache
def merged_parts_by(job: Job):
    """The state of a row from those of its parts, in the same order always; all threads of a warp take part."""
    merged, nothing, by_scale = merged_by(job), nothing_by(job), job.by_scale

    @device
    def posted_state(states, first):
        state = states[first], states[first + 1], states[first + 2], states[first + 3]
        if by_scale:
            return state + (states[first + 4], states[first + 5])  # noqa: RUF005  # for Numba
        return state

    @device
    def of_lane(state, step):
        top, rest, distance, mass = state[0], state[1], state[2], state[3]
        other = (from_lane(top, step), from_lane(rest, step), from_lane(distance, step), from_lane(mass, step))
        if by_scale:
            return other + (from_lane(state[4], step), from_lane(state[5], step))  # noqa: RUF005
        return other

    @device
    def merged_parts(states, row, parts, like, options):
        whole, part, step = nothing, cuda.threadIdx.x % WARP, 1
        while part < parts:
            whole = merged(whole, posted_state(states, (row * parts + part) * len(whole)), like, options)
            part += WARP
        while step < WARP:
            whole = merged(whole, of_lane(whole, step), like, options)
            step *= 2
        return whole

    return merged_parts
