"""A similarity matrix, or a tile of one: the sums of its rows and columns from one read, its gradient from another."""

from typing import NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.positives import Positives
from fastce.cpu._kernels.centred import centred_sums
from fastce.cpu._kernels.clip import clip_sums
from fastce.cpu._kernels.clip_gradient import clip_gradient
from fastce.cpu._vectors.exponential import LN2, SPARE
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.sides import Factors, Side, is_plain, sides_of
from fastce.cpu.sums import Means, Sums, sums_of_powers
from fastce.cpu.threads import cut_rows, for_each

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

    @property
    def is_wide(self) -> bool:
        """Whether losses are those of float64."""
        return self.similarity.dtype == np.float64


def both_sides(call: SimilarityCall, n_threads: int | None) -> tuple[Side, Side]:
    """The losses of rows and of columns, with what their gradients are made of."""
    points = call.positives
    x = np.asarray(call.array[points.rows, points.columns], np.float64)
    by_row, by_column, means = sums_of_negatives(call, x, n_threads)
    return sides_of((by_row, by_column), points, x, means, call.scale, call.smoothing, call.reduction, call.is_wide)


def sums_of_negatives(
    call: SimilarityCall, positives: Array, n_threads: int | None
) -> tuple[Sums, Sums, tuple[Means, Means] | tuple[None, None]]:
    """The sums of both directions from one read; rows and columns that lost digits in it are summed again.

    Then the means of all similarities of rows and columns, where smoothing asks for them.
    """
    rows, columns = call.array.shape
    points, dtype = call.positives, call.similarity.dtype
    blocks = _few_blocks(rows, call.similarity.row_bytes)
    number = len(blocks)
    smoothed = call.smoothing > 0.0
    row_exps, row_distances = np.full(rows, np.nan), np.full(rows, np.nan)
    column_exps = np.full((number, columns), np.nan)
    column_distances = np.full((number, columns if smoothed else 0), np.nan)
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

    if is_plain(call.scale, dtype):  # else no sum of powers can be trusted
        for_each([(k, k + 1) for k in range(number)], work, n_threads)
    block_of_row = np.repeat(np.arange(number), [stop - start for start, stop in blocks])
    means: tuple[Means, Means] | tuple[None, None] = (None, None)
    if smoothed:
        near = (exponents[:, 0] + SPARE) * LN2 / call.scale  # in the order of the kernel: to the last bit what it takes
        near = near.astype(compute_dtype(dtype)).astype(np.float64)
        means = _means(row_distances, column_distances, near, block_of_row, positives, call)
    top = exponents.max(initial=-np.inf) if number else 0.0
    np.ldexp(column_exps, (exponents - top).astype(np.int64), out=column_exps)
    by_row = _trusted(row_exps, exponents[block_of_row, 0], means[0], call, n_threads, 0)
    by_column = _trusted(column_exps.sum(axis=0), np.full(columns, top), means[1], call, n_threads, 1)
    return by_row, by_column, means


def _means(
    row_distances: Array, column_distances: Array, near: Array, block_of_row: Array, x: Array, call: SimilarityCall
) -> tuple[Means, Means]:
    """The means of rows and columns, from the sums of negatives less near, of each block, and the positives x."""
    points, (rows, columns) = call.positives, call.array.shape
    distances = row_distances + np.bincount(points.rows, x - near[block_of_row[points.rows]], rows)
    of_rows = Means(near[block_of_row], 0.5 * distances / max(columns, 1))
    top = near.max(initial=-np.inf)
    distances = column_distances.sum(axis=0) + np.bincount(points.columns, x - top, columns)
    negatives = np.zeros(column_distances.shape)
    np.add.at(negatives, (block_of_row[points.rows], points.columns), -1)
    negatives += np.bincount(block_of_row, minlength=len(near))[:, None]
    distances += ((near[:, None] - top) * negatives).sum(axis=0)
    return of_rows, Means(np.full(columns, top), 0.5 * distances / max(rows, 1))


def _few_blocks(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """Blocks by shape alone, at most COLUMN_BLOCKS."""
    size = max(1, -(-rows // COLUMN_BLOCKS), cut_rows(rows, row_bytes)[0][1] if rows else 1)
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def _trusted(
    sums: Array, exponent: Array, means: Means | None, call: SimilarityCall, n_threads: int | None, axis: int
) -> Sums:
    """The sums; those that cannot be trusted, and means that are not finite, from scratch, and around the largest."""
    doubt = ~((sums > TRUSTED) & (sums < 2.0**99))
    result = sums_of_powers(np.where(doubt, 1.0, sums), exponent, call.scale, call.is_wide)
    if means is not None:
        doubt |= ~np.isfinite(means.half_distances)
    doubtful = np.flatnonzero(doubt)
    if not doubtful.size:
        return result
    array, points = (call.array, call.positives) if axis == 0 else (call.array.T, call.positives)
    owner, other = (points.rows, points.columns) if axis == 0 else (points.columns, points.rows)
    kernel = centred_sums.compiled(np.dtype(np.float64))

    def work(start: int, stop: int) -> None:
        chosen = doubtful[start:stop]
        block = np.array(array[chosen], np.float64, order="C")
        if means is not None:
            largest = block.max(axis=1, keepdims=True, initial=-np.inf)
            means.near[chosen] = largest[:, 0]
            means.half_distances[chosen] = ((0.5 * block - 0.5 * largest) / max(block.shape[1], 1)).sum(axis=1)
        place = np.searchsorted(chosen, owner)
        inside = (place < chosen.size) & (chosen[np.minimum(place, chosen.size - 1)] == owner)
        block[place[inside], other[inside]] = -np.inf
        tops, exps = np.empty(chosen.size), np.empty(chosen.size)
        kernel(block, call.scale, tops, exps)
        result.tops[chosen], result.exps[chosen] = tops, exps

    for_each(cut_rows(doubtful.size, array.shape[1] * 8), work, n_threads)
    return result


def write_gradient(
    call: SimilarityCall, factors: Factors, slopes: Array, factor: float, out: Array, n_threads: int | None
) -> float:
    """Write factor * dL/dx into ``out``, given that of the positives; returns the sum of similarity * dL/dx.

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
            factor, factors.of_rows[start:stop], factors.of_columns, factors.together, factors.spreads, room,
            factors.unit, scale_gradient[start:stop], past_cache,
        )  # fmt: skip
        gradient.put_back(start, stop, room)

    for_each(cut_rows(similarity.rows, similarity.row_bytes), work, n_threads)
    return float(scale_gradient.sum()) / factors.unit
