"""Losses in both directions of a matrix of products that exists only a tile at a time.

The first sweep sums up the negatives of every row and column; what is known of a tile's rows merges with what is known
from other tiles by the one law (pieces.py). The positives are few: their products are computed apart, in float64, and
in the tiles they are masked. The second sweep turns each tile into its gradient, in place.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.labels import Classes
from fastce.arguments.positives import Positives, no_positives, pairs
from fastce.cpu.layout import Rows
from fastce.cpu.mates import Mates
from fastce.cpu.sides import Factors, Side, gradient_factors, shares, sides_of, slopes_of_points, value_of
from fastce.cpu.similarity import SimilarityCall, sums_of_negatives, write_gradient
from fastce.cpu.sums import Means, Sums, half_difference

_NOTHING = np.empty(0)


class Slopes(NamedTuple):
    """What tiles are turned into: the factors of negatives, and the slopes of positives."""

    factors: Factors
    of_points: Array

    @classmethod
    def of(
        cls, sides: tuple[Side, Side], points: Positives, smoothing: float, within: Any, weight: float = 0.5
    ) -> "Slopes":
        """Those of the losses of both sides, computed within a `fastce.products.ranges.Range`."""
        factors = gradient_factors(*sides, smoothing, within.scale, within.dtype, weight)
        return cls(factors, slopes_of_points(*sides, points, smoothing, weight) * within.factor)

    def of_rows(self, rows: slice, points: slice) -> "Slopes":
        """Those of some rows, and all columns; and the points of these rows."""
        return Slopes(self.factors._replace(of_rows=self.factors.of_rows[rows]), self.of_points[points])


class TileSimilarity:
    """A loss from features (`fastce.products.loss.Loss`): CLIP's, or NT-Xent's where both sides are the same features.

    In products of features with themselves, those of a row with itself are as if they were not there.
    """

    sweeps = 2

    def __init__(
        self,
        products: Any,
        positives: Positives,
        within: Any,
        smoothing: float,
        reduction: str,
        of_losses: np.dtype[Any],
        n_threads: int | None,
    ) -> None:
        self.products = products
        self.positives = positives
        self.within = within
        self.smoothing = smoothing
        self.reduction = reduction
        self.of_losses = of_losses
        self.n_threads = n_threads
        self.is_wide: bool = products.left.dtype == np.float64
        self.itself: Array = np.arange(products.left.rows if products.symmetric else 0)
        self.by_row: Sums = Sums.of_nothing(products.left.rows)
        self.by_column: Sums = self.by_row if products.symmetric else Sums.of_nothing(products.right.rows)

    @functools.cached_property
    def apart(self) -> Any:
        """The pairs that are masked in tiles."""
        points = self.positives
        rows, columns = (np.concatenate([numbers, self.itself]) for numbers in (points.rows, points.columns))
        return self.products.pairs(rows, columns)

    @functools.cached_property
    def x(self) -> Array:
        """The products of the positives."""
        left, right = self.products.left, self.products.right
        products: Array = left.products_of_pairs(self.positives.rows, right, self.positives.columns)
        return products

    def _is_on_diagonal(self, place: Any) -> bool:
        return bool(self.products.symmetric and place.rows == place.columns)

    def _as_matrix(self, tile: Array) -> SimilarityCall:
        """The tile as a matrix without positives."""
        return SimilarityCall(tile, Rows(tile), no_positives(len(tile)), self.within.scale, 0.0, "sum")

    def read(self, place: Any, tile: Array) -> None:
        tile[self.apart.of(place)[1]] = -np.inf
        of_rows, of_columns, _ = sums_of_negatives(self._as_matrix(tile), _NOTHING, self.n_threads)
        self.by_row.add(place.rows, of_rows, self.within.scale, self.is_wide)
        if not self._is_on_diagonal(place):
            self.by_column.add(place.columns, of_columns, self.within.scale, self.is_wide)

    @functools.cached_property
    def sides(self) -> tuple[Side, Side]:
        """The losses of rows and of columns, with what their gradients are made of; once all tiles are read."""
        return sides_of(
            (self.by_row, self.by_column), self.positives, self.x, self.means(), self.within.scale, self.smoothing,
            self.reduction, self.is_wide,
        )  # fmt: skip

    def means(self) -> tuple[Means, Means] | tuple[None, None]:
        """The mean product of each row and each column, which smoothing asks for."""
        if self.smoothing == 0.0:
            return None, None
        left, right = self.products.left, self.products.right
        return (
            Means(np.zeros(left.rows), 0.5 * left.times(right.sum()) / max(right.rows, 1)),
            Means(np.zeros(right.rows), 0.5 * right.times(left.sum()) / max(left.rows, 1)),
        )

    @functools.cached_property
    def slopes(self) -> Slopes:
        """What tiles are turned into; known once all are read."""
        weight = 1.0 if self.products.symmetric else 0.5  # an element above the diagonal stands for that below, too
        return Slopes.of(self.sides, self.positives, self.smoothing, self.within, weight)

    def turn(self, place: Any, tile: Array) -> None:
        factors = self.slopes.factors
        of_tile = factors._replace(
            of_rows=factors.of_rows[place.rows], of_columns=np.ascontiguousarray(factors.of_columns[:, place.columns])
        )
        write_gradient(self._as_matrix(tile), of_tile, _NOTHING, self.within.factor, tile, self.n_threads)
        chosen, where = self.apart.of(place)
        tile[where] = self._slopes_apart[chosen]

    @functools.cached_property
    def _slopes_apart(self) -> Array:
        return np.concatenate([self.slopes.of_points, np.zeros(self.itself.size)])

    def value(self) -> Any:
        return value_of(*self.sides, self.reduction, self.of_losses)


class LabelSimilarity(TileSimilarity):
    """SupCon's: lse less the mean product with the positives, of which a row may have two or more.

    Losses of a single one may be tiny, and are computed as CLIP's. All others are at least log(2).
    """

    def __init__(
        self,
        products: Any,
        classes: Classes,
        within: Any,
        reduction: str,
        of_losses: np.dtype[Any],
        n_threads: int | None,
    ) -> None:
        self.classes = classes
        rows = products.left.rows
        couples = pairs(*classes.couples(), (rows, rows))
        super().__init__(products, couples, within, 0.0, reduction, of_losses, n_threads)
        self.mates: Mates = Mates(products.left, classes, n_threads)

    @functools.cached_property
    def sides(self) -> tuple[Side, Side]:
        sides = super().sides
        mean = self.mates.products() / np.maximum(self.classes.others, 1)
        for side in sides:
            unit = 2.0**-side.shift
            half = 0.5 * unit * np.log(side.total) + half_difference(side.tops, mean, self.within.scale * unit)
            side.quarter_losses = np.where(self.classes.others > 1, 0.5 * half, side.quarter_losses)
            side.share = shares(self.classes.others > 0, self.reduction)
        return sides

    def complete(self) -> None:
        """Add the part of the gradient that draws rows of the same label together; from both rows of each pair.

        That of couples is there already.
        """
        others, gradient = self.classes.others, self.products.of_left.total
        share = -2.0 * self.within.factor * self.sides[0].share
        slopes = np.where(others > 1, share / np.maximum(others, 1), 0.0)
        self.mates.add_to(gradient, slopes)
