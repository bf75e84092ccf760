"""Sparse targets as kernels take them: of few classes spread out where they are used, of many as points.

A CSR matrix of few classes is read where its owner has it, once to check all of it and once more tile by tile. Another
thread may change it in between: the second look trusts nothing either. COO and CSC are sorted into arrays of our own.
"""

import functools
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.sparse import sparse_points
from fastce.cpu._kernels.points import (
    LARGEST_SHORT,
    MOST_CLASSES,
    ODD,
    WIDE,
    Part,
    Points,
    check_order,
    check_points,
    sort_by_row,
    spread_points,
)
from fastce.cpu.columns import Place
from fastce.cpu.rooms import Room
from fastce.cpu.threads import for_each

NARROWEST, WIDEST = 2.0**-100, 2.0**100  # masses, with all their digits, that float32 losses can be computed from
AT_A_TIME = 1 << 17  # points, or rows

Canonical = tuple[Array, Array, Array]  # (classes, masses, first_points), see `sparse_points`
_ANY = np.dtype(np.float64)  # of a kernel that knows no logits


class PointRows:
    """The points of a matrix of few classes, as `Rows` of probabilities; the matrix is what they were read from."""

    def __init__(self, points: Points, matrix: Any, dtype: np.dtype[Any]) -> None:
        self.points = points
        self.matrix = matrix
        self.classes: int = matrix.shape[1]
        self.dtype = dtype

    def in_dtype(self, dtype: np.dtype[Any]) -> "PointRows":
        """The same rows, for a kernel that takes another dtype."""
        return PointRows(self.points, self.matrix, dtype)

    @functools.cached_property
    def canonical(self) -> Canonical:
        """The points as such."""
        return sparse_points(self.matrix, self.matrix.shape)

    def block(self, start: int, stop: int) -> Array:
        """The probabilities of rows ``start`` to ``stop``."""
        columns = np.empty((self.classes, stop - start), self.dtype)
        spread_points.compiled(self.dtype)(self.points, start, columns)
        return np.ascontiguousarray(columns.T)

    def copy(self, rows: Array) -> Array:
        """Those of these rows."""
        return np.concatenate([self.block(row, row + 1) for row in rows.tolist()])


class PointColumns:
    """The same as `Columns` with adjacent rows."""

    narrow = False

    def __init__(self, rows: PointRows) -> None:
        self.rows = rows
        self._memory = Room()

    def block(self, place: Place) -> Array:
        """The probabilities of this part."""
        outer, rows = place.shape
        room = self._memory.lines((outer, self.rows.classes, rows), self.rows.dtype)
        kernel = spread_points.compiled(self.rows.dtype)
        for k in range(outer):
            kernel(self.rows.points, place.start + k * rows, room[k])
        return room


def read_points(
    targets: Any, shape: tuple[int, int], dtype: np.dtype[Any], n_threads: int | None
) -> Canonical | PointRows:
    """A sparse matrix, checked: as probabilities if classes are few, else in canonical form, see `sparse_points`.

    The probabilities are float64 where float32 has not all digits of masses.
    """
    if shape[1] <= MOST_CLASSES:
        points = _given(targets, shape) or _sorted(targets, shape)
        if points is None or (found := _found(points, shape[1], n_threads))[ODD]:
            points = _as_points(*sparse_points(targets, shape))
            found = _found(points, shape[1], n_threads)
        return PointRows(points, targets, np.dtype(np.float64) if found[WIDE] else dtype)
    return _canonical_points(targets, shape, n_threads) or sparse_points(targets, shape)


def _given(targets: Any, shape: tuple[int, int]) -> Points | None:
    """The arrays of a CSR matrix as kernels read them where they are, if these say what they ought to; else None.

    Masses of another dtype than those of `Points` are copied.
    """
    if targets.format != "csr" or targets.ndim != 2 or targets.shape != shape:
        return None
    first, classes, masses = targets.indptr, targets.indices, targets.data
    if not all(isinstance(array, np.ndarray) and array.ndim == 1 for array in (first, classes, masses)):
        return None
    if first.dtype != classes.dtype or first.dtype.kind not in "iu" or first.dtype.itemsize not in (4, 8):
        return None
    if masses.dtype.kind not in "fiub" or (masses.dtype.kind == "f" and masses.dtype.itemsize > 8):
        return None
    if first.size != shape[0] + 1 or classes.size != masses.size:
        return None
    return _as_points(classes, masses, first)


