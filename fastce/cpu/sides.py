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

SPREAD = {4: 90.0, 8: 900.0}  # by size of what is computed: of the powers of two near exp(lse) that one exp may serve
LARGEST_EXPONENT = {4: 2.0**19, 8: 2.0**39}  # of a logsumexp, as one of those powers
PLAIN_SCALES = {4: 2.0**16, 8: 2.0**60}  # and above the inverse, of which exp's polynomial has powers
LARGEST_LOGIT = 2.0**20  # that is computed in float32
LARGEST_SIMILARITY = {4: 2.0**60, 8: 2.0**900}  # of which sums may be added up as they are


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
    largest = PLAIN_SCALES[compute_dtype(dtype).itemsize]
    return 1.0 / largest <= scale <= largest


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
    """The side of the rows and that of the columns, from their negatives, and the positives x of both.

    The loss of a row (or column) is sum_p mass_p (lse - scale x_p). For the largest positive, lse - scale x_p =
    log1p(rest / exp(scale x_p)), rest being the sum of all the others, which keeps its digits when that one dominates.
    No other can. ``means``, over all of a row, are asked for by smoothing alone. Losses of float64 are wide.

    Columns are computed together with the rows, after these: NumPy's calls are what few rows cost.
    """
    rows, number = negatives[0].exps.size, negatives[0].exps.size + negatives[1].exps.size
    of_both, near = Sums(*map(np.concatenate, zip(*negatives, strict=True))), _both(means)
    owner = np.concatenate([points.rows, rows + points.columns])
    mass, x = np.concatenate([points.row_mass, points.column_mass]), np.concatenate([x, x])
    positives = np.bincount(owner, minlength=number)
    present = positives > 0
    leads = np.ones(x.size, bool) if positives.max(initial=0) <= 1 else _largest_of_each(owner, x, number)
    largest = np.full(number, -np.inf)
    largest[owner[leads]] = x[leads]
    tops = np.maximum(of_both.tops, largest)
    tops[np.isinf(tops)] = np.nan  # of +inf, or of nothing but -inf
    shift = shift_of(scale, x, tops, *(near or ()))
    unit, exps = 2.0**-shift, exp_of_difference(x, tops[owner], scale, is_wide)
    half_above = half_difference(x, tops[owner], scale * unit)
    rest = of_both.relative_to(tops, scale, is_wide) + np.bincount(owner, np.where(leads, 0.0, exps), number)
    total = rest + np.bincount(owner, np.where(leads, exps, 0.0), number)
    half_log = 0.5 * unit * np.log(total)
    dominates = leads & (rest[owner] < 1e15 * exps)
    halves = np.where(dominates, 0.5 * unit * np.log1p(rest[owner] / exps), half_log[owner] - half_above)
    quarter_losses = np.zeros(number)
    if smoothing < 1.0:
        quarter_losses += (1.0 - smoothing) * np.bincount(owner, mass * (0.5 * halves), number)
    if near is not None:
        distances = half_difference(tops, near.near, scale * unit) - scale * unit * near.half_distances
        quarter_losses += smoothing * 0.5 * (half_log + distances)
    quarter_losses[~present] = 0.0
    of_points = np.ldexp(2.0 * halves, shift)

    def side(here: slice, pairs: slice, of_side: Means | None) -> Side:
        share = shares(present[here], reduction)
        return Side(total[here], tops[here], quarter_losses[here], shift, share, of_points[pairs], of_side)

    count = points.rows.size
    return (
        side(slice(0, rows), slice(0, count), means[0]),
        side(slice(rows, number), slice(count, 2 * count), means[1]),
    )


def _both(means: tuple[Means, Means] | tuple[None, None]) -> Means | None:
    """Those of rows, then those of columns."""
    return None if means[0] is None else Means(*map(np.concatenate, zip(*means, strict=True)))


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
    rows, columns = by_row.share.size, by_column.share.size
    spreads = smoothing / np.maximum([columns, rows], 1)
    total, tops, share = (
        np.concatenate(of_both)
        for of_both in ((by_row.total, by_column.total), (by_row.tops, by_column.tops), (by_row.share, by_column.share))
    )
    size, of_means = _largest(tops), _largest(*(by_row.means or ()), *(by_column.means or ()))
    if not (is_plain(scale, dtype) and scale * size < LARGEST_LOGIT and _fits(max(size, of_means), dtype)):
        dtype = np.dtype(np.float64)
    unit = 1.0 if _fits(max(size, of_means), dtype) else 2.0**-200
    fractions = np.where(share == 0.0, 0.0, weight * share / np.where(total > 0.0, total, np.nan))
    exponents = np.rint((scale * tops + np.log(total)) / LN2)  # NaN where there is no sum
    common = _common_exponent(exponents, dtype) if is_plain(scale, dtype) and unit == 1.0 else None
    if common is None:
        references, fractions = _relative_to_tops(tops, fractions, scale, dtype)
    else:
        is_wide = compute_dtype(dtype) == np.float64
        references = np.full(rows + columns, common)
        fractions = _relative_to_power(tops, fractions, exponents, scale, common, is_wide)
    factors = np.stack([references, fractions, weight * share])
    of_columns = np.ascontiguousarray(factors[:, rows:], compute_dtype(dtype))
    return Factors(dtype, np.ascontiguousarray(factors[:, :rows].T), of_columns, common is not None, spreads, unit)


def _largest(*numbers: Array) -> float:
    """The largest magnitude of what is finite."""
    return max((_largest_of(np.abs(x)) for x in numbers), default=0.0)


def _largest_of(sizes: Array) -> float:
    largest = float(sizes.max(initial=0.0))
    return largest if math.isfinite(largest) else float(sizes[np.isfinite(sizes)].max(initial=0.0))


def _fits(size: float, dtype: np.dtype[Any]) -> bool:
    """Whether products of slopes with similarities of this size can be added up in this dtype.

    These are near the largest, or, with smoothing, near the mean; without it those of others are 0.
    """
    return size < LARGEST_SIMILARITY[compute_dtype(dtype).itemsize]


def _common_exponent(exponents: Array, dtype: np.dtype[Any]) -> float | None:
    """The lowest of the powers of two near the sums of all rows and columns, if one exp can serve both."""
    finite = exponents[np.isfinite(exponents)]
    if not finite.size:
        return 0.0
    lowest, highest, size = float(finite.min()), float(finite.max()), compute_dtype(dtype).itemsize
    fits = highest - lowest <= SPREAD[size] and max(-lowest, highest) <= LARGEST_EXPONENT[size]
    return lowest if fits else None


def _relative_to_power(
    tops: Array, fractions: Array, exponents: Array, scale: float, exponent: float, is_wide: bool
) -> Array:
    """The fractions relative to 2**exponent: only powers of two, which are exact, reach far."""
    own = np.where(np.isfinite(exponents), exponents, exponent)
    tops = np.where(np.isfinite(tops), tops, 0.0)
    relative = fractions * np.exp(-above_power(tops, own, scale, is_wide))
    result: Array = np.ldexp(np.where(fractions == 0.0, 0.0, relative), (exponent - own).astype(np.int64))
    return result


def _relative_to_tops(tops: Array, fractions: Array, scale: float, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """(-top / 2, fraction relative to exp(scale top)) with tops of this dtype; where there is none, far above all."""
    real = compute_dtype(dtype)
    known = np.isfinite(tops)
    rounded = np.where(known, tops, float(np.finfo(real).max)).astype(real).astype(np.float64)
    moved = exp_of_difference(rounded, tops, scale, real == np.float64)
    return -0.5 * rounded, fractions * np.where(known, moved, 1.0)
