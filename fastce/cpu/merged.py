"""Short rows merged into longer ones, of which few vectors are partial, and factors that repeat from row to row."""

import functools
import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._vectors.simd import VECTOR_BYTES
from fastce.cpu.layout import Rows
from fastce.cpu.threads import cut_rows

VECTOR = VECTOR_BYTES // 4  # elements of the largest vector
SHORT = 1024  # elements; shorter rows are merged
REPEATED = 2048  # elements of a merged row at least, where factors repeat
PERIOD = 1 << 16  # elements that a factor may repeat, to stay in the cache beside what it multiplies


class Merged(Rows):
    """Rows of which ``together`` are one, or the last, which are fewer; None for all that are asked for at once."""

    def __init__(
        self, array: Array, axis: int | tuple[int, ...], dtype: np.dtype[Any], together: int | None = None
    ) -> None:
        super().__init__(array, axis, dtype)
        self.together = together

    @functools.cached_property
    def matrix(self) -> Array | None:
        """The rows where they are, if each begins where the one before ends: a merged row has no strides within."""
        matrix = super().matrix
        return matrix if matrix is not None and matrix.flags.c_contiguous else None

    def block(self, start: int, stop: int) -> Array:
        """As `Rows.block`, merged."""
        return super().block(start, stop).reshape(merged_into(stop - start, self.together), -1)

    def room(self, start: int, stop: int) -> Array:
        """As `Rows.room`, merged."""
        return super().room(start, stop).reshape(merged_into(stop - start, self.together), -1)


class Number:
    """One number instead of a matrix: as a vector that serves every row."""

    def __init__(self, array: Array, dtype: np.dtype[Any], together: int | None) -> None:
        self.vector: Array = np.full(VECTOR, first_of(array), dtype)
        self.together = together

    def block(self, start: int, stop: int) -> Array:
        """What these rows are multiplied by."""
        return _for_all(self.vector, merged_into(stop - start, self.together))


class NumberOfRow:
    """The same, one for each row, none of which are merged."""

    def __init__(self, array: Array, dtype: np.dtype[Any]) -> None:
        self.numbers: Rows = Rows(array[..., :1], -1, dtype)

    def block(self, start: int, stop: int) -> Array:
        """What these rows are multiplied by."""
        return np.repeat(self.numbers.block(start, stop), VECTOR, axis=1)


class Repeated:
    """A factor that is the same for every merged row."""

    def __init__(self, array: Array, dtype: np.dtype[Any], together: int) -> None:
        period = period_of(array)
        self.classes: int = array.shape[-1]
        part = array[(0,) * _axes_repeated(array)].astype(dtype).ravel()
        self.row: Array = np.tile(part, together * self.classes // period)
        self.together = together

    def block(self, start: int, stop: int) -> Array:
        """What these rows are multiplied by."""
        width = min(stop - start, self.together) * self.classes
        return _for_all(self.row[:width], merged_into(stop - start, self.together))


def factor_of(
    array: Array, axis: int | tuple[int, ...], dtype: np.dtype[Any], together: int | None
) -> Merged | Rows | Number | NumberOfRow | Repeated:
    """A factor of the elements of rows of which so many are merged; see `rows_together`."""
    if is_one_number(array):
        return Number(array, dtype, together)
    if together is not None and together * array.shape[-1] % period_of(array) == 0:
        return Repeated(array, dtype, together)
    if together == 1 and array.strides[-1] == 0:
        return NumberOfRow(array, dtype)
    return Rows(array, axis, dtype) if together == 1 else Merged(array, axis, dtype, together)


def rows_together(shape: tuple[int, ...], factors: list[Array]) -> int | None:
    """How many rows, those of the last axis, are made one for these factors, by shape alone; None: all of a block."""
    classes = shape[-1] if len(shape) > 1 else 1
    if classes >= SHORT:
        return 1
    periods = [period_of(factor) for factor in factors if not is_one_number(factor)]
    periods = [period for period in periods if period <= PERIOD and period < math.prod(shape)]
    if not periods:
        return None
    period = max(periods)  # a multiple of the others
    return min(period * max(1, REPEATED // period), math.prod(shape)) // classes


def cut_merged(rows: int, row_bytes: int, together: int | None) -> list[tuple[int, int]]:
    """As `cut_rows`, with blocks of whole merged rows and one of what is left."""
    if together is None or together == 1:
        return cut_rows(rows, row_bytes)
    merged, rest = divmod(rows, together)
    blocks = [(start * together, stop * together) for start, stop in cut_rows(merged, row_bytes * together)]
    return [*blocks[: merged or None], *([(rows - rest, rows)] if rest else [])]


def _for_all(row: Array, rows: int) -> Array:
    """A matrix of rows that are the same; NumPy takes longer for that than for a matrix of one."""
    return row[None] if rows == 1 else np.broadcast_to(row, (rows, row.size))


def merged_into(rows: int, together: int | None) -> int:
    """How many rows so many are, once they are merged."""
    return 1 if together is None or rows < together else rows // together


def period_of(array: Array) -> int:
    """The number of elements after which a broadcast array repeats itself."""
    return math.prod(array.shape[_axes_repeated(array) :])


def _axes_repeated(array: Array) -> int:
    """The number of axes along which an array is repeated, before the first along which it is not."""
    varies = (stride != 0 and n > 1 for stride, n in zip(array.strides, array.shape, strict=True))
    return next((k for k, here in enumerate(varies) if here), array.ndim)


def is_one_number(array: Array) -> bool:
    """Whether all elements are one that is broadcast."""
    return not any(array.strides) or all(
        stride == 0 or n == 1 for stride, n in zip(array.strides, array.shape, strict=True)
    )


def first_of(array: Array) -> Any:
    """The first element, 1 if there is none; ``flat`` knows 32 dimensions only."""
    return array[(0,) * array.ndim] if array.size else 1.0
