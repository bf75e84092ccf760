"""Labels of rows, and the classes that they make."""

from collections.abc import Iterator

import numpy as np

from fastce.arguments.arrays import Array, kind_of


def checked_labels(labels: Array, rows: int) -> Array:
    """Labels that are integers, one for each row: a copy, which nobody changes while it is sorted."""
    if labels.dtype.kind not in "iu":
        way_out = ": give labels.astype(int)" if labels.dtype.kind == "f" else ""
        raise TypeError(f"labels must be integers, got {kind_of(labels)}{way_out}")
    if labels.shape != (rows,):
        raise ValueError(f"labels have shape {labels.shape}, expected {(rows,)}: one for each row of features")
    return labels.copy()


class Classes:
    """The rows sorted by label, and how many others share the label of each."""

    def __init__(self, labels: Array) -> None:
        _, of_row, sizes = np.unique(labels, return_inverse=True, return_counts=True)
        self.of_row: Array = of_row
        self.order: Array = np.argsort(of_row, kind="stable")
        self.first: Array = np.concatenate([[0], np.cumsum(sizes)])
        self.others: Array = sizes[of_row] - 1

    def couples(self) -> tuple[Array, Array]:
        """The rows that share their label with a single other one, and those."""
        first = self.first[:-1][np.diff(self.first) == 2]
        one, other = self.order[first], self.order[first + 1]
        return np.concatenate([one, other]), np.concatenate([other, one])

    def groups(self, rows: int) -> Iterator[tuple[Array, Array]]:
        """(row numbers, where each class begins among them): classes together, about so many rows at a time."""
        start = 0
        while start < self.first.size - 1:
            stop = max(start + 1, int(np.searchsorted(self.first, self.first[start] + rows, side="right")) - 1)
            yield self.order[self.first[start] : self.first[stop]], self.first[start:stop] - self.first[start]
            start = stop
