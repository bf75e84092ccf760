"""Plain calls of few classes beside matrices of class indices: arrays that lie otherwise, weights, probabilities.

See plain.py. Targets are those of the usual way, which complain as they do there. What is left out is what only large
arrays need.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, new_like
from fastce.arguments.reductions import factor_of_rows
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.hard_columns import kernel_of_columns, of_plain, plain_losses
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Options
from fastce.cpu.checked_targets import for_mean
from fastce.cpu.columns import Columns, Place
from fastce.cpu.extremes import are_extreme
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.plain import ALIGNED, NATIVE, READY, Scratch, any_misfit, is_one_block, scratch_for
from fastce.cpu.targets import NO_CUBE, TargetRows

_NO_PRODUCTS = np.empty((0, 0))


class Given(NamedTuple):
    """The arrays of a call, besides the logits; weights are None where there are none."""

    targets: Array
    weight: Any
    sample_weight: Any


class Found(NamedTuple):
    """What a call has come to."""

    scratch: Scratch
    total_weight: float
    gradient: Array | None


def cube_as_it_lies(array: Array, axis: int) -> Columns | None:
    """The array as `columns.columns_of` has it, if that is told at a glance."""
    flags, shape = array.flags.num, array.shape
    if flags & READY == READY:
        if axis == len(shape) - 1:
            rows = array if len(shape) == 2 else array.reshape(-1, shape[axis])
            return Columns(rows.T[None], narrow=True)
        cube = array.reshape(math.prod(shape[:axis]), shape[axis], -1)
        return Columns(cube, narrow=False) if cube.shape[2] > 1 else None
    if len(shape) == 2 and flags & ALIGNED and array.strides[axis] == array.itemsize:
        return Columns((array.T if axis == 1 else array)[None], narrow=True)
    return None


def losses_in_columns(
    logits: Array, axis: int, given: Given, options: Options, ignored_class: int, reduction: str, *, with_gradient: bool
) -> Found | None:
    """The losses of rows, and the gradient; None if that is left to the usual way."""
    array, dtype = logits, logits.dtype
    if options.softcap > 0.0 and dtype.itemsize < 8:
        array = cast(logits, np.dtype(np.float64))  # see `cross_entropy_call`
    cube = cube_as_it_lies(array, axis) if is_one_block(array) else None
    lead = logits.shape[:axis] + logits.shape[axis + 1 :]
    targets = None if cube is None else _targets_of(given, array, axis, lead, ignored_class, options)
    if cube is None or targets is None:
        return None
    if reduction == "mean":
        targets = for_mean(targets)
    total_weight, exponent = targets.total
    upstream = np.array([factor_of_rows(reduction, total_weight)])
    extreme = are_extreme(options, targets, array.itemsize, upstream if with_gradient else None)
    if exponent or any(extreme):
        return None
    gradient = new_like(array, array.dtype) if with_gradient else None
    to_write = None if gradient is None else cube_as_it_lies(gradient, axis)
    scratch = scratch_for(math.prod(lead))
    if (gradient is not None and to_write is None) or not _compute(cube, targets, options, upstream, to_write, scratch):
        return None
    return Found(scratch, total_weight, None if gradient is None else cast(gradient, dtype))


def _targets_of(
    given: Given, logits: Array, axis: int, lead: tuple[int, ...], ignored_class: int, options: Options
) -> TargetRows | None:
    """Class indices, or probabilities of the dtype of the logits, with their weights."""
    targets, dtype, classes, per_class, per_row = given.targets, logits.dtype, logits.shape[axis], None, None
    if given.weight is not None:
        if not _is_of(given.weight, (classes,)):
            return None
        per_class = _class_weight(given.weight.tobytes(), given.weight.dtype)
        if per_class is None:
            return None
    if given.sample_weight is not None:
        if not _is_of(given.sample_weight, lead):
            return None
        per_row = given.sample_weight.astype(np.float64, order="C").ravel()
        if not _has_finite_sum(per_row):
            return None
    if targets.dtype.kind in "iu":
        if targets.shape != lead:
            return None
        smoothed = options.spread > 0.0
        return IndexTargets(targets.ravel(), classes, ignored_class, per_class, per_row, dtype, smoothed, 1)
    if targets.shape != logits.shape or targets.dtype is not dtype or ignored_class >= 0:
        return None
    cube = cube_as_it_lies(targets, axis)
    return None if cube is None else MassTargets(None, None, cube, per_class, per_row, dtype, math.prod(lead))


def _is_of(weights: Any, shape: tuple[int, ...]) -> bool:
    return type(weights) is np.ndarray and weights.shape == shape and weights.dtype in NATIVE


@functools.lru_cache(64)
def _class_weight(values: bytes, dtype: np.dtype[Any]) -> Array | None:
    """Class weights by their values, for they are the same from call to call; None if one is not finite."""
    weight = np.frombuffer(values, dtype).astype(np.float64)
    return weight if _has_finite_sum(weight) else None


def _has_finite_sum(weights: Array) -> bool:
    """Whether all are finite, and far enough from the largest number."""
    return math.isfinite(silently(np.add.reduce, weights))


def _compute(
    cube: Columns, targets: TargetRows, options: Options, upstream: Array, gradient: Columns | None, scratch: Scratch
) -> bool:
    """Call the kernel of the usual way, with the same arguments; False for misfits."""
    logits = cube.cube
    outer, classes, rows = logits.shape
    place = Place(slice(0, outer), slice(0, rows), 0, outer * rows, (outer, rows))
    of_masses = targets.cube if isinstance(targets, MassTargets) else None
    is_plain = cube.narrow and targets.weigh_alike
    kernel = kernel_of_columns(classes, options, of_masses is None, gradient is not None, is_plain)
    losses, misfits = scratch.losses.reshape(place.shape), scratch.misfits.reshape(place.shape)
    narrow = Narrow(cube.narrow, of_masses is not None and of_masses.narrow, gradient is not None and gradient.narrow)
    out = NO_CUBE[logits.dtype] if gradient is None else gradient.cube
    arguments = (
        logits, logits, narrow, targets.columns(place), options, losses, misfits, upstream[None], _NO_PRODUCTS, out,
        False,
    )  # fmt: skip
    kernel.compiled(logits.dtype)(*(of_plain(*arguments) if kernel is plain_losses else arguments))
    return not any_misfit(scratch.misfits)
