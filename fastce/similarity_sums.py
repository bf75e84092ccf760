"""Both directions of a loss on a similarity matrix, from one read of it: the sums of rows and of columns."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fastce.arguments import Array, compute_dtype
from fastce.kernels.clip import clip_sums
from fastce.kernels.exponential import LN2, SPARE
from fastce.kernels.softmax import row_states
from fastce.layout import Rows
from fastce.positives import Positives
from fastce.threads import cut_rows, for_each

LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # exact products up to 2**20
TRUSTED = 2.0**-60  # smaller sums, relative to their block's reference, may have lost digits
COLUMN_BLOCKS = 16  # each keeps sums for every column, so there must not be many


@dataclass
class Side:
    """One direction of the loss, for each row (or column): exp(lse) as sum * 2**exponent, loss, share of the mean."""

    total: Array
    exponent: Array
    losses: Array
    factor: Array
    of_points: Array  # lse - x of each positive


class SimilarityCall(NamedTuple):
    """A checked call of a loss on a similarity matrix."""

    array: Array
    similarity: Rows
    positives: Positives
    scale: float
    smoothing: float
    reduction: str


class _Sums(NamedTuple):
    """Of the negatives of every row or column: the sum of exp(x) / 2**exponent, and the sum of x."""

    exps: Array
    exponent: Array
    total: Array


def both_sides(call: SimilarityCall, n_threads: int | None) -> tuple[Side, Side]:
    """The losses of rows and of columns, with what their gradients are made of."""
    points, (rows, columns) = call.positives, call.array.shape
    x = np.asarray(call.array[points.rows, points.columns], np.float64) * call.scale
    by_row, by_column = _sums_of_negatives(call, n_threads)
    return (
        _side(by_row, points.rows, points.row_mass, x, columns, call),
        _side(by_column, points.columns, points.column_mass, x, rows, call),
    )


def _side(negatives: _Sums, owner: Array, mass: Array, x: Array, classes: int, call: SimilarityCall) -> Side:
    """Add the positives to the negatives of each row (or column): the loss is sum_p mass_p (lse - x_p).

    For the largest positive, lse - x_p = log1p(rest / exp(x_p)), rest being the sum of all the others, which keeps its
    digits when that one dominates. No other can.
    """
    number = negatives.exps.size
    present = np.bincount(owner, minlength=number) > 0
    leads = _largest_of_each(owner, x, number)
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        lead_exponent = np.full(number, -np.inf)
        lead_exponent[owner[leads]] = np.rint(x[leads] / LN2)
        exponent = np.maximum(negatives.exponent, np.where(np.isfinite(lead_exponent), lead_exponent, -np.inf))
        exps = np.exp((x - exponent[owner] * LN2_HIGH) - exponent[owner] * LN2_LOW)
        rest = np.ldexp(negatives.exps, (negatives.exponent - exponent).astype(np.int64))
        rest = rest + np.bincount(owner, np.where(leads, 0.0, exps), number)
        total = rest + np.bincount(owner, np.where(leads, exps, 0.0), number)
        log_total = np.log(total)
        below = (exponent[owner] * LN2_HIGH - x) + exponent[owner] * LN2_LOW
        dominates = leads & (rest[owner] < 1e15 * exps)
        of_points = np.where(dominates, np.log1p(rest[owner] / exps), log_total[owner] + below)
        of_points[np.isposinf(total)[owner]] = np.nan
        losses = (1.0 - call.smoothing) * np.bincount(owner, mass * of_points, number)
        if call.smoothing > 0.0:
            mean_of_x = (negatives.total + np.bincount(owner, x, number)) / classes
            losses = losses + call.smoothing * (log_total + exponent * LN2 - mean_of_x)
    losses[~present] = 0.0
    share = 1.0 / max(int(present.sum()), 1) if call.reduction == "mean" else 1.0
    return Side(total, exponent, losses, np.where(present, 0.5 * share, 0.0), of_points)


def _largest_of_each(owner: Array, x: Array, number: int) -> Array:
    """True at the largest positive of each row (or column), the first of equal ones."""
    largest = np.full(number, -np.inf)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, owner, x)
    candidates = np.flatnonzero((x == largest[owner]) | np.isnan(x))
    leads = np.zeros(x.size, bool)
    leads[candidates[np.unique(owner[candidates], return_index=True)[1]]] = True
    return leads


def _sums_of_negatives(call: SimilarityCall, n_threads: int | None) -> tuple[_Sums, _Sums]:
    """The sums of both directions from one read; rows and columns that lost digits in it are summed again."""
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
    totals = (np.zeros(rows), np.zeros(columns))
    if smoothed:
        near = ((exponents[:, 0] + SPARE) * LN2 / call.scale).astype(compute_dtype(dtype)).astype(np.float64)
        totals = _totals(row_distances, column_distances, near, block_of_row, call)
    return _Sums(*by_row, totals[0]), _Sums(*by_column, totals[1])


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


def _trusted(
    sums: Array, exponent: Array, call: SimilarityCall, n_threads: int | None, axis: int
) -> tuple[Array, Array]:
    """(sums, exponent), those that cannot be trusted computed from scratch: each row with a reference of its own."""
    doubtful = np.flatnonzero(~((sums > TRUSTED) & (sums < 2.0**99)))
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

    if doubtful.size:
        for_each(cut_rows(doubtful.size, array.shape[1] * 8), work, n_threads)
    return sums, exponent
