"""Losses of a matrix of products that is a single small tile: small batches are such matrices, see ends.py."""

from typing import Any

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
        points, partners = self._points(self.x)[:2], self.positives.columns
        self.ends = ends_of(
            tile, NARROW, points, partners, self.x, self.within.scale, self.smoothing, self.reduction,
            self.products.symmetric,
        )  # fmt: skip
        if self.ends is None:
            super().read(place, tile)

    def turn(self, place: Any, tile: Array) -> None:
        """See `fastce.products.loss.Loss`."""
        if self.ends is None:
            super().turn(place, tile)
            return
        factors = self.ends.factors(NARROW, self.smoothing)
        clip_gradient.compiled(NARROW)(
            tile, *self._points(self.ends.slopes), self.within.scale, self.within.factor, factors.of_rows,
            factors.of_columns, factors.together, factors.spreads, tile, factors.unit, np.empty(len(tile)), False,
        )  # fmt: skip

    def value(self) -> Any:
        """See `fastce.products.loss.Loss`."""
        return super().value() if self.ends is None else self.ends.value(self.reduction, self.of_losses)

    def _points(self, slopes: Array) -> tuple[Array, Array, Array]:
        """The pairs that kernels step over: where those of each row begin, their columns, and slopes."""
        if not self.products.symmetric:
            return self.positives.first_points, self.positives.columns, slopes
        columns, values = np.stack([self.positives.columns, self.itself]), np.stack([slopes, np.zeros(slopes.size)])
        later = columns[0] > columns[1]
        columns, values = np.where(later, columns[::-1], columns), np.where(later, values[::-1], values)
        return 2 * self.positives.first_points, columns.T.ravel(), values.T.ravel()
