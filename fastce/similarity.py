"""A similarity matrix, or a tile of one: the sums of its rows and columns from one read, its gradient from another."""

from typing import NamedTuple

import numpy as np

from fastce.arguments import Array, compute_dtype
from fastce.kernels.clip import clip_gradient, clip_sums
from fastce.kernels.exponential import LN2, SPARE
from fastce.kernels.softmax import row_states
from fastce.layout import Rows, goes_past_cache
from fastce.positives import Positives
from fastce.sides import LOWEST_EXPONENT, Factors, Side, Sums, side_of
from fastce.threads import cut_rows, for_each

TRUSTED = 2.0**-60  # smaller sums, relative to their block's reference, may have lost digits
COLUMN_BLOCKS = 16  # each keeps sums for every column, so there must not be many


class SimilarityCall(NamedTuple):
    """A checked call of a loss on a similarity matrix."""

    array: Array
    similarity: Rows
    positives: Positives
    scale: float
    smoothing: float
    reduction: str


def both_sides(call: SimilarityCall, n_threads: int | None) -> tuple[Side, Side]:
    """The losses of rows and of columns, with what their gradients are made of."""
    points, (rows, columns) = call.positives, call.array.shape
    x = np.asarray(call.array[points.rows, points.columns], np.float64) * call.scale
    by_row, by_column, totals = sums_of_negatives(call, n_threads)

    def side(sums: Sums, owner: Array, mass: Array, total: Array | None, classes: int) -> Side:
        mean_of_x = None if total is None else (total + np.bincount(owner, x, total.size)) / classes
        return side_of(sums, owner, mass, x, mean_of_x, call.smoothing, call.reduction)

    return (
        side(by_row, points.rows, points.row_mass, totals[0], columns),
        side(by_column, points.columns, points.column_mass, totals[1], rows),
    )


def sums_of_negatives(
    call: SimilarityCall, n_threads: int | None
) -> tuple[Sums, Sums, tuple[Array, Array] | tuple[None, None]]:
    """The sums of both directions from one read; rows and columns that lost digits in it are summed again.

    Then the sums of x itself, where smoothing asks for them.
    """
    rows, columns = call.array.shape
    points, dtype = call.positives, call.similarity.dtype
    blocks = _few_blocks(rows, call.similarity.row_bytes)
    number = len(blocks)
    smoothed = call.smoothing > 0.0
    row_exps, row_distances = np.empty(rows), np.empty(rows)
    column_exps = np.empty((number, columns))
    column_distances = np.empty((number, columns if smoothed else 0))
    exponents = np.zeros((number, 1))
    kernel = clip_sums.compiled(dtype)

    def work(first: int, end: int) -> None:
        for k in range(first, end):
            start, stop = blocks[k]
            narrow = np.empty((2, columns), compute_dtype(dtype))
            kernel(
                call.similarity.block(start, stop), points.first_points[start : stop + 1], points.columns, call.scale,
                smoothed, row_exps[start:stop], row_distances[start:stop], column_exps[k], column_distances[k],
                narrow, exponents[k],
            )  # fmt: skip

    for_each([(k, k + 1) for k in range(number)], work, n_threads)
    block_of_row = np.repeat(np.arange(number), [stop - start for start, stop in blocks])
    top = exponents.max(initial=-np.inf) if number else 0.0
    np.ldexp(column_exps, (exponents - top).astype(np.int64), out=column_exps)
    by_row = _trusted(row_exps, exponents[block_of_row, 0], call, n_threads, 0)
    by_column = _trusted(column_exps.sum(axis=0), np.full(columns, top), call, n_threads, 1)
    if not smoothed:
        return by_row, by_column, (None, None)
    near = ((exponents[:, 0] + SPARE) * LN2 / call.scale).astype(compute_dtype(dtype)).astype(np.float64)
    return by_row, by_column, _totals(row_distances, column_distances, near, block_of_row, call)


def _totals(
    row_distances: Array, column_distances: Array, near: Array, block_of_row: Array, call: SimilarityCall
) -> tuple[Array, Array]:
    """The sums of x over the negatives of rows and columns, from the sums of x - near of each block."""
    points, (blocks, columns) = call.positives, column_distances.shape
    positives = np.zeros((blocks, columns))
    np.add.at(positives, (block_of_row[points.rows], points.columns), 1)
    negatives = np.bincount(block_of_row, minlength=blocks)[:, None] - positives
    with np.errstate(invalid="ignore", over="ignore"):
        of_rows = row_distances + near[block_of_row] * (columns - np.diff(points.first_points))
        of_columns = (column_distances + near[:, None] * negatives).sum(axis=0)
    return call.scale * of_rows, call.scale * of_columns


def _few_blocks(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """Blocks by shape alone, at most COLUMN_BLOCKS."""
    size = max(1, -(-rows // COLUMN_BLOCKS), cut_rows(rows, row_bytes)[0][1] if rows else 1)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _trusted(sums: Array, exponent: Array, call: SimilarityCall, n_threads: int | None, axis: int) -> Sums:
    """The sums, those that cannot be trusted computed from scratch: each row with a reference of its own."""
    doubtful = np.flatnonzero(~((sums > TRUSTED) & (sums < 2.0**99)))
    if not doubtful.size:
        return Sums(sums, exponent)
    array, points = (call.array, call.positives) if axis == 0 else (call.array.T, call.positives)
    owner, other = (points.rows, points.columns) if axis == 0 else (points.columns, points.rows)
    kernel = row_states.compiled(np.dtype(np.float64))

    def work(start: int, stop: int) -> None:
        chosen = doubtful[start:stop]
        block = np.array(array[chosen], np.float64, order="C")
        place = np.searchsorted(chosen, owner)
        inside = (place < chosen.size) & (chosen[np.minimum(place, chosen.size - 1)] == owner)
        block[place[inside], other[inside]] = -np.inf
        new_sums, new_exponent = np.empty(chosen.size), np.empty(chosen.size)
        kernel(block, call.scale, new_sums, new_exponent)
        sums[chosen], exponent[chosen] = new_sums, new_exponent

    for_each(cut_rows(doubtful.size, array.shape[1] * 8), work, n_threads)
    exponent[sums == 0.0] = LOWEST_EXPONENT
    return Sums(sums, exponent)


def write_gradient(call: SimilarityCall, factors: Factors, slopes: Array, out: Array, n_threads: int | None) -> float:
    """Write scale * dL/dx into ``out``, given that of the positives; returns the sum of similarity * dL/dx.

    ``out`` may be the similarity itself.
    """
    points, past_cache = call.positives, goes_past_cache(out, call.array)
    similarity, gradient = Rows(call.array, dtype=factors.dtype), Rows(out, dtype=factors.dtype)
    scale_gradient = np.empty(similarity.rows)
    kernel = clip_gradient.compiled(factors.dtype)

    def work(start: int, stop: int) -> None:
        room = gradient.room(start, stop)
        kernel(
            similarity.block(start, stop), points.first_points[start : stop + 1], points.columns, slopes, call.scale,
            factors.of_rows[start:stop], factors.of_columns, factors.together, factors.spreads, room,
            scale_gradient[start:stop], past_cache,
        )  # fmt: skip
        gradient.put_back(start, stop, room)

    for_each(cut_rows(similarity.rows, similarity.row_bytes), work, n_threads)
    return float(scale_gradient.sum())
