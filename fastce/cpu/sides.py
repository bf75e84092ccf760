"""The two directions of a contrastive loss: from the sums of its rows (or columns) to losses and gradients' factors.

Everything here is of the size of the rows, in float64.
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.positives import Positives
from fastce.cpu._vectors.exponential import LN2
from fastce.cpu.sums import Means, Sums, above_power, exp_of_difference, half_difference

SPREAD = {"float32": 90.0, "float64": 900.0}  # of the powers of two near exp(lse) that one exp may serve
LARGEST_EXPONENT = {"float32": 2.0**19, "float64": 2.0**39}  # of a logsumexp, as one of those powers
PLAIN_SCALES = {"float32": 2.0**16, "float64": 2.0**60}  # and above the inverse, of which exp's polynomial has powers
LARGEST_LOGIT = 2.0**20  # that is computed in float32
LARGEST_SIMILARITY = {"float32": 2.0**60, "float64": 2.0**900}  # of which sums may be added up as they are


@dataclass
class Side:
    """One direction of the loss, for each row (or column): exp(lse) as total * exp(scale top), share of the mean.

    A quarter of a loss times 2**-shift cannot overflow, nor can sums of them with weights that sum to 1: the shift is 0
    unless the scale takes similarities beyond the largest number. ``of_points`` is lse - x of each positive. Rows
    without any have no share. ``means``, over all similarities of a row, are there for smoothing alone.
    """

    total: Array
    tops: Array
    quarter_losses: Array
    shift: int
    share: Array
    of_points: Array
    means: Means | None


class Factors(NamedTuple):
    """What `clip_gradient` makes of a similarity, for all rows and columns; see there."""

    dtype: np.dtype[Any]  # that the gradient is computed in
    of_rows: Array
    of_columns: Array
    together: bool
    spreads: Array
    unit: float


def is_plain(scale: float, dtype: np.dtype[Any]) -> bool:
    """Whether exp relative to a power of two is good for this scale."""
    largest = PLAIN_SCALES[compute_dtype(dtype).name]
    return 1.0 / largest <= scale <= largest


def side_of(
    negatives: Sums,
    owner: Array,
    mass: Array,
    x: Array,
    means: Means | None,
    scale: float,
    smoothing: float,
    reduction: str,
    is_wide: bool,
) -> Side:
    """Add the positives x to the negatives of each row (or column): the loss is sum_p mass_p (lse - scale x_p).

    For the largest positive, lse - scale x_p = log1p(rest / exp(scale x_p)), rest being the sum of all the others,
    which keeps its digits when that one dominates. No other can. ``means``, over all of the row, are asked for by
    smoothing alone. Losses of float64 are wide.
    """
    number = negatives.exps.size
    positives = np.bincount(owner, minlength=number)
    present = positives > 0
    leads = np.ones(x.size, bool) if positives.max(initial=0) <= 1 else _largest_of_each(owner, x, number)
    largest = np.full(number, -np.inf)
    largest[owner[leads]] = x[leads]
    tops = np.maximum(negatives.tops, largest)
    tops[np.isinf(tops)] = np.nan  # of +inf, or of nothing but -inf
    shift = shift_of(scale, x, tops, *(means or ()))
    unit, exps = 2.0**-shift, exp_of_difference(x, tops[owner], scale, is_wide)
    half_above = half_difference(x, tops[owner], scale * unit)
    rest = negatives.relative_to(tops, scale, is_wide) + np.bincount(owner, np.where(leads, 0.0, exps), number)
    total = rest + np.bincount(owner, np.where(leads, exps, 0.0), number)
    half_log = 0.5 * unit * np.log(total)
    dominates = leads & (rest[owner] < 1e15 * exps)
    halves = np.where(dominates, 0.5 * unit * np.log1p(rest[owner] / exps), half_log[owner] - half_above)
    quarter_losses = np.zeros(number)
    if smoothing < 1.0:
        quarter_losses += (1.0 - smoothing) * np.bincount(owner, mass * (0.5 * halves), number)
    if means is not None:
        distances = half_difference(tops, means.near, scale * unit) - scale * unit * means.half_distances
        quarter_losses += smoothing * 0.5 * (half_log + distances)
    quarter_losses[~present] = 0.0
    return Side(total, tops, quarter_losses, shift, shares(present, reduction), np.ldexp(2.0 * halves, shift), means)


def sides_of(
    negatives: tuple[Sums, Sums],
    points: Positives,
    x: Array,
    means: tuple[Means, Means] | tuple[None, None],
    scale: float,
    smoothing: float,
    reduction: str,
    is_wide: bool,
) -> tuple[Side, Side]:
    """That of the rows and that of the columns, whose positives x are the same."""
    options = scale, smoothing, reduction, is_wide
    return (
        side_of(negatives[0], points.rows, points.row_mass, x, means[0], *options),
        side_of(negatives[1], points.columns, points.column_mass, x, means[1], *options),
    )


def shift_of(scale: float, *similarities: Array) -> int:
    """The power of two that scale times the difference of two similarities must be divided by, not to overflow."""
    size = _largest(*similarities)
    return max(0, math.frexp(scale)[1] + math.frexp(size)[1] - 1023)


def shares(present: Array, reduction: str) -> Array:
    """What the loss of each row is multiplied by in the value."""
    share = 1.0 / max(int(present.sum()), 1) if reduction == "mean" else 1.0
    return np.where(present, share, 0.0)


def _largest_of_each(owner: Array, x: Array, number: int) -> Array:
    """True at the largest positive of each row (or column), the first of equal ones."""
    largest = np.full(number, -np.inf)
    np.maximum.at(largest, owner, x)
    candidates = np.flatnonzero((x == largest[owner]) | np.isnan(x))
    leads = np.zeros(x.size, bool)
    leads[candidates[np.unique(owner[candidates], return_index=True)[1]]] = True
    return leads


def value_of(by_row: Side, by_column: Side, reduction: str, dtype: np.dtype[Any]) -> Any:
    """What the reduction asks for, of both directions."""
    if reduction == "none":
        row, column = (np.ldexp(side.quarter_losses, side.shift) for side in (by_row, by_column))
        return (2.0 * (row + column)).astype(compute_dtype(dtype))
    if reduction == "mean" and not by_row.share.any():
        return math.nan
    halves = [2.0 * (side.quarter_losses * side.share).sum() for side in (by_row, by_column)]
    return float(sum(np.ldexp(half, side.shift) for half, side in zip(halves, (by_row, by_column), strict=True)))


def slopes_of_points(by_row: Side, by_column: Side, points: Positives, smoothing: float, weight: float = 0.5) -> Array:
    """dL/dx of each positive, ``weight`` times that of both directions."""
    rows, columns = by_row.share.size, by_column.share.size
    of_row = _slopes(by_row, points.rows, points.row_mass, smoothing, columns)
    of_column = _slopes(by_column, points.columns, points.column_mass, smoothing, rows)
    return weight * (of_row + of_column)


def _slopes(side: Side, owner: Array, mass: Array, smoothing: float, classes: int) -> Array:
    """One direction's part: a (p - target), with p - 1 = expm1(x - lse) for its digits."""
    missing = (1.0 - mass) + smoothing * (mass - 1.0 / max(classes, 1))  # 1 - target; exactly 0 if it is 1
    return side.share[owner] * (np.expm1(-side.of_points) + missing)


