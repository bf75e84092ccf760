"""Gradient and Hessian of the cross entropy of every row, as gradient boosting asks for them."""

from typing import Any, Unpack, get_args, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import plain_array, real_array
from fastce.arguments.numbers import choice
from fastce.arguments.out import checked_out, overlap
from fastce.arguments.sparse import is_sparse
from fastce.cpu.boosting import fill_grad_and_hess
from fastce.cpu.call import CrossEntropyCall, cross_entropy_call
from fastce.engine import by_device
from fastce.typing import (
    AnyArray,
    BoostingOptions,
    Float,
    GradAndHess,
    Hessian,
    Index,
    Number,
    RealArray,
    SmoothingOver,
    Targets,
)


@overload
def cross_entropy_grad_and_hess(
    logits: RealArray[Float], targets: Targets, **options: Unpack[BoostingOptions]
) -> GradAndHess[NDArray[Float]]: ...
@overload
def cross_entropy_grad_and_hess(
    logits: AnyArray, targets: Targets, **options: Unpack[BoostingOptions]
) -> GradAndHess[Any]: ...
@by_device
def cross_entropy_grad_and_hess(
    logits: Any,
    targets: Any,
    *,
    axis: Index | None = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    hessian: Hessian = "exact",
    out: tuple[Any, Any] | None = None,
    n_threads: int | None = None,
) -> GradAndHess:
    r"""Gradient and Hessian diagonal of every row's cross entropy, from one read of the logits.

    For the custom objectives of gradient boosting libraries: per row, not reduced. In the notation of `cross_entropy`,
    with the target masses :math:`q_c`, their sum M (1, but for class weights) and :math:`a` the `logit_scale`,

    .. math:: g_c = v a \, [\, p_c M - q_c \,], \qquad h_c = v a^2 M \, p_c (1 - p_c)

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, \
z_loss
        As in `cross_entropy`; boosters deliver class indices as floats, so that whole numbers in floats of the shape of
        the rows are taken as well.
    hessian : {"exact", "xgboost", "lightgbm", "absolute"}, default: "exact"
        What to make of the diagonal h of the Hessian, all weights included, in a problem of K classes: "exact" is h
        itself, "xgboost" is ``max(2 * h, 1e-16)``, "lightgbm" is ``K / (K - 1) * h``, as these libraries'
        own softmax objectives do. With one class h is 0, and so is LightGBM's. XGBoost has since gone over to the size
        of the gradient, "absolute": ``max(a * |g|, 1e-16)`` of the gradient g and the `logit_scale` a, which is
        :math:`v a^2 |p_c M - q_c|`.
    out : pair of ndarray or None, optional
        Receive gradient and Hessian; each of the shape and dtype of the result and writable, or None for a new array.
        The first may be `logits` itself, which is then replaced. The second must share no memory with anything else.
        After Ctrl-C their contents are undefined.
    n_threads : int, optional
        Overrides `fastce.set_num_threads`. It changes no bit of the result.

    Returns
    -------
    GradAndHess
        ``grad`` and ``hess``, of the shape and dtype of the logits (float64 for integers); those in `out` if given.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `cross_entropy`; nothing has been written into `out` then.

    See Also
    --------
    cross_entropy_value_and_grad : The loss itself and its gradient.

    Notes
    -----
    `z_loss` z adds :math:`2 z v a \, p_c \mathrm{lse}` to the gradient and
    :math:`2 z v a^2 [\mathrm{lse} \, p_c (1 - p_c) + p_c^2]` to the Hessian. With `softcap` s and
    :math:`t = \tanh(a u / s)` of the logit u, :math:`h_c` is
    :math:`(1 - t^2)^2 h_c - \frac{2 a}{s} t \, (1 - t^2) g_c` in terms of those without the derivative of the cap:
    negative at some logits, as it is for a negative lse with `z_loss`. "xgboost" and "absolute" are always positive.

    A row of weight 0, or ignored, has gradient and Hessian 0 (1e-16 for "xgboost" and "absolute", as there). Where a
    row has no probabilities (a NaN, a +inf, or all of it -inf) both are nan, for that row alone. 1e-16 is 0 in float16.

    Errors are at most 4 eps absolute before scaling. Without `softcap` and `z_loss` the Hessian is also right to 16 eps
    relative, at the class that has nearly all of the probability as well: there 1 - p is the sum of the others. A class
    that is d below the largest logit has d eps more in rows that lie beyond 2^16 (float32) or 2^40.

    References
    ----------
    .. [1] T. Chen and C. Guestrin, "XGBoost: A Scalable Tree Boosting System", KDD 2016.
    .. [2] G. Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
    >>> grad, hess = fastce.cross_entropy_grad_and_hess(logits, [0, 1], hessian="xgboost")
    >>> grad.round(4)
    array([[-0.341 ,  0.2424,  0.0986],
           [ 0.1973, -0.4637,  0.2663]])
    >>> hess.round(4)
    array([[0.4494, 0.3673, 0.1777],
           [0.3168, 0.4974, 0.3908]])
    """
    logits = real_array(logits, "logits")
    targets = _whole_numbers(targets, logits.ndim)
    call = cross_entropy_call(
        logits, targets, axis, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, smoothing_over=smoothing_over, logit_scale=logit_scale, softcap=softcap,
        z_loss=z_loss, reduction="none", n_threads=n_threads,
    )  # fmt: skip
    convention = choice(hessian, "hessian", get_args(Hessian))
    result = _checked_pair(out, call, [targets, weight, sample_weight])
    fill_grad_and_hess(call, convention, *result, n_threads)
    return result


def _whole_numbers(targets: Any, dimensions: int) -> Any:
    """Targets as they are, but class indices that come as floats as integers."""
    if is_sparse(targets):
        return targets
    array = plain_array(targets, "targets")
    is_float = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
    if not is_float or array.ndim != dimensions - 1:
        return array
    flat = array.ravel().astype(np.float64)
    fractional = ~np.isfinite(flat) | (flat != np.trunc(flat))
    if fractional.any():
        row = int(fractional.argmax())
        raise ValueError(f"targets that are class indices must be whole numbers, got {flat[row]} in row {row}")
    return (
        np.clip(flat, -(2.0**62), 2.0**62).astype(np.int64).reshape(array.shape)
    )  # what is beyond is refused as it is


def _checked_pair(out: Any, call: CrossEntropyCall, inputs: list[Any]) -> GradAndHess:
    """Where the results go: new arrays, or those of ``out`` if they may be written to."""
    if out is None:
        out = (None, None)
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        raise TypeError(f"out must be a pair (grad, hess) of arrays or None, got {type(out).__name__}")
    shape, dtype = call.array.shape, call.dtype
    grad = checked_out(out[0], shape, dtype, call.array, inputs)
    hess = checked_out(out[1], shape, dtype, call.array, inputs)
    if overlap(hess, call.array) or overlap(hess, grad):
        raise ValueError("the second array of out, the Hessian, must share no memory with the logits or the gradient")
    return GradAndHess(grad, hess)
