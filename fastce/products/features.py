"""Matrices of feature vectors, handed out a panel of rows at a time as products are computed.

Half precision, odd strides and rows to be normalised are made ready a panel at a time; everything else is used where
it is.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import check_widths
from fastce.arguments.numbers import flag
from fastce.products.engine import Engine

LARGEST_POWER = 1000  # of lengths that are used as they are
NO_REST = (1.0, 0)
BYTES_OF_PAIRS = 1 << 18  # of features that are gathered at a time, and stay in the cache
_WIDE = np.dtype(np.float64)


def feature_arrays(engine: Engine, values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Arrays of shape (rows, width), all of the same width."""
    arrays = [engine.array(value, name) for value, name in zip(values, names, strict=True)]
    check_widths(arrays, names)
    return arrays


def cut_panels(starts: Any, length: int) -> list[slice]:
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
        engine: Engine,
        arrays: Sequence[Any],
        dtype: np.dtype[Any],
        normalized: bool = False,
        numbers: Any = None,
        power: int = 0,
    ) -> None:
        self.engine = engine
        self.arrays = arrays
        self.dtype = dtype
        self.numbers = numbers
        lengths = [array.shape[0] for array in arrays] if numbers is None else [numbers.size]
        self.starts: list[int] = [0, *itertools.accumulate(lengths)]
        self.rows: int = self.starts[-1]
        self.width: int = arrays[0].shape[1]
        self.powers: Any = None
        self.normalized: bool = flag(normalized, "normalize")
        self.factors: Any = self._inverse_lengths() if self.normalized else None
        if power:
            self.factors = engine.xp.full(self.rows, 2.0**-power)
        self.narrow_factors: Any = None if self.factors is None else self._narrow_factors()

    @property
    def is_ready(self) -> bool:
        """Whether all panels are views."""
        return self.numbers is None and self.factors is None and all(map(self._is_ready, self.arrays))

    def _is_ready(self, array: Any) -> bool:
        """Whether a matrix product takes it as it is."""
        return self.engine.is_ready(array, self.dtype)

    @property
    def row_bytes(self) -> int:
        """Of a row that is ready."""
        return self.width * self.dtype.itemsize

    def cuts(self, length: int) -> list[slice]:
        """Panels of about equal length, at most this; none of them reaches across two arrays."""
        return cut_panels(self.starts, length)

    def _array_of(self, rows: slice) -> tuple[Any, int]:
        """The array that these rows are of, and where it begins."""
        k = int(np.searchsorted(self.starts[1:-1], rows.start, side="right"))
        return self.arrays[k], self.starts[k]

    def _given(self, rows: slice, dtype: np.dtype[Any]) -> Any:
        """These rows as the caller gave them, but in this dtype; of one array."""
        array, first = self._array_of(rows)
        chosen = slice(rows.start - first, rows.stop - first) if self.numbers is None else self.numbers[rows]
        return self.engine.reals(array, chosen, dtype)

    def halves(self, rows: slice) -> Any:
        """These rows in half precision, where they are given and may be multiplied so; else None."""
        if self.numbers is not None or self.factors is not None or self.dtype == _WIDE:
            return None
        array, first = self._array_of(rows)
        return self.engine.halves(array, slice(rows.start - first, rows.stop - first))

    def new_room(self, rows: int) -> Any:
        """Room for a panel of so many rows."""
        return self.engine.empty((rows, self.width), self.dtype)

    def panel(self, rows: slice, room: Any = None) -> Any:
        """These rows as they are multiplied: a view where that will do, else in ``room``, or in a new array."""
        if self.numbers is None and self.factors is None and self._is_ready(self._array_of(rows)[0]):
            return self._given(rows, self.dtype)
        count = rows.stop - rows.start
        panel = self.new_room(count) if room is None else room[:count]

        def work(start: int, stop: int) -> None:
            here = slice(rows.start + start, rows.start + stop)
            x = self._given(here, self.dtype if self.powers is None else _WIDE)
            if self.factors is None:
                panel[start:stop] = x
            else:
                factors = self.narrow_factors[here, None]
                self.engine.xp.multiply(self._times_powers(x, here), factors, out=panel[start:stop], casting="unsafe")

        self.engine.for_each(count, self.row_bytes, work)
        return panel

    def gathered(self, numbers: Any) -> Any:
        """The rows of these numbers in float64, in a new array."""
        if len(self.arrays) == 1:
            result = self.engine.reals(self.arrays[0], numbers, _WIDE)
        else:
            result = self.engine.xp.empty((numbers.size, self.width))
            for array, first in zip(self.arrays, self.starts[:-1], strict=True):
                here = (numbers >= first) & (numbers < first + array.shape[0])
                result[here] = self.engine.reals(array, numbers[here] - first, _WIDE)
        if self.factors is not None:
            result = self._times_powers(result, numbers)
            result *= self.factors[numbers, None]
        return result

    def products_of_pairs(self, rows: Any, right: "Features", columns: Any) -> Any:
        """self[rows[k]] @ right[columns[k]] for every k, in float64."""
        engine = self.engine
        products = engine.xp.empty(rows.size)
        at_a_time = max(1, BYTES_OF_PAIRS // (8 * max(self.width, 1)))

        def work(start: int, stop: int) -> None:
            for first in range(start, stop, at_a_time):
                some = slice(first, min(first + at_a_time, stop))
                pairs = self.gathered(rows[some]), right.gathered(columns[some])
                products[some] = engine.xp.einsum("ij,ij->i", *pairs)

        engine.for_each(rows.size, self.width * 8, work)
        return products

    def sum(self) -> Any:
        """The sum of all rows, in float64."""
        xp = self.engine.xp
        total = xp.zeros(self.width)
        for start, stop in self.engine.cuts(self.rows, self.width * 8):
            total += self.gathered(xp.arange(start, stop)).sum(axis=0)
        return total

    def times(self, vector: Any) -> Any:
        """Every row times a vector of float64."""
        xp = self.engine.xp
        result = xp.empty(self.rows)

        def work(start: int, stop: int) -> None:
            result[start:stop] = xp.einsum("ij,j->i", self.gathered(xp.arange(start, stop)), vector)

        self.engine.for_each(self.rows, self.width * 8, work)
        return result

    def _inverse_lengths(self) -> Any:
        """1 / |row|, or 0 for rows of length 0, in float64; of the rows times their powers of two."""
        xp = self.engine.xp
        inverse, powers = xp.zeros(self.rows), xp.zeros(self.rows, np.int32)

        def work(start: int, stop: int) -> None:
            x = xp.array(self._given(slice(start, stop), _WIDE), order="C")
            largest = xp.abs(x).max(axis=1)
            extreme = (largest > 0.0) & (xp.abs(xp.log2(largest)) > LARGEST_POWER) & xp.isfinite(largest)
            if extreme.any():
                powers[start:stop] = xp.where(extreme, -xp.frexp(largest)[1], 0)
                x = xp.ldexp(x, powers[start:stop, None])
                largest = xp.abs(x).max(axis=1)
            x /= largest[:, None]
            lengths = largest * xp.sqrt(xp.einsum("ij,ij->i", x, x))
            inverse[start:stop] = xp.where(largest == 0.0, 0.0, 1.0 / lengths)

        blocks: list[tuple[int, int]] = []
        for rows in self.cuts(max(1, self.rows)) if self.width else ():  # no block reaches across two arrays
            cuts = self.engine.cuts(rows.stop - rows.start, self.width * 8)
            blocks += [(rows.start + a, rows.start + b) for a, b in cuts]
        self.engine.in_turn(blocks, work)
        self.powers = powers if powers.any() else None
        return inverse

    def _times_powers(self, x: Any, numbers: Any) -> Any:
        """These rows times the powers of two that rows need whose length has no inverse in float64: hardly ever any."""
        return x if self.powers is None else self.engine.xp.ldexp(x, self.powers[numbers, None])

    def _narrow_factors(self) -> Any:
        """The rows' factors in the dtype of the products, unless that would cost them digits."""
        factors, within = self.factors, np.finfo(self.dtype)
        out_of_range = (factors > within.max) | ((factors < within.tiny) & (factors != 0.0))
        return factors if out_of_range.any() else factors.astype(self.dtype)

    def finished(
        self, gradient: Any, wants_sum: bool = True, rest: tuple[float, int] = NO_REST
    ) -> tuple[list[Any], float]:
        """The gradients of the arrays, in their own dtypes, from those of the rows; and the sum of row * gradient.

        ``gradient``, memory of the engine, is used up. The results are multiplied by f * 2**e, the ``rest``; the sum
        is not.
        """
        engine, values = self.engine, self.engine.seen(gradient)
        results, tasks = [], []
        for array, first, end in zip(self.arrays, self.starts[:-1], self.starts[1:], strict=True):
            is_there = engine.has_dtype(array, self.dtype)
            results.append(engine.part(gradient, first, end) if is_there else engine.like(array))
            is_there = is_there and not self.normalized and rest == NO_REST
            cuts = engine.cuts(end - first, self.row_bytes)
            tasks += [(slice(first + a, first + b), results[-1], slice(a, b), is_there) for a, b in cuts if b > a]
        totals = engine.xp.zeros(len(tasks))

        def work(k: int, rows: slice, result: Any, place: slice, is_there: bool) -> None:
            of_rows = values[rows]
            if wants_sum or self.normalized:
                of_rows, totals[k] = self._across(rows, of_rows)
            if not is_there:
                engine.put(result, place, self._times_rest(rows, of_rows, rest))

        engine.in_turn([(k, *task) for k, task in enumerate(tasks)], work)
        return results, float(totals.sum())

    def _across(self, rows: slice, gradient: Any) -> tuple[Any, Any]:
        """(g - u (u . g) with the unit vector u, if rows are normalized, else g; the sum of all u . g)."""
        unit = self.panel(rows)
        along = self.engine.xp.einsum("ij,ij->i", unit, gradient, dtype=_WIDE)
        if self.normalized:
            gradient = gradient - unit * along[:, None].astype(self.dtype)
        return gradient, along.sum()

    def _times_rest(self, rows: slice, gradient: Any, rest: tuple[float, int]) -> Any:
        """The gradient, divided by the lengths of normalized rows, times f * 2**e.

        All powers of two at once: one may be as large as another is small.
        """
        xp, power = self.engine.xp, rest[1]
        if self.normalized:
            inverse = self.narrow_factors[rows, None]
            if rest != NO_REST:
                inverse, own = xp.frexp(inverse)
                power = power + own
            gradient = gradient * inverse
            power = power if self.powers is None else power + self.powers[rows, None]
        if rest != NO_REST:
            gradient = gradient * rest[0]
        return xp.ldexp(gradient, power) if np.ndim(power) or power else gradient
