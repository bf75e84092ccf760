"""Contrastive losses, of a matrix of similarities or of features."""

from typing import Any

import jax

from fastce.jax.call import call
from fastce.losses import twins
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import Reduction


def clip_loss(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: Any = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """CLIP's symmetric cross entropy of a matrix of similarities, as `fastce.clip_loss`.

    Parameters
    ----------
    similarity : Array, shape (N, M)
        Rows are images, columns are texts. It has a gradient.
    targets : Array, optional
        As in `fastce.clip_loss`.
    logit_scale : Array or float, default: 1.0
        Positive factor of the similarities. It has a gradient.
    label_smoothing : float, default: 0.0
        As in `fastce.clip_loss`; a value of Python, which JAX does not trace.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Losses that are not reduced have the gradient of their sum or mean alone.

    Returns
    -------
    Array
        Of the dtype of the first argument. No dimensions, or one.

    Raises
    ------
    ValueError, TypeError
        If JAX traces what must be a value of Python; if a gradient is asked for that there is none of; if the first
        argument holds integers; for another `reduction`; if a second derivative is asked for, or one in forward mode.
    jax.errors.JaxRuntimeError
        As the computation is run, with the error of `fastce.clip_loss` at its end; also for the gradient of single
        losses.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> loss = lambda scale: fastce.jax.clip_loss(jnp.eye(3), logit_scale=scale)
    >>> value, of_scale = jax.value_and_grad(loss)(10.0)
    >>> round(float(value), 7), round(float(of_scale), 7)
    (9.08e-05, -9.08e-05)
    """
    return call(
        twins.CLIP, {"similarity": similarity, "logit_scale": logit_scale}, {"targets": targets},
        label_smoothing=label_smoothing, reduction=reduction,
    )  # fmt: skip


def clip_loss_from_features(
    image_features: Any,
    text_features: Any,
    logit_scale: Any = 1.0,
    *,
    targets: Any = None,
    label_smoothing: float = 0.0,
    normalize: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """CLIP's loss of the products of features, whose matrix never exists, as `fastce.clip_loss_from_features`.

    Parameters
    ----------
    image_features, text_features : Array, shapes (N, D) and (M, D)
        They have gradients, as has the scale.
    logit_scale, targets, label_smoothing, reduction
        As in `clip_loss`.
    normalize, memory_budget
        As in `fastce.clip_loss_from_features`; values of Python, which JAX does not trace.

    Returns
    -------
    Array
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> step = jax.jit(jax.grad(fastce.jax.clip_loss_from_features, (0, 1, 2)))
    >>> of_images, of_texts, of_scale = step(jnp.eye(3, 8), jnp.eye(3, 8), 10.0)
    >>> of_images.shape, of_texts.shape, round(float(of_scale), 7)
    ((3, 8), (3, 8), -9.08e-05)
    """
    return call(
        twins.CLIP_FROM_FEATURES,
        {"image_features": image_features, "text_features": text_features, "logit_scale": logit_scale},
        {"targets": targets},
        label_smoothing=label_smoothing, normalize=normalize, memory_budget=memory_budget, reduction=reduction,
    )  # fmt: skip


def siglip_loss(
    image_features: Any,
    text_features: Any,
    logit_scale: Any,
    logit_bias: Any,
    *,
    targets: Any = None,
    normalize: bool = False,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """SigLIP's loss of the products of features, whose matrix never exists, as `fastce.siglip_loss`.

    Parameters
    ----------
    image_features, text_features, logit_scale, normalize, memory_budget, reduction
        As in `clip_loss_from_features`.
    logit_bias : Array or float
        Added to every logit. It has a gradient.
    targets : Array, optional
        As in `fastce.siglip_loss`.

    Returns
    -------
    Array
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(jax.grad(fastce.jax.siglip_loss, 3)(jnp.eye(3), jnp.eye(3), 10.0, -10.0)), 4)
    -0.4999
    """
    return call(
        twins.SIGLIP,
        {
            "image_features": image_features, "text_features": text_features,
            "logit_scale": logit_scale, "logit_bias": logit_bias,
        },
        {"targets": targets},
        normalize=normalize, memory_budget=memory_budget, reduction=reduction,
    )  # fmt: skip


def info_nce(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    temperature: Any = 0.1,
    normalize: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """InfoNCE of queries and keys, as `fastce.info_nce`.

    Parameters
    ----------
    query, positive_key : Array, shape (N, D)
        Row i of one belongs to row i of the other. They have gradients.
    negative_keys : Array, shape (M, D) or (N, M, D), optional
        As in `fastce.info_nce`. They have a gradient.
    temperature : Array or float, default: 0.1
        Positive divisor of the products. It has a gradient.
    normalize, memory_budget, reduction
        As in `clip_loss_from_features`, but that rows are divided by their lengths by default.

    Returns
    -------
    Array
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(fastce.jax.info_nce(jnp.eye(3, 8), jnp.eye(3, 8), temperature=0.5)), 4)
    0.2395
    """
    return call(
        twins.INFO_NCE,
        {"query": query, "positive_key": positive_key, "negative_keys": negative_keys, "temperature": temperature},
        {},
        normalize=normalize, memory_budget=memory_budget, reduction=reduction,
    )  # fmt: skip


def nt_xent(
    first_views: Any,
    second_views: Any,
    *,
    temperature: Any = 0.5,
    normalize: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """The loss of SimCLR, of two views of each example, as `fastce.nt_xent`.

    Parameters
    ----------
    first_views, second_views : Array, shape (N, D)
        Row i of one belongs to row i of the other. They have gradients.
    temperature, normalize, memory_budget, reduction
        As in `info_nce`; the temperature is 0.5 by default.

    Returns
    -------
    Array
        As of `clip_loss`; of 2 N losses if they are not reduced, those of `first_views` first.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(fastce.jax.nt_xent(jnp.eye(3, 8), jnp.eye(3, 8))), 4)
    0.4327
    """
    return call(
        twins.NT_XENT,
        {"first_views": first_views, "second_views": second_views, "temperature": temperature},
        {},
        normalize=normalize, memory_budget=memory_budget, reduction=reduction,
    )  # fmt: skip


def sup_con(
    features: Any,
    labels: Any,
    *,
    temperature: Any = 0.1,
    normalize: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """The supervised contrastive loss, as `fastce.sup_con`.

    Parameters
    ----------
    features : Array, shape (N, D)
        They have a gradient.
    labels : Array of int, shape (N,)
        Rows of equal labels belong together.
    temperature, normalize, memory_budget, reduction
        As in `info_nce`.

    Returns
    -------
    Array
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, jax.errors.JaxRuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(fastce.jax.sup_con(jnp.eye(4, 8), jnp.array([0, 0, 1, 1]))), 4)
    1.0986
    """
    return call(
        twins.SUP_CON,
        {"features": features, "temperature": temperature},
        {"labels": labels},
        normalize=normalize, memory_budget=memory_budget, reduction=reduction,
    )  # fmt: skip
