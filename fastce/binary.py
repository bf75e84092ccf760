"""Binary cross entropy with logits, element by element."""

from typing import Any

import numpy as np

from fastce.arguments import (
    Array,
    checked_out,
    compute_dtype,
    kernel_dtype,
    real_array,
    reduction_of,
    weights_like,
)
from fastce.kernels.binary import binary_rows
from fastce.kernels.jit import storage_view
from fastce.layout import Rows
from fastce.losses import ValueAndGrad, upstream_of
from fastce.targets import reduced
from fastce.threads import cut_rows, for_each

ROW = 4096  # elements of a vector that make a row


def binary_cross_entropy_with_logits(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
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
        Broadcastable to `logits`, finite and not negative. `pos_weight` multiplies the positive part.
    reduction : {"mean", "sum", "none"}, default: "mean"
        The mean is over all elements.
    n_threads : int, optional
        As in `cross_entropy`.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of the shape of `logits`.

    Examples
    --------
    >>> import fastce
    >>> round(fastce.binary_cross_entropy_with_logits([1.5], [1.0]), 10)
    0.201413278
    """
    return _binary(logits, targets, weight, pos_weight, reduction, n_threads, None, None, want_gradient=False)[0]


def binary_cross_entropy_with_logits_value_and_grad(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: str = "mean",
    grad_output: Any = None,
    out: Array | None = None,
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
) -> tuple[Any, Array]:
    array = real_array(logits, "logits")
    labels = real_array(targets, "targets")
    if labels.shape != array.shape:
        raise ValueError(f"targets have shape {labels.shape}, expected the shape of logits, {array.shape}")
    weight = weights_like(weight, "weight", array)
    pos_weight = weights_like(pos_weight, "pos_weight", array)
    reduction = reduction_of(reduction)
    upstream = upstream_of(grad_output, reduction, array.shape, float(array.size))
    above = np.broadcast_to(upstream.reshape(array.shape if upstream.size > 1 else ()), array.shape)

    real = compute_dtype(kernel_dtype(array.dtype))
    losses = np.empty(array.shape if reduction == "none" else 0, real)
    gradient = np.empty(0, kernel_dtype(array.dtype))
    if want_gradient:
        gradient = checked_out(out, array.shape, gradient.dtype, array, [targets, weight, pos_weight, grad_output])
    inputs = [_pieces(a) for a in (array, labels, weight, pos_weight, above)]
    outputs = [_pieces(a) if a.shape == array.shape else [None, None] for a in (losses, gradient)]
    sums = [
        _fill(list(piece[:5]), list(piece[5:]), gradient.dtype, n_threads)
        for piece in zip(*inputs, *outputs, strict=False)
    ]
    if reduction == "none":
        return losses[()], gradient
    return reduced(np.concatenate(sums), reduction, float(array.size)), gradient


def _pieces(array: Array) -> list[Array]:
    """The array as matrices: itself, or a vector as rows of 4096 elements and a rest."""
    if array.ndim >= 2:
        return [array]
    flat = array.reshape(-1)
    whole = flat.size - flat.size % ROW
    return [flat[:whole].reshape(-1, ROW), flat[whole:].reshape(1, -1)]


def _fill(inputs: list[Array], outputs: list[Array | None], dtype: np.dtype[Any], n_threads: int | None) -> Array:
    """Compute losses and gradient into those outputs that are there; return the sum of each row's losses."""
    kernel = binary_rows.compiled(dtype)
    real = compute_dtype(dtype)
    x = Rows(inputs[0], dtype=dtype)
    others = [Rows(array, dtype=real) for array in inputs[1:]]
    written = [None if array is None else Rows(array, dtype=array.dtype) for array in outputs]
    absent = [np.empty((0, x.classes), real), storage_view(np.empty((0, x.classes), dtype))]
    sums = np.empty(x.rows)

    def work(start: int, stop: int) -> None:
        y, w, a, above = (rows.block(start, stop) for rows in others)
        rooms = [none if rows is None else rows.room(start, stop) for rows, none in zip(written, absent, strict=True)]
        kernel(x.block(start, stop), y, w, a, rooms[0], sums[start:stop], above, rooms[1])
        for rows, room in zip(written, rooms, strict=True):
            if rows is not None:
                rows.put_back(start, stop, room)

    for_each(cut_rows(x.rows, x.row_bytes), work, n_threads)
    return sums
