"""The products of two sets of features, all columns of some rows at a time: for losses that only rows have.

What a row has come to is known as soon as its panel is, so that one sweep does for the value and the gradients.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import checked_memory_budget
from fastce.products.features import Features
from fastce.products.gradients import FLOPS_AT_A_TIME, Gradient, ReadyPanel
from fastce.products.progress import Progress

MOST_ROWS, COLUMNS_AT_A_TIME, LEAST_COLUMNS = 4096, 4096, 64
QUERIES_AT_A_TIME = 4096


class Panels:
    """Panels of left @ right.T, with room for further columns at their right end.

    Only ``memory_budget`` bytes are used beyond the features and their gradients, if that is enough for one row. The
    caller's work takes ``bytes_of_row`` of them for each row of a panel.
    """

    def __init__(
        self, left: Features, right: Features, memory_budget: Any, further_columns: int = 0, bytes_of_row: int = 0
    ) -> None:
        self.left = left
        self.right = right
        self.columns: int = right.rows + further_columns
        most_rows, most_columns = self._shape(checked_memory_budget(memory_budget), bytes_of_row)
        self.row_cuts: list[slice] = left.cuts(most_rows)
        self.column_cuts: list[slice] = right.cuts(most_columns)
        self.room: Array = np.empty(min(most_rows, left.rows) * self.columns, left.dtype)
        self.left_panel: ReadyPanel = ReadyPanel(left, most_rows)
        self.right_panel: ReadyPanel = ReadyPanel(right, most_columns)

    def _shape(self, memory_budget: int, bytes_of_row: int) -> tuple[int, int]:
        """How many rows a panel has, and how many columns of it are multiplied at a time."""
        width, itemsize = self.left.width, self.left.dtype.itemsize
        columns = max(1, min(COLUMNS_AT_A_TIME, self.right.rows))
        of_column = (2 - self.right.is_ready) * width * itemsize
        while columns > LEAST_COLUMNS and columns * of_column > memory_budget // 2:
            columns //= 2
        of_row = bytes_of_row + (self.columns + (3 - self.left.is_ready) * width) * itemsize
        rows = max(1, min(MOST_ROWS, (memory_budget - columns * of_column) // max(of_row, 1)))
        while columns > 1 and 2.0 * rows * columns * width > FLOPS_AT_A_TIME:
            columns //= 2
        return rows, columns

    def sweep(self, work: Callable[[slice, Array], None], progress: Progress) -> None:
        """work(rows, panel) for every panel, which is the caller's to overwrite."""
        for rows in self.row_cuts:
            count = rows.stop - rows.start
            panel = self.room[: count * self.columns].reshape(count, self.columns)
            for columns in self.column_cuts:
                np.matmul(self.left_panel.of(rows), self.right_panel.of(columns).T, out=panel[:, columns])
            work(rows, panel)
            progress.step()

    def gradient_of_left(self, slopes: Array) -> Array:
        """Slopes @ right."""
        gradient, everything = Gradient(len(slopes), self.left), slice(0, len(slopes))
        for columns in self.column_cuts:
            gradient.add(everything, slopes[:, columns], self.right_panel.of(columns))
        return gradient.total

    def add_to_right(self, rows: slice, slopes: Array, of_right: Gradient) -> None:
        """Add slopes.T @ left to the gradient of right."""
        for columns in self.column_cuts:
            of_right.add(columns, slopes[:, columns].T, self.left_panel.of(rows))


class PanelsOfOwnKeys:
    """As `Panels`, where each query has negative keys of its own."""

    def __init__(self, query: Features, keys: Features, number: int, memory_budget: Any) -> None:
        self.query = query
        self.keys = keys
        self.number = number
        copied = 0 if keys.is_ready else number * query.width
        of_query = (copied + number + 1 + 3 * query.width) * keys.dtype.itemsize
        rows = max(1, min(QUERIES_AT_A_TIME, checked_memory_budget(memory_budget) // of_query))
        self.row_cuts: list[slice] = query.cuts(rows)
        self.ready_keys: ReadyPanel = ReadyPanel(keys, min(rows, query.rows) * number)
        self.keys_of_panel: Array = np.empty((0, number, query.width), keys.dtype)

    def sweep(self, work: Callable[[slice, Array], None], progress: Progress) -> None:
        """work(rows, panel) for every panel; the last column is the caller's to fill."""
        for rows in self.row_cuts:
            count = rows.stop - rows.start
            keys = self.ready_keys.of(slice(rows.start * self.number, rows.stop * self.number))
            self.keys_of_panel = keys.reshape(count, self.number, self.query.width)
            panel = np.empty((count, self.number + 1), self.keys.dtype)
            np.matmul(self.keys_of_panel, self.query.panel(rows)[:, :, None], out=panel[:, :-1, None])
            work(rows, panel)
            progress.step()

    def gradient_of_left(self, slopes: Array) -> Array:
        """The sum of slope * key of each query."""
        gradient: Array = np.matmul(slopes[:, None], self.keys_of_panel)[:, 0]
        return gradient

    def add_to_right(self, rows: slice, slopes: Array, of_right: Gradient) -> None:
        """Slope * query, for every key."""
        place = of_right.total[rows.start * self.number : rows.stop * self.number]
        np.multiply(slopes[:, :, None], self.query.panel(rows)[:, None], out=place.reshape(self.keys_of_panel.shape))
