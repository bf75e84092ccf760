"""Products of features with what tiles and panels hold: ready panels, gradients that add up, and what they may take."""

from typing import Any

from fastce.products.engine import Engine
from fastce.products.features import Features

MEMORY_BUDGET = 256 << 20  # bytes


class Gradient:
    """The gradient of the rows of some features: a sum of products, added up in the dtype that they are computed in.

    What is added always to the same slices of rows can be written the first time.
    """

    def __init__(self, features: Features, writes_first: bool = True) -> None:
        self.writes_first = writes_first
        self.engine: Engine = features.engine
        self.memory: Any = features.engine.zeros((features.rows, features.width), features.dtype)
        self.total: Any = features.engine.seen(self.memory)
        self.begun: set[int] = set()

    def add(self, rows: slice, slopes: Any, panel: Any) -> None:
        """Add slopes @ panel to these rows."""
        adds = not self.writes_first or rows.start in self.begun
        self.engine.multiply(slopes, panel, self.total[rows], adds=adds)
        self.begun.add(rows.start)


class ReadyPanel:
    """The panel that was asked for last: made ready once, while a row of tiles goes by."""

    def __init__(self, features: Features, length: int) -> None:
        self.features = features
        self.length = length
        self.room: Any = features.new_room(0 if features.is_ready else length)
        self.rows: slice = slice(0, 0)
        self.panel: Any = self.room[:0]

    def of(self, rows: slice) -> Any:
        """These rows, ready to be multiplied."""
        if rows != self.rows:
            self.panel, self.rows = self.features.panel(rows, self.room), rows
        return self.panel
