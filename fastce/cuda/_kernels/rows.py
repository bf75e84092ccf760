"""Rows held in shared memory: one read, one write. A group of threads takes a row, or a part of one.

Each thread fetches chunks of 16 bytes straight into shared memory, all of them before it looks at the first. It looks
at them for the largest element, again for the sums, and once more to write the gradient; it never looks at what others
have fetched. Rows that are too long for a block are cut in parts, whose states meet in global memory.
"""

import functools

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import element_by
from fastce.cuda._kernels.endings import Row, ending_by, store_result, upstream_of_row, weight_of_row
from fastce.cuda._kernels.groups import sum_of_group
from fastce.cuda._kernels.jobs import CLASS_INDICES, IS_BAD, KNOWN_STATES, NO_MASS, SPARSE, STATES_ONLY, Job
from fastce.cuda._kernels.parts import any_of_warp, merged_parts_by, post, take_part, wait_for_row
from fastce.cuda._kernels.piece_sums import sums_by, top_by
from fastce.cuda._kernels.pieces import fetch_piece, nothing_of, piece_of_row, write_by, write_zeros
from fastce.cuda._kernels.points import distances_by, no_points, points_by
from fastce.cuda._kernels.primitives import ROOM_CHUNKS, device, kernel, lanes_of, room_for
from fastce.cuda._kernels.scale import derivative_by, growth_by, lags_by, nothing_by
from fastce.cuda._kernels.states import MOST_WARPS, WARP, largest_of_row, reference_of, sums_of_row
from fastce.cuda._kernels.sums import add_up_losses_by, store_beside

THREADS = 128
ROW_FIELDS = len(Row._fields)
chunk_room = room_for(ROOM_CHUNKS)


@functools.cache
def state_by(job: Job):
    """The state of what the threads of a row hold together, known to its first 32 threads."""
    top_of, sums_of, distances_of = top_by(job), sums_by(job), distances_by(job, element_by(job))
    is_index, all_have_masses = job.points == CLASS_INDICES, job.dense != NO_MASS or job.points == SPARSE
    by_scale, has_lags, growth, lags_of = job.by_scale, job.by_scale and job.is_capped, growth_by(job), lags_by(job)

    @device
    def state_of(logits, room, piece, points, has_points, part, tops, sums, shape, targets, options):
        lane, lanes = cuda.threadIdx.x, cuda.blockDim.x
        top = largest_of_row(top_of(logits, room, piece, shape, options), lanes, tops)
        reference = reference_of(top, options.zero)
        own, rest, distance, mass, spread, lag = sums_of(logits, room, piece, reference, shape, targets, options)
        of_part = shape.part_chunks * lanes_of(logits)  # classes
        begin = part * of_part - piece.before
        end = begin + of_part
        if has_points:
            start = piece.i * shape.logits_step
            more = distances_of(logits, start, 1, points, begin, end, reference, lane, lanes, targets, logits, options)
            distance += more[0]
            mass += more[1]
            if has_lags:
                w0 = growth(reference, options)
                lag += lags_of(logits, start, 1, points, begin, end, w0, lane, lanes, targets, logits, options)[0]
        rest, distance, mass = sums_of_row(
            own, rest, distance, mass, reference, all_have_masses, lanes, tops, sums, options
        )
        if is_index and has_points and not all_have_masses and begin <= points.first < end:
            mass = np.float64(points.mass)  # which all know; the distance is lane 0's, as is the result
        state = np.float64(top), rest, distance, mass
        if by_scale:
            if lanes > WARP:
                cuda.syncthreads()  # all have read the sums before
            spread, lag = sum_of_group(spread, sums), sum_of_group(lag, sums) if has_lags else 0.0
            return state + (spread, lag)  # noqa: RUF005  # Numba has no unpacking in a tuple
        return state

    return state_of


