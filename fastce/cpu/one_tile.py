"""Losses of a matrix of products that is a single small tile: small batches are such matrices, see ends.py."""

import functools
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.positives import Positives
from fastce.cpu._kernels.clip_gradient import clip_gradient
from fastce.cpu.ends import NARROW, Ends, ends_of, is_for_ends
from fastce.cpu.tile_similarity import TileSimilarity


def is_one_tile(products: Any, positives: Positives, within: Any) -> bool:
    """Whether this is for `OneTile`: all products are a single tile, and nothing is near the end of the range."""
    shape = products.left.rows, products.right.rows
    is_single = len(products.places) == 1 and within.is_plain
    return bool(is_single and is_for_ends(shape, positives, within.scale, products.left.dtype))


class OneTile(TileSimilarity):
    """See `TileSimilarity`, which does what kernels leave to it."""

    ends: Ends | None = None

    def read(self, place: Any, tile: Array) -> None:
        """See `fastce.products.loss.Loss`."""
        first_points, columns, _ = self._points
        self.ends = ends_of(
            tile, NARROW, (first_points, columns), self.positives.columns, self.x, self.within.scale, self.smoothing,
            self.reduction, self.products.symmetric,
        )  # fmt: skip
        if self.ends is None:
            super().read(place, tile)

    def turn(self, place: Any, tile: Array) -> None:
        """See `fastce.products.loss.Loss`."""
        if self.ends is None:
            super().turn(place, tile)
            return
        write_slopes(tile, self._points, self.ends, self.within.scale, self.within.factor, self.smoothing)

    def value(self) -> Any:
        """See `fastce.products.loss.Loss`."""
        return super().value() if self.ends is None else self.ends.value(self.reduction, self.of_losses)

    @functools.cached_property
    def _points(self) -> "Points":
        if not self.products.symmetric:
            return Points(self.positives.first_points, self.positives.columns)
        return Points.with_itself(self.positives.columns)


class Points(NamedTuple):
    """The pairs that kernels step over: where those of each row begin, and their columns."""

    first_points: Array
    columns: Array
    partners: Array | None = None  # which of them have slopes, if not all

    @classmethod
    def with_itself(cls, partners: Array) -> "Points":
        """In products of features with themselves: each row with its partner and with itself, which is no pair."""
        itself = np.arange(partners.size)
        columns, of_partners = np.repeat(itself, 2), 2 * itself + (partners > itself)  # sorted in each row
        columns[of_partners] = partners
        return cls(2 * np.arange(partners.size + 1), columns, of_partners)

    def slopes(self, of_partners: Array) -> Array:
        """The slopes of all points."""
        if self.partners is None:
            return of_partners
        slopes = np.zeros(self.columns.size)
        slopes[self.partners] = of_partners
        return slopes


def write_slopes(tile: Array, points: Points, ends: Ends, scale: float, factor: float, smoothing: float) -> None:
    """Turn a tile into its gradient, times the factor."""
    factors = ends.factors(NARROW, smoothing)
    clip_gradient.compiled(NARROW)(
        tile, points.first_points, points.columns, points.slopes(ends.slopes), scale, factor, factors.of_rows,
        factors.of_columns, factors.together, factors.spreads, tile, factors.unit, np.empty(len(tile)), False,
    )  # fmt: skip
