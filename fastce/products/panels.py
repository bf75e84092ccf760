"""The products of two sets of features, all columns of some rows at a time: for losses that only rows have.

What a row has come to is known as soon as its panel is, so that one sweep does for the value and the gradients.
"""

import math
from collections.abc import Callable
from typing import Any

from fastce.arguments.numbers import checked_memory_budget
from fastce.products.features import Features
from fastce.products.gradients import Gradient, ReadyPanel
from fastce.products.progress import Progress
from fastce.products.tiles import Place, Products, Tiles

MOST_ROWS, LEAST_COLUMNS = 4096, 64
QUERIES_AT_A_TIME = 4096


class Panels(Products):
    """Panels of left @ right.T, with room for further columns at their right end.

    Only ``memory_budget`` bytes are used beyond the features and their gradients, if that is enough for one row. The
    caller's work takes ``bytes_of_row`` of them for each row of a panel.
    """

    unit: str = "panel"

    def __init__(
        self, left: Features, right: Features, memory_budget: Any, further_columns: int = 0, bytes_of_row: int = 0
    ) -> None:
        super().__init__(left, right)
        self.writes_first: bool = not self.symmetric  # panels of some rows add to all rows then
        self.columns: int = right.rows + further_columns
        most_rows, most_columns = self._shape(checked_memory_budget(memory_budget), bytes_of_row)
        everything = slice(0, self.columns)
        self.places: list[Place] = [Place(k, rows, everything) for k, rows in enumerate(left.cuts(most_rows))]
        self.column_cuts: list[slice] = right.cuts(most_columns)
        of_panel = min(most_rows, left.rows), self.columns
        self.room: Any = self.engine.room(math.prod(of_panel), left.dtype).reshape(of_panel)
        self.is_kept: bool = False
        self.left_panel: ReadyPanel = ReadyPanel(left, min(most_rows, left.rows))
        self.right_panel: ReadyPanel = ReadyPanel(right, min(most_columns, right.rows))
        self.left_of_slopes: ReadyPanel = self.left_panel
        self.right_of_slopes: ReadyPanel = self.right_panel

    def _shape(self, memory_budget: int, bytes_of_row: int) -> tuple[int, int]:
        """How many rows a panel has, and how many columns of it are multiplied at a time."""
        engine, width, itemsize = self.engine, self.left.width, self.left.dtype.itemsize
        columns = max(1, min(engine.columns_at_a_time, self.right.rows))
        of_column = (engine.sums_apart + (not self.right.is_ready)) * width * itemsize
        while columns > LEAST_COLUMNS and columns * of_column > memory_budget // 2:
            columns //= 2
        of_sums = 1 + engine.sums_apart + (not self.left.is_ready)
        of_row = bytes_of_row + (self.columns + of_sums * width) * itemsize
        rows = max(1, min(MOST_ROWS, (memory_budget - columns * of_column) // max(of_row, 1)))
        while columns > 1 and 2.0 * rows * columns * width > engine.flops_at_a_time:
            columns //= 2
        return rows, columns

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """See `Products.sweep`: the only panel is kept."""
        for place in self.places:
            panel = self.room[: place.rows.stop - place.rows.start]
            for columns in () if self.is_kept else self.column_cuts:
                left, right = self._factors_of(place.rows, columns)
                self.engine.multiply(left, right.T, panel[:, columns])
            self.is_kept = False
            work(place, panel)
            self.step(progress)
        self.is_kept = keep and len(self.places) == 1

    def _factors_of(self, rows: slice, columns: slice) -> tuple[Any, Any]:
        """These rows of both sides: in half precision if both are given so, else ready."""
        left, right = self.left.halves(rows), self.right.halves(columns)
        if left is None or right is None or left.dtype != right.dtype:
            return self.left_panel.of(rows), self.right_panel.of(columns)
        return left, right

    def multiply_slopes_with(self, left: Features, right: Features) -> None:
        """Take gradients with these, which are the features but for a factor, of both sides."""
        self.left_of_slopes = ReadyPanel(left, self.left_panel.length)
        self.right_of_slopes = ReadyPanel(right, self.right_panel.length)

    def gradient_of_left(self, slopes: Any) -> Any:
        """Slopes @ right."""
        gradient = self.left.new_room(len(slopes))
        if not self.column_cuts:
            gradient[...] = 0.0
        for k, columns in enumerate(self.column_cuts):
            self.engine.multiply(slopes[:, columns], self.right_of_slopes.of(columns), gradient, adds=k > 0)
        return gradient

    def add_to_right(self, rows: slice, slopes: Any, of_right: Gradient) -> None:
        """Add slopes.T @ left to a gradient of right."""
        for columns in self.column_cuts:
            of_right.add(columns, slopes[:, columns].T, self.left_of_slopes.of(rows))

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """See `Products.add_to_gradients`."""
        for columns in self.column_cuts if self.left_out != "left" else ():
            self.of_left.add(place.rows, slopes[:, columns], self.right_of_slopes.of(columns))
        if self.left_out != "right":
            self.add_to_right(place.rows, slopes, self.of_right)


def products_of(left: Features, right: Features, memory_budget: Any, bytes_of_pair: int = 0) -> Products:
    """Tiles or panels, as the engine prefers; of panels, the caller's work takes ``bytes_of_pair`` for each product."""
    if left.engine.prefers_tiles:
        return Tiles(left, right, memory_budget)
    return Panels(left, right, memory_budget, bytes_of_row=bytes_of_pair * right.rows)


class PanelsOfOwnKeys(Products):
    """As `Panels`, where each row of the left side has products with ``number`` rows of the right one: its own."""

    unit: str = "panel"

    def __init__(self, query: Features, keys: Features, number: int, memory_budget: Any) -> None:
        super().__init__(query, keys)
        self.number = number
        copied = 0 if keys.is_ready else number * query.width
        of_query = (copied + number + 1 + 3 * query.width) * keys.dtype.itemsize
        rows = max(1, min(QUERIES_AT_A_TIME, checked_memory_budget(memory_budget) // of_query))
        everything = slice(0, number + 1)
        self.places: list[Place] = [Place(k, rows, everything) for k, rows in enumerate(query.cuts(rows))]
        self.ready_keys: ReadyPanel = ReadyPanel(keys, min(rows, query.rows) * number)

    def _keys_of(self, rows: slice) -> Any:
        """The keys of these rows, for each row a matrix."""
        keys = self.ready_keys.of(slice(rows.start * self.number, rows.stop * self.number))
        return keys.reshape(rows.stop - rows.start, self.number, self.left.width)

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """See `Products.sweep`; the last column is the caller's to fill, and no panel is kept."""
        for place in self.places:
            keys, query = self._keys_of(place.rows), self.left.panel(place.rows)
            panel = self.engine.empty((len(query), self.number + 1), self.left.dtype)
            panel[:, :-1] = self.engine.xp.matmul(keys, query[:, :, None])[:, :, 0]
            work(place, panel)
            self.step(progress)

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """See `Products.add_to_gradients`."""
        xp, keys, rows = self.engine.xp, self._keys_of(place.rows), place.rows
        self.of_left.total[rows] = xp.matmul(slopes[:, None], keys)[:, 0]
        if self.left_out == "right":
            return
        of_keys = self.of_right.total[rows.start * self.number : rows.stop * self.number].reshape(keys.shape)
        xp.multiply(slopes[:, :, None], self.left.panel(rows)[:, None], out=of_keys)
