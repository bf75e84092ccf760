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
from fastce.products.features import Features
from fastce.products.gradients import FLOPS_AT_A_TIME, Gradient, ReadyPanel
from fastce.products.progress import Progress

LARGEST_EDGE, SMALLEST_EDGE = 2048, 256  # rows or columns of a tile: products are fast, and 16 MiB stay in a cache


class Place(NamedTuple):
    """Where a tile lies."""

    number: int
    rows: slice
    columns: slice


class Tiles:
    """The tiles of left @ right.T: products, gradients, and the memory that they take.

    Only ``memory_budget`` bytes are used beyond the features and their gradients, if that is enough for the smallest
    tiles. Panels of features count (those that cannot be used where they are), and so do the products that are
    added to the gradients.
    """

    def __init__(self, left: Features, right: Features, memory_budget: Any) -> None:
        memory_budget = checked_memory_budget(memory_budget)
        self.left = left
        self.right = right
        self.symmetric: bool = left is right
        edge = self._edge(memory_budget)
        row_cuts, column_cuts = left.cuts(edge), right.cuts(edge)
        places = [(r, c) for r in row_cuts for c in column_cuts if not self.symmetric or c.start >= r.start]
        self.places: list[Place] = [Place(k, *place) for k, place in enumerate(places)]
        self.shape: tuple[int, int] = (_longest(row_cuts), _longest(column_cuts))
        left_over = memory_budget - self._working_bytes(edge)
        self.number_kept: int = left_over // max(self.shape[0] * self.shape[1] * left.dtype.itemsize, 1)
        self.kept: dict[int, Array] = {}
        self.left_panels: ReadyPanel = ReadyPanel(left, self.shape[0])
        self.right_panels: ReadyPanel = ReadyPanel(right, self.shape[1])

    def _working_bytes(self, edge: int) -> int:
        """Of a tile, the panels that it is made from, and the products that are added to two gradients."""
        panels = 2 + (not self.left.is_ready) + (not self.right.is_ready)
        return int((edge * edge + panels * edge * self.left.width) * self.left.dtype.itemsize)

    def _edge(self, memory_budget: int) -> int:
        edge = LARGEST_EDGE
        while edge > SMALLEST_EDGE and (
            self._working_bytes(edge) > memory_budget or 2.0 * edge * edge * self.left.width > FLOPS_AT_A_TIME
        ):
            edge //= 2
        return edge

    def sweep(self, work: Callable[[Place, Array], None], progress: Progress, keep: bool = False) -> None:
        """work(place, tile) for every tile; what is kept of one sweep is handed to the next, and then given back.

        The tile is the caller's to overwrite.
        """
        for place in self.places:
            work(place, self._tile(place, keep))
            progress.step()

    def _tile(self, place: Place, keep: bool) -> Array:
        if place.number in self.kept:
            return self.kept.pop(place.number)
        if keep and place.number < self.number_kept:
            tile = self.kept[place.number] = self._product(place, self._new_room())
            return tile
        return self._product(place, self.room)

    @functools.cached_property
    def room(self) -> Array:
        """Where tiles that are not kept take turns."""
        return self._new_room()

    def _new_room(self) -> Array:
        return np.empty(self.shape[0] * self.shape[1], self.left.dtype)

    def _product(self, place: Place, room: Array) -> Array:
        left = self.left_panels.of(place.rows)
        on_diagonal = self.symmetric and place.rows == place.columns  # one and the same array is multiplied in its way
        right = left if on_diagonal else self.right_panels.of(place.columns)
        tile = room[: len(left) * len(right)].reshape(len(left), len(right))
        np.matmul(left, right.T, out=tile)
        return tile

    def add_to_gradients(self, place: Place, slopes: Array, of_left: Gradient, of_right: Gradient) -> None:
        """Add slopes @ right to the one and slopes.T @ left to the other, on the diagonal of both only once."""
        of_left.add(place.rows, slopes, self.right_panels.of(place.columns))
        if not (self.symmetric and place.rows == place.columns):
            of_right.add(place.columns, slopes.T, self.left_panels.of(place.rows))


def _longest(cuts: list[slice]) -> int:
    return max((cut.stop - cut.start for cut in cuts), default=0)
