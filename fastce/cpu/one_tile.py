"""Losses of a matrix of products that is a single small tile, with one positive in each row and column.

Small batches are such matrices. Nothing has to merge there, and NumPy's calls on vectors of a few hundred rows would
take longer than the tile: one kernel computes what they do. Whatever comes near the end of the range is left to them.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.positives import Positives
from fastce.cpu._kernels.clip import clip_sums
from fastce.cpu._kernels.clip_gradient import clip_gradient
from fastce.cpu._kernels.tile_ends import end_tile
from fastce.cpu._vectors.exponential import LN2, SPARE
from fastce.cpu.sides import LARGEST_EXPONENT, SPREAD, is_plain
from fastce.cpu.threads import INLINE_BYTES
from fastce.cpu.tile_similarity import TileSimilarity

NARROW = np.dtype(np.float32)


class Ends(NamedTuple):
    """What `end_tile` writes."""

    losses: Array
    slopes: Array
    of_rows: Array
    of_columns: Array


def fits_one_tile(rows: int, columns: int) -> bool:
    """Whether one thread reads the tile at once."""
    return rows * columns * NARROW.itemsize <= INLINE_BYTES


def is_one_tile(products: Any, positives: Positives, within: Any) -> bool:
    """Whether this is for `OneTile`: a small tile of float32, of which each row and each column has one positive."""
    rows, columns = products.left.rows, products.right.rows
    return bool(
        len(products.places) == 1
        and rows == columns == positives.rows.size
        and within.is_plain
        and products.left.dtype == NARROW
        and is_plain(within.scale, NARROW)
        and fits_one_tile(rows, columns)
        and positives.row_mass.min() == positives.column_mass.min() == 1.0
    )


class OneTile(TileSimilarity):
    """See `TileSimilarity`, which does what kernels leave to it."""

    ends: Ends | None = None

    def read(self, place: Any, tile: Array) -> None:
        """See `fastce.products.loss.Loss`."""
        self.ends = self._ends(tile)
        if self.ends is None:
            super().read(place, tile)

    def turn(self, place: Any, tile: Array) -> None:
        """See `fastce.products.loss.Loss`."""
        if self.ends is None:
            super().turn(place, tile)
            return
        first_points, columns, slopes = self._points(self.ends.slopes)
        count, spread = len(tile), self.smoothing / len(tile)
        clip_gradient.compiled(NARROW)(
            tile, first_points, columns, slopes, self.within.scale, self.within.factor, self.ends.of_rows,
            self.ends.of_columns, True, np.array([spread, spread]), tile, 1.0, np.empty(count), False,
        )  # fmt: skip

    def value(self) -> Any:
        """See `fastce.products.loss.Loss`."""
        if self.ends is None:
            return super().value()
        if self.reduction == "none":
            return self.ends.losses.astype(self.of_losses)
        return float(self.ends.losses.sum()) * self._share

    @property
    def _share(self) -> float:
        return 1.0 / self.positives.rows.size if self.reduction == "mean" else 1.0

    def _points(self, slopes: Array) -> tuple[Array, Array, Array]:
        """The pairs that kernels step over: where those of each row begin, their columns, and slopes."""
        if not self.products.symmetric:
            return self.positives.first_points, self.positives.columns, slopes
        columns, values = np.stack([self.positives.columns, self.itself]), np.stack([slopes, np.zeros(slopes.size)])
        later = columns[0] > columns[1]
        columns, values = np.where(later, columns[::-1], columns), np.where(later, values[::-1], values)
        return 2 * self.positives.first_points, columns.T.ravel(), values.T.ravel()

    def _ends(self, tile: Array) -> Ends | None:
        """The losses and what the gradient is made of; None if something is beyond the range of the kernels."""
        count, scale, smoothed = len(tile), self.within.scale, self.smoothing > 0.0
        of_rows, of_columns, exponent = np.empty((2, count)), np.empty((2, count)), np.empty(1)
        first_points, columns, _ = self._points(self.x)
        clip_sums.compiled(NARROW)(
            tile, first_points, columns, scale, smoothed, *of_rows, of_columns[0],
            of_columns[1, : count if smoothed else 0], np.empty((2, count), NARROW), exponent,
        )  # fmt: skip
        if self.products.symmetric:
            of_columns[0] = of_rows[0]
        near = float(np.float32((exponent[0] + SPARE) * LN2 / scale))  # in the order of the kernel
        ends = Ends(np.empty(count), np.empty(count), np.empty((count, 3)), np.empty((3, count), NARROW))
        powers, weight = np.empty(2), 1.0 if self.products.symmetric else 0.5
        end_tile.compiled(NARROW)(
            *of_rows_and_columns(of_rows, of_columns), exponent[0], near, self.positives.columns, self.x, scale,
            self.smoothing, self._share, weight, *ends, powers,
        )  # fmt: skip
        lowest, highest = powers
        largest = max(-exponent[0] - lowest, exponent[0] + highest)
        return ends if highest - lowest <= SPREAD[4] and largest <= LARGEST_EXPONENT[4] else None


def of_rows_and_columns(of_rows: Array, of_columns: Array) -> tuple[Array, Array, Array, Array]:
    """Sums, then distances."""
    return of_rows[0], of_columns[0], of_rows[1], of_columns[1]
