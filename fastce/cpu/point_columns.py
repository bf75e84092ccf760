"""Sparse targets of few classes, spread out block by block for the kernels that take a row in each lane."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.sparse import sparse_points
from fastce.cpu._kernels.points import ODD, WIDE, check_points, spread_points
from fastce.cpu.columns import Place
from fastce.cpu.layout import PAD
from fastce.cpu.rooms import Room
from fastce.cpu.threads import for_each

MOST_CLASSES = 64  # that are worth it
NARROWEST, WIDEST = 2.0**-100, 2.0**100  # masses, with all their digits, that float32 losses can be computed from
AT_A_TIME = 1 << 17  # points, or rows

Points = tuple[Array, Array, Array]
_ANY = np.dtype(np.float64)  # of a kernel that knows no logits


class PointColumns:
    """The points of a matrix, as `Columns` of probabilities with adjacent rows."""

    narrow = False

    def __init__(self, points: Points, classes: int, dtype: np.dtype[Any]) -> None:
        self.points = points
        self.classes = classes
        self.dtype = dtype
        self._memory = Room()

    def block(self, place: Place) -> Array:
        """The probabilities of this part."""
        classes, masses, first_points = self.points
        outer, rows = place.shape
        room = self._memory.of((outer, self.classes, rows + PAD), self.dtype)[:, :, :rows]
        kernel = spread_points.compiled(self.dtype)
        for k in range(outer):
            start = place.start + k * rows
            kernel(first_points[start : start + rows + 1], classes, masses, room[k])
        return room


def read_points(
    targets: Any, shape: tuple[int, int], dtype: np.dtype[Any], n_threads: int | None
) -> tuple[Points, PointColumns | None]:
    """A sparse matrix as points in canonical form, see `sparse_points`; as columns, too, if its classes are few."""
    quick = _canonical_points(targets, shape, n_threads) if targets.format == "csr" else None
    points, found = quick or (sparse_points(targets, shape), None)
    if shape[1] > MOST_CLASSES:
        return points, None
    if dtype == np.float32 and (_found(points, shape[1], n_threads) if found is None else found)[WIDE]:
        return points, None
    return points, PointColumns(points, shape[1], dtype)


def _canonical_points(targets: Any, shape: tuple[int, int], n_threads: int | None) -> tuple[Points, Array] | None:
    """A copy of the arrays of a CSR matrix as points, if they are in canonical form, and what `check_points` finds."""
    given = targets.indices, targets.data, targets.indptr
    kinds = tuple(getattr(getattr(array, "dtype", None), "kind", "") for array in given)
    if targets.ndim != 2 or targets.shape != shape or kinds[0] + kinds[2] not in ("ii", "uu", "iu", "ui"):
        return None
    is_wide_float = kinds[1] == "f" and given[1].dtype.itemsize > 8
    if kinds[1] not in "fiub" or is_wide_float or any(array.ndim != 1 for array in given):
        return None
    if given[0].shape != given[1].shape or given[2].size != shape[0] + 1:
        return None
    indices, data, first = given
    points = (
        _copied(indices, np.int64, n_threads),
        _copied(data, np.float64, n_threads),
        _copied(first, np.int64, n_threads),
    )
    found = _found(points, shape[1], n_threads)
    return None if found[ODD] or points[2][0] != 0 else (points, found)


def _copied(array: Array, dtype: Any, n_threads: int | None) -> Array:
    """A copy that nobody else changes: integers that are too large become negative."""
    result = np.empty(array.shape, dtype)

    def work(start: int, stop: int) -> None:
        result[start:stop] = array[start:stop]

    for_each(_cut(array.size), work, n_threads)
    return result


def _found(points: Points, classes: int, n_threads: int | None) -> Array:
    """What `check_points` finds."""
    of_points, masses, first_points = points
    found, kernel = np.zeros(2, np.int64), check_points.compiled(_ANY)

    def work(start: int, stop: int) -> None:
        kernel(first_points[start : stop + 1], of_points, masses, classes, NARROWEST, WIDEST, found)

    for_each(_cut(first_points.size - 1), work, n_threads)
    return found


def _cut(size: int) -> list[tuple[int, int]]:
    return [(start, min(start + AT_A_TIME, size)) for start in range(0, max(size, 1), AT_A_TIME)]


def points_of(points: Points, rows: Array) -> Points:
    """The points of these rows alone."""
    classes, masses, first_points = points
    first, counts = first_points[rows], first_points[rows + 1] - first_points[rows]
    ends = np.cumsum(counts)
    places = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
    return classes[places], masses[places], np.concatenate([[0], ends])
