"""Which pairs belong together, as kernels take it. The diagonal needs nothing; other targets the host looks at."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.positives import Positives, no_indices, positives_of, way_out_of
from fastce.cuda.arrays import DeviceArray, device_array, empty
from fastce.cuda.layout import contiguous
from fastce.cuda.libraries import Library
from fastce.cuda.run import numbers_of
from fastce.cuda.sparse import csr_arrays, is_sparse


class Owners(NamedTuple):
    """The points of each row (or column): ``order[k]`` for k from ``first[i]`` to ``first[i + 1]``, and their masses.

    All are empty if there is one of each, with its number and mass 1.
    """

    first: Any
    order: Any
    masses: Any  # by number of the point


@dataclass(frozen=True)
class DevicePositives:
    """The pairs that belong together, the points, sorted by row. The arrays are empty if they are the diagonal."""

    count: int
    is_diagonal: bool
    first_points: Any
    rows: Any
    columns: Any
    of_rows: Owners
    of_columns: Owners
    present: tuple[int, int]  # rows and columns that have any
    kept: list[DeviceArray]  # alive while kernels run
    first_on_host: Array

    def between(self, start: int, stop: int) -> tuple[int, int]:
        """The numbers of the first point of some rows, and of the first after them."""
        if self.is_diagonal:
            return start, stop
        return int(self.first_on_host[start]), int(self.first_on_host[stop])


class _Sender:
    """Sends arrays to the device, in the order of its stream."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.kept: list[DeviceArray] = []

    def send(self, array: Array) -> Any:
        """The array's elements on the device; there may be none."""
        there = empty(self.library, (max(array.size, 1),), array.dtype.name)
        self.kept.append(there)
        flat = there.flat()
        if array.size == 0:
            return flat[:0]
        flat.copy_to_device(np.ascontiguousarray(array))
        return flat


def device_positives(targets: Any, shape: tuple[int, int], library: Library) -> DevicePositives:
    """The positives of a similarity matrix of this shape; errors are those of `positives_of` on the CPU."""
    sender = _Sender(library)
    if targets is None:
        none, no_masses = sender.send(np.empty(0, np.int64)), sender.send(np.empty(0))
        owners, size = Owners(none, none, no_masses), shape[0]
        return DevicePositives(size, True, none, none, none, owners, owners, (size, size), sender.kept, np.empty(0))
    points = host_positives(targets, shape, library)
    by_column = np.argsort(points.columns, kind="stable")
    first_of_columns = np.searchsorted(points.columns[by_column], np.arange(shape[1] + 1)).astype(np.int64)
    first, numbers = sender.send(points.first_points), sender.send(np.arange(points.rows.size))
    of_rows = Owners(first, numbers, sender.send(points.row_mass))
    of_columns = Owners(sender.send(first_of_columns), sender.send(by_column), sender.send(points.column_mass))
    present = _present(points.first_points), _present(first_of_columns)
    return DevicePositives(
        points.rows.size, False, first, sender.send(points.rows), sender.send(points.columns), of_rows, of_columns,
        present, sender.kept, points.first_points,
    )  # fmt: skip


def host_positives(targets: Any, shape: tuple[int, int], library: Library) -> Positives:
    """The same as arrays of NumPy."""
    return positives_of(None if targets is None else _on_host(targets, shape, library), shape)


def _present(first: Array) -> int:
    """How many rows (or columns) have points."""
    return int((np.diff(first) > 0).sum())


def _on_host(targets: Any, shape: tuple[int, int], library: Library) -> Any:
    """The targets as NumPy and SciPy have them: integers, or what a sparse matrix stores."""
    if is_sparse(targets):
        return sparse_on_host(targets, library)
    array = device_array(targets, "targets", library)
    if array.dtype_name.removeprefix("u").removeprefix("int") not in ("8", "16", "32", "64"):
        is_float = array.dtype_name.removeprefix("b").startswith("float")
        raise no_indices(f"dtype {array.dtype_name}", way_out_of(is_float, array.shape, shape))
    if array.shape != (shape[0],) or array.size == 0:
        return np.empty(array.shape, np.int64)  # refused for its shape
    return numbers_of(contiguous(array))


def sparse_on_host(targets: Any, library: Library, name: str = "targets") -> Any:
    """A sparse matrix as SciPy has it."""
    from scipy import sparse

    values, columns, starts = csr_arrays(targets, name, library)
    try:
        return sparse.csr_array(
            (_numbers(contiguous(values, "float64")), _numbers(contiguous(columns)), _numbers(contiguous(starts))),
            shape=tuple(targets.shape),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"sparse {name} are inconsistent: {error}") from None


def _numbers(array: DeviceArray) -> Array:
    return numbers_of(array) if array.size else np.empty(array.shape, array.flat_dtype)
