"""Matrices of feature vectors, handed out a panel of rows at a time as products are computed.

Half precision, odd strides and rows to be normalised are made ready a panel at a time; everything else is used where
it is.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, check_widths, kernel_dtype, real_array
from fastce.arguments.numbers import flag
from fastce.arguments.silence import quietly
from fastce.cpu.threads import cut_rows, for_each, in_turn

LARGEST_POWER = 1000  # of lengths that are used as they are
NO_REST = (1.0, 0)
BYTES_OF_PAIRS = 1 << 18  # of features that are gathered at a time, and stay in the cache


def feature_arrays(values: Sequence[Any], names: Sequence[str]) -> list[Array]:
    """Arrays of shape (rows, width), all of the same width."""
    arrays = [real_array(value, name) for value, name in zip(values, names, strict=True)]
    check_widths(arrays, names)
    return arrays


def cut_panels(starts: Array, length: int) -> list[slice]:
    """Panels of about equal length, at most this; none of them reaches across two arrays, which have these starts."""
    panels = []
    for first, end in itertools.pairwise(starts):
        number = -(-(end - first) // length)
        edges = [int(first + (end - first) * k // max(number, 1)) for k in range(number + 1)]
        panels += [slice(*edge) for edge in itertools.pairwise(edges)]
    return panels


class Features:
    """The rows of one or more arrays below each other, computed in ``dtype``, of length 1 if they are ``normalized``.

    A row of length 0 stays as it is, and so does not depend on its features: their gradient is 0. With ``numbers``
    there is one array, and only those rows of it. Others may be divided by a power of two, see ranges.py.
    """

    def __init__(
        self,
        arrays: Sequence[Array],
        dtype: np.dtype[Any],
        normalized: bool = False,
        n_threads: int | None = None,
        numbers: Array | None = None,
        power: int = 0,
    ) -> None:
        self.arrays = arrays
        self.dtype = dtype
        self.numbers = numbers
        self.starts: Array = np.cumsum([0, *(len(array) for array in arrays)] if numbers is None else [0, len(numbers)])
        self.rows: int = int(self.starts[-1])
        self.width: int = arrays[0].shape[1]
        self.n_threads = n_threads
        self.powers: Array | None = None
        self.normalized: bool = flag(normalized, "normalize")
        self.factors: Array | None = self._inverse_lengths() if self.normalized else None
        if power:
            self.factors = np.full(self.rows, 2.0**-power)

    @property
    def is_ready(self) -> bool:
        """Whether all panels are views."""
        return self.numbers is None and self.factors is None and all(map(self._is_ready, self.arrays))

    def _is_ready(self, array: Array) -> bool:
        """Whether a matrix product takes it as it is."""
        step, next_element = array.strides
        return (
            array.dtype == self.dtype
            and array.flags.aligned
            and next_element == array.itemsize
            and step >= self.width * array.itemsize
        )

    def cuts(self, length: int) -> list[slice]:
        """Panels of about equal length, at most this; none of them reaches across two arrays."""
        return cut_panels(self.starts, length)

    def given(self, rows: slice) -> Array:
        """These rows as the caller gave them; of one array."""
        if self.numbers is not None:
            return np.asarray(self.arrays[0][self.numbers[rows]])
        k = int(np.searchsorted(self.starts[1:-1], rows.start, side="right"))
        view: Array = self.arrays[k][rows.start - self.starts[k] : rows.stop - self.starts[k]]
        return view

    def new_room(self, rows: int) -> Array:
        """Room for a panel of so many rows."""
        return np.empty((rows, self.width), self.dtype)

    def panel(self, rows: slice, room: Array | None = None) -> Array:
        """These rows as they are multiplied: a view where that will do, else in ``room``, or in a new array."""
        view = self.given(rows)
        if self.factors is None and self._is_ready(view):
            return view
        panel = np.empty(view.shape, self.dtype) if room is None else room[: len(view)]

        @quietly()
        def work(start: int, stop: int) -> None:
            if self.factors is None:
                panel[start:stop] = view[start:stop]
                return
            here = slice(rows.start + start, rows.start + stop)
            x = self._times_powers(view[start:stop], here)
            np.multiply(x, self._factor(here), out=panel[start:stop], casting="unsafe")

        for_each(cut_rows(len(view), self.width * self.dtype.itemsize), work, self.n_threads)
        return panel

    def gathered(self, numbers: Array) -> Array:
        """The rows of these numbers in float64, in a new array."""
        if len(self.arrays) == 1:
            result = self.arrays[0][numbers].astype(np.float64)
        else:
            result = np.empty((numbers.size, self.width))
            for array, first in zip(self.arrays, self.starts[:-1], strict=True):
                here = (numbers >= first) & (numbers < first + len(array))
                result[here] = array[numbers[here] - first]
        if self.factors is not None:
            result = self._times_powers(result, numbers)
            result *= self.factors[numbers, None]
        return result

    def sum(self) -> Array:
        """The sum of all rows, in float64."""
        total = np.zeros(self.width)
        for start, stop in cut_rows(self.rows, self.width * 8):
            total += self.gathered(np.arange(start, stop)).sum(axis=0)
        return total

    def times(self, vector: Array) -> Array:
        """Every row times a vector of float64."""
        result = np.empty(self.rows)

        @quietly()
        def work(start: int, stop: int) -> None:
            result[start:stop] = np.einsum("ij,j->i", self.gathered(np.arange(start, stop)), vector)

        for_each(cut_rows(self.rows, self.width * 8), work, self.n_threads)
        return result

    def _inverse_lengths(self) -> Array:
        """1 / |row|, or 0 for rows of length 0, in float64; of the rows times their powers of two."""
        inverse, powers = np.empty(self.rows), np.zeros(self.rows, np.int32)

        @quietly()
        def work(start: int, stop: int) -> None:
            x = np.array(self.given(slice(start, stop)), np.float64, order="C")
            largest = np.abs(x).max(axis=1, initial=0.0)
            extreme = (largest > 0.0) & (np.abs(np.log2(largest)) > LARGEST_POWER) & np.isfinite(largest)
            powers[start:stop] = np.where(extreme, -np.frexp(largest)[1], 0)
            if extreme.any():
                x = np.ldexp(x, powers[start:stop, None])
                largest = np.abs(x).max(axis=1, initial=0.0)
            x /= largest[:, None]
            lengths = largest * np.sqrt(np.einsum("ij,ij->i", x, x))
            inverse[start:stop] = np.where(largest == 0.0, 0.0, 1.0 / lengths)

        for rows in self.cuts(max(1, self.rows)):
            blocks = cut_rows(rows.stop - rows.start, self.width * 8)
            for_each([(rows.start + a, rows.start + b) for a, b in blocks], work, self.n_threads)
        self.powers = powers if powers.any() else None
        return inverse

    def _times_powers(self, x: Array, numbers: slice | Array) -> Array:
        """These rows times the powers of two that rows need whose length has no inverse in float64: hardly ever any."""
        return x if self.powers is None else np.ldexp(x.astype(np.float64), self.powers[numbers, None])

    def _factor(self, rows: slice) -> Array:
        """The rows' factors as a column, in the dtype of the products unless that would cost it digits."""
        assert self.factors is not None
        inverse = self.factors[rows, None]
        out_of_range = (inverse > np.finfo(self.dtype).max) | ((inverse < np.finfo(self.dtype).tiny) & (inverse != 0.0))
        return inverse if out_of_range.any() else inverse.astype(self.dtype)

    def finished(
        self, gradient: Array, wants_sum: bool = True, rest: tuple[float, int] = NO_REST
    ) -> tuple[list[Array], float]:
        """The gradients of the arrays, in their own dtypes, from those of the rows; and the sum of row * gradient.

        ``gradient`` is used up. The results are multiplied by f * 2**e, the ``rest``; the sum is not.
        """
        results, blocks = [], []
        for array, first, end in zip(self.arrays, self.starts[:-1], self.starts[1:], strict=True):
            own = kernel_dtype(array.dtype)
            results.append(gradient[first:end] if own == self.dtype else np.empty(array.shape, own))
            cuts = cut_rows(end - first, self.width * self.dtype.itemsize)
            blocks += [(slice(first + a, first + b), results[-1][a:b]) for a, b in cuts if b > a]
        totals = np.zeros(len(blocks))

        @quietly()
        def work(k: int, rows: slice, result: Array) -> None:
            of_rows = gradient[rows]
            if wants_sum or self.normalized:
                of_rows, totals[k] = self._across(rows, of_rows)
            if self.normalized or rest != NO_REST or result.dtype != self.dtype:  # else it is there already
                result[...] = self._times_rest(rows, of_rows, rest)

        in_turn([(k, *block) for k, block in enumerate(blocks)], work, self.n_threads)
        return results, float(totals.sum())

    def _across(self, rows: slice, gradient: Array) -> tuple[Array, float]:
        """(g - u (u . g) with the unit vector u, if rows are normalized, else g; the sum of all u . g)."""
        unit = self.panel(rows)
        along = np.einsum("ij,ij->i", unit, gradient, dtype=np.float64)
        if self.normalized:
            gradient = gradient - unit * along[:, None].astype(self.dtype)
        return gradient, float(along.sum())

    def _times_rest(self, rows: slice, gradient: Array, rest: tuple[float, int]) -> Array:
        """The gradient, divided by the lengths of normalized rows, times f * 2**e.

        All powers of two at once: one may be as large as another is small.
        """
        power: Any = rest[1]
        if self.normalized:
            inverse = self._factor(rows)
            if rest != NO_REST:
                inverse, own = np.frexp(inverse)
                power = power + own
            gradient = gradient * inverse
            power = power if self.powers is None else power + self.powers[rows, None]
        if rest != NO_REST:
            gradient = gradient * rest[0]
        result: Array = np.ldexp(gradient, power) if np.any(power) else gradient
        return result


def products_of_pairs(left: Features, rows: Array, right: Features, columns: Array, n_threads: int | None) -> Array:
    """left[rows[k]] @ right[columns[k]] for every k, in float64."""
    products = np.empty(rows.size)
    at_a_time = max(1, BYTES_OF_PAIRS // (8 * max(left.width, 1)))

    @quietly()
    def work(start: int, stop: int) -> None:
        for first in range(start, stop, at_a_time):
            some = slice(first, min(first + at_a_time, stop))
            products[some] = np.einsum("ij,ij->i", left.gathered(rows[some]), right.gathered(columns[some]))

    for_each(cut_rows(rows.size, left.width * 8), work, n_threads)
    return products
