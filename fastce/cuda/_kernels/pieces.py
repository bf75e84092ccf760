"""The piece of a row that a thread holds in shared memory: fetched once, looked at three times."""

import functools
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import (
    has_one_point,
    mass_by,
    shown_by,
    slope_at_target_by,
    slope_by,
    times_exp,
    value_by,
    written_by,
)
from fastce.cuda._kernels.jobs import CLASS_INDICES, CROSS_ENTROPY, NO_MASS, SOFTMAX, SPARSE, Job
from fastce.cuda._kernels.points import mass_at_by
from fastce.cuda._kernels.primitives import (
    ROOM_CHUNKS,
    chunk_of,
    device,
    fetch,
    held,
    hold,
    lanes_of,
    load_part,
    new_reals,
    reals_of,
    store_chunk,
    store_part,
    store_real,
    wait_for_fetched,
)
from fastce.cuda._kernels.states import HALF_LANES


class Piece(NamedTuple):
    """Which chunks of row i this thread holds: every blockDim.x-th from ``first`` on, chunk k in slot + k of the room.

    Chunk k begins at class k * lanes - before; so the first chunk may begin before the row. Chunks from ``whole`` to
    ``whole_end`` are whole and lie as chunks must.
    """

    i: Any
    first: Any
    end: Any
    whole: Any
    whole_end: Any
    slot: Any
    before: Any


