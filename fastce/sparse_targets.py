"""SciPy sparse matrices of class probabilities, as points: compressed sparse rows."""

import sys
from typing import Any

import numpy as np

from fastce.arguments import Array, class_index_error


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
    matrix = checked_csr(targets)
    masses = masses_of(matrix)
    return matrix.indices.astype(np.int64), masses, matrix.indptr.astype(np.int64)


def masses_of(matrix: Any) -> Array:
    """The stored elements of a canonical matrix as float64: finite and not negative."""
    masses: Array = matrix.data.astype(np.float64)
    wrong = ~((masses >= 0) & (masses < np.inf))
    if wrong.any():
        at = int(wrong.argmax())
        row = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
        raise ValueError(f"sparse targets must be finite and not negative, got {masses[at]} in row {row}")
    return masses


def checked_csr(targets: Any) -> Any:
    """A CSR array with sorted, unique, checked indices; the caller's matrix is never changed."""
    if targets.format == "csr":
        _check_hand_made(targets)
        matrix = targets.copy()
    else:
        try:
            matrix = targets.tocsr(copy=True)
        except (ValueError, IndexError) as error:
            raise ValueError(f"sparse targets are inconsistent: {error}") from None
        _check_hand_made(matrix)
    matrix.has_canonical_format = False
    matrix.has_sorted_indices = False
    matrix.sum_duplicates()
    return matrix


def _check_hand_made(matrix: Any) -> None:
    """A CSR matrix is three arrays that anyone may have set to anything."""
    rows, classes = matrix.shape
    first, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    consistent = (
        first.shape == (rows + 1,)
        and first[0] == 0
        and bool((np.diff(first) >= 0).all())
        and first[-1] <= indices.size
        and indices.shape == np.shape(matrix.data)
    )
    if not consistent:
        raise ValueError("sparse targets are inconsistent: indptr must rise from 0 to the number of stored elements")
    used = indices[: first[-1]]
    wrong = (used < 0) | (used >= classes)
    if wrong.any():
        at = int(wrong.argmax())
        row = int(np.searchsorted(first, at, side="right")) - 1
        raise class_index_error(row, used[at], classes)
