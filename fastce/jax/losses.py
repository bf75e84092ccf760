"""The losses of fastce as JAX differentiates them."""

from typing import Any

import jax

from fastce.jax.call import call
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
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross entropy, with the gradient of the logits.

    All other arguments, errors and formulas are those of `fastce.cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> jax.grad(fastce.jax.cross_entropy)(jnp.zeros((1, 2)), jnp.array([0]))
    Array([[-0.5,  0.5]], dtype=float32)
    """
    return call(
        twins.CROSS_ENTROPY,
        {"logits": logits},
        {"targets": targets, "weight": weight, "sample_weight": sample_weight},
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        logit_scale=logit_scale,
        softcap=softcap,
        z_loss=z_loss,
        reduction=reduction,
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
    logit_scale: float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Cross entropy of a linear layer's outputs, with the gradients of features, weight and bias.

    All other arguments, errors and formulas are those of `fastce.linear_cross_entropy`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> loss = fastce.jax.linear_cross_entropy(jnp.ones((2, 3)), jnp.zeros((4, 3)), jnp.array([0, 1]))
    >>> round(float(loss), 4)
    1.3863
    """
    return call(
        twins.LINEAR,
        {"features": features, "linear_weight": linear_weight, "linear_bias": linear_bias},
        {"targets": targets, "weight": weight, "sample_weight": sample_weight},
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        smoothing_over=smoothing_over,
        logit_scale=logit_scale,
        softcap=softcap,
        z_loss=z_loss,
        memory_budget=memory_budget,
        reduction=reduction,
    )


def binary_cross_entropy_with_logits(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    pos_weight: Any = None,
    reduction: Reduction = "mean",
) -> jax.Array:
    """Binary cross entropy, with the gradient of the logits.

    All other arguments, errors and formulas are those of `fastce.binary_cross_entropy_with_logits`.

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


def clip_loss(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: Any = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> jax.Array:
    """CLIP's loss of a matrix, with the gradients of similarity and scale.

    All other arguments, errors and formulas are those of `fastce.clip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(fastce.jax.clip_loss(jnp.zeros((3, 3)))), 4)
    1.0986
    """
    return call(
        twins.CLIP,
        {"similarity": similarity, "logit_scale": logit_scale},
        {"targets": targets},
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


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
    """CLIP's loss from features, with the gradients of both and of the scale.

    All other arguments, errors and formulas are those of `fastce.clip_loss_from_features`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> gradients = jax.grad(fastce.jax.clip_loss_from_features, (0, 1, 2))(jnp.eye(3), jnp.eye(3), 10.0)
    >>> round(float(gradients[2]), 7)
    -9.08e-05
    """
    return call(
        twins.CLIP_FROM_FEATURES,
        {"image_features": image_features, "text_features": text_features, "logit_scale": logit_scale},
        {"targets": targets},
        label_smoothing=label_smoothing,
        normalize=normalize,
        memory_budget=memory_budget,
        reduction=reduction,
    )


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
    """SigLIP's loss, with the gradients of features, scale and bias.

    All other arguments, errors and formulas are those of `fastce.siglip_loss`.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> round(float(jax.grad(fastce.jax.siglip_loss, 3)(jnp.eye(3), jnp.eye(3), 10.0, -10.0)), 4)
    -0.4999
    """
    return call(
        twins.SIGLIP,
        {
            "image_features": image_features,
            "text_features": text_features,
            "logit_scale": logit_scale,
            "logit_bias": logit_bias,
        },
        {"targets": targets},
        normalize=normalize,
        memory_budget=memory_budget,
        reduction=reduction,
    )


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
    """InfoNCE, with the gradients of queries, keys and temperature.

    All other arguments, errors and formulas are those of `fastce.info_nce`.

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
        normalize=normalize,
        memory_budget=memory_budget,
        reduction=reduction,
    )


def nt_xent(
    first_views: Any,
    second_views: Any,
    *,
    temperature: Any = 0.5,
    normalize: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """SimCLR's loss, with the gradients of both views and of the temperature.

    All other arguments, errors and formulas are those of `fastce.nt_xent`.

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
        normalize=normalize,
        memory_budget=memory_budget,
        reduction=reduction,
    )


def sup_con(
    features: Any,
    labels: Any,
    *,
    temperature: Any = 0.1,
    normalize: bool = True,
    memory_budget: int = MEMORY_BUDGET,
    reduction: Reduction = "mean",
) -> jax.Array:
    """The supervised contrastive loss, with the gradients of features and temperature.

    All other arguments, errors and formulas are those of `fastce.sup_con`.

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
        normalize=normalize,
        memory_budget=memory_budget,
        reduction=reduction,
    )
