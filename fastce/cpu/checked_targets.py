"""Targets as callers give them, checked and made `TargetRows`; weights likewise."""

import copy
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kind_of, not_integers, plain_array, real_array, weights
from fastce.arguments.numbers import integer, is_one_number
from fastce.arguments.reductions import powers_of, sum_of
from fastce.arguments.sparse import is_sparse
from fastce.cpu.columns import Columns, CopiedColumns, columns_of
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.layout import Rows
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.masses import Masses
from fastce.cpu.point_columns import Canonical, PointColumns, PointRows, read_points
from fastce.cpu.targets import TargetRows

ORDINARY = 2.0**64  # a total weight that needs no care
MOST_OF_WEIGHTS = 900  # the power of two of a row weight beside the total, either way


def for_mean(targets: TargetRows) -> TargetRows:
    """The same, its total weight an ordinary number, times a power of two if row weights would lose digits by that.

    A mean does not change if all row weights are multiplied.
    """
    if _needs_no_care(targets):
        return targets
    total_weight, exponent = sum_of(targets.weights())
    if total_weight == 0.0:
        return targets
    low, high = powers_of(targets.per_row)
    if max(exponent - low, high - exponent) < MOST_OF_WEIGHTS:
        result = targets.times(-exponent)
    else:
        result = copy.copy(targets)
        result.total_exponent = exponent
    result.total_weight = total_weight
    return result


def total_of(targets: TargetRows) -> tuple[float, int]:
    """(w, e): the total weight is w * 2**e, which float64 need not hold, while row weights stay as they are."""
    if _needs_no_care(targets):
        return targets.total
    fraction, exponent = sum_of(targets.weights())
    return (fraction, exponent) if fraction != 0.0 else (0.0, 0)


def _needs_no_care(targets: TargetRows) -> bool:
    """Whether the total weight is ordinary; that of a mean over rows of probabilities always is."""
    if targets.per_row is None and (targets.per_class is None or isinstance(targets, MassTargets)):
        return True
    return is_ordinary(targets.total_weight)


def is_ordinary(total_weight: float) -> bool:
    """Whether dividing by it needs no care."""
    return ORDINARY > abs(total_weight) > 1.0 / ORDINARY


def target_rows(
    targets: Any,
    logits: Rows,
    logits_shape: tuple[int, ...],
    axis: int,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    smoothed: bool,
    name: str = "logits",
    n_threads: int | None = None,
) -> TargetRows:
    """Check and describe the targets of ``logits``; ``smoothed`` says whether every class has some mass."""
    ignored_class = integer(ignore_index, "ignore_index")
    per_class = None if weight is None else weights(weight, "weight", (logits.classes,))
    per_row = None if sample_weight is None else _sample_weight(sample_weight, logits)
    dtype = compute_dtype(logits.dtype)

    cube: Columns | CopiedColumns | PointColumns | None = None
    points: Canonical | PointRows | None = None
    probabilities: Masses | PointRows | None = None
    if is_sparse(targets):
        points = read_points(targets, (logits.rows, logits.classes), dtype, n_threads)
        if isinstance(points, PointRows) and points.dtype == dtype:
            probabilities, cube, points = points, PointColumns(points), None
    else:
        array = _dense_targets(targets)
        if array.dtype.kind in "iu":
            indices = _flat_indices(array, logits, logits_shape, name)
            return IndexTargets(indices, logits.classes, ignored_class, per_class, per_row, dtype, smoothed, n_threads)
        if array.shape == logits.lead:
            raise ValueError(
                f"targets of shape {array.shape} have dtype {array.dtype}, but class indices must be integers: give "
                f"targets.astype(int), or class probabilities of the shape of {name}, {logits_shape}"
            )
        if array.shape != logits_shape:
            raise ValueError(f"targets of probabilities have shape {array.shape}, but {name} have {logits_shape}")
        probabilities, cube = Masses(array, axis, dtype), columns_of(array, axis, dtype, Masses)
    if ignored_class >= 0:
        raise ValueError(f"ignore_index applies to class indices, got {ignored_class} with targets of probabilities")
    return MassTargets(points, probabilities, cube, per_class, per_row, dtype, logits.rows)


def _sample_weight(value: Any, logits: Rows) -> Array:
    """One weight per row; a number stands for the same in all."""
    array = real_array(value, "sample_weight")
    if is_one_number(array.shape):
        array = np.full(logits.lead, array.reshape(()))
    elif array.size == 0 and logits.rows:
        raise ValueError(f"sample_weight is empty, expected shape {logits.lead}: give None for no weights")
    return weights(array, "sample_weight", logits.lead).ravel()


def _dense_targets(targets: Any) -> Array:
    array = plain_array(targets, "targets")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"targets must be class indices (integers), class probabilities (floats) or a SciPy sparse array, "
            f"got {kind_of(array)}"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"targets have dtype {array.dtype}: convert them to float64")
    return array


def _flat_indices(targets: Array, logits: Rows, logits_shape: tuple[int, ...], name: str) -> Array:
    if targets.shape != logits.lead:
        way_out = ""
        if len(logits_shape) > 2 and targets.shape == logits_shape[:-1]:
            way_out = ", or axis=-1 for classes along the last axis"
        raise ValueError(
            f"targets of class indices have shape {targets.shape}, expected {logits.lead} for {name} of shape "
            f"{logits_shape}{way_out}"
        )
    return targets.ravel()


def not_class_indices(array: Array, function: str) -> TypeError:
    """The complaint about targets that are no integers where nothing else is taken."""
    return not_integers(kind_of(array), function, is_float=array.dtype.kind == "f")


def class_indices(
    targets: Array, logits: Rows, logits_shape: tuple[int, ...], name: str, ignored_class: int
) -> tuple[Array, Array]:
    """Checked class indices as a fresh int64 vector, 0 where a row is ignored, and the numbers of these rows."""
    indices = _flat_indices(targets, logits, logits_shape, name)
    checked = IndexTargets(indices, logits.classes, ignored_class, None, None, compute_dtype(logits.dtype), False, None)
    classes, row_weight = checked.picked(slice(0, indices.size))
    return classes, np.flatnonzero(row_weight == 0.0)