def gradient_factors(
    by_row: Side, by_column: Side, smoothing: float, scale: float, dtype: np.dtype[Any], weight: float = 0.5
) -> Factors:
    """What the gradient of a similarity that is no positive is made of, computed in float64 if it must be."""
    sides = by_row, by_column
    classes = np.array([by_column.share.size, by_row.share.size])
    spreads = smoothing / np.maximum(classes, 1)
    size = max(_largest(side.tops) for side in sides)
    if not (is_plain(scale, dtype) and scale * size < LARGEST_LOGIT and _fits(sides, size, dtype)):
        dtype = np.dtype(np.float64)
    unit = 1.0 if _fits(sides, size, dtype) else 2.0**-200
    is_wide = compute_dtype(dtype) == np.float64
    common = _common_exponent(sides, scale, dtype) if is_plain(scale, dtype) and unit == 1.0 else None
    fractions = [_shares_of_sums(side, weight) for side in sides]
    if common is None:
        of_both = [_relative_to_tops(*both, scale, dtype) for both in zip(sides, fractions, strict=True)]
    else:
        of_both = [_relative_to_power(*both, scale, common, is_wide) for both in zip(sides, fractions, strict=True)]
    of_rows, of_columns = (np.stack([*pair, weight * side.share]) for pair, side in zip(of_both, sides, strict=True))
    of_columns = of_columns.astype(compute_dtype(dtype))
    return Factors(dtype, np.ascontiguousarray(of_rows.T), of_columns, common is not None, spreads, unit)