def ended_by(job: Job):
    """How a row ends, for `rows_kernel`."""
    ending, writes, merged_parts = ending_by(job), job.writes, merged_parts_by(job)
    by_scale, derivative = job.by_scale, derivative_by(job)

    @device
    def ended(state, states, posted, i, part, weight, upstream, report, results, shape, logits, options, tally):
        """(the end of the row, whether its result was stored), by a warp that knows its state, or that of its part."""
        is_first = part == 0
        if shape.parts > 1:
            if shape.stage != KNOWN_STATES:
                is_last = any_of_warp(cuda.threadIdx.x == 0 and post(state, states, posted, i, part, shape.parts))
                if not writes:
                    is_first = is_last  # nobody waits: the last part to come ends the row
                if is_last or writes:
                    wait_for_row(posted, i, shape.parts)
            if is_first or writes:
                state = merged_parts(states, i, shape.parts, logits, options)
        above = upstream_of_row(i, upstream, report) if writes or by_scale else 1.0
        result, share, row = ending(state, weight, above, logits, options, report)
        if is_first and cuda.threadIdx.x == 0:
            slope = 0.0
            if weight == 0.0:
                result = 0.0
            elif by_scale:
                slope = derivative(state, weight, above, logits, options)
            store_result(results, i, shape.rows, result, share)
            if by_scale:
                tally.slopes[i] = slope
                store_beside(tally, i, result)
        return row, is_first

    return ended


@functools.cache
def rows_kernel(job: Job):
    """The kernel for rows of adjacent classes: results of rows, and what is written if that was asked for."""
    state_of, points_of, ended, write = state_by(job), points_by(job), ended_by(job), write_by(job)
    writes, real, nothing = job.writes, np.float64 if job.is_float64 else np.float32, nothing_by(job)
    add_up_losses = add_up_losses_by(job.by_scale)
    is_lean = not (job.is_float64 or job.is_capped or job.points == SPARSE)

    @kernel(THREADS, 6 if is_lean else 4)
    def rows(logits, out, shape, targets, options, upstream, report, results, states, posted, tally):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        room = chunk_room()
        tops = cuda.shared.array((2, MOST_WARPS), real)
        sums = cuda.shared.array((3, MOST_WARPS), np.float64)
        shared_row = cuda.shared.array(ROW_FIELDS, real)
        ticket = cuda.shared.array(1, np.int32)
        i, part = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y, np.int64(0)
        if shape.parts > 1:
            i, part = take_part(posted, ticket, shape)
        weight = weight_of_row(i, targets) if i < shape.rows else 0.0
        counts = weight != 0.0
        whole_piece = piece_of_row(logits, i, part, shape)
        piece = whole_piece if counts else nothing_of(whole_piece)
        points = points_of(i, logits, targets, options) if counts else no_points(options)
        fetch_piece(logits, room, piece, shape)
        state = nothing
        if shape.stage != KNOWN_STATES:
            state = state_of(logits, room, piece, points, counts, part, tops, sums, shape, targets, options)
        if shape.stage == STATES_ONLY:
            if cuda.threadIdx.x == 0:
                post(state, states, posted, i, part, shape.parts)
            return
        row, is_stored = Row(options.zero, options.zero, options.zero, options.zero), False
        if cuda.threadIdx.x < WARP and i < shape.rows:
            row, is_stored = ended(
                state, states, posted, i, part, weight, upstream, report, results, shape, logits, options, tally
            )
        if writes:
            if cuda.blockDim.x > WARP:
                if cuda.threadIdx.x == 0:
                    shared_row[0], shared_row[1], shared_row[2], shared_row[3] = row
                cuda.syncthreads()
                row = Row(shared_row[0], shared_row[1], shared_row[2], shared_row[3])
            if counts:
                write(logits, out, room, piece, row, points, shape, targets, options)
            elif i < shape.rows:
                write_zeros(out, whole_piece, shape)
        if tally.tickets.size > 0:
            cuda.syncthreads()  # results of other threads are stored
            first = i - cuda.threadIdx.y
            items = min(np.int64(cuda.blockDim.y), shape.rows - first) if shape.parts == 1 else np.int64(is_stored)
            thread = cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x
            add_up_losses(thread, results, first, items, shape.rows, report, tally, sums[0], ticket)

    return rows
