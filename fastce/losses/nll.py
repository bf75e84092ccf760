"""Negative log likelihood of log probabilities, and its gradient."""

from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import class_axis, real_array
from fastce.arguments.numbers import checked_num_threads, reduction_of
from fastce.arguments.out import checked_out
from fastce.arguments.reductions import upstream_of
from fastce.cpu.checked_targets import for_mean, target_rows
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.layout import Rows
from fastce.cpu.nll import NllCall, run
from fastce.cpu.plain_nll import plain_nll
from fastce.engine import by_device
from fastce.typing import (
    AnyArray,
    Float,
    FloatArray,
    Index,
    RealArray,
    Reduced,
    Reduction,
    RowGradOptions,
    RowOptions,
    Targets,
    ValueAndGrad,
)

_NO_UPSTREAM = np.ones(1)


def _nll_call(
    log_probs: Any,
    targets: Any,
    axis: Any,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    reduction: Any,
    n_threads: Any,
) -> NllCall:
    array = real_array(log_probs, "log_probs")
    axis = class_axis(array, axis, "log_probs")
    rows = Rows(array, axis)
    if n_threads is not None:
        checked_num_threads(n_threads)
    described = target_rows(
        targets, rows, array.shape, axis, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        smoothed=False, name="log_probs", n_threads=n_threads,
    )  # fmt: skip
    described = for_mean(described) if reduction == "mean" else described
    if not isinstance(described, IndexTargets):
        raise TypeError("targets of nll_loss must be class indices; cross_entropy takes probabilities")
    return NllCall(array, axis, rows, described, reduction)


@overload
def nll_loss(
    log_probs: AnyArray, targets: Targets, *, reduction: Reduced = "mean", **options: Unpack[RowOptions]
) -> float: ...
@overload
def nll_loss(
    log_probs: RealArray, targets: Targets, *, reduction: Literal["none"], **options: Unpack[RowOptions]
) -> FloatArray: ...
@overload
def nll_loss(
    log_probs: AnyArray, targets: Targets, *, reduction: Literal["none"], **options: Unpack[RowOptions]
) -> Any: ...
@by_device
def nll_loss(
    log_probs: Any,
    targets: Any,
    *,
    axis: Index | None = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    """Negative log likelihood of log probabilities, ``-v_i * w_y * log_probs[i, y]``.

    Parameters
    ----------
    log_probs : array_like, shape (N, C) or (C,) or (N, C, d1, d2, ...)
        Only the targets' entries are read.
    targets : array_like of int
        Class indices, of the shape of `log_probs` without the class axis.
    axis, weight, sample_weight, ignore_index, reduction, n_threads
        As in `cross_entropy`.

    Returns
    -------
    float or ndarray
        As `cross_entropy`.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> log_probs = np.log([[0.7, 0.2, 0.1]])
    >>> round(fastce.nll_loss(log_probs, [0]), 6)
    0.356675
    """
    if weight is None and sample_weight is None:
        plain = plain_nll(log_probs, targets, axis, ignore_index, reduction, n_threads, None, want_gradient=False)
        if plain is not None:
            return plain[0]
    call = _nll_call(log_probs, targets, axis, weight, sample_weight, ignore_index, reduction_of(reduction), n_threads)
    return run(call, _NO_UPSTREAM, 0, None, n_threads)


@overload
def nll_loss_value_and_grad(
    log_probs: RealArray[Float], targets: Targets, *, reduction: Reduced = "mean", **options: Unpack[RowGradOptions]
) -> ValueAndGrad[float, NDArray[Float]]: ...
@overload
def nll_loss_value_and_grad(
    log_probs: RealArray[Float], targets: Targets, *, reduction: Literal["none"], **options: Unpack[RowGradOptions]
) -> ValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def nll_loss_value_and_grad(
    log_probs: AnyArray, targets: Targets, *, reduction: Reduction = "mean", **options: Unpack[RowGradOptions]
) -> ValueAndGrad[Any, Any]: ...
@by_device
def nll_loss_value_and_grad(
    log_probs: Any,
    targets: Any,
    *,
    axis: Index | None = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> ValueAndGrad:
    """Negative log likelihood and its gradient with respect to the log probabilities: one entry per row, others 0.

    Parameters
    ----------
    log_probs, targets, axis, weight, sample_weight, ignore_index, reduction, n_threads
        As in `nll_loss`.
    grad_output, out
        As in `cross_entropy_value_and_grad`.

    Returns
    -------
    ValueAndGrad
        The loss and its gradient.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> fastce.nll_loss_value_and_grad(np.log([[0.7, 0.2, 0.1]]), [0]).grad
    array([[-1.,  0.,  0.]])
    """
    if weight is None and sample_weight is None and grad_output is None:
        plain = plain_nll(log_probs, targets, axis, ignore_index, reduction, n_threads, out, want_gradient=True)
        if plain is not None:
            return ValueAndGrad(*plain)
    reduction = reduction_of(reduction)
    call = _nll_call(log_probs, targets, axis, weight, sample_weight, ignore_index, reduction, n_threads)
    upstream, exponent = upstream_of(grad_output, reduction, call.rows.lead, *call.targets.total)
    out = checked_out(out, call.array.shape, call.rows.dtype, call.array, [targets, weight, sample_weight, grad_output])
    return ValueAndGrad(run(call, upstream, exponent, out, n_threads), out)
