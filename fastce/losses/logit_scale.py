"""Cross entropy and its derivative with respect to the logit scale: learned temperature."""

from typing import Any, Literal, Unpack, overload

from fastce.arguments.arrays import kernel_dtype, new_like, real_array
from fastce.arguments.out import checked_out
from fastce.arguments.places import is_on_device
from fastce.arguments.reductions import upstream_of
from fastce.cpu.call import cross_entropy_call, of_counted
from fastce.cpu.logit_scale import scale_derivative, value_and_scale_products
from fastce.engine import by_device, cuda_functions
from fastce.losses.cross_entropy import cross_entropy_value_and_grad
from fastce.typing import (
    AnyArray,
    CrossEntropyGradOptions,
    FloatArray,
    Index,
    Number,
    RealArray,
    Reduced,
    Reduction,
    SmoothingOver,
    Targets,
    ValueAndGradLogitScale,
)


# fmt: off
@overload
def cross_entropy_value_and_grad_logit_scale(
    logits: AnyArray, targets: Targets,
    *, reduction: Reduced = "mean", **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGradLogitScale[float]: ...
@overload
def cross_entropy_value_and_grad_logit_scale(
    logits: RealArray, targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGradLogitScale[FloatArray]: ...
@overload
def cross_entropy_value_and_grad_logit_scale(
    logits: AnyArray, targets: Targets, *, reduction: Reduction = "mean", **options: Unpack[CrossEntropyGradOptions]
) -> ValueAndGradLogitScale[Any]: ...
# fmt: on
@by_device
def cross_entropy_value_and_grad_logit_scale(
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
    reduction: Reduction = "mean",
    grad_output: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> ValueAndGradLogitScale:
    r"""Cross entropy and its derivative with respect to `logit_scale`, without a matrix of gradients.

    Parameters
    ----------
    logits, targets, axis, weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, \
z_loss, reduction, grad_output, n_threads
        As in `cross_entropy_value_and_grad`.
    out : ndarray, optional
        Receives the gradient with respect to the logits too, as in `cross_entropy_value_and_grad`; none is kept without
        it.

    Returns
    -------
    ValueAndGradLogitScale
        ``value`` as `cross_entropy` returns it, and ``grad_logit_scale``: a float.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `cross_entropy_value_and_grad`. Nothing has been written into `out` then.

    See Also
    --------
    calibrate_temperature : The scale at which the loss is least.

    Notes
    -----
    For "mean" and "sum" the derivative of ``value``; for "none" that of the sum of ``grad_output * value``. With x the
    logits and G their gradient it is :math:`\sum_{ic} G_{ic} x_{ic}` divided by the scale. With class indices it is
    summed beside the loss, of logits less their row's target's. Else a block of rows at a time has its gradient in
    cache, which is multiplied there with its logits less the largest of their row. Either way confident rows, and rows
    with much in common, keep their digits (with a `softcap`, of whose slopes nothing cancels, the latter only to the
    rounding of the logits).
    Logits are read from memory once, except by options so extreme that `cross_entropy` leaves its usual kernels.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]])
    >>> value, grad_logit_scale = fastce.cross_entropy_value_and_grad_logit_scale(logits, [0, 1], logit_scale=2.0)
    >>> round(value, 4), round(grad_logit_scale, 4)
    (0.235, -0.1882)
    """
    call = cross_entropy_call(
        logits, targets, axis, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, smoothing_over=smoothing_over, logit_scale=logit_scale, softcap=softcap,
        z_loss=z_loss, reduction=reduction, n_threads=n_threads,
    )  # fmt: skip
    rows = call.logits
    upstream, exponent = upstream_of(grad_output, call.reduction, rows.lead, *call.targets.total)
    if out is not None:
        out = checked_out(out, call.array.shape, call.dtype, call.array, [targets, weight, sample_weight, grad_output])
    if exponent:
        call = call._replace(exponent=exponent)
    upstream = of_counted(upstream, call.targets)
    value, products, divisor = value_and_scale_products(call, upstream, out, n_threads)
    return ValueAndGradLogitScale(value, scale_derivative(products, divisor))


def some_gradients(wanted: str, *, logits: Any, out: Any = None, **arguments: Any) -> tuple[Any, Any, Any]:
    """(value, gradients by logits and logit_scale), None for what is not named in ``wanted``.

    Arguments are those of `cross_entropy_value_and_grad`.
    """
    names = wanted.split()
    if "logit_scale" not in names:
        return *cross_entropy_value_and_grad(logits, out=out, **arguments), None
    if is_on_device(logits):
        if "logits" in names and out is None:
            out = cuda_functions().gradient_like(logits)
    else:
        logits = real_array(logits, "logits")
        if "logits" in names and out is None:
            out = new_like(logits, kernel_dtype(logits.dtype))
    value, of_scale = cross_entropy_value_and_grad_logit_scale(logits, out=out, **arguments)
    return value, out, of_scale
