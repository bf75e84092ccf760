"""The floors that times are quoted against: one streaming read, copy, or scaling in place of the same bytes."""

import numpy as np

from fastce.arguments import Array
from fastce.kernels.floors import copy_rows, read_rows, scale_rows
from fastce.layout import Rows
from fastce.threads import cut_rows, for_each


def read(matrix: Array, *, n_threads: int | None = None) -> None:
    """Read every element of a C-contiguous matrix once."""
    rows = Rows(matrix)
    results = np.empty(rows.rows)
    kernel = read_rows.compiled(rows.dtype)
    for_each(
        cut_rows(rows.rows, rows.row_bytes),
        lambda start, stop: kernel(rows.block(start, stop), results[start:stop]),
        n_threads,
    )


def copy(matrix: Array, out: Array, *, n_threads: int | None = None) -> None:
    """Copy a C-contiguous matrix, past the cache."""
    rows, target = Rows(matrix), Rows(out)
    kernel = copy_rows.compiled(rows.dtype)
    for_each(
        cut_rows(rows.rows, rows.row_bytes),
        lambda start, stop: kernel(rows.block(start, stop), target.block(start, stop)),
        n_threads,
    )


def scale_in_place(matrix: Array, factor: float, *, n_threads: int | None = None) -> None:
    """Multiply a C-contiguous matrix by a number, in place."""
    rows = Rows(matrix)
    kernel = scale_rows.compiled(rows.dtype)
    for_each(
        cut_rows(rows.rows, rows.row_bytes),
        lambda start, stop: kernel(rows.block(start, stop), factor),
        n_threads,
    )
