"""A similarity matrix in tiles: how a block comes by the elements of its own, and by the points among them.

A warp takes four rows at a time, a thread a few columns of them all, always the same. These are adjacent where chunks
of 16 bytes lie as they must, in each row alike; else they are a warp apart, so that a warp reads stretches of memory.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.primitives import (
    chunk_of,
    device,
    lanes_of,
    load_chunk,
    load_real,
    new_reals,
    store_chunk,
    store_real,
    to_real,
)
from fastce.cuda._kernels.search import first_not_below
from fastce.cuda._kernels.states import WARP

ROWS = 4  # of a warp at a time
THREADS = 64
ROWS_OF_BLOCK = ROWS * (THREADS // WARP)  # at a time; tiles are as high as some of these
MOST_WIDTH = 256  # of a tile: a chunk for each thread of a warp
NOWHERE = 1 << 62


class Matrix(NamedTuple):
    """Where element (i, j) of a matrix is, origin + i * row_step + j * column_step, and how it is cut in tiles.

    Row 0 is row ``first_row`` of the whole matrix, of which this may be a panel.
    """

    rows: int
    columns: int
    origin: int
    row_step: int
    column_step: int
    is_aligned: bool
    across: int  # tiles
    height: int  # of a tile
    first_row: int


class Place(NamedTuple):
    """The columns of a thread, c in range(first, ..., spread), and the first of the tile; its first row."""

    first: Any
    spread: Any
    tile: Any
    row: Any


@device
def place_of(array, matrix):
    """Where this thread is."""
    lanes, lane = lanes_of(array), cuda.threadIdx.x % WARP
    tile = np.int64(cuda.blockIdx.x) % matrix.across * (WARP * lanes)
    row = np.int64(cuda.blockIdx.x) // matrix.across * matrix.height
    row += cuda.threadIdx.x // WARP * ROWS
    if matrix.is_aligned:
        return Place(tile + lane * lanes, np.int64(1), tile, row)
    return Place(tile + lane, np.int64(WARP), tile, row)


@device
def is_inside(place, rows, lanes, matrix):
    """Whether all of the thread's elements in rows up to this one can be loaded as chunks."""
    return matrix.is_aligned and rows <= matrix.rows and place.first + lanes <= matrix.columns


@device
def _loaded(array, i, place, matrix):
    lanes, values = lanes_of(array), new_reals(array)
    for k in range(lanes):
        values[k] = to_real(array, -math.inf)
        c = place.first + k * place.spread
        if i < matrix.rows and c < matrix.columns:
            values[k] = load_real(array, matrix.origin + i * matrix.row_step + c * matrix.column_step)
    return chunk_of(array, values)


@device
def four_chunks(array, i, place, matrix):
    """The thread's elements of rows i to i + 3; those beyond the ends are -inf. All loads are begun at once."""
    if is_inside(place, i + ROWS, lanes_of(array), matrix):
        k = matrix.origin + i * matrix.row_step + place.first
        step = matrix.row_step
        return (
            load_chunk(array, k),
            load_chunk(array, k + step),
            load_chunk(array, k + 2 * step),
            load_chunk(array, k + 3 * step),
        )
    return (
        _loaded(array, i, place, matrix),
        _loaded(array, i + 1, place, matrix),
        _loaded(array, i + 2, place, matrix),
        _loaded(array, i + 3, place, matrix),
    )


@device
def store(out, i, place, matrix, values):
    """Store the thread's elements of row i."""
    lanes = lanes_of(out)
    k = matrix.origin + i * matrix.row_step
    if is_inside(place, i + 1, lanes, matrix):
        store_chunk(out, k + place.first, chunk_of(out, values))
        return
    for lane in range(lanes):
        c = place.first + lane * place.spread
        if i < matrix.rows and c < matrix.columns:
            store_real(out, k + c * matrix.column_step, values[lane])


# --- over the threads of a warp ---------------------------------------------------------------------------------------


def of_warp_by(received, merged):
    """What each of four rows comes to, from what each thread of a warp has of it: thread t gets that of row t % 4.

    ``received`` is a partner's; ``merged`` puts two together. Of two rows, threads whose number has not a bit keep the
    first, and get the part of it that their partner has.
    """

    @device
    def exchanged(first, second, distance, options):
        keeps_first = cuda.threadIdx.x & distance == 0
        kept, given = (first, second) if keeps_first else (second, first)
        return merged(kept, received(given, distance), options)

    @device
    def of_warp(one, two, three, four, options):
        row = exchanged(exchanged(one, two, 1, options), exchanged(three, four, 1, options), 2, options)
        distance = ROWS
        while distance < WARP:
            row = merged(row, received(row, distance), options)
            distance *= 2
        return row

    return of_warp


# --- points ----------------------------------------------------------------------------------------------------------


class Points(NamedTuple):
    """The pairs that belong together, sorted by row: where those of a row begin, and the column of each.

    Both are empty if each row belongs to the column of its own number.
    """

    first: Any
    columns: Any


@device
def _next_on_diagonal(i, c, points):
    return i, i if i >= c else np.int64(NOWHERE)


@device
def _next_of_row(i, c, points):
    end = np.int64(points.first[i + 1])
    k = first_not_below(c, points.columns, np.int64(points.first[i]), end)
    return k, np.int64(points.columns[k]) if k < end else np.int64(NOWHERE)


@functools.cache
def next_point_by(is_diagonal: bool):
    """(number, column) of the first point of row i in column c or to the right of it; beyond all columns if none is."""
    return _next_on_diagonal if is_diagonal else _next_of_row