@device
def piece_of_row(logits, i, part, shape):
    """What this thread is to hold."""
    lanes = lanes_of(logits)
    before = (shape.phase + i * shape.logits_step) & (lanes - 1)
    chunks = (before + shape.classes + lanes - 1) // lanes
    begin = part * shape.part_chunks
    end = min(chunks, begin + shape.part_chunks) if i < shape.rows else begin
    whole = max(begin, (before + lanes - 1) // lanes) if shape.is_aligned else end
    whole_end = max(whole, min(end, (before + shape.classes) // lanes))
    slot = cuda.threadIdx.y * (ROOM_CHUNKS // cuda.blockDim.y) - begin
    return Piece(i, begin + cuda.threadIdx.x, end, whole, whole_end, slot, before)


@device
def nothing_of(piece):
    """None of a piece's chunks."""
    end = piece.end
    return Piece(piece.i, end, end, end, end, piece.slot, piece.before)


@device
def own_from(piece, k):
    """The first chunk of this thread that is not before chunk k."""
    return k + ((piece.first - k) & (cuda.blockDim.x - 1))  # a power of two


@device
def edge(piece, side):
    """The thread's chunks before those that are whole, and after them: none or one at each end of an aligned row."""
    if side == 0:
        return piece.first, min(piece.whole, piece.end)
    return own_from(piece, piece.whole_end), piece.end


@device
def fetch_piece(logits, room, piece, shape):
    """Bring the chunks of a piece into the room."""
    lanes, start = lanes_of(logits), piece.i * shape.logits_step
    k = own_from(piece, piece.whole)
    while k < piece.whole_end:
        fetch(room, piece.slot + k, logits, start - piece.before + k * lanes)
        k += cuda.blockDim.x
    for side in range(2):
        k, end = edge(piece, side)
        while k < end:
            chunk = load_part(logits, start - piece.before + k * lanes, start, start + shape.classes)
            hold(room, piece.slot + k, chunk)
            k += cuda.blockDim.x
    wait_for_fetched()


@functools.cache
def hessian_chunk_by(job: Job):
    """What a chunk becomes where that is the Hessian, of which every element is told its part of the target."""
    shown, value_of = shown_by(job), value_by(job)

    @device
    def chunk_from(logits, room, piece, k, row, points, shape, targets, options):
        lanes, values, of_row = lanes_of(logits), new_reals(logits), piece.i * shape.probabilities_step
        reals, first = reals_of(logits, held(room, piece.slot + k)), k * lanes - piece.before
        for lane in range(lanes):
            c, value = first + lane, options.zero
            if 0 <= c < shape.classes:
                value = value_of(shown(reals[lane], options), c, of_row + c, row, points, targets, logits, options)
            values[lane] = value
        return chunk_of(logits, values)

    return chunk_from


@functools.cache
def chunk_by(job: Job, has_points: bool):
    """What a chunk becomes: a gradient, probabilities or their logarithms."""
    if job.is_hessian:
        return hessian_chunk_by(job)
    shown, written, slope_of, mass_of, mass_at = (
        shown_by(job), written_by(job), slope_by(job), mass_by(job), mass_at_by(job)
    )  # fmt: skip
    has_masses, is_gradient, is_softmax = job.dense != NO_MASS, job.of == CROSS_ENTROPY, job.of == SOFTMAX
    is_alone, slope_at_target = has_points and has_one_point(job), slope_at_target_by(job)

    @device
    def chunk_from(logits, room, piece, k, row, points, shape, targets, options):
        lanes, values, of_row = lanes_of(logits), new_reals(logits), piece.i * shape.probabilities_step
        reals, first = reals_of(logits, held(room, piece.slot + k)), k * lanes - piece.before
        for lane in range(lanes):
            y = shown(reals[lane], options)
            is_rough = is_softmax and lanes == HALF_LANES
            value = times_exp(y, row, options) if is_rough else written(y, row, options)
            if has_masses and 0 <= first + lane < shape.classes:
                value -= row.upstream * mass_of(first + lane, of_row + first + lane, targets, logits, options)
            if has_points:
                value -= row.upstream * mass_at(first + lane, points, logits, targets, options)
            values[lane] = slope_of(y, value, options) if is_gradient else value
            if is_alone and first + lane == points.first and options.z_loss == 0.0:
                values[lane] = slope_at_target(y, row, points.mass, options)
        return chunk_of(logits, values)

    return chunk_from


@functools.cache
def write_by(job: Job):
    """Write what the elements of a piece become; chunks that hold points of the target are written once more."""
    chunk_without, chunk_with = chunk_by(job, False), chunk_by(job, True)
    is_index, is_sparse = job.points == CLASS_INDICES, job.points == SPARSE

    @device
    def store(out, chunk, piece, k, shape):
        lanes, start = lanes_of(out), piece.i * shape.out_step
        if piece.whole <= k < piece.whole_end:
            store_chunk(out, start - piece.before + k * lanes, chunk)
        else:
            store_part(out, start - piece.before + k * lanes, start, start + shape.classes, chunk)

    @device
    def write_with_points(logits, out, room, piece, c, row, points, shape, targets, options):
        k = (c + piece.before) // lanes_of(logits)
        if piece.first <= k < piece.end and own_from(piece, k) == k:
            store(out, chunk_with(logits, room, piece, k, row, points, shape, targets, options), piece, k, shape)

    @device
    def write(logits, out, room, piece, row, points, shape, targets, options):
        lanes, start = lanes_of(logits), piece.i * shape.out_step
        k = own_from(piece, piece.whole)
        while k < piece.whole_end:
            chunk = chunk_without(logits, room, piece, k, row, points, shape, targets, options)
            store_chunk(out, start - piece.before + k * lanes, chunk)
            k += cuda.blockDim.x
        for side in range(2):
            k, end = edge(piece, side)
            while k < end:
                chunk = chunk_without(logits, room, piece, k, row, points, shape, targets, options)
                store_part(out, start - piece.before + k * lanes, start, start + shape.classes, chunk)
                k += cuda.blockDim.x
        if is_index:
            write_with_points(logits, out, room, piece, points.first, row, points, shape, targets, options)
        if is_sparse:
            for point in range(points.first, points.end):
                c = np.int64(targets.classes[point])
                write_with_points(logits, out, room, piece, c, row, points, shape, targets, options)

    return write


@device
def write_zeros(out, piece, shape):
    """The gradient of a row that does not count, whatever it holds."""
    lanes, start, k = lanes_of(out), piece.i * shape.out_step, piece.first
    while k < piece.end:
        first = k * lanes - piece.before
        for c in range(max(first, 0), min(first + lanes, shape.classes)):
            store_real(out, start + c, 0.0)
        k += cuda.blockDim.x
