"""The two directions of a contrastive loss: from the sums of its rows (or columns) to losses and gradients' factors.

Everything here is of the size of the rows, in float64.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments import Array, compute_dtype
from fastce.kernels.exponential import LN2
from fastce.positives import Positives

LN2_HIGH, LN2_MIDDLE, LN2_LOW = (
    0.6931471787393093,
    1.8206359961303598e-09,
    2.373786426741311e-18,
)  # 28 digits each: exact products up to 2**24
SPREAD = {"float32": 90.0, "float64": 900.0}  # of the powers of two near exp(lse) that one exp may serve
LOWEST_EXPONENT = -(2.0**60)  # of a sum of nothing, which must not be the reference of what is added to it
LARGEST_EXPONENT = 2.0**19  # of a logsumexp, for a gradient computed in float32


class Sums(NamedTuple):
    """Of the negatives of every row or column: the sum of exp(x) / 2**exponent; of none, 0 and LOWEST_EXPONENT."""

    exps: Array
    exponent: Array


@dataclass
class Side:
    """One direction of the loss, for each row (or column): exp(lse) as total * 2**exponent, loss, share of the mean.

    ``of_points`` is lse - x of each positive. Rows without any have no share.
    """

    total: Array
    exponent: Array
    losses: Array
    share: Array
    of_points: Array


class Factors(NamedTuple):
    """What `clip_gradient` makes of a similarity, for all rows and columns; see there."""

    dtype: np.dtype[Any]  # that the gradient is computed in
    of_rows: Array
    of_columns: Array
    together: bool
    spreads: Array


def side_of(
    negatives: Sums,
    owner: Array,
    mass: Array,
    x: Array,
    mean_of_x: Array | None,
    smoothing: float,
    reduction: str,
) -> Side:
    """Add the positives to the negatives of each row (or column): the loss is sum_p mass_p (lse - x_p).

    For the largest positive, lse - x_p = log1p(rest / exp(x_p)), rest being the sum of all the others, which keeps its
    digits when that one dominates. No other can. ``mean_of_x``, over all of the row, is asked for by smoothing alone.
    """
    number = negatives.exps.size
    present = np.bincount(owner, minlength=number) > 0
    leads = _largest_of_each(owner, x, number)
    with np.errstate(invalid="ignore", over="ignore", under="ignore", divide="ignore"):
        lead_exponent = np.full(number, -np.inf)
        lead_exponent[owner[leads]] = np.rint(x[leads] / LN2)
        exponent = np.maximum(negatives.exponent, np.where(np.isfinite(lead_exponent), lead_exponent, -np.inf))
        above = _above(x, exponent[owner])
        exps = np.exp(above)
        rest = np.ldexp(negatives.exps, as_power(negatives.exponent - exponent))
        rest = rest + np.bincount(owner, np.where(leads, 0.0, exps), number)
        total = rest + np.bincount(owner, np.where(leads, exps, 0.0), number)
        log_total = np.log(total)
        dominates = leads & (rest[owner] < 1e15 * exps)
        of_points = np.where(dominates, np.log1p(rest[owner] / exps), log_total[owner] - above)
        of_points[np.isposinf(total)[owner]] = np.nan
        losses = (1.0 - smoothing) * np.bincount(owner, mass * of_points, number)
        if mean_of_x is not None:
            losses = losses + smoothing * (log_total + exponent * LN2 - mean_of_x)
    losses[~present] = 0.0
    return Side(total, exponent, losses, shares(present, reduction), of_points)


def as_power(exponent: Array) -> Array:
    """As ldexp takes it."""
    return np.maximum(exponent, -10_000).astype(np.int64)


def _above(x: Array, exponent: Array) -> Array:
    """How far x lies above exponent * ln(2): partial products are exact up to 2**43, and 1e17 has no digits to tell."""
    high = np.rint(exponent * 2.0**-20) * 2.0**20
    low, above = exponent - high, x
    for part in (LN2_HIGH, LN2_MIDDLE, LN2_LOW):
        above = (above - high * part) - low * part
    return np.where(np.rint(x / LN2) == exponent, np.clip(above, -0.5, 0.5), above)


def shares(present: Array, reduction: str) -> Array:
    """What the loss of each row is multiplied by in the value."""
    share = 1.0 / max(int(present.sum()), 1) if reduction == "mean" else 1.0
    return np.where(present, share, 0.0)


def _largest_of_each(owner: Array, x: Array, number: int) -> Array:
    """True at the largest positive of each row (or column), the first of equal ones."""
    largest = np.full(number, -np.inf)
    with np.errstate(invalid="ignore"):
        np.maximum.at(largest, owner, x)
    candidates = np.flatnonzero((x == largest[owner]) | np.isnan(x))
    leads = np.zeros(x.size, bool)
    leads[candidates[np.unique(owner[candidates], return_index=True)[1]]] = True
    return leads


def value_of(by_row: Side, by_column: Side, reduction: str, dtype: np.dtype[Any]) -> Any:
    """What the reduction asks for, of both directions."""
    if reduction == "none":
        return (0.5 * (by_row.losses + by_column.losses)).astype(compute_dtype(dtype))
    if reduction == "mean" and not by_row.share.any():
        return math.nan
    return 0.5 * float((by_row.losses * by_row.share).sum() + (by_column.losses * by_column.share).sum())


def slopes_of_points(by_row: Side, by_column: Side, points: Positives, smoothing: float, weight: float = 0.5) -> Array:
    """dL/dx of each positive, ``weight`` times that of both directions."""
    rows, columns = by_row.losses.size, by_column.losses.size
    of_row = _slopes(by_row, points.rows, points.row_mass, smoothing, columns)
    of_column = _slopes(by_column, points.columns, points.column_mass, smoothing, rows)
    return weight * (of_row + of_column)


def _slopes(side: Side, owner: Array, mass: Array, smoothing: float, classes: int) -> Array:
    """One direction's part: a (p - target), with p - 1 = expm1(x - lse) for its digits."""
    missing = (1.0 - mass) + smoothing * (mass - 1.0 / max(classes, 1))  # 1 - target; exactly 0 if it is 1
    with np.errstate(invalid="ignore"):
        return side.share[owner] * (np.expm1(-side.of_points) + missing)


def gradient_factors(
    by_row: Side, by_column: Side, smoothing: float, dtype: np.dtype[Any], weight: float = 0.5
) -> Factors:
    """What the gradient of a similarity that is no positive is made of, computed in float64 if it must be."""
    of_rows, of_columns = _powers(by_row, weight), _powers(by_column, weight)
    if max(np.abs(of_rows[0]).max(initial=0.0), np.abs(of_columns[0]).max(initial=0.0)) > LARGEST_EXPONENT:
        dtype = np.dtype(np.float64)
    together = _brought_together(of_rows, of_columns, dtype)
    classes = np.array([by_column.losses.size, by_row.losses.size])
    spreads = smoothing / np.maximum(classes, 1)
    return Factors(dtype, np.ascontiguousarray(of_rows.T), of_columns.astype(compute_dtype(dtype)), together, spreads)


def _powers(side: Side, weight: float) -> Array:
    """(exponent, factor / (exp(lse) / 2**exponent), factor) for each row or column."""
    factor = weight * side.share
    fraction_of_total, power = np.frexp(side.total)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        finite = np.isfinite(side.total) & (side.total > 0.0)
        left_over = np.where(finite, factor / fraction_of_total, np.nan)
    exponent = np.where(finite, side.exponent + power, 0.0)
    return np.stack([exponent, np.where(factor == 0.0, 0.0, left_over), factor])


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
