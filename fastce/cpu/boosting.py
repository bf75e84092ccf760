"""Gradient and Hessian diagonal, run over blocks."""

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.boosting import gradient_and_hessian_rows
from fastce.cpu._kernels.targets import Curvature
from fastce.cpu.cross_entropy import CrossEntropyCall, row_losses
from fastce.cpu.extremes import Extremes, is_extreme
from fastce.cpu.layout import Rows, cut_for, goes_past_cache
from fastce.cpu.threads import for_each
from fastce.typing import Hessian

SMALLEST = 1e-16  # that XGBoost takes


def fill_grad_and_hess(
    call: CrossEntropyCall, convention: Hessian, grad: Array, hess: Array, n_threads: int | None
) -> None:
    """Store the gradient and the Hessian diagonal of every row, by the convention of a library."""
    rows = call.logits
    if convention == "absolute":
        row_losses(call, None, grad, n_threads)
        _put_absolute(grad, hess, call.options.logit_scale)
        return
    curvature = _curvature(convention, rows.classes)
    gradients, hessians = Rows(grad, call.axis), Rows(hess, call.axis)
    extremes = Extremes(rows, call.targets, call.options, None, (gradients, hessians), curvature)
    blocks = cut_for(rows, gradients, hessians)
    if is_extreme(call.options, call.targets, rows.dtype.itemsize):
        for_each(blocks, extremes.store, n_threads)
        return
    past_cache = hessians.matrix is not None and goes_past_cache(hess)
    kernel = gradient_and_hessian_rows.compiled(rows.dtype)

    def work(start: int, stop: int) -> None:
        described = call.targets.block(start, stop)
        block = rows.block(start, stop)
        of_grad, of_hess = gradients.room_for(rows, block, start, stop), hessians.room(start, stop)
        misfits = np.zeros(stop - start, np.uint8)
        kernel(block, described, call.options, curvature, misfits, of_grad, of_hess, past_cache)
        odd = np.flatnonzero(misfits) + start
        logits = rows.copy(odd) if odd.size else None  # a copied block may replace them
        gradients.put_back(start, stop, of_grad)
        hessians.put_back(start, stop, of_hess)
        if logits is not None:
            extremes.losses_of(odd, logits)

    for_each(blocks, work, n_threads)


def _put_absolute(grad: Array, hess: Array, logit_scale: float) -> None:
    """The size of the gradient, as a Hessian."""
    np.abs(grad, out=hess)
    if logit_scale != 1.0:
        np.multiply(hess, logit_scale, out=hess, casting="same_kind")
    np.maximum(hess, np.asarray(SMALLEST, hess.dtype), out=hess)


def _curvature(hessian: str, classes: int) -> Curvature:
    """The convention as a factor and a lower bound."""
    if hessian == "xgboost":
        return Curvature(2.0, SMALLEST)
    return Curvature(classes / (classes - 1) if hessian == "lightgbm" and classes > 1 else 1.0, -np.inf)
