"""The products of two sets of features, a tile at a time: the matrix of all of them never exists.

A sweep goes over the tiles in a fixed order, row by row of tiles. BLAS multiplies with all of its threads, then the
caller's work on the tile runs on ours: they take turns and do not fight for cores. What is to be swept twice is kept
where the memory budget allows, and multiplied again elsewhere. Where both sides are the same features, the tiles on and
above the diagonal do for all.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import checked_memory_budget
from fastce.products.engine import Engine
from fastce.products.features import Features
from fastce.products.gradients import Gradient, ReadyPanel
from fastce.products.progress import Progress
from fastce.products.ranges import Range

LARGEST_EDGE, SMALLEST_EDGE = 2048, 256  # rows or columns of a tile: products are fast, and 16 MiB stay in a cache


class Place(NamedTuple):
    """Where a tile, or a panel, lies."""

    number: int
    rows: slice
    columns: slice


class Products:
    """The products of two sets of features: left @ right.T, in parts that have ``places``; and their gradients."""

    places: list[Place]
    unit: str = "tile"
    writes_first: bool = True  # see `Gradient`
    left_out: str = ""  # the side whose gradient is not computed

    def __init__(self, left: Features, right: Features) -> None:
        self.engine: Engine = left.engine
        self.left = left
        self.right = right
        self.symmetric: bool = left is right

    def leave_out(self, side: str) -> None:
        """Compute no gradient of this side, "left" or "right"."""
        self.left_out = side

    @functools.cached_property
    def of_left(self) -> Gradient:
        """The gradient of the left features, as far as parts have been added to it."""
        return Gradient(self.left, self.writes_first)

    @functools.cached_property
    def of_right(self) -> Gradient:
        """That of the right ones."""
        return self.of_left if self.symmetric else Gradient(self.right, self.writes_first)

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """work(place, part) for every part, which is the caller's to overwrite.

        With ``keep``, parts are kept as far as there is room for them, for the next sweep, by work that leaves them
        as they are.
        """
        raise NotImplementedError

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """Add slopes @ right to the gradient of the left features, and slopes.T @ left to that of the right ones."""
        raise NotImplementedError

    def pairs(self, rows: Any, columns: Any) -> "Pairs":
        """Pairs of rows and columns by the part that they lie in."""
        return Pairs(self, rows, columns)

    def step(self, progress: Progress) -> None:
        """One more part is done: what is shown as that is."""
        if progress.wanted is not None:
            self.engine.finish()
        progress.step()

    def finished(self, within: Range) -> tuple[list[Any], list[Any], float]:
        """The gradients of the arrays of both sides, in their dtypes; and the sum of row * gradient of the left one.

        That of the right one is the same but for roundings. There are none of a side that is left out.
        """
        if self.left_out == "left":
            of_right, along = self.right.finished(self.of_right.memory, rest=within.rest_of_right)
            return [None for _ in self.left.arrays], of_right, along
        of_left, along = self.finished_left(within)
        if self.symmetric:
            return of_left, of_left, along
        if self.left_out == "right":
            return of_left, [None for _ in self.right.arrays], along
        of_right, _ = self.right.finished(self.of_right.memory, False, within.rest_of_right)
        return of_left, of_right, along

    def finished_left(self, within: Range) -> tuple[list[Any], float]:
        """Those of the left side alone; and that sum."""
        return self.left.finished(self.of_left.memory, rest=within.rest_of_left)


class Pairs:
    """Pairs of rows and columns (arrays of NumPy), sorted by the part of the products that they lie in."""

    def __init__(self, products: Products, rows: Array, columns: Array) -> None:
        places, xp = products.places, products.engine.xp
        of_pairs = np.zeros(rows.size, np.int64) if len(places) == 1 else _places_of(places, rows, columns)
        order = np.argsort(of_pairs, kind="stable")
        self.part_of = products
        self.first: list[int] = np.searchsorted(of_pairs[order], np.arange(len(places) + 1)).tolist()
        self.order: Any = xp.asarray(order)
        self.rows: Any = xp.asarray(rows)
        self.columns: Any = xp.asarray(columns)

    def of(self, place: Place) -> tuple[Any, tuple[Any, Any]]:
        """(which pairs are in this part, (their rows, their columns) counted from where it begins)."""
        chosen = self.order[self.first[place.number] : self.first[place.number + 1]]
        return chosen, (self.rows[chosen] - place.rows.start, self.columns[chosen] - place.columns.start)

    def products(self) -> Any:
        """The products of all pairs, in float64."""
        return self.part_of.left.products_of_pairs(self.rows, self.part_of.right, self.columns)


def _places_of(places: list[Place], rows: Array, columns: Array) -> Array:
    """The number of the place that each pair lies in."""
    row_starts = np.unique([place.rows.start for place in places])
    column_starts = np.unique([place.columns.start for place in places])
    numbers = np.full((row_starts.size + 1, column_starts.size + 1), -1)
    for place in places:
        i, j = np.searchsorted(row_starts, place.rows.start), np.searchsorted(column_starts, place.columns.start)
        numbers[i, j] = place.number
    of_pairs: Array = numbers[
        np.searchsorted(row_starts, rows, side="right") - 1,
        np.searchsorted(column_starts, columns, side="right") - 1,
    ]
    return of_pairs


class Tiles(Products):
    """The tiles of left @ right.T: products, gradients, and the memory that they take.

    Only ``memory_budget`` bytes are used beyond the features and their gradients, if that is enough for the smallest
    tiles. Panels of features count (those that cannot be used where they are), and so do the products that are
    added to the gradients.
    """

    def __init__(self, left: Features, right: Features, memory_budget: Any) -> None:
        super().__init__(left, right)
        memory_budget = checked_memory_budget(memory_budget)
        edge = self._edge(memory_budget)
        row_cuts, column_cuts = left.cuts(edge), right.cuts(edge)
        places = [(r, c) for r in row_cuts for c in column_cuts if not self.symmetric or c.start >= r.start]
        self.places: list[Place] = [Place(k, *place) for k, place in enumerate(places)]
        self.shape: tuple[int, int] = (_longest(row_cuts), _longest(column_cuts))
        left_over = memory_budget - self._working_bytes(edge)
        self.number_kept: int = left_over // max(self.shape[0] * self.shape[1] * left.dtype.itemsize, 1)
        self.kept: dict[int, Any] = {}
        self.left_panels: ReadyPanel = ReadyPanel(left, self.shape[0])
        self.right_panels: ReadyPanel = ReadyPanel(right, self.shape[1])

    def _working_bytes(self, edge: int) -> int:
        """Of a tile, the panels that it is made from, and the products that are added to two gradients."""
        panels = 2 + (not self.left.is_ready) + (not self.right.is_ready)
        return int((edge * edge + panels * edge * self.left.width) * self.left.dtype.itemsize)

    def _edge(self, memory_budget: int) -> int:
        edge = LARGEST_EDGE
        while edge > SMALLEST_EDGE and (
            self._working_bytes(edge) > memory_budget
            or 2.0 * edge * edge * self.left.width > self.engine.flops_at_a_time
        ):
            edge //= 2
        return edge

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """See `Products.sweep`."""
        for place in self.places:
            work(place, self._tile(place, keep))
            self.step(progress)

    def _tile(self, place: Place, keep: bool) -> Any:
        if place.number in self.kept:
            return self.kept.pop(place.number)
        if keep and place.number < self.number_kept:
            tile = self.kept[place.number] = self._product(place, self._new_room())
            return tile
        return self._product(place, self.room)

    @functools.cached_property
    def room(self) -> Any:
        """Where tiles that are not kept take turns."""
        return self._new_room()

    def _new_room(self) -> Any:
        return self.engine.room(self.shape[0] * self.shape[1], self.left.dtype)

    def _product(self, place: Place, room: Any) -> Any:
        left = self.left_panels.of(place.rows)
        on_diagonal = self.symmetric and place.rows == place.columns
        # of an array times itself NumPy copies half the products, which takes longer than to copy the array
        right = left.copy() if on_diagonal else self.right_panels.of(place.columns)
        tile = room[: len(left) * len(right)].reshape(len(left), len(right))
        self.engine.multiply(left, right.T, tile)
        return tile

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """See `Products.add_to_gradients`; on the diagonal of features with themselves both are one."""
        if self.left_out != "left":
            self.of_left.add(place.rows, slopes, self.right_panels.of(place.columns))
        if self.left_out != "right" and not (self.symmetric and place.rows == place.columns):
            self.of_right.add(place.columns, slopes.T, self.left_panels.of(place.rows))


def _longest(cuts: list[slice]) -> int:
    return max((cut.stop - cut.start for cut in cuts), default=0)
