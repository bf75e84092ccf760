"""Each differentiable loss with its twin, and which of its arguments have gradients: what an adapter must know."""

from collections.abc import Callable
from typing import Any, NamedTuple

from fastce.losses import binary, clip, clip_from_features, cross_entropy, info_nce, linear, nt_xent, siglip, sup_con


class Twins(NamedTuple):
    """A loss and the function that gives its gradients too."""

    name: str
    value: Callable[..., Any]
    value_and_grad: Callable[..., Any]
    of: tuple[str, ...]  # arguments that have gradients, in the order in which these are returned


def _twins(module: Any, name: str, *of: str) -> Twins:
    return Twins(name, getattr(module, name), getattr(module, f"{name}_value_and_grad"), of)


_PAIRS = ("image_features", "text_features", "logit_scale")

CROSS_ENTROPY = _twins(cross_entropy, "cross_entropy", "logits")
LINEAR = _twins(linear, "linear_cross_entropy", "features", "linear_weight", "linear_bias")
BINARY = _twins(binary, "binary_cross_entropy_with_logits", "logits")
CLIP = _twins(clip, "clip_loss", "similarity", "logit_scale")
CLIP_FROM_FEATURES = _twins(clip_from_features, "clip_loss_from_features", *_PAIRS)
SIGLIP = _twins(siglip, "siglip_loss", *_PAIRS, "logit_bias")
INFO_NCE = _twins(info_nce, "info_nce", "query", "positive_key", "negative_keys", "temperature")
NT_XENT = _twins(nt_xent, "nt_xent", "first_views", "second_views", "temperature")
SUP_CON = _twins(sup_con, "sup_con", "features", "temperature")
