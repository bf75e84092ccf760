"""Matrices of feature vectors on a GPU, handed out a panel of rows at a time as products are computed.

Half precision, odd strides and rows to be normalised are made ready a panel at a time; everything else is used where
it is. Rows of length 1 and what becomes of gradients by them are computed in float64.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import check_widths
from fastce.arguments.numbers import flag
from fastce.arguments.silence import quietly
from fastce.cuda.arrays import DeviceArray, device_array, empty, zeros
from fastce.cuda.layout import FLOATS, contiguous, copy
from fastce.cuda.libraries import Library
from fastce.cuda.precision import check_factors, fits, limits
from fastce.cuda.products import array_module, as_reals, rows_between, seen, working_in
from fastce.products.features import cut_panels

BLOCK_BYTES = 1 << 24  # of rows that are made ready, or finished, at a time
BYTES_OF_PAIRS = 1 << 24  # of features that are gathered at a time


def float_features(value: Any, name: str, reader: Library | None = None) -> DeviceArray:
    """An array of floats; integers and booleans are converted to float64."""
    array = value if isinstance(value, DeviceArray) else device_array(value, name, reader)
    return array if array.dtype_name in FLOATS else contiguous(array, "float64")


def feature_arrays(values: Sequence[Any], names: Sequence[str]) -> list[DeviceArray]:
    """Arrays of shape (rows, width), all of the same width, read in the stream of the first."""
    first = float_features(values[0], names[0])
    more = zip(values[1:], names[1:], strict=True)
    arrays = [first, *(float_features(value, name, first.library) for value, name in more)]
    check_widths(arrays, names)
    return arrays


def dtype_of_losses(arrays: Sequence[DeviceArray]) -> np.dtype[Any]:
    """What losses of these come in: float32, or float64 if anything is that."""
    return np.dtype(np.float64 if any(array.dtype_name == "float64" for array in arrays) else np.float32)


def dtype_of_products(
    arrays: Sequence[DeviceArray],
    scale: float = 1.0,
    bias: float = 0.0,
    normalize: bool = False,
    is_one_side: bool = False,
    numbers: Any = None,
) -> np.dtype[Any]:
    """What products of the first of these with the others (or of all with all) are computed in.

    float64 where a product, or what is multiplied by the scale, leaves the range of float32; refused where it leaves
    that of float64. Normalized features are 1 at most. With ``numbers``, only these rows of the first array count.
    """
    check_factors(**{"logit_scale or 1 / temperature": scale})
    dtype, wide = dtype_of_losses(arrays), np.dtype(np.float64)
    sizes = [] if flag(normalize, "normalize") else [_size(arrays[0], numbers), *map(_size, arrays[1:])]
    left, right = (sizes, sizes) if is_one_side else (sizes[:1], sizes[1:])
    factors = _factors([size for size in left if size > 0.0], [size for size in right if size > 0.0], scale)
    if fits(dtype, *factors) and abs(bias) <= float(np.finfo(dtype).max):
        return dtype
    if not fits(wide, *factors):
        low, high = limits(wide)
        raise ValueError(
            f"on a GPU, features, their products and both times the scale must be between {low} and {high} in size, "
            f"got features of up to {max(sizes)} and a scale of {scale}"
        )
    return wide


def _factors(left: list[float], right: list[float], scale: float) -> list[float]:
    """The scale, and the ends of what else is multiplied for features of these sizes; nothing if all products are 0."""
    if not (left and right):
        return [scale]
    powers = [math.log2(min(left)) + math.log2(min(right)), math.log2(max(left)) + math.log2(max(right))]
    powers += map(math.log2, left + right)
    powers += [power + math.log2(scale) for power in powers]
    return [scale, *(2.0 ** min(max(power, -1074.0), 1023.0) for power in (min(powers), max(powers)))]


def _size(array: DeviceArray, numbers: Any = None) -> float:
    """The size of the largest element that is finite, of the rows of these numbers or of all; the host waits for it."""
    if array.dtype_name == "float16" or array.size == 0:
        return 1.0  # which is far from either end
    with working_in(array.library), quietly():
        xp = array_module()
        largest = xp.zeros(())
        count = array.shape[0] if numbers is None else numbers.size
        for rows in cut_panels(np.array([0, count]), max(1, BLOCK_BYTES // (8 * array.shape[1]))):
            block = array if numbers is not None else rows_between(array, rows.start, rows.stop)
            sizes = xp.abs(as_reals(block, np.dtype(np.float64), None if numbers is None else numbers[rows]))
            largest = xp.maximum(largest, xp.where(xp.isfinite(sizes), sizes, 0.0).max())
        return float(largest)


class Features:
    """The rows of one or more arrays below each other, computed in ``dtype``, of length 1 if they are ``normalized``.

    A row of length 0 stays as it is, and so does not depend on its features: their gradient is 0. With ``numbers``, an
    array of `array_module()`, there is one array, and only those rows of it. All is done in the current stream of the
    library: see `products.working_in`.
    """

    def __init__(
        self, arrays: Sequence[DeviceArray], dtype: np.dtype[Any], normalized: bool = False, numbers: Any = None
    ) -> None:
        self.arrays = arrays
        self.dtype = dtype
        self.numbers = numbers
        lengths = [array.shape[0] for array in arrays] if numbers is None else [numbers.size]
        self.starts: np.ndarray[Any, Any] = np.cumsum([0, *lengths])
        self.rows: int = int(self.starts[-1])
        self.width: int = arrays[0].shape[1]
        self.library: Library = arrays[0].library
        self.normalized: bool = flag(normalized, "normalize")
        self.inverse_lengths: Any
        self.powers: Any
        if normalized:
            self.inverse_lengths, self.powers = self._inverse_lengths()

    @property
    def is_ready(self) -> bool:
        """Whether all panels are views."""
        return self.numbers is None and not self.normalized and all(map(self._is_ready, self.arrays))

    def _is_ready(self, array: DeviceArray) -> bool:
        """Whether a matrix product takes it as it is."""
        step, next_element = array.strides
        return (
            array.dtype_name == self.dtype.name
            and (next_element == 1 or self.width == 1)
            and (step >= self.width or array.shape[0] == 1)
        )

    @property
    def bytes_of_ready_row(self) -> int:
        """What making a row ready takes, what is there in between included."""
        if self.is_ready:
            return 0
        return self.width * (2 * self.dtype.itemsize + 16 * self.normalized)

    def cuts(self, length: int) -> list[slice]:
        """Panels of about equal length, at most this; none of them reaches across two arrays."""
        return cut_panels(self.starts, length)

    def _blocks(self) -> list[slice]:
        return self.cuts(max(1, BLOCK_BYTES // (8 * max(self.width, 1))))

    def _reals(self, rows: slice, dtype: np.dtype[Any]) -> Any:
        """These rows as the caller gave them; of one array."""
        if self.numbers is not None:
            return as_reals(self.arrays[0], dtype, self.numbers[rows])
        k = int(np.searchsorted(self.starts[1:-1], rows.start, side="right"))
        first = int(self.starts[k])
        return as_reals(rows_between(self.arrays[k], rows.start - first, rows.stop - first), dtype)

    def new_room(self, rows: int) -> Any:
        """Room for a panel of so many rows."""
        return seen(empty(self.library, (rows, self.width), self.dtype.name))

    def panel(self, rows: slice, room: Any = None) -> Any:
        """These rows as they are multiplied: a view where that will do, else in ``room``, or in a new array."""
        if self.is_ready:
            return self._reals(rows, self.dtype)
        values = self._unit_rows(rows) if self.normalized else self._reals(rows, self.dtype)
        if room is None:
            return values.astype(self.dtype, copy=False)
        room[: len(values)] = values
        return room[: len(values)]

    def _unit_rows(self, rows: slice) -> Any:
        """In float64."""
        x = array_module().ldexp(self._reals(rows, np.dtype(np.float64)), self.powers[rows])
        x *= self.inverse_lengths[rows]
        return x

    def _inverse_lengths(self) -> tuple[Any, Any]:
        """Columns of 1 / |row|, or 0 for rows of length 0, of the rows times their powers of two; and those powers.

        These keep squares in the range of float64.
        """
        xp = array_module()
        inverse, powers = xp.zeros((self.rows, 1)), xp.zeros((self.rows, 1), np.int32)
        for rows in self._blocks() if self.width else ():
            x = self._reals(rows, np.dtype(np.float64))
            largest = xp.abs(x).max(axis=1, keepdims=True)
            powers[rows] = -xp.frexp(largest)[1]
            x = xp.ldexp(x, powers[rows])
            lengths = xp.sqrt((x * x).sum(axis=1, keepdims=True))
            of_finite = xp.where(largest == 0.0, 0.0, 1.0 / xp.where(largest == 0.0, 1.0, lengths))
            inverse[rows] = xp.where(xp.isfinite(largest), of_finite, np.nan)
        return inverse, powers

    def new_gradient(self) -> DeviceArray:
        """Zeros of the shape of all rows, to add to."""
        return zeros(self.library, (self.rows, self.width), self.dtype.name)

    def finished(self, gradient: DeviceArray, wants_sum: bool = True) -> tuple[list[Any], Any]:
        """The gradients of the arrays, in their own dtypes, from those of the rows; and the sum of row * gradient.

        ``gradient`` is used up. The sum stays on the device.
        """
        total = array_module().zeros(())
        if wants_sum or self.normalized:
            values = seen(gradient)
            for rows in self._blocks():
                total += self._through_normalization(rows, values[rows])
        return [self._in_own_dtype(k, gradient) for k in range(len(self.arrays))], total

    def _through_normalization(self, rows: slice, gradient: Any) -> Any:
        """(g - u (u . g)) / |row| with the unit vector u, if rows are normalized; and the sum of all u . g."""
        unit = (self._unit_rows if self.normalized else self.panel)(rows).astype(np.float64, copy=False)
        along = (unit * gradient).sum(axis=1, keepdims=True)
        if self.normalized:
            unit *= -along
            unit += gradient
            unit *= self.inverse_lengths[rows]
            gradient[...] = array_module().ldexp(unit, self.powers[rows])
        return along.sum()

    def _in_own_dtype(self, k: int, gradient: DeviceArray) -> Any:
        """The gradient of array k, of the caller's library."""
        first, end, own = int(self.starts[k]), int(self.starts[k + 1]), self.arrays[k].dtype_name
        if own == self.dtype.name:
            return gradient.given if len(self.arrays) == 1 else gradient.given[first:end]
        result = empty(self.library, (end - first, self.width), own)
        copy(rows_between(gradient, first, end), result)
        return result.given

    def gathered(self, numbers: Any) -> Any:
        """The rows of these numbers in float64, of a single array."""
        x = as_reals(self.arrays[0], np.dtype(np.float64), numbers)
        if self.normalized:
            x = array_module().ldexp(x, self.powers[numbers])
            x *= self.inverse_lengths[numbers]
        return x


def products_of_pairs(left: Features, rows: Any, right: Features, columns: Any) -> Any:
    """left[rows[k]] @ right[columns[k]] for every k, in float64."""
    products = array_module().empty(rows.size)
    for some in _blocks_of_pairs(rows.size, left.width):
        products[some] = (left.gathered(rows[some]) * right.gathered(columns[some])).sum(axis=1)
    return products


def _blocks_of_pairs(count: int, width: int) -> Iterator[slice]:
    step = max(1, BYTES_OF_PAIRS // (8 * max(width, 1)))
    return (slice(first, min(first + step, count)) for first in range(0, count, step))
