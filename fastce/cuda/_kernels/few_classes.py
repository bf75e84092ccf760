"""Few classes: a row for each thread, from shared memory, which a block fills and empties in whole chunks.

The block's rows are one stretch of memory. In shared memory a row takes an odd number of places, so that the threads of
a warp, each at the same class of its own row, find it in different banks. Then a row is in its thread's registers.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import (
    has_one_point,
    mass_by,
    shown_by,
    slope_at_target_by,
    slope_by,
    value_by,
    written_by,
)
from fastce.cuda._kernels.endings import ending_by, upstream_of_row, weight_of_row
from fastce.cuda._kernels.jobs import IS_BAD, LOGSUMEXP, NO_MASS, SOFTMAX, Job
from fastce.cuda._kernels.points import distances_by, points_by
from fastce.cuda._kernels.primitives import (
    chunk_of,
    device,
    get_real,
    kernel,
    lanes_of,
    largest,
    load_chunk,
    load_real,
    new_reals,
    put_real,
    reals_of,
    room_in,
    store_chunk,
    store_real,
    to_real,
)
from fastce.cuda._kernels.states import (
    MOST_WARPS,
    are_faint,
    half_distance,
    raised_by,
    reference_of,
    rest_of,
    with_faint_term,
    with_term,
)
from fastce.cuda._kernels.sums import add_up_block

BLOCK = 8  # elements that are added up before their sum is: fewer roundings for each
REGISTER_BYTES = 128  # of a row: up to 32 classes, or 16 of float64


@functools.cache
def place_by(classes: int):
    """Where in shared memory element k of the block is: rows of an even number of classes are one place apart."""

    @device
    def after_gaps(k):
        return k + np.int64(np.uint32(k) // np.uint32(classes))

    @device
    def as_it_is(k):
        return k

    return as_it_is if classes % 2 else after_gaps


@functools.cache
def fill_by(classes: int):
    """Bring elements start to stop into shared memory; the first chunk may begin before."""
    place_of = place_by(classes)

    @device
    def fill(room, logits, start, stop, before):
        lanes = lanes_of(logits)
        k = start - before + cuda.threadIdx.x * lanes
        while k < stop:
            if k >= start and k + lanes <= stop:
                reals = reals_of(logits, load_chunk(logits, k))
                for lane in range(lanes):
                    put_real(room, logits, place_of(k - start + lane), reals[lane])
            else:
                for j in range(max(k, start), min(k + lanes, stop)):
                    put_real(room, logits, place_of(j - start), load_real(logits, j))
            k += cuda.blockDim.x * lanes
        cuda.syncthreads()

    return fill


@functools.cache
def empty_by(classes: int):
    """Store what is in shared memory as elements start to stop."""
    place_of = place_by(classes)

    @device
    def empty(room, out, start, stop, before):
        cuda.syncthreads()
        lanes, values = lanes_of(out), new_reals(out)
        k = start - before + cuda.threadIdx.x * lanes
        while k < stop:
            if k >= start and k + lanes <= stop:
                for lane in range(lanes):
                    values[lane] = get_real(room, out, place_of(k - start + lane))
                store_chunk(out, k, chunk_of(out, values))
            else:
                for j in range(max(k, start), min(k + lanes, stop)):
                    store_real(out, j, get_real(room, out, place_of(j - start)))
            k += cuda.blockDim.x * lanes

    return empty


@functools.cache
def state_by(job: Job, classes: int):
    """The state of a row in registers; its elements stand in shared memory too, from ``first`` on."""
    shown, mass_of, has_masses = shown_by(job), mass_by(job), job.dense != NO_MASS
    is_rough, raised = job.of in (LOGSUMEXP, SOFTMAX), raised_by(job)

    @device
    def element(room_and_like, k, options):
        return shown(get_real(room_and_like[0], room_and_like[1], k), options)

    distances_of = distances_by(job, element)

    @device
    def faint_rest_of(room, first, reference, like, options):
        lowest, zero = to_real(like, -math.inf), to_real(like, 0.0)
        sums, k, end = (lowest, zero, zero), first, first + classes
        while k < end:  # not unrolled, as it is rare
            sums = with_faint_term(sums, element((room, like), k, options), reference, options)
            k += 1
        return rest_of(sums[1], zero, sums[2])

    @device
    def state_of(ys, room, first, points, i, targets, like, options):
        top = to_real(like, -math.inf)
        for c in range(classes):
            top = largest(top, ys[c])
        reference = reference_of(top, options.zero)
        zero = to_real(like, 0.0)
        sums, powers = (to_real(like, -math.inf), zero, zero), zero
        for c in range(classes):  # unrolled, as the row is in registers
            sums = with_term(sums, ys[c], reference, is_rough, options)
            if c % BLOCK == BLOCK - 1:
                powers, sums = powers + sums[1], (sums[0], zero, sums[2])
        distance, total = distances_of(
            (room, like), first, 1, points, 0, classes, reference, 0, 1, targets, like, options
        )
        if has_masses:
            for c in range(classes):
                mass = mass_of(c, i * classes + c, targets, like, options)
                if mass != 0.0:
                    distance += half_distance(mass, reference, ys[c], like)
                    total += mass
        powers += sums[1]
        rest = rest_of(powers, zero, sums[2]) * raised
        if not is_rough and are_faint(powers, top, reference, options):
            rest = faint_rest_of(room, first, reference, like, options)
        return np.float64(top), rest, np.float64(distance), np.float64(total)

    return state_of


@functools.cache
def few_classes_kernel(job: Job, classes: int, rows_of_block: int):
    """The kernel for rows of so many adjacent classes that follow each other without a gap."""
    shown, value_of, state_of, points_of = shown_by(job), value_by(job), state_by(job, classes), points_by(job)
    ending, fill, empty, writes = ending_by(job), fill_by(classes), empty_by(classes), job.writes
    written, slope_of, slope_at_target = written_by(job), slope_by(job), slope_at_target_by(job)
    is_alone = has_one_point(job)
    real, step = np.float64 if job.is_float64 else np.float32, classes | 1
    places = rows_of_block * step + 16

    @kernel(rows_of_block, 2 if job.is_float64 else 5 if job.is_capped else 6)
    def few_classes(logits, out, rows, phase, targets, options, upstream, report, results, tally):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        room = room_in(cuda.shared.array(places, real))
        board, flag = cuda.shared.array(MOST_WARPS, np.float64), cuda.shared.array(1, np.int32)
        ys = cuda.local.array(classes, real)
        block = np.int64(cuda.blockIdx.x) * rows_of_block
        start, stop = block * classes, min(block + rows_of_block, rows) * classes
        before = (phase + start) & (lanes_of(logits) - 1)
        fill(room, logits, start, stop, before)
        i, first, result, share = block + cuda.threadIdx.x, cuda.threadIdx.x * step, 0.0, 0.0
        weight = weight_of_row(i, targets) if i < rows else 0.0
        if weight != 0.0:
            for c in range(classes):
                ys[c] = shown(get_real(room, logits, first + c), options)
            points = points_of(i, logits, targets, options)
            state = state_of(ys, room, first, points, i, targets, logits, options)
            above = upstream_of_row(i, upstream, report) if writes else 1.0
            result, share, row = ending(state, weight, above, logits, options, report)
            if writes:
                y = shown(get_real(room, logits, first + points.first), options) if is_alone else options.zero
                for c in range(classes):
                    if is_alone:  # the target's class comes after the others, which have no mass
                        value = slope_of(ys[c], written(ys[c], row, options), options)
                    else:
                        value = value_of(ys[c], c, i * classes + c, row, points, targets, logits, options)
                    put_real(room, logits, first + c, value)
                if is_alone:
                    value = slope_at_target(y, row, points.mass, options)
                    if options.z_loss > 0.0:
                        value = value_of(y, points.first, 0, row, points, targets, logits, options)
                    put_real(room, logits, first + points.first, value)
        elif writes and i < rows:
            for c in range(classes):
                put_real(room, logits, first + c, options.zero)
        if tally.tickets.size > 0:
            add_up_block(result, share, results, report, tally, board, flag)
        elif i < rows:
            store_real(results, i, result)
        if writes:
            empty(room, out, start, stop, before)

    return few_classes
