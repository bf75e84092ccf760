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
from fastce.products.wide_rows import WIDE, WideRows

NO_REST = (1.0, 0)


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


class Features(WideRows):
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
        super().__init__(engine, arrays, numbers)
        self.dtype = dtype
        self.normalized: bool = flag(normalized, "normalize")
        if self.normalized:
            self.divide_by_lengths()
        if power:
            self.factors: Any = engine.xp.full(self.rows, 2.0**-power)
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

    def halves(self, rows: slice) -> Any:
        """These rows in half precision, where they are given and may be multiplied so; else None."""
        if self.numbers is not None or self.factors is not None or self.dtype == WIDE:
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
            x = self._given(here, self.dtype if self.powers is None else WIDE)
            if self.factors is None:
                panel[start:stop] = x
            else:
                factors = self.narrow_factors[here, None]
                self.engine.xp.multiply(self._times_powers(x, here), factors, out=panel[start:stop], casting="unsafe")

        self.engine.for_each(count, self.row_bytes, work)
        return panel

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
        along: Any = self._along(values) if wants_sum or self.normalized else None
        results, tasks = [], []
        for array, rows in self._each_array():
            is_there = engine.has_dtype(array, self.dtype)
            results.append(engine.part(gradient, rows.start, rows.stop) if is_there else engine.like(array))
            if not is_there or self.normalized or rest != NO_REST:
                cuts = engine.cuts(array.shape[0], self.row_bytes)
                tasks += [(slice(rows.start + a, rows.start + b), results[-1], slice(a, b)) for a, b in cuts if b > a]

        def work(rows: slice, result: Any, place: slice) -> None:
            of_rows = values[rows]
            if self.normalized:  # g - u (u . g) with the unit vector u
                of_rows = of_rows - self.panel(rows) * along[rows, None].astype(self.dtype)
            engine.put(result, place, self._times_rest(rows, of_rows, rest))

        engine.in_turn(tasks, work)
        return results, 0.0 if along is None else float(along.sum())

    def _along(self, gradient: Any) -> Any:
        """Each row, as it is multiplied, times its gradient."""
        along = self.along(gradient)
        if along is None:
            along = self.engine.xp.empty(self.rows)

            def work(rows: slice) -> None:
                along[rows] = self.engine.xp.einsum("ij,ij->i", self.panel(rows), gradient[rows], dtype=WIDE)

            self.engine.in_turn([(rows,) for rows in self.blocks(self.row_bytes)], work)
        return along

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
