"""Class indices, as the kernels take them: one per row."""

import copy
import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, class_index_error
from fastce.arguments.reductions import product
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.targets import ColumnTargets, Targets
from fastce.cpu.class_indices import MOST_COUNTED, are_classes, is_int64, number_of_ignored, picked, weight_of_classes
from fastce.cpu.columns import Place
from fastce.cpu.rooms import Room
from fastce.cpu.targets import NO_CUBE, NO_FLOATS, NO_INTEGERS, NO_PROBABILITIES, NO_ROW_WEIGHT, NO_WEIGHT, TargetRows
from fastce.cpu.threads import for_each

CHECKED_AT_A_TIME = 1 << 17  # class indices


class IndexTargets(TargetRows):
    """Class indices, one per row.

    All are checked before anything is computed, and those that a kernel takes for granted once more, in a copy: an
    index that is out of range would read somebody else's memory, and another thread may change the caller's array.
    """

    def __init__(
        self, indices: Array, classes: int, ignored_class: int, per_class: Array | None, per_row: Array | None,
        dtype: np.dtype[Any], smoothed: bool, n_threads: int | None,
    ) -> None:  # fmt: skip
        self.indices: Array = indices
        self.n_classes: int = classes
        self.ignored_class: int = ignored_class
        self.per_class: Array | None = per_class
        self.per_row: Array | None = per_row
        self.dtype = dtype
        self.smoothed = smoothed
        self.may_be_ignored: bool = False  # whether some row is, as far as that is known
        self.total_weight: float = self._checked_weight(n_threads)
        self.weigh_alike: bool = not self.may_be_ignored and per_class is None and per_row is None
        self._memory = Room()

    def _checked_weight(self, n_threads: int | None) -> float:
        """Check all indices; the sum of v_i w_y over the rows that are not ignored."""
        size = self.indices.size
        if size <= CHECKED_AT_A_TIME:
            return self._weight_of(slice(0, size))
        of_blocks = np.zeros(-(-size // CHECKED_AT_A_TIME))

        def work(k: int) -> None:
            of_blocks[k] = self._weight_of(slice(k * CHECKED_AT_A_TIME, min((k + 1) * CHECKED_AT_A_TIME, size)))

        for_each([(k,) for k in range(of_blocks.size)], work, n_threads)
        return float(silently(np.add.reduce, of_blocks))

    def _weight_of(self, rows: slice) -> float:
        indices = self.indices[rows]
        if self.per_row is None and (self.per_class is None or self.n_classes <= MOST_COUNTED):
            if self.per_class is None and self._are_plain(indices):
                return float(indices.size)
            weight, wrong, ignored = weight_of_classes(indices, self.n_classes, self.ignored_class, self.per_class)
            if wrong:
                raise self._first_error()
            if ignored:
                self.may_be_ignored = True
            return weight
        if self.per_class is None and self.per_row is not None:
            _, wrong, ignored = weight_of_classes(indices, self.n_classes, self.ignored_class, None)
            if not (wrong or ignored):
                return float(silently(np.add.reduce, self.per_row[rows]))
        self.may_be_ignored = True
        return silently(self._sum_of_weights, rows)

    def _sum_of_weights(self, rows: slice) -> float:
        classes, row_weight = self.picked(rows)
        weight = row_weight if self.per_class is None else self.per_class[classes]
        return float((weight * row_weight if self.per_class is not None and row_weight.size else weight).sum())

    def weights(self) -> tuple[Array, Array | int]:
        """v_i w_y of all rows, as pairs."""
        classes, row_weight = self.picked(slice(0, self.indices.size))
        if self.per_class is None:
            return row_weight if row_weight.size else np.ones(classes.size), 0
        return product(self.per_class[classes], row_weight if row_weight.size else 1.0)

    def times(self, exponent: int) -> "IndexTargets":
        """The same with row weights times 2**exponent."""
        targets = copy.copy(self)
        per_row = np.ones(self.indices.size) if self.per_row is None else self.per_row
        targets.per_row = silently(np.ldexp, per_row, exponent)
        targets.weigh_alike = False
        return targets

    def in_order(self, numbers: Array, order: tuple[int, ...], axis: int) -> "IndexTargets":
        """The targets of the rows with these numbers, which are all of them."""
        targets = copy.copy(self)
        targets.indices = self.indices[numbers]
        targets.per_row = None if self.per_row is None else self.per_row[numbers]
        return targets

    def _are_plain(self, indices: Array) -> bool:
        """Whether these are in range and none of them is ignored."""
        return (
            indices.dtype == np.int64
            and indices.flags.aligned
            and not 0 <= self.ignored_class < self.n_classes
            and (not indices.size or are_classes(indices, self.n_classes))
        )

    def picked(self, rows: slice | Array) -> tuple[Array, Array]:
        """(classes, row weights) of these rows; no weights if all are 1. Ignored rows have class 0 and weight 0."""
        per_row = NO_FLOATS if self.per_row is None else self.per_row[rows]
        classes, weights, wrong, ignored = picked(self.indices[rows], self.n_classes, self.ignored_class, per_row)
        if wrong:
            raise self._first_error()
        return classes, weights if ignored else per_row

    def _first_error(self) -> IndexError:
        """The complaint about the first row whose class is out of range."""
        given = self.indices
        wrong = ((given < 0) | (given >= self.n_classes)) & (given != self.ignored_class)
        row = int(wrong.argmax())
        return class_index_error(row, given[row], self.n_classes)

    def counted(self) -> Array | None:
        """The numbers of the rows that are not ignored and have some weight; None for all of them."""
        if not self.may_be_ignored and self.per_row is None:
            return None
        row_weight = self.picked(slice(0, self.indices.size))[1]
        return None if row_weight.all() else np.flatnonzero(row_weight)

    def in_float64(self) -> "IndexTargets":
        """The same, for kernels of float64."""
        targets = copy.copy(self)
        targets.dtype = np.dtype(np.float64)
        return targets

    def _class_weight(self) -> Array:
        return NO_WEIGHT[self.dtype] if self.per_class is None else cast(self.per_class, self.dtype)

    def of(self, rows: slice | Array) -> Targets:
        """The targets of these rows; class weights that concern only the targets are looked up here."""
        classes, row_weight = self.picked(rows)
        masses, class_weight = NO_FLOATS, NO_WEIGHT[self.dtype]
        if self.per_class is not None:
            if self.smoothed:
                class_weight = self._class_weight()
            else:
                masses = self.per_class[classes]
        return Targets(NO_INTEGERS, classes, masses, NO_PROBABILITIES[self.dtype], class_weight, row_weight)

    def block(self, start: int, stop: int) -> Targets:
        """The targets of rows ``start`` to ``stop``."""
        return self.of(slice(start, stop))

    def columns(self, place: Place, spread: bool = True) -> ColumnTargets:
        """The targets of a block of a cube; its kernel checks them itself, so that they need not be copied."""
        rows = slice(place.start, place.stop)
        classes, row_weight = self.indices[rows], NO_FLOATS if self.per_row is None else self.per_row[rows]
        if not is_int64(self.indices):
            given, classes = classes, self._memory.of(classes.shape, np.dtype(np.int64))
            np.copyto(classes, given, casting="unsafe")  # uint64 that are too large become negative, which are no class
        number, exists = number_of_ignored(self.ignored_class, self.indices.dtype)
        ignored = float(number) if exists and self.may_be_ignored else math.nan
        return ColumnTargets(
            classes.reshape(place.shape),
            NO_CUBE[self.dtype],
            self._class_weight(),
            row_weight.reshape(place.shape) if row_weight.size else NO_ROW_WEIGHT,
            ignored,
        )
