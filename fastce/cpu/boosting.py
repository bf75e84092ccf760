"""Gradient and Hessian diagonal, run over blocks: a row in each lane where that is possible, else row by row."""

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import silently
from fastce.cpu._kernels.boosting import gradient_and_hessian_rows
from fastce.cpu._kernels.boosting_columns import gradient_and_hessian_columns
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Curvature
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.call import CrossEntropyCall, in_memory_order
from fastce.cpu.columns import (
    Columns,
    CopiedColumns,
    Place,
    columns_of,
    columns_to_write,
    cut_for_threads,
    reading_order,
)
from fastce.cpu.cross_entropy import row_losses
from fastce.cpu.extremes import Extremes, is_extreme
from fastce.cpu.layout import Rows, cut_for, goes_past_cache
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.threads import cut_rows, for_each
from fastce.typing import Hessian

SMALLEST = 1e-16  # that XGBoost takes


def fill_grad_and_hess(
    call: CrossEntropyCall, convention: Hessian, grad: Array, hess: Array, n_threads: int | None
) -> None:
    """Store the gradient and the Hessian diagonal of every row, by the convention of a library."""
    order = reading_order(call.array, (call.axis,), grad)
    if order is not None and not call.targets.has_points:
        call, grad, hess = in_memory_order(call, order, None, None)[0], grad.transpose(order), hess.transpose(order)
    _fill(call, convention, grad, hess, n_threads)


def _fill(call: CrossEntropyCall, convention: Hessian, grad: Array, hess: Array, n_threads: int | None) -> None:
    if convention == "absolute":
        row_losses(call, None, grad, n_threads)
        _put_absolute(grad, hess, call.options.logit_scale)
        return
    curvature = _curvature(convention, call.logits.classes)
    gradients, hessians = Rows(grad, call.axis), Rows(hess, call.axis)
    extremes = Extremes(call.logits, call.targets, call.options, None, (gradients, hessians), curvature)
    if is_extreme(call.options, call.targets, call.logits.dtype.itemsize):
        for_each(cut_rows(call.logits.rows, call.logits.row_bytes), extremes.store, n_threads)
        return
    cube = columns_of(call.array, call.axis, call.logits.dtype)
    if cube is None or call.targets.lies_in_rows or call.options.softcap > 0.0 or call.options.z_loss > 0.0:
        _by_rows(call, curvature, gradients, hessians, extremes, n_threads)
    else:
        _by_columns(call, cube, curvature, grad, hess, extremes, n_threads)


def _put_absolute(grad: Array, hess: Array, logit_scale: float) -> None:
    """The size of the gradient, as a Hessian."""
    np.abs(grad, out=hess)
    if logit_scale != 1.0:
        np.multiply(hess, logit_scale, out=hess, casting="same_kind")
    np.maximum(hess, np.asarray(SMALLEST, hess.dtype), out=hess)


def _by_rows(
    call: CrossEntropyCall, curvature: Curvature, gradients: Rows, hessians: Rows, extremes: Extremes,
    n_threads: int | None,
) -> None:  # fmt: skip
    rows = call.logits
    gradients, hessians = gradients.in_dtype(rows.dtype), hessians.in_dtype(rows.dtype)
    past_cache = hessians.matrix is not None and goes_past_cache(hessians.view)
    kernel = gradient_and_hessian_rows.compiled(rows.dtype)

    def work(start: int, stop: int) -> None:
        described = call.targets.block(start, stop)
        block = rows.block(start, stop)
        of_grad, of_hess = gradients.room_for(rows, block, start, stop), hessians.room(start, stop)
        misfits = np.zeros(stop - start, np.uint8)
        kernel(block, described, call.options, curvature, misfits, of_grad, of_hess, past_cache)
        odd = np.flatnonzero(misfits) + start
        logits = rows.copy(odd) if odd.size else None  # a copied block may replace them
        silently(gradients.put_back, start, stop, of_grad)
        silently(hessians.put_back, start, stop, of_hess)
        if logits is not None:
            extremes.losses_of(odd, logits)

    for_each(cut_for(rows, gradients, hessians, n_threads=n_threads), work, n_threads)


def _by_columns(
    call: CrossEntropyCall, cube: Columns | CopiedColumns, curvature: Curvature, grad: Array, hess: Array,
    extremes: Extremes, n_threads: int | None,
) -> None:  # fmt: skip
    dtype = call.logits.dtype
    gradients, hessians = (columns_to_write(out, call.axis, cube, dtype) for out in (grad, hess))
    of_targets = call.targets.cube if isinstance(call.targets, MassTargets) else None
    narrow = Narrow(cube.narrow, of_targets is not None and of_targets.narrow, gradients.narrow)
    kernel = gradient_and_hessian_columns.compiled(dtype)
    are_in_place = isinstance(gradients, Columns) and isinstance(hessians, Columns)
    past_cache = are_in_place and goes_past_cache(grad, call.array)

    def work(place: Place) -> None:
        misfits = np.zeros(place.shape, np.uint8)
        of_grad, of_hess = gradients.room(place), hessians.room(place)
        kernel(
            *cube.to_read(place), narrow, call.targets.columns(place), call.options, curvature, misfits,
            of_grad, of_hess, hessians.narrow, past_cache,
        )  # fmt: skip
        odd = np.flatnonzero(misfits) + place.start
        logits = call.logits.copy(odd) if odd.size else None  # a copied block may replace them
        gradients.put_back(place, of_grad)
        hessians.put_back(place, of_hess)
        if logits is not None:
            _mend(call, curvature, odd, logits, (Rows(grad, call.axis), Rows(hess, call.axis)), extremes)

    in_place = all(isinstance(array, Columns) for array in (cube, gradients, hessians))
    in_runs = isinstance(of_targets, Columns | None)
    for_each(cut_for_threads(cube, dtype.itemsize, n_threads, in_place=in_place, in_runs=in_runs), work, n_threads)


def _mend(
    call: CrossEntropyCall, curvature: Curvature, numbers: Array, logits: Array, outputs: tuple[Rows, Rows],
    extremes: Extremes,
) -> None:  # fmt: skip
    """Rows that did not fit, row by row."""
    derivatives, misfits = [np.empty_like(logits) for _ in outputs], np.zeros(numbers.size, np.uint8)
    gradient_and_hessian_rows.compiled(logits.dtype)(
        storage_view(logits), call.targets.of(numbers), call.options, curvature, misfits,
        *map(storage_view, derivatives), False,
    )  # fmt: skip
    for output, matrix in zip(outputs, derivatives, strict=True):
        output.put(numbers, matrix)
    odd = np.flatnonzero(misfits)
    if odd.size:
        extremes.losses_of(numbers[odd], logits[odd])


def _curvature(hessian: str, classes: int) -> Curvature:
    """The convention as a factor and a lower bound."""
    if hessian == "xgboost":
        return Curvature(2.0, SMALLEST)
    return Curvature(classes / (classes - 1) if hessian == "lightgbm" and classes > 1 else 1.0, -np.inf)
