"""What the rows and columns of a small matrix have come to, where each has one positive: losses, gradients' factors.

NumPy's calls on vectors of a few hundred rows take longer than kernels do on the matrix, so one kernel computes what
sides.py does. Whatever comes near the end of the range is left to that.
"""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.positives import Positives
from fastce.arguments.reductions import factor_of_rows
from fastce.cpu._kernels.clip import clip_sums
from fastce.cpu._kernels.tile_ends import end_tile
from fastce.cpu._vectors.exponential import LN2, SPARE
from fastce.cpu.sides import LARGEST_EXPONENT, SPREAD, Factors, is_plain
from fastce.cpu.threads import inline_bytes

NARROW = np.dtype(np.float32)


class Ends(NamedTuple):
    """What `end_tile` writes."""

    losses: Array
    slopes: Array
    of_rows: Array
    of_columns: Array

    def value(self, reduction: str, dtype: np.dtype[Any]) -> Any:
        """What the reduction asks for."""
        if reduction == "none":
            return self.losses.astype(compute_dtype(dtype))
        return float(self.losses.sum()) * factor_of_rows(reduction, self.losses.size)

    def factors(self, dtype: np.dtype[Any], smoothing: float) -> Factors:
        """What `clip_gradient` is given."""
        spreads = np.full(2, smoothing / self.losses.size)
        return Factors(dtype, self.of_rows, self.of_columns, True, spreads, 1.0)


def fits_one_tile(rows: int, columns: int) -> bool:
    """Whether one thread reads the matrix at once."""
    return rows * columns * NARROW.itemsize <= inline_bytes(in_columns=False)


def is_for_ends(shape: tuple[int, int], positives: Positives, scale: float, dtype: np.dtype[Any]) -> bool:
    """Whether it is a small matrix that is computed in float32, with one positive in each row and each column."""
    return bool(
        0 < shape[0] == shape[1] == positives.rows.size
        and compute_dtype(dtype) == NARROW
        and is_plain(scale, dtype)
        and fits_one_tile(*shape)
        and positives.row_mass.min() == positives.column_mass.min() == 1.0
    )


def ends_of(
    matrix: Array,
    dtype: np.dtype[Any],
    points: tuple[Array, Array],
    partners: Array,
    x: Array,
    scale: float,
    smoothing: float,
    reduction: str,
    is_symmetric: bool = False,
) -> Ends | None:
    """What a matrix has come to, as kernels see one of this dtype; None if something is beyond their range.

    The points are what sums leave out: where those of each row begin, and their columns; the partner of a row is the
    column of its positive, x. Columns of a symmetric matrix are its rows, and slopes stand for both.
    """
    count, smoothed = len(matrix), smoothing > 0.0
    row_exps, row_distances, column_exps = np.empty((3, count))
    column_distances, exponent = np.empty(count if smoothed else 0), np.empty(1)
    clip_sums.compiled(dtype)(
        matrix, *points, scale, smoothed, row_exps, row_distances, column_exps, column_distances,
        np.empty((2, count), NARROW), exponent,
    )  # fmt: skip
    if is_symmetric:
        column_exps[:] = row_exps
    near = float(np.float32((exponent[0] + SPARE) * LN2 / scale))  # in the order of the kernel
    ends = Ends(np.empty(count), np.empty(count), np.empty((count, 3)), np.empty((3, count), NARROW))
    powers, weight = np.empty(2), 1.0 if is_symmetric else 0.5
    end_tile.compiled(NARROW)(
        row_exps, column_exps, row_distances, column_distances, exponent[0], near, partners, x, scale, smoothing,
        factor_of_rows(reduction, count), weight, *ends, powers,
    )  # fmt: skip
    lowest, highest = powers
    largest = max(-exponent[0] - lowest, exponent[0] + highest)
    return ends if highest - lowest <= SPREAD[4] and largest <= LARGEST_EXPONENT[4] else None
