"""The rows of a class and their mates: of each row the sum of all others that have its label, in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.labels import Classes
from fastce.cpu._kernels.mates import add_mates, mate_products, sum_classes
from fastce.cpu.dots import FeatureRows, room_for
from fastce.cpu.threads import BLOCK_BYTES, for_each

UNEVEN = 2.0**10  # times the least row of a class is the largest
SQUARES = 2.0**-900, 2.0**900  # squared lengths of rows that kernels take

ByKernel = Callable[[Array, FeatureRows, tuple[Array, ...]], None]
ByNumpy = Callable[[Array, Array, Array], None]


class Mates:
    """Those of the rows of features, whose classes are known.

    Kernels do it, but for classes of uneven rows, and for features that they do not read: see `_others_of_classes`.
    """

    def __init__(self, features: Any, classes: Classes, n_threads: int | None) -> None:
        self.features = features
        self.classes = classes
        self.n_threads = n_threads
        self.at_a_time: int = max(1, BLOCK_BYTES // (8 * max(features.width, 1)))

    def products(self) -> Array:
        """Each row times its mates."""
        products = np.zeros(self.features.rows)

        def by_kernel(numbers: Array, rows: FeatureRows, arguments: tuple[Array, ...]) -> None:
            of_rows = np.zeros(numbers.size)
            mate_products.compiled(rows.dtype)(*arguments, of_rows)
            products[numbers] = of_rows

        def by_numpy(numbers: Array, of_rows: Array, mates: Array) -> None:
            products[numbers] = np.einsum("ij,ij->i", of_rows, mates)

        self._for_each_class(by_kernel, by_numpy)
        return products

    def add_to(self, gradient: Array, slopes: Array) -> None:
        """Add the mates of each row, times its slope, to the gradient, which is of the features' dtype."""

        def by_kernel(numbers: Array, rows: FeatureRows, arguments: tuple[Array, ...]) -> None:
            add_mates.compiled(rows.dtype)(*arguments, slopes[numbers], numbers, gradient)

        def by_numpy(numbers: Array, of_rows: Array, mates: Array) -> None:
            gradient[numbers] += slopes[numbers, None] * mates

        self._for_each_class(by_kernel, by_numpy)

    def _for_each_class(self, by_kernel: ByKernel, by_numpy: ByNumpy) -> None:
        rows = self._rows()

        def of_group(numbers: Array, first: Array) -> None:
            starts = np.append(first, numbers.size)
            even = np.zeros(first.size, bool) if rows is None else self._by_kernel(rows, numbers, starts, by_kernel)
            if not even.all():
                sizes = np.diff(starts)[~even]
                self._gathered(numbers[np.repeat(~even, np.diff(starts))], np.cumsum(sizes) - sizes, by_numpy)

        for_each(list(self.classes.groups(self.at_a_time)), of_group, self.n_threads)

    def _by_kernel(self, rows: FeatureRows, numbers: Array, starts: Array, work: ByKernel) -> Array:
        """Work on classes whose rows are even; which these are."""
        parts = [(numbers, starts)]
        if numbers.size > self.at_a_time and rows.as_read is None:  # a single class, which is copied in parts
            some = [numbers[k : k + self.at_a_time] for k in range(0, numbers.size, self.at_a_time)]
            parts = [(part, np.array([0, part.size])) for part in some]
        totals = np.zeros((starts.size - 1, room_for(self.features.width)))
        least, largest = np.full(len(totals), np.inf), np.zeros(len(totals))
        for part, of_part in parts:
            sum_classes.compiled(rows.dtype)(*rows.chosen(part), of_part, totals, least, largest)
        even = (largest <= UNEVEN**2 * least) & (SQUARES[0] < least) & (largest < SQUARES[1])
        for part, of_part in parts:
            work(part, rows, (*rows.chosen(part), of_part, totals, even))
        return even

    def _rows(self) -> FeatureRows | None:
        """The features as kernels see them; None if they do not, or if these compute in another dtype."""
        features = self.features
        if not features.is_plain or len(features.arrays) > 1:
            return None
        dtype = kernel_dtype(features.arrays[0].dtype)
        if compute_dtype(dtype) != features.dtype:
            return None
        return FeatureRows(features.arrays[0], features.factors, dtype)

    def _gathered(self, numbers: Array, first: Array, work: ByNumpy) -> None:
        """work(numbers, rows, mates) for classes that begin at the ``first`` of these rows, some rows at a time."""
        features = self.features
        blocks = [slice(k, k + self.at_a_time) for k in range(0, numbers.size, self.at_a_time)]
        if len(blocks) == 1:
            rows = features.gathered(numbers)
            work(numbers, rows, _others_of_classes(rows, first))
            return
        sums = [features.gathered(numbers[block]).sum(axis=0) for block in blocks]  # of a single class
        for k, block in enumerate(blocks):
            rows = features.gathered(numbers[block])
            elsewhere = sum(sums[:k], np.zeros(features.width)) + sum(sums[k + 1 :], np.zeros(features.width))
            work(numbers[block], rows, elsewhere + _others_of_classes(rows, np.zeros(1, np.int64)))


def _others_of_classes(rows: Array, first: Array) -> Array:
    """For each row the sum of all others of its class; classes begin at the ``first`` rows.

    That is the sum of all less the row, unless a row is so large that nothing of the others would be left.
    """
    sizes = np.abs(rows).max(axis=1, initial=0.0)
    largest, least = np.maximum.reduceat(sizes, first), np.minimum.reduceat(sizes, first)
    class_of_row = np.searchsorted(first, np.arange(len(rows)), side="right") - 1
    others: Array = np.add.reduceat(rows, first, axis=0)[class_of_row] - rows
    ends = np.append(first[1:], len(rows))
    for k in np.flatnonzero(largest > UNEVEN * least):
        x = rows[first[k] : ends[k]]
        before, after = np.zeros_like(x), np.zeros_like(x)
        np.cumsum(x[:-1], axis=0, out=before[1:])
        after[:-1] = np.cumsum(x[:0:-1], axis=0)[::-1]
        others[first[k] : ends[k]] = before + after
    return others
