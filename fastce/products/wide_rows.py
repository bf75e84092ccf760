"""Rows of one or more arrays in float64: products of pairs of them, sums and lengths, whatever they hold.

The CPU has kernels for that, which read the arrays as they are given. Where rows have powers of two beside factors, and
on a GPU, they are gathered, a few at a time.
"""

import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fastce.products.engine import Engine

LARGEST_POWER = 1000  # of lengths that are used as they are
BYTES_OF_PAIRS = 1 << 18  # of features that are gathered at a time, and stay in the cache
WIDE = np.dtype(np.float64)


class WideRows:
    """The rows of arrays below each other, or some of a single one, each times its factor, if there are any.

    The factors take rows to length 1, or divide them all by a power of two. The ``powers`` of two come first; only rows
    whose length has no inverse in float64 need any.
    """

    def __init__(self, engine: Engine, arrays: Sequence[Any], numbers: Any = None) -> None:
        self.engine = engine
        self.arrays = arrays
        self.numbers = numbers
        lengths = [array.shape[0] for array in arrays] if numbers is None else [numbers.size]
        self.starts: list[int] = [0, *itertools.accumulate(lengths)]
        self.rows: int = self.starts[-1]
        self.width: int = arrays[0].shape[1]
        self.factors: Any = None
        self.powers: Any = None

    @property
    def is_plain(self) -> bool:
        """Whether all rows are there, and have factors at most."""
        return self.numbers is None and self.powers is None

    def _each_array(self) -> Iterator[tuple[Any, slice]]:
        """The arrays, and which of the rows are theirs."""
        for array, *ends in zip(self.arrays, self.starts[:-1], self.starts[1:], strict=True):
            yield array, slice(*ends)

    def _factors_of(self, rows: slice) -> Any:
        return None if self.factors is None else self.factors[rows]

    def blocks(self, row_bytes: int) -> list[slice]:
        """Blocks of rows, as the engine cuts them; none of them reaches across two arrays."""
        return [
            slice(rows.start + a, rows.start + b)
            for array, rows in self._each_array()
            for a, b in self.engine.cuts(array.shape[0], row_bytes)
            if b > a
        ]

    def _array_of(self, rows: slice) -> tuple[Any, int]:
        """The array that these rows are of, and where it begins."""
        k = bisect_right(self.starts, rows.start, 1, len(self.arrays)) - 1
        return self.arrays[k], self.starts[k]

    def _given(self, rows: slice, dtype: np.dtype[Any]) -> Any:
        """These rows as the caller gave them, but in this dtype; of one array."""
        array, first = self._array_of(rows)
        chosen = slice(rows.start - first, rows.stop - first) if self.numbers is None else self.numbers[rows]
        return self.engine.reals(array, chosen, dtype)

    def gathered(self, numbers: Any) -> Any:
        """The rows of these numbers in float64, in a new array."""
        if len(self.arrays) == 1:
            result = self.engine.reals(self.arrays[0], numbers, WIDE)
        else:
            result = self.engine.xp.empty((numbers.size, self.width))
            for array, first in zip(self.arrays, self.starts[:-1], strict=True):
                here = (numbers >= first) & (numbers < first + array.shape[0])
                result[here] = self.engine.reals(array, numbers[here] - first, WIDE)
        if self.factors is not None:
            result = self._times_powers(result, numbers)
            result *= self.factors[numbers, None]
        return result

    def products_of_pairs(self, rows: Any, right: "WideRows", columns: Any) -> Any:
        """self[rows[k]] @ right[columns[k]] for every k."""
        engine = self.engine
        products = self._products_as_given(rows, right, columns) if self.is_plain and right.is_plain else None
        if products is not None:
            return products
        products = engine.xp.empty(rows.size)
        at_a_time = max(1, BYTES_OF_PAIRS // (8 * max(self.width, 1)))

        def work(start: int, stop: int) -> None:
            for first in range(start, stop, at_a_time):
                some = slice(first, min(first + at_a_time, stop))
                pairs = self.gathered(rows[some]), right.gathered(columns[some])
                products[some] = engine.xp.einsum("ij,ij->i", *pairs)

        engine.for_each(rows.size, self.width * 8, work)
        return products

    def _products_as_given(self, rows: Any, right: "WideRows", columns: Any) -> Any:
        """The same, if the engine has a kernel; else None."""
        if len(self.arrays) == len(right.arrays) == 1:
            factors = self.factors, right.factors
            return self.engine.products_of_rows(self.arrays[0], rows, right.arrays[0], columns, *factors)
        products = self.engine.xp.empty(rows.size)
        for of_left, left, own, left_factors in self._owners(rows):
            for of_right, other, others, right_factors in right._owners(columns[of_left]):
                factors = left_factors, right_factors
                of_pairs = self.engine.products_of_rows(left, own[of_right], other, others, *factors)
                if of_pairs is None:
                    return None
                products[of_left[of_right]] = of_pairs
        return products

    def _owners(self, numbers: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
        """Each array, and the rows of these numbers that are in it: (which of the numbers, array, rows, factors)."""
        for array, rows in self._each_array():
            here = self.engine.xp.flatnonzero((numbers >= rows.start) & (numbers < rows.stop))
            yield here, array, numbers[here] - rows.start, self._factors_of(rows)

    def along(self, others: Any) -> Any:
        """Each row times that of another matrix; None if the engine has no kernel."""
        if not self.is_plain:
            return None
        products = self.engine.xp.empty(self.rows)
        for array, rows in self._each_array():
            own = self.engine.xp.arange(array.shape[0])
            of_array = self.engine.products_of_rows(array, own, others[rows], own, self._factors_of(rows))
            if of_array is None:
                return None
            products[rows] = of_array
        return products

    def sum(self) -> Any:
        """The sum of all rows."""
        xp = self.engine.xp
        total = self._sum_as_given() if self.is_plain else None
        if total is None:
            total = xp.zeros(self.width)
            for start, stop in self.engine.cuts(self.rows, self.width * 8):
                total += self.gathered(xp.arange(start, stop)).sum(axis=0)
        return total

    def _sum_as_given(self) -> Any:
        total: Any = 0.0
        for array, rows in self._each_array():
            of_array = self.engine.sum_of_rows(array, self._factors_of(rows))
            if of_array is None:
                return None
            total = total + of_array
        return total

    def times(self, vector: Any) -> Any:
        """Every row times a vector."""
        xp = self.engine.xp
        result = self._times_as_given(vector) if self.is_plain else None
        if result is not None:
            return result
        result = xp.empty(self.rows)

        def work(start: int, stop: int) -> None:
            result[start:stop] = xp.einsum("ij,j->i", self.gathered(xp.arange(start, stop)), vector)

        self.engine.for_each(self.rows, self.width * 8, work)
        return result

    def _times_as_given(self, vector: Any) -> Any:
        products = self.engine.xp.empty(self.rows)
        for array, rows in self._each_array():
            of_array = self.engine.products_with(array, vector, self._factors_of(rows))
            if of_array is None:
                return None
            products[rows] = of_array
        return products

    def divide_by_lengths(self) -> None:
        """Take all rows to length 1, but for those of length 0."""
        is_narrow = all(self.engine.dtype_of(array) != WIDE for array in self.arrays)  # so that squares are in range
        self.factors = self._inverse_lengths_as_given() if is_narrow else None
        if self.factors is None:
            self.factors = self._inverse_lengths()

    def _inverse_lengths_as_given(self) -> Any:
        """1 / |row|, or 0 for rows of length 0, NaN for infinite ones; None if the engine has no kernel."""
        xp, inverse = self.engine.xp, self.engine.xp.empty(self.rows)
        for array, rows in self._each_array():
            own = xp.arange(array.shape[0])
            squares = self.engine.products_of_rows(array, own, array, own)
            if squares is None:
                return None
            inverse[rows] = xp.where(
                xp.isinf(squares), xp.nan, 1.0 / xp.sqrt(xp.where(squares == 0.0, xp.inf, squares))
            )
        return inverse

    def _inverse_lengths(self) -> Any:
        """The same, of rows times powers of two where they need them."""
        xp = self.engine.xp
        inverse, powers = xp.zeros(self.rows), xp.zeros(self.rows, np.int32)

        def work(rows: slice) -> None:
            x = xp.array(self._given(rows, WIDE), order="C")
            largest = xp.abs(x).max(axis=1)
            extreme = (largest > 0.0) & (xp.abs(xp.log2(largest)) > LARGEST_POWER) & xp.isfinite(largest)
            if extreme.any():
                powers[rows] = xp.where(extreme, -xp.frexp(largest)[1], 0)
                x = xp.ldexp(x, powers[rows, None])
                largest = xp.abs(x).max(axis=1)
            x /= largest[:, None]
            lengths = largest * xp.sqrt(xp.einsum("ij,ij->i", x, x))
            inverse[rows] = xp.where(largest == 0.0, 0.0, 1.0 / lengths)

        self.engine.in_turn([(rows,) for rows in self.blocks(self.width * 8)] if self.width else [], work)
        self.powers = powers if powers.any() else None
        return inverse

    def _times_powers(self, x: Any, numbers: Any) -> Any:
        """These rows times the powers of two that rows need whose length has no inverse in float64: hardly ever any."""
        return x if self.powers is None else self.engine.xp.ldexp(x, self.powers[numbers, None])
