"""SciPy sparse matrices of class probabilities, as points: compressed sparse rows."""

import sys
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, class_index_error


class Named(NamedTuple):
    """How complaints name a sparse argument, what stands in its columns, and why it is to have its shape."""

    argument: str = "targets"
    column: str = "class index"
    shape: str = "one row per row of logits"


TARGETS = Named()


def is_sparse(targets: Any) -> bool:
    """Whether this is a SciPy sparse array or matrix; SciPy's module is not imported to find out."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(targets)


def sparse_points(targets: Any, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """(classes, masses, first_points) in canonical form: sorted, duplicates summed."""
    matrix = sparse_rows(targets, shape)
    masses = masses_of(matrix)
    return matrix.indices.astype(np.int64), masses, matrix.indptr.astype(np.int64)


def sparse_rows(given: Any, shape: tuple[int, int], named: Named = TARGETS) -> Any:
    """A matrix of real numbers, of this shape, as `checked_csr`."""
    if given.ndim != 2 or given.shape != shape:
        raise ValueError(f"sparse {named.argument} have shape {given.shape}, expected {shape}: {named.shape}")
    if given.dtype.kind not in "fiub" or (given.dtype.kind == "f" and given.dtype.itemsize > 8):
        raise TypeError(f"sparse {named.argument} must hold real numbers, got dtype {given.dtype}")
    return checked_csr(given, shape, named)


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


def checked_csr(given: Any, shape: tuple[int, int], named: Named = TARGETS) -> Any:
    """A CSR array with sorted, unique, checked indices; the caller's matrix is never changed.

    What is checked is a copy, and nothing else is used: another thread may change the caller's arrays meanwhile, which
    anyone may have set to anything, and SciPy's conversions trust them.
    """
    try:
        matrix = _copied(given, shape, named)
    except (ValueError, TypeError, RuntimeError) as error:  # the last of a dict that changes
        raise ValueError(f"sparse {named.argument} are inconsistent: {error}") from None
    matrix.has_canonical_format = False
    matrix.has_sorted_indices = False
    matrix.sum_duplicates()
    return matrix


def _copied(given: Any, shape: tuple[int, int], named: Named) -> Any:
    """The same matrix as a CSR array of arrays of its own, which have been checked."""
    from scipy import sparse

    if given.format in ("csr", "csc", "bsr"):
        indptr, indices = _copied_indices(given.indptr), _copied_indices(given.indices)
        compressed = getattr(sparse, f"{given.format}_array")
        matrix = compressed((_copied_masses(given.data), indices, indptr), shape=shape)
        if given.format == "csr":
            _check_rows(matrix, named)
        else:
            matrix.check_format(full_check=True)
    elif given.format == "dia":
        matrix = sparse.dia_array((_copied_masses(given.data), _copied_indices(given.offsets)), shape=shape)
    else:
        rows, columns, masses = _copied_points(given)
        _check_columns(rows, columns, shape[1], named)
        matrix = sparse.coo_array((_copied_masses(masses), (rows, columns)), shape=shape)  # which checks the rows
    return matrix.tocsr()


def _copied_indices(given: Any) -> Array:
    indices = np.array(given)
    if indices.dtype.kind not in "iu" and indices.size:
        raise ValueError(f"indices must be integers, got dtype {indices.dtype}")
    return indices


def _copied_masses(given: Any) -> Array:
    """A copy, as float64 if it can be: among small integers and booleans, SciPy's sums of duplicates wrap around."""
    masses = np.array(given)
    return masses.astype(np.float64) if masses.dtype.kind in "fiub" and masses.dtype.itemsize <= 8 else masses


def _copied_points(given: Any) -> tuple[Array, Array, Array]:
    """(rows, columns, masses) of a format without pointers."""
    if given.format == "coo":
        return _copied_indices(given.row), _copied_indices(given.col), given.data
    if given.format == "lil":
        places = [(row, column) for row, columns in enumerate(given.rows.tolist()) for column in list(columns)]
        masses = [mass for of_row in given.data.tolist() for mass in list(of_row)]
    else:
        items = list(given.items())
        places, masses = [place for place, _ in items], [mass for _, mass in items]
    rows, columns = np.array(places, np.int64).reshape(-1, 2).T
    return rows, columns, np.array(masses, given.dtype)


def _check_rows(matrix: Any, named: Named) -> None:
    """Row pointers that rise within the stored elements, and columns that are there."""
    first, indices = matrix.indptr, matrix.indices
    consistent = first.size == matrix.shape[0] + 1 and first[0] == 0 and bool((np.diff(first) >= 0).all())
    if not (consistent and first[-1] <= indices.size and indices.shape == matrix.data.shape):
        raise ValueError("indptr must rise from 0 to the number of stored elements")
    used = indices[: first[-1]]
    if used.size and not (used.min() >= 0 and used.max() < matrix.shape[1]):
        _check_columns(np.repeat(np.arange(matrix.shape[0]), np.diff(first)), used, matrix.shape[1], named)


def _check_columns(rows: Array, columns: Array, number: int, named: Named) -> None:
    if rows.shape != columns.shape:
        raise ValueError(f"there are {rows.size} row indices but {columns.size} column indices")
    wrong = np.flatnonzero((columns < 0) | (columns >= number))
    if wrong.size:
        at = wrong[rows[wrong].argmin()]
        raise class_index_error(int(rows[at]), columns[at], number, named.argument, named.column)
