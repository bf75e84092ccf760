"""Rows held in shared memory: one read, one write. A group of threads takes a row, or a part of one.

Each thread fetches chunks of 16 bytes straight into shared memory, all of them before it looks at the first. It looks
at them for the largest element, again for the sums, and once more to write the gradient; it never looks at what others
have fetched. Rows that are too long for a block are cut in parts, whose states meet in global memory.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda.elements import element_by, mass_by, shown_by, written_by
from fastce.cuda.endings import ending_by, upstream_of_row, weight_of_row
from fastce.cuda.jobs import IS_BAD, KNOWN_STATES, NO_MASS, SPARSE, STATES_ONLY, Job
from fastce.cuda.parts import merged_parts, post, take_part, wait_for_row
from fastce.cuda.points import are_near_by, distances_by, mass_at_by, no_points, points_by
from fastce.cuda.primitives import (
    ROOM_CHUNKS,
    chunk_of,
    chunk_room,
    device,
    fetch,
    held,
    hold,
    kernel,
    lanes_of,
    largest,
    load_part,
    new_reals,
    reals_of,
    smallest,
    store_chunk,
    store_part,
    store_real,
    to_real,
    wait_for_fetched,
)
from fastce.cuda.states import BOARD, exp_of, largest_of_row, reference_of, sums_of_row


THREADS = 256


class Piece(NamedTuple):
    """Which chunks of row i this thread holds: c in range(first, end, blockDim.x), chunk c in slot + c of the room.

    Element 0 of chunk c is class (c * lanes - before); so the first chunk may begin before the row.
    """

    i: Any
    first: Any
    end: Any
    slot: Any
    before: Any


@device
def piece_of_row(logits, i, part, shape):
    """What this thread is to hold."""
    lanes = lanes_of(logits)
    before = (shape.phase + i * shape.logits_step) % lanes
    chunks = (before + shape.classes + lanes - 1) // lanes
    begin = part * shape.part_chunks
    slot = cuda.threadIdx.y * (ROOM_CHUNKS // cuda.blockDim.y) - begin
    end = min(chunks, begin + shape.part_chunks) if i < shape.rows else begin
    return Piece(i, begin + cuda.threadIdx.x, end, slot, before)


@device
def nothing_of(piece):
    """None of a piece's chunks."""
    return Piece(piece.i, piece.end, piece.end, piece.slot, piece.before)


@device
def is_whole(c, lanes, shape):
    """Whether all elements from class c on are in the row, and lie as a chunk must."""
    return shape.is_aligned and c >= 0 and c + lanes <= shape.classes


@device
def fetch_piece(logits, room, piece, shape):
    """Bring the chunks of a piece into the room."""
    lanes = lanes_of(logits)
    start = piece.i * shape.logits_step
    for chunk in range(piece.first, piece.end, cuda.blockDim.x):
        c = chunk * lanes - piece.before
        if is_whole(c, lanes, shape):
            fetch(room, piece.slot + chunk, logits, start + c)
        else:
            hold(room, piece.slot + chunk, load_part(logits, start + c, start, start + shape.classes))
    wait_for_fetched()


@functools.cache
def y_by(job: Job):
    """y of an element of class c; -inf beyond the ends of the row, where a logit of -inf fills the chunk."""
    shown = shown_by(job)

    @device
    def within(logit, c, classes, options):
        return shown(logit, options) if 0 <= c < classes else options.lowest

    @device
    def as_it_is(logit, c, classes, options):
        return logit

    return within if job.is_capped else as_it_is


@functools.cache
def top_by(job: Job):
    """The largest element of a piece."""
    y_of = y_by(job)

    @device
    def top_of(logits, room, piece, shape, options):
        lanes, top = lanes_of(logits), to_real(logits, -math.inf)
        for chunk in range(piece.first, piece.end, cuda.blockDim.x):
            reals = reals_of(logits, held(room, piece.slot + chunk))
            for lane in range(lanes):
                c = chunk * lanes - piece.before + lane
                top = largest(top, y_of(reals[lane], c, shape.classes, options))
        return top

    return top_of


@functools.cache
def sums_by(job: Job):
    """(own top, rest, distance, mass) of a piece."""
    y_of, mass_of, has_masses = y_by(job), mass_by(job), job.dense != NO_MASS

    @device
    def sums_of(logits, room, piece, reference, shape, targets, options):
        lanes, of_row = lanes_of(logits), piece.i * shape.probabilities_step
        top, rest = to_real(logits, -math.inf), to_real(logits, 0.0)
        distance, total = to_real(logits, 0.0), to_real(logits, 0.0)
        for chunk in range(piece.first, piece.end, cuda.blockDim.x):
            reals = reals_of(logits, held(room, piece.slot + chunk))
            c = chunk * lanes - piece.before
            for lane in range(lanes):
                y = y_of(reals[lane], c + lane, shape.classes, options)
                rest += exp_of(smallest(top, y) - reference, options)
                top = largest(top, y)
                if has_masses and 0 <= c + lane < shape.classes:
                    mass = mass_of(c + lane, of_row + c + lane, targets, logits, options)
                    if mass != 0.0:
                        distance += mass * (reference - y)
                        total += mass
        return top, np.float64(rest), np.float64(distance), np.float64(total)

    return sums_of