def _sorted(targets: Any, shape: tuple[int, int]) -> Points | None:
    """The points of a COO or CSC matrix, row by row in arrays of our own, if its arrays say what they ought to."""
    if targets.format not in ("coo", "csc") or targets.ndim != 2 or targets.shape != shape:
        return None
    masses, size = targets.data, np.size(targets.data)
    rows, classes = (targets.row, targets.col) if targets.format == "coo" else _places_of_columns(targets, size)
    if not all(isinstance(array, np.ndarray) and array.shape == (size,) for array in (rows, classes, masses)):
        return None
    if any(array.dtype.kind not in "iu" or array.dtype.itemsize > 8 for array in (rows, classes)):
        return None
    if masses.dtype.kind not in "fiub" or masses.dtype.itemsize > 8 or max(size, shape[0]) >= LARGEST_SHORT:
        return None
    if rows.dtype != classes.dtype:
        rows, classes = rows.astype(np.int64), classes.astype(np.int64)
    given, found = _as_points(classes, masses, rows), np.zeros(2, np.int64)
    ends, placed = np.zeros(shape[0] + 2, np.int32), np.zeros(size, np.int32)
    of_long, of_short = np.zeros(given.masses.size), np.zeros(given.short_masses.size, np.float32)
    sort_by_row.compiled(_ANY)(given, shape[1], ends, placed, of_long, of_short, found)
    return None if found[ODD] else _as_points(placed, of_long if of_long.size else of_short, ends[:-1])


def _places_of_columns(targets: Any, size: int) -> tuple[Any, Any]:
    """The rows and columns of all points of a CSC matrix; None for these if its arrays do not fit."""
    ends = np.array(targets.indptr)
    if ends.shape != (targets.shape[1] + 1,) or ends.dtype.kind not in "iu" or ends[0] != 0 or ends[-1] != size:
        return targets.indices, None
    counts: Array = np.diff(ends.astype(np.int64))
    columns = np.arange(targets.shape[1], dtype=targets.indices.dtype)
    return targets.indices, np.repeat(columns, counts) if (counts >= 0).all() else None


def _as_points(classes: Array, masses: Array, first: Array) -> Points:
    """Arrays of integers of one dtype, and masses, as a kernel takes them."""
    return Points(*_of_either(first, np.int64), *_of_either(classes, np.int64), *_of_either(masses, np.float64))


def _of_either(array: Array, long: Any) -> tuple[Array, Array]:
    """The array as one of this dtype, or as one of half its size if it is that; an empty one for the other."""
    dtype = np.dtype(long)
    short = np.dtype(f"{dtype.kind}4")
    is_short = array.dtype == short
    array = np.require(array, short if is_short else dtype, ("C", "A"))
    return (np.empty(0, dtype), array) if is_short else (array, np.empty(0, short))


def _found(points: Points, n_classes: int, n_threads: int | None, *, rising: bool = False) -> Array:
    """What `check_points` finds, and `check_order` if classes are to rise."""
    found, kernel = np.zeros(2, np.int64), check_points.compiled(_ANY)
    rows = max(points.first_points.size, points.short_first_points.size) - 1
    size = max(points.classes.size, points.short_classes.size)
    number = -(-max(rows, size, 1) // AT_A_TIME)

    def work(k: int) -> None:
        part = Part(*(n * j // number for n in (rows, size) for j in (k, k + 1)))
        kernel(points, part, n_classes, NARROWEST, WIDEST, found)

    def order(k: int) -> None:
        check_order.compiled(_ANY)(points, Part(k * rows // number, (k + 1) * rows // number, 0, 0), found)

    for_each([(k,) for k in range(number)], work, n_threads)
    if rising and not found[ODD]:
        for_each([(k,) for k in range(number)], order, n_threads)
    return found


def _canonical_points(targets: Any, shape: tuple[int, int], n_threads: int | None) -> Canonical | None:
    """A copy of the arrays of a CSR matrix, if they are in canonical form."""
    if _given(targets, shape) is None:
        return None
    classes, masses, first = (
        _copied(array, dtype, n_threads)
        for array, dtype in ((targets.indices, np.int64), (targets.data, np.float64), (targets.indptr, np.int64))
    )
    is_odd = classes.size != masses.size or first.size != shape[0] + 1 or first[0] != 0
    if is_odd or _found(_as_points(classes, masses, first), shape[1], n_threads, rising=True)[ODD]:
        return None
    return classes, masses, first


def _copied(array: Array, dtype: Any, n_threads: int | None) -> Array:
    """A copy that nobody else changes: integers that are too large become negative."""
    result = np.empty(array.shape, dtype)

    def work(start: int, stop: int) -> None:
        result[start:stop] = array[start:stop]

    for_each(
        [(start, min(start + AT_A_TIME, array.size)) for start in range(0, array.size, AT_A_TIME)], work, n_threads
    )
    return result


def canonical(points: Canonical | PointRows) -> Canonical:
    """The points as such."""
    return points.canonical if isinstance(points, PointRows) else points


def points_of(points: Canonical | PointRows, rows: Array) -> Canonical:
    """The points of these rows alone."""
    classes, masses, first_points = canonical(points)
    first, counts = first_points[rows], first_points[rows + 1] - first_points[rows]
    ends = np.cumsum(counts)
    places = np.arange(counts.sum()) + np.repeat(first - (ends - counts), counts)
    return classes[places], masses[places], np.concatenate([[0], ends])
