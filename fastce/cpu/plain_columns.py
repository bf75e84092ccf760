"""Plain calls of cross_entropy of few classes, along any axis: class indices or probabilities, weights; see plain.py.

What a call's arrays look like, and the values of class weights, tell how it is computed: that is found out once.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, new_like
from fastce.arguments.reductions import factor_of_rows, powers_of
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.hard_columns import kernel_of_columns, plain_losses
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Options
from fastce.cpu._vectors.compiler import Kernel
from fastce.cpu.checked_targets import is_ordinary
from fastce.cpu.class_indices import are_classes, count_of_classes, number_of_ignored, weight_of_classes
from fastce.cpu.extremes import Factors, factors_in_range
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.plain import (
    INT64,
    NATIVE,
    READY,
    Decided,
    Found,
    View,
    any_misfit,
    is_one_block,
    scratch_for,
    view_of,
)
from fastce.cpu.targets import NO_CUBE, NO_INDICES, NO_ROW_WEIGHT, NO_WEIGHT

MANY_ROWS = 2048  # to look for those that are out of range takes less time than to compute them all for nothing

_NO_CLASS = -(1 << 64)  # which no integer is
_NO_PRODUCTS = np.empty((0, 0))


class RowWeights(NamedTuple):
    """Weights of rows, (outer, rows), if there are any."""

    values: Array
    total: float
    powers: tuple[float, float]  # of two, of the smallest and the largest


class PlainColumns(ABC):
    """How calls are computed whose arrays look as those of the first, and whose class weights are the same."""

    def __init__(
        self, decided: Decided, like: Array, axis: int, views: tuple[View, View | None, View | None],
        per_class: Array | None, factors: Factors,
    ) -> None:  # fmt: skip
        dtype, classes = like.dtype, like.shape[axis]
        self.options: Options = decided.options
        self.reduction: str = decided.reduction
        self.lead: tuple[int, ...] = like.shape[:axis] + like.shape[axis + 1 :]
        self.dtype: np.dtype[Any] = dtype  # that kernels compute in
        self.classes: int = classes
        self.view: View = views[0]
        self.of_masses: View | None = views[1]
        self.of_gradient: View | None = views[2]
        self.narrow: Narrow = Narrow(*(view is not None and view.narrow for view in views))
        self.per_class: Array | None = per_class
        self.class_weight: Array = NO_WEIGHT[dtype] if per_class is None else cast(per_class, dtype)
        self.no_masses: Array = NO_CUBE[dtype]
        self.factors: Factors = factors
        self.unweighted: RowWeights = RowWeights(NO_ROW_WEIGHT, float(like.size // classes), (0.0, 0.0))
        self.upstream: Array | None = self._upstream(self.unweighted.total, self.unweighted)
        of_call = classes, self.options, self.of_masses is None, self.of_gradient is not None
        self.plain: Kernel = kernel_of_columns(*of_call, self.view.narrow)
        self.weighted: Kernel = kernel_of_columns(*of_call, False)

    def found(self, logits: Array, targets: Array, sample_weight: Array | None, _: Any) -> Found | None:
        """What a call comes to; None if that is left to the usual way."""
        if sample_weight is None:
            return self.weighed(logits, targets, self.unweighted)
        values = sample_weight.astype(np.float64, order="C")
        rows = RowWeights(values.reshape(self.view.shape), sum_of(values.ravel()), powers_of(values))
        if not (math.isfinite(rows.total) and self.factors.hold(*rows.powers)):
            return None
        return None if self.needs_care(rows.total) else self.weighed(logits, targets, rows)

    @abstractmethod
    def weighed(self, logits: Array, targets: Array, rows: RowWeights) -> Found | None:
        """The same, with the weights of rows."""

    def computed(
        self, kernel: Kernel, logits: Array, points: tuple[Any, ...], total_weight: float, rows: RowWeights
    ) -> Found | None:
        """What the kernel finds; None for misfits, and for gradients beyond the range.

        The points are `ColumnTargets` as a plain tuple: one with names takes time to make, and kernels do not ask for
        these.
        """
        scratch, entry_point = scratch_for(self.view.shape), kernel.compiled(self.dtype)
        array, gradient = logits if logits.dtype is self.dtype else cast(logits, self.dtype), None
        cube = self.view.cube_of(array)
        if kernel is plain_losses:
            entry_point(cube, points[0], self.options, *scratch.in_shape)
        else:
            upstream, room = self.upstream, self.no_masses
            if self.of_gradient is not None:
                if total_weight != self.unweighted.total or rows is not self.unweighted:
                    upstream = self._upstream(total_weight, rows)
                gradient = new_like(array, self.dtype)
                room = self.of_gradient.cube_of(gradient)
            if upstream is None:
                return None
            entry_point(
                cube, cube, self.narrow, points, self.options, *scratch.in_shape, upstream, _NO_PRODUCTS, room, False
            )
        if any_misfit(scratch.misfits):
            return None
        return scratch, total_weight, gradient if gradient is None or array is logits else cast(gradient, logits.dtype)

    def _upstream(self, total_weight: float, rows: RowWeights) -> Array | None:
        """What the gradients of rows are multiplied by; None if that is beyond the range."""
        factor = factor_of_rows(self.reduction, total_weight)
        power = math.log2(abs(factor)) if factor else 0.0
        low, high = rows.powers
        return np.array([[factor]]) if self.factors.hold(low + power, high + power) else None

    def needs_care(self, total_weight: float) -> bool:
        """Whether this is not divided by at once."""
        return self.reduction == "mean" and not is_ordinary(total_weight)


class PlainMasses(PlainColumns):
    """The same of probabilities."""

    def weighed(self, logits: Array, targets: Array, rows: RowWeights) -> Found | None:
        """See `PlainColumns.weighed`."""
        assert self.of_masses is not None
        points = NO_INDICES, self.of_masses.cube_of(targets), self.class_weight, rows.values, math.nan
        return self.computed(self.weighted, logits, points, rows.total, rows)


class PlainIndices(PlainColumns):
    """The same of class indices."""

    def __init__(self, ignored_class: int, are_int64: bool, *given: Any) -> None:
        super().__init__(*given)
        self.ignored_class = ignored_class
        self.ignored: tuple[int, bool] = number_of_ignored(ignored_class, INT64)
        self.may_all_count: bool = self.per_class is None and not 0 <= ignored_class < self.classes
        self.are_int64 = are_int64
        self.ready: Kernel | None = None  # of few rows, and compiled

    def weighed(self, logits: Array, targets: Array, rows: RowWeights) -> Found | None:
        """See `PlainColumns.weighed`. At first it is taken for granted that no row is ignored, if that can be."""
        indices = (targets if self.are_int64 else targets.astype(np.int64, order="C")).reshape(self.view.shape)
        kernel = self.plain if rows is self.unweighted else self.weighted
        all_count = self.may_all_count and (kernel is self.ready or self._look_right(indices, kernel))
        if all_count:
            points = indices, self.no_masses, self.class_weight, rows.values, math.nan
            found = self.computed(kernel, logits, points, rows.total, rows)
            if found is not None:
                return found
        known = self._total_weight(indices.reshape(-1), rows)
        if known is None:
            return None
        total_weight, some_ignored = known
        are_weighted = self.per_class is not None or rows is not self.unweighted
        if (all_count and not some_ignored) or (are_weighted and self.needs_care(total_weight)):
            return None
        points = indices, self.no_masses, self.class_weight, rows.values, self.ignored[0] if some_ignored else math.nan
        kernel = self.weighted if are_weighted or some_ignored else self.plain
        return self.computed(kernel, logits, points, total_weight, rows)

    def _look_right(self, indices: Array, kernel: Kernel) -> bool:
        """Whether they are classes, or few, which are better computed at once; no kernel is waited for in vain."""
        if indices.size < MANY_ROWS and kernel.if_compiled(self.dtype) is not None:
            self.ready = kernel
            return True
        return are_classes(indices.reshape(-1), self.classes)

    def _total_weight(self, indices: Array, rows: RowWeights) -> tuple[float, bool] | None:
        """What a mean divides by, and whether rows are ignored; None if an index is out of range."""
        if self.per_class is None:
            total, wrong, ignored = weight_of_classes(indices, self.classes, self.ignored_class, None)
        else:
            counts, wrong, ignored = count_of_classes(indices, self.classes, self.ignored)
            total = float(counts.dot(self.per_class))  # in range: NumPy has no reason to warn
        if wrong:
            return None
        if rows is not self.unweighted:
            classes, ignored_class, per_class = self.classes, self.ignored_class, self.per_class
            per_row = rows.values.ravel()
            total = IndexTargets(indices, classes, ignored_class, per_class, per_row, self.dtype, False, 1).total_weight
        return total, ignored > 0


def columns_like(
    decided: Decided, logits: Array, targets: Array, axis: int, weights: tuple[Any, Any], *, with_gradient: bool
) -> PlainColumns | None:
    """How calls are computed whose arrays look as these; None if that is left to the usual way."""
    lead, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis]
    is_wide = decided.options.softcap > 0.0 and logits.itemsize < 8  # see `cross_entropy_call`
    like = np.empty_like(logits, np.float64) if is_wide else logits
    if not (is_one_block(like.nbytes) and _are_weights(weights[0], (classes,)) and _are_weights(weights[1], lead)):
        return None
    per_class = None if weights[0] is None else weights[0].astype(np.float64, order="C")
    factors = factors_in_range(decided.options, like.itemsize, per_class)
    view, of_gradient = view_of(like, axis), view_of(new_like(like, like.dtype), axis) if with_gradient else None
    if factors is None or view is None or (with_gradient and of_gradient is None):
        return None
    if per_class is not None and not math.isfinite(sum_of(per_class)):
        return None
    if targets.dtype.kind in "iu":
        ignored = decided.ignored_class
        if targets.dtype.kind == "u" and ignored < 0:
            ignored = _NO_CLASS
        are_int64 = targets.dtype is INT64 and targets.flags.num & READY == READY
        views = view, None, of_gradient
        given = decided, like, axis, views, per_class, factors
        return PlainIndices(ignored, are_int64, *given) if targets.shape == lead else None
    if targets.shape != logits.shape or targets.dtype != like.dtype or decided.ignored_class >= 0:
        return None
    of_masses = view_of(targets, axis)
    if of_masses is None:
        return None
    return PlainMasses(decided, like, axis, (view, of_masses, of_gradient), per_class, factors)


def _are_weights(weights: Any, shape: tuple[int, ...]) -> bool:
    """Whether these are plain weights of this shape, or none."""
    return weights is None or (type(weights) is np.ndarray and weights.shape == shape and weights.dtype in NATIVE)


def sum_of(weights: Array) -> float:
    """Their sum, which is finite if all are, and far enough from the largest number."""
    return float(silently(np.add.reduce, weights))
