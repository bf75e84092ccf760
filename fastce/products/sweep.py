"""A similarity matrix of features that exists only a tile at a time: both directions of its loss, and its gradients.

The first sweep sums up the negatives of every row and column; what is known of a tile's rows merges with what is known
from other tiles by the one law (cpu/pieces.py). The positives are few: their similarities are computed apart, in
float64, and in the tiles they are masked. The second sweep turns each tile into its gradient, in place, and multiplies
that with the features of either side.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.positives import Positives, no_positives
from fastce.cpu.layout import Rows
from fastce.cpu.sides import Side, gradient_factors, sides_of, slopes_of_points
from fastce.cpu.similarity import SimilarityCall, sums_of_negatives, write_gradient
from fastce.cpu.sums import Means, Sums
from fastce.products.features import products_of_pairs
from fastce.products.gradients import Gradient
from fastce.products.progress import Progress
from fastce.products.ranges import Range
from fastce.products.tiles import Place, Tiles

_NOTHING = np.empty(0)


@dataclass(frozen=True)
class TilesCall:
    """A checked call of a contrastive loss on features. Pairs ``without`` similarity are as if they were not there."""

    tiles: Tiles
    positives: Positives
    without: tuple[Array, Array]
    range: Range
    smoothing: float
    reduction: str
    dtype: np.dtype[Any]  # of losses
    progress: Progress
    n_threads: int | None

    @property
    def scale(self) -> float:
        """Of the products of the tiles."""
        return self.range.scale

    @property
    def is_wide(self) -> bool:
        """Whether products are those of float64."""
        return self.tiles.left.dtype == np.float64

    @functools.cached_property
    def pairs_apart(self) -> "PairsOfTiles":
        """The pairs that tiles are not asked about: the positives, then those that are not there."""
        (rows, columns), positives = self.without, self.positives
        return PairsOfTiles(
            self.tiles, np.concatenate([positives.rows, rows]), np.concatenate([positives.columns, columns])
        )


def both_sides(call: TilesCall, keep: bool) -> tuple[Side, Side]:
    """The losses of rows and of columns, with what their gradients are made of; keep says if those are wanted."""
    tiles, points = call.tiles, call.positives
    x = products_of_pairs(tiles.left, points.rows, tiles.right, points.columns, call.n_threads)
    by_row, by_column = sums_of_tiles(call, keep)
    means = _means(call) if call.smoothing > 0.0 else (None, None)
    return sides_of((by_row, by_column), points, x, means, call.scale, call.smoothing, call.reduction, call.is_wide)


def _means(call: TilesCall) -> tuple[Means, Means]:
    """The mean similarity of each row and each column."""
    left, right = call.tiles.left, call.tiles.right
    return (
        Means(np.zeros(left.rows), 0.5 * left.times(right.sum()) / max(right.rows, 1)),
        Means(np.zeros(right.rows), 0.5 * right.times(left.sum()) / max(left.rows, 1)),
    )


def sums_of_tiles(call: TilesCall, keep: bool) -> tuple[Sums, Sums]:
    """The sums over the negatives of every row and every column: the first sweep."""
    tiles = call.tiles
    by_row = Sums.of_nothing(tiles.left.rows)
    by_column = by_row if tiles.symmetric else Sums.of_nothing(tiles.right.rows)

    def work(place: Place, tile: Array) -> None:
        _, rows, columns = call.pairs_apart.of(place)
        tile[rows, columns] = -np.inf
        of_rows, of_columns, _ = sums_of_negatives(_as_matrix(tile, call.scale), _NOTHING, call.n_threads)
        by_row.add(place.rows, of_rows, call.scale, call.is_wide)
        if not (tiles.symmetric and place.rows == place.columns):
            by_column.add(place.columns, of_columns, call.scale, call.is_wide)

    tiles.sweep(work, call.progress, keep)
    return by_row, by_column


def _as_matrix(tile: Array, scale: float) -> SimilarityCall:
    """The tile as a matrix without positives."""
    return SimilarityCall(tile, Rows(tile), no_positives(len(tile)), scale, 0.0, "sum")


def gradients(call: TilesCall, by_row: Side, by_column: Side) -> tuple[Gradient, Gradient]:
    """The gradients of the rows of both sides, but for the rest of their range: the second sweep."""
    tiles = call.tiles
    weight = 1.0 if tiles.symmetric else 0.5  # an element above the diagonal stands for the one below, too
    factors = gradient_factors(by_row, by_column, call.smoothing, call.scale, tiles.left.dtype, weight)
    of_positives = slopes_of_points(by_row, by_column, call.positives, call.smoothing, weight)
    slopes = np.concatenate([of_positives * call.range.factor, np.zeros(call.without[0].size)])
    of_left = Gradient(tiles.left.rows, tiles.left)
    of_right = of_left if tiles.symmetric else Gradient(tiles.right.rows, tiles.right)

    def work(place: Place, tile: Array) -> None:
        of_tile = factors._replace(
            of_rows=factors.of_rows[place.rows], of_columns=np.ascontiguousarray(factors.of_columns[:, place.columns])
        )
        write_gradient(_as_matrix(tile, call.scale), of_tile, _NOTHING, call.range.factor, tile, call.n_threads)
        chosen, rows, columns = call.pairs_apart.of(place)
        tile[rows, columns] = slopes[chosen]
        tiles.add_to_gradients(place, tile, of_left, of_right)

    tiles.sweep(work, call.progress)
    return of_left, of_right


class PairsOfTiles:
    """Pairs of rows and columns, sorted by the tile that they lie in."""

    def __init__(self, tiles: Tiles, rows: Array, columns: Array) -> None:
        row_starts = np.unique([place.rows.start for place in tiles.places])
        column_starts = np.unique([place.columns.start for place in tiles.places])
        numbers = np.full((row_starts.size + 1, column_starts.size + 1), -1)
        for place in tiles.places:
            i, j = np.searchsorted(row_starts, place.rows.start), np.searchsorted(column_starts, place.columns.start)
            numbers[i, j] = place.number
        of_pairs = numbers[
            np.searchsorted(row_starts, rows, side="right") - 1,
            np.searchsorted(column_starts, columns, side="right") - 1,
        ]
        self.order: Array = np.argsort(of_pairs, kind="stable")
        self.first: Array = np.searchsorted(of_pairs[self.order], np.arange(len(tiles.places) + 1))
        self.rows = rows
        self.columns = columns

    def of(self, place: Place) -> tuple[Array, Array, Array]:
        """(which pairs, their rows, their columns) of this tile, counted from where it begins."""
        chosen = self.order[self.first[place.number] : self.first[place.number + 1]]
        return chosen, self.rows[chosen] - place.rows.start, self.columns[chosen] - place.columns.start
