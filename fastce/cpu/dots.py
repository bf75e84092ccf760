"""Products of rows of features with each other or with a vector, and their sum, in float64.

Rows have factors, or none of them has. What kernels cannot read where it is, is copied a few rows at a time: the layout
of an array changes no bit.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, common_dtype, kernel_dtype
from fastce.arguments.sizes import largest_finite
from fastce.cpu._kernels.dots import ROOM, add_rows, largest_square, pair_products, vector_products
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.threads import cut_rows, for_each

WELL_WITHIN = 2.0**-60, 2.0**60  # squares of float32 that neither lose what is small nor overflow
COPIED_BYTES = 1 << 18  # at a time, which stay in the cache
NO_FACTORS = np.empty(0)


class FeatureRows:
    """An array as kernels see it, in a dtype that is at least its own, and factors of its rows."""

    def __init__(self, array: Array, factors: Array | None, dtype: np.dtype[Any]) -> None:
        self.array = array
        self.dtype = dtype
        self.factors: Array = NO_FACTORS if factors is None else factors
        self.row_bytes: int = array.shape[1] * dtype.itemsize
        is_read = array.dtype == dtype and array.flags.aligned and array.strides[1] == array.itemsize
        self.as_read: Array | None = storage_view(array) if is_read else None

    def parts(self, start: int, stop: int) -> Iterator[tuple[slice, Array, Array]]:
        """Consecutive rows, in parts if they are copied: (which, the rows, their factors)."""
        for rows in _parts(start, stop, self.row_bytes, self.as_read is None):
            block = self._copied(rows) if self.as_read is None else self.as_read[rows]
            yield rows, block, self.factors[rows]

    def chosen(self, numbers: Array) -> tuple[Array, Array, Array]:
        """(a matrix, in which of its rows those of these numbers are, factors of its rows)."""
        if self.as_read is not None:
            return self.as_read, numbers, self.factors
        factors = self.factors[numbers] if self.factors.size else NO_FACTORS
        return self._copied(numbers), np.arange(numbers.size), factors

    def _copied(self, rows: Any) -> Array:
        return storage_view(np.array(self.array[rows], self.dtype, order="C"))


def products_of_rows(
    left: Array,
    rows: Array,
    right: Array,
    columns: Array,
    left_factors: Array | None,
    right_factors: Array | None,
    n_threads: int | None,
) -> Array:
    """left[rows[k]] @ right[columns[k]] for every k."""
    dtype = common_dtype(kernel_dtype(left.dtype), kernel_dtype(right.dtype))
    a, b = FeatureRows(left, left_factors, dtype), FeatureRows(right, right_factors, dtype)
    products, row_bytes = np.empty(rows.size), a.row_bytes + b.row_bytes
    is_copied = a.as_read is None or b.as_read is None
    kernel = pair_products.compiled(dtype)

    def work(start: int, stop: int) -> None:
        for some in _parts(start, stop, row_bytes, is_copied):
            kernel(*a.chosen(rows[some]), *b.chosen(columns[some]), products[some])

    for_each(cut_rows(rows.size, row_bytes), work, n_threads)
    return products


def largest_square_of(array: Array, n_threads: int | None) -> float:
    """The largest squared length of a row, of those that are finite; where it is far from 1, in float64."""
    features = FeatureRows(array, None, kernel_dtype(array.dtype))
    blocks = cut_rows(len(array), features.row_bytes)
    found = np.zeros((len(blocks), 1))
    kernel = largest_square.compiled(features.dtype)

    def work(k: int, start: int, stop: int) -> None:
        for _, block, _ in features.parts(start, stop):
            kernel(block, found[k])

    for_each([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    largest = float(found.max(initial=0.0))
    if WELL_WITHIN[0] < largest < WELL_WITHIN[1]:
        return largest
    own = np.arange(len(array))
    return largest_finite(np, [products_of_rows(array, own, array, own, None, None, n_threads)])


def ordinary_square_of(array: Array) -> float | None:
    """That of few rows which are read as they lie; None where it is far from 1, or a row is not finite."""
    found = np.zeros(1)
    largest_square.compiled(array.dtype)(array, found)
    largest = float(found[0])
    return largest if WELL_WITHIN[0] < largest < WELL_WITHIN[1] else None


def products_of_few(left: Array, rows: Array, right: Array, columns: Array) -> Array:
    """left[rows[k]] @ right[columns[k]] for every k: few, of rows which are read as they lie."""
    products = np.empty(rows.size)
    pair_products.compiled(left.dtype)(left, rows, NO_FACTORS, right, columns, NO_FACTORS, products)
    return products


def products_with(array: Array, vector: Array, factors: Array | None, n_threads: int | None) -> Array:
    """Every row times a vector of float64."""
    features = FeatureRows(array, factors, kernel_dtype(array.dtype))
    products, numbers = np.empty(len(array)), np.zeros(room_for(vector.size))
    numbers[: vector.size] = vector
    kernel = vector_products.compiled(features.dtype)

    def work(start: int, stop: int) -> None:
        for some, block, of_block in features.parts(start, stop):
            kernel(block, of_block, numbers, products[some])

    for_each(cut_rows(len(array), features.row_bytes), work, n_threads)
    return products


def sum_of_rows(array: Array, factors: Array | None, n_threads: int | None) -> Array:
    """The sum of all rows."""
    features = FeatureRows(array, factors, kernel_dtype(array.dtype))
    blocks = cut_rows(len(array), features.row_bytes)
    totals = np.zeros((len(blocks), room_for(array.shape[1])))
    kernel = add_rows.compiled(features.dtype)

    def work(k: int, start: int, stop: int) -> None:
        for _, block, of_block in features.parts(start, stop):
            kernel(block, of_block, totals[k])

    for_each([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    total: Array = totals.sum(axis=0)[: array.shape[1]]
    return total


def _parts(start: int, stop: int, row_bytes: int, is_copied: bool) -> Iterator[slice]:
    """These rows, in parts if they are copied."""
    at_a_time = max(1, COPIED_BYTES // max(row_bytes, 1)) if is_copied else max(1, stop - start)
    for first in range(start, stop, at_a_time):
        yield slice(first, min(first + at_a_time, stop))


def room_for(width: int) -> int:
    """How many numbers of float64 vectors need that have one for each element."""
    return -(-width // ROOM) * ROOM
