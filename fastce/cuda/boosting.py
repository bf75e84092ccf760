"""Gradient and Hessian diagonal of every row's cross entropy, for arrays on a GPU.

Two launches of the kernels of cross_entropy: the Hessian's comes first, as the gradient may replace the logits.
"""

import math
from typing import Any, get_args

import numpy as np

from fastce.arguments.numbers import choice
from fastce.arguments.places import is_on_device
from fastce.cuda._kernels.boosting import THREADS, bounded_by, whole_numbers
from fastce.cuda._kernels.jobs import BAD_TARGET
from fastce.cuda.arrays import DeviceArray, checked_out, device_array, empty
from fastce.cuda.broadcasting import together
from fastce.cuda.cross_entropy import CrossEntropy, float_array, other_inputs
from fastce.cuda.launching import launch
from fastce.cuda.layout import FLOATS, blocks_for, contiguous
from fastce.cuda.precision import with_range
from fastce.cuda.rooms import rooms_of
from fastce.cuda.sparse import is_sparse
from fastce.cuda.verdicts import number_at
from fastce.typing import GradAndHess, Hessian

SMALLEST = 1e-16  # that XGBoost takes


def cross_entropy_grad_and_hess(**given: Any) -> GradAndHess:
    """See `fastce.cross_entropy_grad_and_hess`."""
    logits = float_array(given["logits"], "logits")
    given |= {"logits": logits, "targets": _whole_numbers(given["targets"], logits), "reduction": "none"}
    call = CrossEntropy(given)  # complains of arguments in their order
    convention: Hessian = choice(given["hessian"], "hessian", get_args(Hessian))
    grad, hess = _checked_pair(given, logits)
    with_range(lambda is_wide: _fill(given, CrossEntropy(given, True) if is_wide else call, convention, grad, hess))
    return GradAndHess(grad.given, hess.given)


def _fill(
    given: dict[str, Any], of_gradient: CrossEntropy, convention: Hessian, grad: DeviceArray, hess: DeviceArray
) -> None:
    scale, is_wide = of_gradient.logit_scale, of_gradient.real == np.float64
    if convention == "absolute":
        of_gradient.run((1.0, None), grad)
        _bound(grad, hess, factor=scale)
        return
    scale *= _curvature(convention, of_gradient.classes)
    CrossEntropy(given | {"grad_output": scale}, is_wide).run((scale, None), hess, is_hessian=True)
    if convention == "xgboost":
        _bound(hess, hess)
    of_gradient.run((1.0, None), grad)


def _curvature(convention: Hessian, classes: int) -> float:
    """What a convention makes of a second derivative; with one class that is 0."""
    if convention == "xgboost":
        return 2.0
    return classes / (classes - 1) if convention == "lightgbm" and classes > 1 else 1.0


def _bound(source: DeviceArray, into: DeviceArray, factor: float | None = None) -> None:
    """Store the elements, or the factor times their sizes, none of them below the smallest Hessian."""
    if not source.size:
        return
    shape, (steps, into_steps) = together([into, source])
    launch(
        bounded_by(len(shape), factor is not None), blocks_for(source.size), THREADS, source,
        source.flat(), into.flat(), (source.origin, *into_steps), (into.origin, *steps), shape, math.prod(shape),
        1.0 if factor is None else factor, SMALLEST,
    )  # fmt: skip


def _whole_numbers(targets: Any, logits: DeviceArray) -> Any:
    """Targets as they are, but class indices that come as floats as integers."""
    if is_sparse(targets) or not is_on_device(targets):
        return targets
    array = device_array(targets, "targets", logits.library)
    if array.dtype_name not in FLOATS or array.ndim != logits.ndim - 1:
        return targets
    values, whole = contiguous(array, "float64"), empty(logits.library, array.shape, "int64")
    if array.size:
        report = rooms_of(logits.library, 0, 0).report
        launch(whole_numbers, blocks_for(array.size), THREADS, values, values.flat(), whole.flat(), report)
        if bad := int(report.copy_to_host()[BAD_TARGET]):
            row = array.size - bad
            value = number_at(values.flat(), row)
            raise ValueError(f"targets that are class indices must be whole numbers, got {value} in row {row}")
    return whole.given


def _checked_pair(given: dict[str, Any], logits: DeviceArray) -> tuple[DeviceArray, DeviceArray]:
    """Where the results go: new arrays, or those of ``out`` if they may be written to."""
    out = (None, None) if given["out"] is None else given["out"]
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out must be a pair (grad, hess) of arrays or None, got {type(out).__name__}")
    inputs = other_inputs(given, logits.library)
    grad, hess = (checked_out(one, logits.shape, logits.dtype_name, logits, inputs) for one in out)
    if hess.overlaps(logits) or hess.overlaps(grad):
        raise ValueError("the second array of out, the Hessian, must share no memory with the logits or the gradient")
    return grad, hess
