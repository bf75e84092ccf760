"""Contrastive losses on a given similarity matrix: rows and columns from one read, the gradient from a second."""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments import (
    Array,
    checked_out,
    compute_dtype,
    fraction,
    positive,
    real_array,
    reduction_of,
)
from fastce.kernels.clip import clip_gradient, clip_sums
from fastce.kernels.softmax import row_states
from fastce.kernels.vector import SPARE
from fastce.layout import Rows, goes_past_cache
from fastce.positives import Positives, positives_of
from fastce.threads import cut_rows, for_each

LN2 = math.log(2.0)
LN2_HIGH, LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10  # exact products up to 2**20
TRUSTED = 2.0**-60  # smaller sums, relative to their block's reference, may have lost digits
COLUMN_BLOCKS = 16  # each keeps sums for every column, so there must not be many
SPREAD = {"float32": 90.0, "float64": 900.0}  # of the powers of two near exp(lse) that one exp may serve
LARGEST_EXPONENT = 2.0**19  # of a logsumexp, for a gradient computed in float32


class ClipValueAndGrad(NamedTuple):
    """The CLIP loss, its gradient with respect to the similarities, and to the logit scale."""

    value: float | Array
    grad: Array
    grad_logit_scale: float


@dataclass
class _Side:
    """One direction of the loss, for each row (or column): exp(lse) as sum * 2**exponent, loss, share of the mean."""

    total: Array
    exponent: Array
    losses: Array
    factor: Array
    of_points: Array  # lse - x of each positive


class _Call(NamedTuple):
    array: Array
    similarity: Rows
    positives: Positives
    scale: float
    smoothing: float
    reduction: str


def clip_loss(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    n_threads: int | None = None,
) -> Any:
    r"""CLIP's symmetric cross entropy of a similarity matrix (rows: images, columns: texts), from one read of it.

    .. math:: \frac12 \Big[\frac1N \sum_i (\mathrm{lse}_j\, x_{ij} - x_{ii})
              + \frac1N \sum_j (\mathrm{lse}_i\, x_{ij} - x_{jj})\Big], \quad x = \mathrm{logit\_scale} \cdot S

    Parameters
    ----------
    similarity : array_like, shape (N, M)
        Dtypes and strides as in `cross_entropy`. Square unless `targets` are given.
    targets : array_like of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        Each row's positive column, or several positives with non-negative weights; by default the diagonal. The target
        distribution of a row (column) is its positives, normalised to sum 1; rows and columns without positives are
        left out of their mean.
    logit_scale : float, default: 1.0
        Positive factor of the similarities.
    label_smoothing : float in [0, 1], default: 0.0
        Mass spread over all columns of a row, and over all rows of a column.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Half the mean over rows plus half the mean over columns; half the sums; or, for square matrices,
        ``(row_i + column_i) / 2``.
    n_threads : int, optional
        As in `cross_entropy`.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (N,).

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `cross_entropy`.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> similarity = np.array([[2.0, 0.5, -1.0], [0.3, 1.8, 0.2], [-0.5, 0.4, 1.5]])
    >>> round(fastce.clip_loss(similarity), 10)
    0.3226813394
    """
    call = _checked_call(similarity, targets, logit_scale, label_smoothing, reduction)
    return _value(call, *_both_sides(call, n_threads))


def clip_loss_value_and_grad(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
    n_threads: int | None = None,
) -> ClipValueAndGrad:
    """CLIP's loss and its gradients: one read for the value, a second for the gradient.

    Parameters
    ----------
    similarity, targets, logit_scale, label_smoothing, reduction, n_threads
        As in `clip_loss`.
    out : ndarray, optional
        Receives the gradient; of its shape and dtype, writable. May be `similarity` itself, which is then replaced.

    Returns
    -------
    ClipValueAndGrad
        ``value``; ``grad`` with respect to `similarity`, in its dtype; ``grad_logit_scale``, a Python float. For
        ``reduction="none"`` the gradients are those of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> similarity = np.array([[2.0, 0.5], [0.3, 1.8]])
    >>> fastce.clip_loss_value_and_grad(similarity).grad.round(4)
    array([[-0.0842,  0.0991],
           [ 0.0842, -0.0991]])
    """
    call = _checked_call(similarity, targets, logit_scale, label_smoothing, reduction)
    dtype = call.similarity.dtype
    out = checked_out(out, call.array.shape, dtype, call.array, [targets])
    by_row, by_column = _both_sides(call, n_threads)
    of_rows, of_columns = _powers(by_row), _powers(by_column)
    if max(np.abs(of_rows[0]).max(initial=0.0), np.abs(of_columns[0]).max(initial=0.0)) > LARGEST_EXPONENT:
        dtype = np.dtype(np.float64)
    similarity, gradient, n_columns = (
        Rows(call.array, dtype=dtype),
        Rows(out, dtype=dtype),
        call.similarity.classes,
    )
    smoothing = np.array([call.smoothing / n_columns, call.smoothing / max(call.similarity.rows, 1)])
    points = call.positives
    slopes = _slopes(by_row, points.rows, points.row_mass, smoothing[0], call) + _slopes(
        by_column, points.columns, points.column_mass, smoothing[1], call
    )
    together = _brought_together(of_rows, of_columns, dtype)
    of_rows, of_columns = np.ascontiguousarray(of_rows.T), of_columns.astype(compute_dtype(dtype))
    scale_gradient = np.empty(call.similarity.rows)
    past_cache = goes_past_cache(out, call.similarity.view)
    kernel = clip_gradient.compiled(dtype)

    def work(start: int, stop: int) -> None:
        room = gradient.room(start, stop)
        kernel(
            similarity.block(start, stop), points.first_points[start : stop + 1], points.columns, slopes,
            call.scale, of_rows[start:stop], of_columns, together, smoothing, room, scale_gradient[start:stop],
            past_cache,
        )  # fmt: skip
        gradient.put_back(start, stop, room)

    for_each(cut_rows(call.similarity.rows, call.similarity.row_bytes), work, n_threads)
    return ClipValueAndGrad(_value(call, by_row, by_column), out, float(scale_gradient.sum()))


