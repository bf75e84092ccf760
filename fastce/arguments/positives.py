"""Which pairs belong together: the targets of contrastive losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, class_index_error, kind_of, plain_array
from fastce.arguments.silence import silently
from fastce.arguments.sparse import checked_csr, is_sparse, masses_of

LARGE = 2.0**900  # a weight whose sums may overflow
_NOWHERE, _NO_MASS = np.empty(0, np.int64), np.empty(0)


@dataclass
class Positives:
    """The pairs that belong together, sorted by row, and the target mass of each in its row and in its column."""

    first_points: Array
    rows: Array
    columns: Array
    row_mass: Array
    column_mass: Array

    def of_rows(self, rows: slice) -> "Positives":
        """Those of some rows, which count from 0 then; masses are those in the whole matrix."""
        first, end = self.first_points[rows.start], self.first_points[rows.stop]
        of_rows, *others = (x[first:end] for x in (self.rows, self.columns, self.row_mass, self.column_mass))
        return Positives(self.first_points[rows.start : rows.stop + 1] - first, of_rows - rows.start, *others)

    def transposed(self, columns: int) -> "Positives":
        """The same pairs of the transposed matrix, which has as many rows as this one has ``columns``."""
        by_column = np.lexsort((self.rows, self.columns))
        rows = self.columns[by_column]
        return Positives(
            _first_points(rows, columns),
            rows,
            self.rows[by_column],
            self.column_mass[by_column],
            self.row_mass[by_column],
        )


def positives_of(targets: Any, shape: tuple[int, int]) -> Positives:
    """The positives of a similarity matrix of this shape: the diagonal, one column for each row, or a sparse matrix."""
    if targets is None:
        diagonal, mass = np.arange(shape[0]), np.ones(shape[0])
        return Positives(np.arange(shape[0] + 1), diagonal, diagonal, mass, mass)
    if is_sparse(targets):
        return _from_sparse(targets, shape)
    return _from_indices(plain_array(targets, "targets"), shape)


def no_positives(rows: int) -> Positives:
    """None at all."""
    return Positives(np.zeros(rows + 1, np.int64), _NOWHERE, _NOWHERE, _NO_MASS, _NO_MASS)


def no_indices(got: str, way_out: str) -> TypeError:
    """The complaint about targets of another dtype than integers."""
    return TypeError(f"targets must be class indices (integers) or a SciPy sparse array of weights, got {got}{way_out}")


def way_out_of(is_float: bool, given: tuple[int, ...], pairs: tuple[int, int]) -> str:
    """What to do with targets of this shape instead, if they are what is often meant."""
    if given == pairs:
        return ": give one number for each pair as a sparse array, scipy.sparse.csr_array(targets)"
    return ": give targets.astype(int)" if is_float and given == pairs[:1] else ""


def pairs(rows: Array, columns: Array, shape: tuple[int, int]) -> Positives:
    """These pairs, in any order, all of the same weight."""
    by_row = np.lexsort((columns, rows))
    return _normalised(rows[by_row], columns[by_row], np.ones(rows.size), shape)


def _from_indices(targets: Array, shape: tuple[int, int]) -> Positives:
    rows, columns = shape
    way_out = way_out_of(targets.dtype.kind == "f", targets.shape, shape)
    if targets.dtype.kind not in "iu":
        raise no_indices(kind_of(targets), way_out)
    if targets.shape != (rows,):
        raise ValueError(
            f"targets have shape {targets.shape}, expected {(rows,)} for {rows} x {columns} pairs{way_out}"
        )
    chosen = targets.astype(np.int64)
    wrong = chosen.view(np.uint64) >= columns
    if wrong.any():
        row = int(wrong.argmax())
        raise class_index_error(row, targets[row], columns)
    return _normalised(np.arange(rows), chosen, np.ones(rows), shape)


def _from_sparse(targets: Any, shape: tuple[int, int]) -> Positives:
    if targets.ndim != 2 or targets.shape != shape:
        raise ValueError(f"sparse targets have shape {targets.shape}, expected {shape}: one number for each pair")
    if targets.dtype.kind not in "fiub":
        raise TypeError(f"sparse targets must hold real numbers, got dtype {targets.dtype}")
    matrix = checked_csr(targets, shape)
    weight = masses_of(matrix)
    rows = np.repeat(np.arange(shape[0]), np.diff(matrix.indptr))
    there = weight > 0
    return _normalised(rows[there], matrix.indices[there].astype(np.int64), weight[there], shape)


def _normalised(rows: Array, columns: Array, weight: Array, shape: tuple[int, int]) -> Positives:
    """Weights normalised in each row and in each column."""
    masses = (silently(_shares, weight, *owners) for owners in ((rows, shape[0]), (columns, shape[1])))
    return Positives(_first_points(rows, shape[0]), rows, columns, *masses)


def _shares(weight: Array, owners: Array, size: int) -> Array:
    """Each weight divided by the sum of those that have the same owner."""
    if weight.max(initial=0.0) > LARGE:
        powers = np.zeros(size, np.int64)
        np.maximum.at(powers, owners, np.frexp(weight)[1])
        weight = np.ldexp(weight, -powers[owners])
    shares: Array = weight / np.bincount(owners, weight, size)[owners]
    return shares


def _first_points(owners: Array, rows: int) -> Array:
    """Where the pairs of each row begin, and where those of the last one end."""
    return np.searchsorted(owners, np.arange(rows + 1)).astype(np.int64)


def checked_shape(arrays: Sequence[Any], targets: Any) -> tuple[int, int]:
    """The shape of the matrix of products of arrays, wherever they are: square unless targets are given."""
    rows, columns = (array.shape[0] for array in arrays)
    if rows != columns and targets is None:
        raise ValueError(
            f"there must be as many image_features as text_features unless targets are given, got {rows} and {columns}"
        )
    return rows, columns


def check_similarity(shape: tuple[int, ...], targets: Any, reduction: str) -> None:
    """A matrix, square unless targets are given and reduced."""
    if len(shape) != 2:
        raise ValueError(f"similarity must have two dimensions, got shape {shape}")
    if shape[0] != shape[1] and (targets is None or reduction == "none"):
        why = "unless targets are given" if targets is None else "for reduction='none'"
        raise ValueError(f"similarity must be square {why}, got shape {shape}")


def check_pairs(shape: tuple[int, int], reduction: str) -> None:
    """As many of both if each pair has a loss."""
    if reduction == "none" and shape[0] != shape[1]:
        raise ValueError(f"there must be as many image_features as text_features for reduction='none', got {shape}")


def check_positives(query: Any, positive_key: Any) -> None:
    """As many of both."""
    if positive_key.shape[0] != query.shape[0]:
        raise ValueError(f"query and positive_key differ in shape: {query.shape} and {positive_key.shape}")


def check_negatives(shape: tuple[int, ...], queries: int, width: int) -> None:
    """Keys that all queries share, or as many for each."""
    fits = len(shape) in (2, 3) and shape[-1] == width and (len(shape) == 2 or shape[0] == queries)
    if not fits:
        raise ValueError(f"negative_keys have shape {shape}, expected (M, {width}) or ({queries}, M, {width})")
