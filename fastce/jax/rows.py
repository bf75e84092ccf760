"""Losses of rows of logits, and of a linear layer's outputs."""

from typing import Any

import jax

from fastce.jax.call import call, learned_or_not
from fastce.losses import twins
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import Reduction, SmoothingOver


def cross_entropy(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Any = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross entropy of logits and targets, as `fastce.cross_entropy`.

    Parameters
    ----------
    logits : Array, shape (N, C) or (C,) or (N, C, d1, d2, ...)
        Of floats. They have a gradient.
    targets : Array of int or of float
        Class indices, or class probabilities of the shape of `logits`.
    weight : Array, shape (C,), optional
        Weight of each class.
    sample_weight : Array or float, optional
        Weight of each row.
    ignore_index, label_smoothing, smoothing_over, softcap, z_loss
        As in `fastce.cross_entropy`; values of Python, which JAX does not trace.
    logit_scale : float or Array, default: 1.0
        Factor of the logits. An array, traced or not, of one number has a gradient too: a learned temperature. Where
        only that is asked for, no matrix of gradients is computed.
    reduction : {"mean", "sum", "none"}, default: "mean"
        "none" gives a loss for each row, of which any weighted sum has its gradient.

    Returns
    -------
    Array
        Of the dtype of `logits`. No dimensions, or those of `logits` without the classes.

    Raises
    ------
    ValueError, TypeError
        If JAX traces what must be a value of Python; if a gradient is asked for that there is none of; if `logits` are
        integers; for another `reduction`; if a second derivative is asked for, or one in forward mode.
    jax.errors.JaxRuntimeError
        As the computation is run, with the error of `fastce.cross_entropy` at its end: targets that are no class, say.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> jax.grad(fastce.jax.cross_entropy)(jnp.zeros((1, 2)), jnp.array([0]))
    Array([[-0.5,  0.5]], dtype=float32)

    One loss for each row, and the gradient by a learned scale:

    >>> logits, targets = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
    >>> fastce.jax.cross_entropy(logits, targets, reduction="none")
    Array([0.12692802, 0.3132617 ], dtype=float32)
    >>> loss = lambda scale: fastce.jax.cross_entropy(logits, targets, logit_scale=scale)
    >>> round(float(jax.grad(loss)(1.0)), 4)
    -0.2537
    """
    learned, fixed = learned_or_not(logit_scale)
    return call(
        twins.CROSS_ENTROPY_AND_SCALE,
        {"logits": logits, **learned},
        {"targets": targets, "weight": weight, "sample_weight": sample_weight},
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        softcap=softcap,
        z_loss=z_loss,
        reduction=reduction,
        **fixed,
    )


def linear_cross_entropy(
    features: Any,
    linear_weight: Any,
    targets: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Any = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross entropy of a linear layer's outputs, whose matrix never exists, as `fastce.linear_cross_entropy`.

    Parameters
    ----------
    features : Array, shape (..., D)
        What the linear layer takes. It has a gradient, as have weight and bias.
    linear_weight : Array, shape (V, D)
        One row for each class.
    targets : Array of int or of float
        As in `fastce.linear_cross_entropy`: of the shape of `features` without its last axis if these are classes.
    linear_bias : Array, shape (V,), optional
        Added to the logits.
    weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss, reduction
        As in `cross_entropy`.
    memory_budget : int, default: 268435456
        Bytes that may be used beyond inputs and gradients.

    Returns
    -------
    Array
        Of the dtype of `features`. No dimensions, or those of `features` without the last.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> step = jax.jit(jax.value_and_grad(fastce.jax.linear_cross_entropy, (0, 1)))
    >>> value, (of_features, of_weight) = step(jnp.ones((2, 3)), jnp.zeros((4, 3)), jnp.array([0, 1]))
    >>> round(float(value), 4), of_features.shape, of_weight.shape
    (1.3863, (2, 3), (4, 3))
    """
    learned, fixed = learned_or_not(logit_scale)
    return call(
        twins.LINEAR_AND_SCALE,
        {"features": features, "linear_weight": linear_weight, "linear_bias": linear_bias, **learned},
        {"targets": targets, "weight": weight, "sample_weight": sample_weight},
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        softcap=softcap,
        z_loss=z_loss,
        memory_budget=memory_budget,
        reduction=reduction,
        **fixed,
    )


def binary_cross_entropy_with_logits(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Binary cross entropy of each logit, as `fastce.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    logits : Array
        Of floats, of any shape. They have a gradient.
    targets : Array
        Probabilities of the positive class, of the shape of `logits`; integers and booleans too.
    weight, pos_weight : Array, optional
        Broadcastable to `logits`.
    reduction : {"mean", "sum", "none"}, default: "mean"
        The mean is over all elements; "none" gives a loss for each, of which any weighted sum has its gradient.

    Returns
    -------
    Array
        Of the dtype of `logits`. No dimensions, or those of `logits`.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> jax.grad(fastce.jax.binary_cross_entropy_with_logits)(jnp.zeros(2), jnp.array([0.0, 1.0]))
    Array([ 0.25, -0.25], dtype=float32)
    """
    return call(
        twins.BINARY,
        {"logits": logits},
        {"targets": targets, "weight": weight, "pos_weight": pos_weight},
        reduction=reduction,
    )