@functools.cache
def write_by(job: Job):
    """Write what the elements of a piece become: a gradient, probabilities or their logarithms."""
    shown, mass_of, written = shown_by(job), mass_by(job), written_by(job)
    mass_at, are_near, has_masses = mass_at_by(job), are_near_by(job), job.dense != NO_MASS

    @device
    def chunk_from(reals, c, has_point, row, points, of_row, shape, targets, logits, options):
        lanes, values = lanes_of(logits), new_reals(logits)
        for lane in range(lanes):
            mass = options.zero
            if has_masses and 0 <= c + lane < shape.classes:
                mass = mass_of(c + lane, of_row + c + lane, targets, logits, options)
            if has_point:
                mass += mass_at(c + lane, points, logits, targets, options)
            values[lane] = written(shown(reals[lane], options), mass, row, options)
        return chunk_of(logits, values)

    @device
    def write(logits, out, room, piece, row, points, shape, targets, options):
        lanes, of_row = lanes_of(logits), piece.i * shape.probabilities_step
        start = piece.i * shape.out_step
        for chunk in range(piece.first, piece.end, cuda.blockDim.x):
            reals = reals_of(logits, held(room, piece.slot + chunk))
            c = chunk * lanes - piece.before
            if are_near(c, lanes, points, targets):
                result = chunk_from(reals, c, True, row, points, of_row, shape, targets, logits, options)
            else:
                result = chunk_from(reals, c, False, row, points, of_row, shape, targets, logits, options)
            if is_whole(c, lanes, shape):
                store_chunk(out, start + c, result)
            else:
                store_part(out, start + c, start, start + shape.classes, result)

    return write


@device
def write_zeros(out, piece, shape):
    """The gradient of a row that does not count, whatever it holds."""
    lanes = lanes_of(out)
    start = piece.i * shape.out_step
    for chunk in range(piece.first, piece.end, cuda.blockDim.x):
        c = chunk * lanes - piece.before
        for k in range(max(c, 0), min(c + lanes, shape.classes)):
            store_real(out, start + k, 0.0)


@functools.cache
def state_by(job: Job):
    """The state of what the threads of a row hold together; the same in all of them."""
    top_of, sums_of, distances_of = top_by(job), sums_by(job), distances_by(job, element_by(job))

    @device
    def state_of(logits, room, piece, points, has_points, board, shape, targets, options):
        lane, lanes = cuda.threadIdx.x, cuda.blockDim.x
        top = largest_of_row(top_of(logits, room, piece, shape, options), logits, lanes, board)
        reference = reference_of(top, options.zero)
        own, rest, distance, mass = sums_of(logits, room, piece, reference, shape, targets, options)
        if has_points:
            start = piece.i * shape.logits_step
            more = distances_of(logits, start, 1, points, reference, lane, lanes, targets, logits, options)
            distance += more[0]
            mass += more[1]
        rest, distance, mass = sums_of_row(own, rest, distance, mass, reference, lanes, board, options)
        return np.float64(top), rest, distance, mass

    return state_of


@functools.cache
def rows_kernel(job: Job):
    """The kernel for rows of adjacent classes: results of rows, and what is written if that was asked for."""
    state_of, points_of, ending, write, writes = state_by(job), points_by(job), ending_by(job), write_by(job), job.writes

    is_lean = not (job.is_float64 or job.is_capped or job.points == SPARSE)

    @kernel(THREADS, 4 if is_lean else 2)
    def rows(logits, out, shape, targets, options, upstream, report, results, states, posted):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        i, part = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y, np.int64(0)
        if shape.parts > 1:
            i, part = take_part(posted, shape.rows, shape.parts)
        room, board = chunk_room(), cuda.shared.array(BOARD, np.float64)
        whole_piece = piece_of_row(logits, i, part, shape)
        weight = weight_of_row(i, targets) if i < shape.rows else 0.0
        counts = weight != 0.0
        piece = whole_piece if counts else nothing_of(whole_piece)
        points = points_of(i, logits, targets, options) if counts else no_points(options)
        fetch_piece(logits, room, piece, shape)
        state = (-math.inf, 0.0, 0.0, 0.0)
        if shape.stage != KNOWN_STATES:
            state = state_of(logits, room, piece, points, counts and part == 0, board, shape, targets, options)
        is_first = part == 0
        if shape.parts > 1:
            if shape.stage != KNOWN_STATES:
                is_last = post(state, states, posted, i, part, shape.parts)
                if not writes:
                    is_first = is_last  # nobody waits: the last to come ends the row
                    if not is_last:
                        return
                elif shape.stage == STATES_ONLY:
                    return
                else:
                    wait_for_row(posted, i, shape.parts)
            state = merged_parts(states, i, shape.parts, logits, options)
        if i >= shape.rows:
            return
        above = upstream_of_row(i, upstream, report) if writes else 1.0
        result, row = ending(state, weight, above, logits, options)
        if is_first and cuda.threadIdx.x == 0:
            store_real(results, i, result if counts else 0.0)
        if writes:
            if counts:
                write(logits, out, room, piece, row, points, shape, targets, options)
            else:
                write_zeros(out, whole_piece, shape)

    return rows
