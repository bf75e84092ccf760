"""SciPy sparse matrices of class probabilities, as points: compressed sparse rows."""

import sys
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, class_index_error


def is_sparse(targets: Any) -> bool:
    """Whether this is a SciPy sparse array or matrix; SciPy's module is not imported to find out."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(targets)


def sparse_points(targets: Any, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """(classes, masses, first_points) in canonical form: sorted, duplicates summed."""
    if targets.ndim != 2 or targets.shape != shape:
        raise ValueError(f"sparse targets have shape {targets.shape}, expected {shape}: one row per row of logits")
    if targets.dtype.kind not in "fiub" or (targets.dtype.kind == "f" and targets.dtype.itemsize > 8):
        raise TypeError(f"sparse targets must hold real numbers, got dtype {targets.dtype}")
    matrix = checked_csr(targets, shape)
    masses = masses_of(matrix)
    return matrix.indices.astype(np.int64), masses, matrix.indptr.astype(np.int64)


def masses_of(matrix: Any) -> Array:
    """The stored elements of a canonical matrix as float64: finite and not negative."""
    masses: Array = matrix.data.astype(np.float64)
    wrong = ~((masses >= 0) & (masses < np.inf))
    if wrong.any():
        at = int(wrong.argmax())
        row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
        raise mass_error(masses[at], row)
    return masses


def mass_error(mass: float, row: int) -> ValueError:
    """The complaint about what is stored in a row."""
    return ValueError(f"sparse targets must be finite and not negative, got {mass} in row {row}")


def checked_csr(targets: Any, shape: tuple[int, int]) -> Any:
    """A CSR array with sorted, unique, checked indices; the caller's matrix is never changed.

    What is checked is a copy, and nothing else is used: another thread may change the caller's arrays meanwhile, which
    anyone may have set to anything, and SciPy's conversions trust them.
    """
    try:
        matrix = _copied(targets, shape)
    except (ValueError, TypeError, RuntimeError) as error:  # the last of a dict that changes
        raise ValueError(f"sparse targets are inconsistent: {error}") from None
    matrix.has_canonical_format = False
    matrix.has_sorted_indices = False
    matrix.sum_duplicates()
    return matrix


def _copied(targets: Any, shape: tuple[int, int]) -> Any:
    """The same matrix as a CSR array of arrays of its own, which have been checked."""
    from scipy import sparse

    if targets.format in ("csr", "csc", "bsr"):
        indptr, indices = _copied_indices(targets.indptr), _copied_indices(targets.indices)
        compressed = getattr(sparse, f"{targets.format}_array")
        matrix = compressed((np.array(targets.data), indices, indptr), shape=shape)
        if targets.format == "csr":
            _check_rows(matrix)
        else:
            matrix.check_format(full_check=True)
    elif targets.format == "dia":
        matrix = sparse.dia_array((np.array(targets.data), _copied_indices(targets.offsets)), shape=shape)
    else:
        rows, columns, masses = _copied_points(targets)
        _check_classes(rows, columns, shape[1])
        matrix = sparse.coo_array((masses, (rows, columns)), shape=shape)  # which checks the rows
    return matrix.tocsr()


def _copied_indices(given: Any) -> Array:
    indices = np.array(given)
    if indices.dtype.kind not in "iu" and indices.size:
        raise ValueError(f"indices must be integers, got dtype {indices.dtype}")
    return indices


def _copied_points(targets: Any) -> tuple[Array, Array, Array]:
    """(rows, columns, masses) of a format without pointers."""
    if targets.format == "coo":
        return _copied_indices(targets.row), _copied_indices(targets.col), np.array(targets.data)
    if targets.format == "lil":
        places = [(row, column) for row, columns in enumerate(targets.rows.tolist()) for column in list(columns)]
        masses = [mass for of_row in targets.data.tolist() for mass in list(of_row)]
    else:
        items = list(targets.items())
        places, masses = [place for place, _ in items], [mass for _, mass in items]
    rows, columns = np.array(places, np.int64).reshape(-1, 2).T
    return rows, columns, np.array(masses, targets.dtype)


def _check_rows(matrix: Any) -> None:
    """Row pointers that rise within the stored elements, and classes that are there."""
    first, indices = matrix.indptr, matrix.indices
    consistent = first.size == matrix.shape[0] + 1 and first[0] == 0 and bool((np.diff(first) >= 0).all())
    if not (consistent and first[-1] <= indices.size and indices.shape == matrix.data.shape):
        raise ValueError("indptr must rise from 0 to the number of stored elements")
    used = indices[: first[-1]]
    if used.size and not (used.min() >= 0 and used.max() < matrix.shape[1]):
        _check_classes(np.repeat(np.arange(matrix.shape[0]), np.diff(first)), used, matrix.shape[1])


def _check_classes(rows: Array, columns: Array, classes: int) -> None:
    if rows.shape != columns.shape:
        raise ValueError(f"there are {rows.size} row indices but {columns.size} column indices")
    wrong = np.flatnonzero((columns < 0) | (columns >= classes))
    if wrong.size:
        at = wrong[rows[wrong].argmin()]
        raise class_index_error(int(rows[at]), columns[at], classes)
