"""Binary cross entropy with logits, element by element."""

from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import (
    Array,
    compute_dtype,
    forwards,
    kernel_dtype,
    memory_order,
    new_like,
    real_array,
    weights_like,
)
from fastce.arguments.numbers import reduction_of
from fastce.arguments.out import checked_out
from fastce.arguments.reductions import reduced, upstream_of
from fastce.cpu.binary import fill_losses_and_gradient
from fastce.cpu.plain_binary import plain_binary
from fastce.engine import by_device
from fastce.typing import (
    AnyArray,
    BinaryGradOptions,
    BinaryOptions,
    Float,
    FloatArray,
    RealArray,
    Reduced,
    Reduction,
    ValueAndGrad,
)


@overload
def binary_cross_entropy_with_logits(
    logits: AnyArray, targets: AnyArray, *, reduction: Reduced = "mean", **options: Unpack[BinaryOptions]
) -> float: ...
@overload
def binary_cross_entropy_with_logits(
    logits: RealArray, targets: AnyArray, *, reduction: Literal["none"], **options: Unpack[BinaryOptions]
) -> FloatArray: ...
@overload
def binary_cross_entropy_with_logits(
    logits: AnyArray, targets: AnyArray, *, reduction: Literal["none"], **options: Unpack[BinaryOptions]
) -> Any: ...
@by_device
def binary_cross_entropy_with_logits(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    """Binary cross entropy of logits, element by element.

    The loss of an element is ``weight * (pos_weight * y * softplus(-x) + (1 - y) * softplus(x))``.

    Parameters
    ----------
    logits : array_like
        Any shape; dtypes as in `cross_entropy`.
    targets : array_like
        Probabilities of the positive class, of exactly the shape of `logits`; integers and booleans are accepted.
    weight, pos_weight : array_like, optional
        Broadcastable to `logits`, finite, of any sign. `pos_weight` multiplies the positive part.
    reduction : {"mean", "sum", "none"}, default: "mean"
        The mean is over all elements.
    n_threads : int, optional
        As in `cross_entropy`.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of the shape of `logits`, in memory in the order of theirs.

    Notes
    -----
    Elements are taken as the logits lie in memory. Strides change no bit of a loss or a gradient; the order in which
    losses are summed may change the last bits of their sum and mean.

    Examples
    --------
    >>> import fastce
    >>> round(fastce.binary_cross_entropy_with_logits([1.5], [1.0]), 10)
    0.201413278
    """
    return _binary(logits, targets, weight, pos_weight, reduction, n_threads, None, None, want_gradient=False)[0]


@overload
def binary_cross_entropy_with_logits_value_and_grad(
    logits: RealArray[Float], targets: AnyArray, *, reduction: Reduced = "mean", **options: Unpack[BinaryGradOptions]
) -> ValueAndGrad[float, NDArray[Float]]: ...
@overload
def binary_cross_entropy_with_logits_value_and_grad(
    logits: RealArray[Float], targets: AnyArray, *, reduction: Literal["none"], **options: Unpack[BinaryGradOptions]
) -> ValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def binary_cross_entropy_with_logits_value_and_grad(
    logits: AnyArray, targets: AnyArray, *, reduction: Reduction = "mean", **options: Unpack[BinaryGradOptions]
) -> ValueAndGrad[Any, Any]: ...
@by_device
def binary_cross_entropy_with_logits_value_and_grad(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    out: Any = None,
    n_threads: int | None = None,
) -> ValueAndGrad:
    """Binary cross entropy of logits and its gradient.

    Parameters
    ----------
    logits, targets, weight, pos_weight, reduction, n_threads
        As in `binary_cross_entropy_with_logits`.
    grad_output : float or array_like, optional
        A number, or for ``reduction="none"`` also an array of the shape of `logits`.
    out : ndarray, optional
        As in `cross_entropy_value_and_grad`.

    Returns
    -------
    ValueAndGrad
        The loss and its gradient.

    Examples
    --------
    >>> import fastce
    >>> fastce.binary_cross_entropy_with_logits_value_and_grad([0.0, 2.0], [1.0, 0.0]).grad.round(4)
    array([-0.25  ,  0.4404])
    """
    value, grad = _binary(
        logits, targets, weight, pos_weight, reduction, n_threads, grad_output, out, want_gradient=True
    )
    return ValueAndGrad(value, grad)


def _binary(
    logits: Any,
    targets: Any,
    weight: Any,
    pos_weight: Any,
    reduction: Any,
    n_threads: int | None,
    grad_output: Any,
    out: Array | None,
    *,
    want_gradient: bool,
) -> tuple[Any, Any]:
    if weight is None and pos_weight is None and grad_output is None:
        plain = plain_binary(logits, targets, reduction, n_threads, out, want_gradient=want_gradient)
        if plain is not None:
            return plain
    array = real_array(logits, "logits")
    labels = real_array(targets, "targets")
    if labels.shape != array.shape:
        raise ValueError(f"targets have shape {labels.shape}, expected the shape of logits, {array.shape}")
    weight = weights_like(weight, "weight", array)
    pos_weight = weights_like(pos_weight, "pos_weight", array)
    reduction = reduction_of(reduction)
    upstream, exponent = upstream_of(grad_output, reduction, array.shape, float(array.size))
    above = np.broadcast_to(upstream.reshape(() if upstream.size == 1 else array.shape), array.shape)

    dtype = kernel_dtype(array.dtype)
    losses = new_like(array, compute_dtype(dtype)) if reduction == "none" else None
    gradient = None
    if want_gradient:
        gradient = checked_out(out, array.shape, dtype, array, [targets, weight, pos_weight, grad_output])
    order, way = memory_order(array), forwards(array)  # element by element as memory lies
    x, y, *factors = (a[way].transpose(order) for a in (array, labels, weight, pos_weight, above))
    of_losses, of_gradient = (None if a is None else a[way].transpose(order) for a in (losses, gradient))
    total, more = fill_losses_and_gradient(x, y, factors, exponent, of_losses, of_gradient, n_threads)
    if losses is not None:
        return losses[()], gradient
    return reduced(total, reduction, float(array.size), more), gradient