def _largest(*numbers: Array) -> float:
    """The largest magnitude of what is finite."""
    return max((float(np.abs(x[np.isfinite(x)]).max(initial=0.0)) for x in numbers), default=0.0)


def _fits(sides: tuple[Side, Side], size: float, dtype: np.dtype[Any]) -> bool:
    """Whether products of slopes with similarities can be added up in this dtype.

    Without smoothing those of similarities far from the largest are 0.
    """
    return max(size, *(_largest(*(side.means or ())) for side in sides)) < LARGEST_SIMILARITY[compute_dtype(dtype).name]


def _shares_of_sums(side: Side, weight: float) -> Array:
    """The quotient share / total; NaN where there is no sum, but for rows that have no share."""
    return np.where(side.share == 0.0, 0.0, weight * side.share / np.where(side.total > 0.0, side.total, np.nan))


def _exponents(side: Side, scale: float) -> Array:
    """The powers of two near the sums, NaN where there is no sum."""
    return np.rint((scale * side.tops + np.log(side.total)) / LN2)


def _common_exponent(sides: tuple[Side, Side], scale: float, dtype: np.dtype[Any]) -> float | None:
    """The lowest of the powers of two near the sums of all rows and columns, if one exp can serve both."""
    exponents = np.concatenate([_exponents(side, scale) for side in sides])
    exponents = exponents[np.isfinite(exponents)]
    name = compute_dtype(dtype).name
    if not exponents.size:
        return 0.0
    fits = np.ptp(exponents) <= SPREAD[name] and np.abs(exponents).max() <= LARGEST_EXPONENT[name]
    return float(exponents.min()) if fits else None


def _relative_to_power(
    side: Side, fraction: Array, scale: float, exponent: float, is_wide: bool
) -> tuple[Array, Array]:
    """(exponent, fraction relative to 2**exponent): only powers of two, which are exact, reach far."""
    own = np.nan_to_num(_exponents(side, scale), nan=exponent, posinf=exponent, neginf=exponent)
    tops = np.where(np.isfinite(side.tops), side.tops, 0.0)
    relative = fraction * np.exp(-above_power(tops, own, scale, is_wide))
    power = np.ldexp(np.where(fraction == 0.0, 0.0, relative), (exponent - own).astype(np.int64))
    return np.full(own.size, exponent), power


def _relative_to_tops(side: Side, fraction: Array, scale: float, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """(-top / 2, fraction relative to exp(scale top)) with tops of this dtype; where there is none, far above all."""
    real = compute_dtype(dtype)
    known = np.isfinite(side.tops)
    tops = np.where(known, side.tops, float(np.finfo(real).max)).astype(real).astype(np.float64)
    moved = exp_of_difference(tops, side.tops, scale, real == np.float64)
    return -0.5 * tops, fraction * np.where(known, moved, 1.0)
