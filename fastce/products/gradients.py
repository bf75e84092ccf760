"""Products of features with what tiles and panels hold: ready panels, gradients that add up, and what they may take."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import quietly
from fastce.cpu.threads import cut_rows, for_each
from fastce.products.features import Features

MEMORY_BUDGET = 256 << 20  # bytes
FLOPS_AT_A_TIME = 2.0**35  # Ctrl-C is heard between products


class Gradient:
    """The gradient of the rows of some features: a sum of products, added up in the dtype that they are computed in."""

    def __init__(self, rows: int, features: Features) -> None:
        self.total: Array = np.zeros((rows, features.width), features.dtype)
        self.begun: set[int] = set()
        self.room: Array = self.total[:0]
        self.n_threads: int | None = features.n_threads

    def add(self, rows: slice, slopes: Array, panel: Array) -> None:
        """Add slopes @ panel to these rows, always the same slices."""
        total = self.total[rows]
        if rows.start not in self.begun:
            np.matmul(slopes, panel, out=total)
            self.begun.add(rows.start)
            return
        if len(self.room) < len(total):
            self.room = np.empty_like(total)
        product = np.matmul(slopes, panel, out=self.room[: len(total)])

        @quietly()
        def work(start: int, stop: int) -> None:
            total[start:stop] += product[start:stop]

        for_each(cut_rows(len(total), total.shape[1] * total.itemsize), work, self.n_threads)


class ReadyPanel:
    """The panel that was asked for last: made ready once, while a row of tiles goes by."""

    def __init__(self, features: Any, length: int) -> None:
        """For features on the CPU, or those of `fastce.cuda.features`."""
        self.features = features
        self.room: Any = features.new_room(0 if features.is_ready else length)
        self.rows: slice = slice(0, 0)
        self.panel: Any = self.room[:0]

    def of(self, rows: slice) -> Any:
        """These rows, ready to be multiplied."""
        if rows != self.rows:
            self.panel, self.rows = self.features.panel(rows, self.room), rows
        return self.panel
