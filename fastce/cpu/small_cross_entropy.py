"""Small calls of cross_entropy; see small.py. What is decided about their options is remembered."""

import functools
import math
from collections.abc import Callable
from types import NoneType
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import reduction_of
from fastce.arguments.options import checked_options
from fastce.arguments.reductions import mean_factor, reduced, sum_of_terms
from fastce.arguments.silence import cast, silently
from fastce.arguments.words import asked
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.cross_entropy import cross_entropy_rows
from fastce.cpu._kernels.hard_columns import kernel_of_columns
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Options
from fastce.cpu.along_rows import exps_kept
from fastce.cpu.extremes import are_in_range
from fastce.cpu.small import SMALL, any_misfit, cube_of, room_for, rows_of
from fastce.cpu.targets import column_indices, row_indices

MANY_ROWS = 2048  # to look for those that are ignored takes less time than to compute them all for nothing

_INT64 = np.dtype(np.int64)
_OF_PYTHON = frozenset({int, float, str, NoneType})  # options that mean what they say, and always the same

# of rows, targets, weights of rows, what is above and the gradient
_Losses = Callable[[Array, Array, Array | None, Array, Array | None], Array | None]


def small_cross_entropy(
    logits: Any,
    targets: Any,
    axis: Any,
    options: tuple[Any, ...],
    n_threads: Any,
    *,
    with_gradient: bool,
    out: Any = None,
) -> tuple[Any, Any] | None:
    """(value, gradient) of a matrix of logits and class indices, or None. The gradient may be ``out``.

    The options are ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss and reduction.
    """
    rows = rows_of(logits, 1 if axis is None else axis, n_threads)
    if rows is None or logits.ndim != 2 or not _OF_PYTHON.issuperset(map(type, options)) or type(options[0]) is not int:
        return None
    count, classes = rows.shape
    if type(targets) is not np.ndarray or targets.shape != (count,):
        return None
    compute, given = _losses_of(rows.dtype, classes, options, with_gradient), targets
    if compute is None:
        return None
    if targets.dtype is not _INT64 or not (targets.flags.c_contiguous and targets.flags.aligned):
        if targets.dtype.kind not in "iu" or targets.dtype.str[1:] == "u8":  # of which int64 does not hold all
            return None
        targets = targets.astype(np.int64)
    ignored_class, reduction, gradient = options[0], options[-1], None
    if with_gradient:  # the kernel of few classes writes before it has seen all indices
        gradient = room_for(rows, out if classes > NARROW else None, given)
    losses, counted, row_weight = None, count, None
    if not 0 <= ignored_class < classes and (count < MANY_ROWS or ignored_class not in targets):
        losses = compute(rows, targets, None, _upstream(count, reduction), gradient)
    if losses is None:
        targets, row_weight, counted = _without_ignored(targets, ignored_class)
        if counted < count or 0 <= ignored_class < classes:
            losses = compute(rows, targets, row_weight, _upstream(counted, reduction), gradient)
    if losses is None:
        return None
    if reduction == "none":
        return cast(losses, rows.dtype), gradient
    # a sum of losses of float32 has no reason to warn
    total, exponent = sum_of_terms(losses) if rows.itemsize == 4 else silently(sum_of_terms, losses)
    return reduced(total, reduction, float(counted), exponent), gradient


def _without_ignored(targets: Array, ignored_class: int) -> tuple[Array, Array | None, int]:
    """Class indices with 0 where a row is ignored, the weights of rows, 0 there, and how many rows are left."""
    ignored = targets == ignored_class
    number = int(np.count_nonzero(ignored))
    if number == 0:
        return targets, None, len(targets)
    return np.where(ignored, 0, targets), np.where(ignored, 0.0, 1.0), len(targets) - number


@functools.lru_cache(256)
def _losses_of(dtype: np.dtype[Any], classes: int, options: tuple[Any, ...], with_gradient: bool) -> _Losses | None:
    """What computes losses and gradients of such rows; None if options are wrong, or leave something to decide."""
    checked, least = asked(_checked, (classes, *options[1:])), -math.log2(SMALL)  # the power of two of 1 / count
    if checked is None or not are_in_range(checked, dtype.itemsize, least, 0.0):
        return None
    if checked.softcap > 0.0 and dtype.itemsize < 8:  # computed in float64
        return None
    if classes > NARROW:
        return _losses_along_rows(dtype, classes, checked)
    return _losses_of_columns(dtype, classes, checked, with_gradient)


def _checked(given: tuple[Any, ...]) -> Options:
    *of_formula, reduction = given
    reduction_of(reduction)
    return Options(*checked_options(*of_formula))


@functools.lru_cache(256)
def _upstream(count: int, reduction: str) -> Array:
    """What the gradients of so many rows are multiplied by."""
    return np.array([[mean_factor(float(count)) if reduction == "mean" else 1.0]])


def _losses_of_columns(dtype: np.dtype[Any], classes: int, options: Options, with_gradient: bool) -> _Losses:
    """For few classes. An index that is out of range makes a misfit."""
    plain, weighted = (kernel_of_columns(classes, options, True, with_gradient, is_plain) for is_plain in (True, False))
    none, no_products, narrow = np.empty((0, 0, 0), dtype), np.empty((0, 0)), Narrow(True, False, with_gradient)

    def losses_of(
        rows: Array, targets: Array, row_weight: Array | None, upstream: Array, gradient: Array | None
    ) -> Array | None:
        cube, losses, misfits = cube_of(rows), np.empty((1, len(rows))), np.zeros((1, len(rows)), np.uint8)
        out = none if gradient is None else cube_of(gradient)
        indices = column_indices(targets, row_weight, dtype)
        if row_weight is None and not plain.is_compiled(dtype) and not ((targets >= 0) & (targets < classes)).all():
            return None  # not to wait for a kernel that will not do
        kernel = (plain if row_weight is None else weighted).compiled(dtype)
        kernel(cube, cube, narrow, indices, options, losses, misfits, upstream, no_products, out, False)
        return None if any_misfit(misfits) else losses[0]

    return losses_of


def _losses_along_rows(dtype: np.dtype[Any], classes: int, options: Options) -> _Losses:
    """For many classes. The kernel reads what an index says: it gets a copy, which no other thread changes."""
    kernel, kept = cross_entropy_rows.compiled(dtype), exps_kept(classes, dtype)
    none, no_exps, no_products = np.empty((0, 0), dtype), np.empty(0, dtype), np.empty(0)

    def losses_of(
        rows: Array, targets: Array, row_weight: Array | None, upstream: Array, gradient: Array | None
    ) -> Array | None:
        targets = targets.copy()
        if np.maximum.reduce(targets.view(np.uint64)) >= classes:
            return None
        losses, misfits = np.empty(len(rows)), np.zeros(len(rows), np.uint8)
        indices = row_indices(targets, row_weight, dtype)
        out, exps = (none, no_exps) if gradient is None else (gradient, np.empty(kept, dtype))
        kernel(rows, indices, options, losses, misfits, upstream[0], no_products, out, exps, False)
        return None if any_misfit(misfits) else losses

    return losses_of