# --- arguments -------------------------------------------------------------------------------------------------------


def _checked_call(similarity: Any, targets: Any, logit_scale: Any, label_smoothing: Any, reduction: Any) -> _Call:
    array = real_array(similarity, "similarity")
    if array.ndim != 2:
        raise ValueError(f"similarity must have two dimensions, got shape {array.shape}")
    rows, columns = array.shape
    reduction = reduction_of(reduction)
    if rows != columns and (targets is None or reduction == "none"):
        why = "unless targets are given" if targets is None else "for reduction='none'"
        raise ValueError(f"similarity must be square {why}, got shape {array.shape}")
    scale, smoothing = positive(logit_scale, "logit_scale"), fraction(label_smoothing, "label_smoothing")
    return _Call(array, Rows(array), positives_of(targets, array.shape), scale, smoothing, reduction)


# --- both directions -------------------------------------------------------------------------------------------------


class _Sums(NamedTuple):
    """Of the negatives of every row or column: the sum of exp(x) / 2**exponent, and the sum of x."""

    exps: Array
    exponent: Array
    total: Array


def _both_sides(call: _Call, n_threads: int | None) -> tuple[_Side, _Side]:
    points, (rows, columns) = call.positives, call.array.shape
    x = np.asarray(call.array[points.rows, points.columns], np.float64) * call.scale
    by_row, by_column = _sums_of_negatives(call, n_threads)
    return (
        _side(by_row, points.rows, points.row_mass, x, columns, call),
        _side(by_column, points.columns, points.column_mass, x, rows, call),
    )


def _side(negatives: _Sums, owner: Array, mass: Array, x: Array, classes: int, call: _Call) -> _Side:
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
    return _Side(total, exponent, losses, np.where(present, 0.5 * share, 0.0), of_points)


def _largest_of_each(owner: Array, x: Array, number: int) -> Array:
    """True at the largest positive of each row (or column), the first of equal ones."""
    largest = np.full(number, -np.inf)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, owner, x)
    candidates = np.flatnonzero((x == largest[owner]) | np.isnan(x))
    leads = np.zeros(x.size, bool)
    leads[candidates[np.unique(owner[candidates], return_index=True)[1]]] = True
    return leads


def _sums_of_negatives(call: _Call, n_threads: int | None) -> tuple[_Sums, _Sums]:
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
    row_distances: Array, column_distances: Array, near: Array, block_of_row: Array, call: _Call
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


def _trusted(sums: Array, exponent: Array, call: _Call, n_threads: int | None, axis: int) -> tuple[Array, Array]:
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


def _value(call: _Call, by_row: _Side, by_column: _Side) -> Any:
    if call.reduction == "none":
        return (0.5 * (by_row.losses + by_column.losses)).astype(compute_dtype(call.similarity.dtype))
    if call.reduction == "sum":
        return 0.5 * float(by_row.losses.sum() + by_column.losses.sum())
    if not by_row.factor.any():
        return math.nan
    return float((by_row.losses * by_row.factor).sum() + (by_column.losses * by_column.factor).sum())


def _slopes(side: _Side, owner: Array, mass: Array, spread: float, call: _Call) -> Array:
    """dL/dx of the positives, one direction's part: a (p - target), with p - 1 = expm1(x - lse) for its digits."""
    missing = 1.0 - (1.0 - call.smoothing) * mass - spread
    with np.errstate(invalid="ignore"):
        return side.factor[owner] * (np.expm1(-side.of_points) + missing)


def _powers(side: _Side) -> Array:
    """(exponent, factor / (exp(lse) / 2**exponent), factor) for each row or column."""
    fraction_of_total, power = np.frexp(side.total)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        finite = np.isfinite(side.total) & (side.total > 0.0)
        left_over = np.where(finite, side.factor / fraction_of_total, np.nan)
    exponent = np.where(finite, side.exponent + power, 0.0)
    return np.stack([exponent, np.where(side.factor == 0.0, 0.0, left_over), side.factor])


def _brought_together(of_rows: Array, of_columns: Array, dtype: np.dtype[Any]) -> bool:
    """Give all rows and columns the lowest of their powers of two, unless exp would leave the dtype's range."""
    exponents = np.concatenate([of_rows[0], of_columns[0]])
    lowest, spread = exponents.min(initial=np.inf), np.ptp(exponents) if exponents.size else 0.0
    together = bool(spread <= SPREAD[compute_dtype(dtype).name])
    if together:
        for side in (of_rows, of_columns):
            side[1] = np.ldexp(side[1], (lowest - side[0]).astype(np.int64))
            side[0] = lowest
    return together
