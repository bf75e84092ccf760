"""Few classes: a row for each thread, from shared memory, which a block fills and empties in whole chunks.

The block's rows are one stretch of memory. In shared memory an element is left out after every 32, so that the threads
of a warp, each at the same class of its own row, find it in different banks, whatever the number of classes.
"""

import functools

import numpy as np
from numba import cuda

from fastce.cuda.elements import shown_by, value_by
from fastce.cuda.endings import ending_by, upstream_of_row, weight_of_row
from fastce.cuda.jobs import IS_BAD, Job
from fastce.cuda.lone_rows import state_by
from fastce.cuda.points import points_by
from fastce.cuda.primitives import (
    chunk_of,
    device,
    kernel,
    lanes_of,
    load_chunk,
    load_part,
    new_reals,
    reals_of,
    store_chunk,
    store_part,
    store_real,
)
from fastce.cuda.states import MOST_WARPS
from fastce.cuda.sums import sum_of_block

THREADS = 256
MOST_CLASSES = 32
BANKS = 32
MOST_LANES = 8


@device
def placed(k):
    """Where element k is in shared memory."""
    return k + k // BANKS


@functools.cache
def element_in_room_by(job: Job):
    """y of an element in shared memory."""
    shown = shown_by(job)

    @device
    def element(room, k, options):
        return shown(room[placed(k)], options)

    return element


@device
def fill(room, logits, start, stop, before):
    """Bring elements start to stop into shared memory, from place ``before`` on."""
    lanes = lanes_of(logits)
    window = start - before
    for k in range(window + cuda.threadIdx.x * lanes, stop, cuda.blockDim.x * lanes):
        is_whole = k >= start and k + lanes <= stop
        reals = reals_of(logits, load_chunk(logits, k) if is_whole else load_part(logits, k, start, stop))
        for lane in range(lanes):
            room[placed(k - window + lane)] = reals[lane]
    cuda.syncthreads()


@device
def empty(room, out, start, stop, before):
    """Store what is in shared memory as elements start to stop."""
    cuda.syncthreads()
    lanes, values = lanes_of(out), new_reals(out)
    window = start - before
    for k in range(window + cuda.threadIdx.x * lanes, stop, cuda.blockDim.x * lanes):
        for lane in range(lanes):
            values[lane] = room[placed(k - window + lane)]
        if k >= start and k + lanes <= stop:
            store_chunk(out, k, chunk_of(out, values))
        else:
            store_part(out, k, start, stop, chunk_of(out, values))


@functools.cache
def few_classes_kernel(job: Job, classes: int, rows_of_block: int):
    """The kernel for rows of so many adjacent classes that follow each other without a gap."""
    element, value_of = element_in_room_by(job), value_by(job)
    state_of, points_of, ending = state_by(job, element), points_by(job), ending_by(job)
    elements = rows_of_block * classes + MOST_LANES
    writes, places = job.writes, elements + elements // BANKS + 1
    real = np.float64 if job.is_float64 else np.float32

    @kernel(rows_of_block, 3)
    def few_classes(logits, out, rows, phase, targets, options, upstream, report, results, adds_up):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        room = cuda.shared.array(places, real)  # on a line of its own: by that the simulator knows it
        board = cuda.shared.array(MOST_WARPS, np.float64)
        first = np.int64(cuda.blockIdx.x) * rows_of_block
        start, stop = first * classes, min(first + rows_of_block, rows) * classes
        before = (phase + start) % lanes_of(logits)
        fill(room, logits, start, stop, before)
        i, result = first + cuda.threadIdx.x, 0.0
        weight = weight_of_row(i, targets) if i < rows else 0.0
        place = before + cuda.threadIdx.x * classes
        if weight != 0.0:
            points = points_of(i, logits, targets, options)
            state = state_of(room, place, 1, classes, points, i * classes, 1, targets, logits, options)
            above = upstream_of_row(i, upstream, report) if writes else 1.0
            result, row = ending(state, weight, above, logits, options)
            if writes:
                for c in range(classes):
                    y = element(room, place + c, options)
                    room[placed(place + c)] = value_of(y, c, i * classes + c, row, points, targets, logits, options)
        elif writes and i < rows:
            for c in range(classes):
                room[placed(place + c)] = options.zero
        if writes:
            empty(room, out, start, stop, before)
        if adds_up:
            result = sum_of_block(result, board)
            if cuda.threadIdx.x == 0:
                results[cuda.blockIdx.x] = result
        elif i < rows:
            store_real(results, i, result)

    return few_classes
