"""The products of two sets of features on a GPU, all columns of some rows at a time.

What a row has come to is known as soon as its panel is, so that one sweep does for the value and the gradients. The
panel is overwritten by the gradient of its products, which is multiplied with the features of either side.
"""

from collections.abc import Callable
from typing import Any

from fastce.arguments.numbers import checked_memory_budget
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.features import Features
from fastce.cuda.products import finish, multiply, rows_between, seen
from fastce.products.gradients import ReadyPanel
from fastce.products.progress import Progress

MOST_ROWS = 4096


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
        self.room: DeviceArray = empty(left.library, (min(most_rows, left.rows), self.columns), left.dtype.name)
        self.left_panel: ReadyPanel = ReadyPanel(left, min(most_rows, left.rows))
        self.right_panel: ReadyPanel = ReadyPanel(right, min(most_columns, right.rows))

    def _shape(self, memory_budget: int, bytes_of_row: int) -> tuple[int, int]:
        """How many rows a panel has, and how many columns of it are multiplied at a time: all, if there is room."""
        columns, of_column = max(1, self.right.rows), self.right.bytes_of_ready_row
        if columns * of_column > memory_budget // 2:
            columns = max(1, memory_budget // 2 // of_column)
        of_row = bytes_of_row + self.columns * self.left.dtype.itemsize + self.left.bytes_of_ready_row
        rows = (memory_budget - columns * of_column) // max(of_row, 1)
        return max(1, min(MOST_ROWS, rows)), columns

    def sweep(self, work: Callable[[slice, DeviceArray], None], progress: Progress, is_there: bool = False) -> None:
        """work(rows, panel) for every panel, which is the caller's to overwrite.

        ``is_there`` says that the only panel is there from the sweep before, untouched.
        """
        for rows in self.row_cuts:
            panel = rows_between(self.room, 0, rows.stop - rows.start)
            values = seen(panel)
            for columns in () if is_there else self.column_cuts:
                multiply(self.left_panel.of(rows), self.right_panel.of(columns).T, values[:, columns])
            work(rows, panel)
            if progress.wanted is not None:
                finish(self.left.library)  # what is shown as done is done
            progress.step()

    def add_to_left(self, slopes: Any, of_rows: Any) -> None:
        """Add slopes @ right to the gradient of the panel's rows of left."""
        for columns in self.column_cuts:
            multiply(slopes[:, columns], self.right_panel.of(columns), of_rows, adds=True)

    def add_to_right(self, rows: slice, slopes: Any, of_right: Any) -> None:
        """Add slopes.T @ left to the gradient of right."""
        for columns in self.column_cuts:
            multiply(slopes[:, columns].T, self.left_panel.of(rows), of_right[columns], adds=True)
