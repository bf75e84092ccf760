"""Each differentiable loss with its twin, and which of its arguments have gradients: what an adapter must know."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

from fastce.losses import (
    binary,
    clip,
    clip_from_features,
    cross_entropy,
    info_nce,
    linear,
    linear_gradients,
    logit_scale,
    nt_xent,
    pair_gradients,
    siglip,
    sup_con,
)


class Twins(NamedTuple):
    """A loss and the function that gives its gradients too."""

    name: str
    value: Callable[..., Any]
    value_and_grad: Callable[..., Any]
    of: tuple[str, ...]  # arguments that have gradients, in the order in which these are returned
    shape: Callable[[Any], Any]  # of the losses that are not reduced, from that of the first argument
    takes_grad_output: bool = False
    written: str = ""  # the argument whose gradient goes into `out`
    some: Callable[..., Any] | None = None  # as value_and_grad of the names in its first argument, None for others

    def waits(self, reduction: object, is_float16: bool) -> bool:
        """Whether gradients are better computed backward, when it is known what they are multiplied by.

        Those of single rows must be, and in float16 what a mean divides by its rows would round to 0 before a loss
        scale brings it back.
        """
        return self.takes_grad_output and (reduction == "none" or is_float16)

    def giving(self, names: Iterable[str]) -> Any:
        """The twins that give these gradients, and compute no others for nothing if that can be."""
        if self.some is None:
            return self
        of = tuple(name for name in self.of if name in set(names))
        return self._replace(value_and_grad=partial(_value_and_some, self, of), of=of)


def _value_and_some(twins: Twins, of: tuple[str, ...], /, **arguments: Any) -> tuple[Any, ...]:
    assert twins.some is not None
    value, *gradients = twins.some(" ".join(of), **arguments)
    return value, *(gradient for name, gradient in zip(twins.of, gradients, strict=False) if name in of)


def _rows(shape: Any) -> Any:
    return shape[:1]


def _twins(module: Any, name: str, *of: str, shape: Callable[[Any], Any] = _rows, **more: Any) -> Twins:
    return Twins(name, getattr(module, name), getattr(module, f"{name}_value_and_grad"), of, shape, **more)


def _with_scale(twins: Twins, some: Callable[..., Any]) -> Twins:
    """The same with a gradient of the scale."""
    of = (*twins.of, "logit_scale")
    return twins._replace(value_and_grad=partial(some, " ".join(of)), of=of, some=some)


_PAIRS = ("image_features", "text_features", "logit_scale")

CROSS_ENTROPY = _twins(
    cross_entropy, "cross_entropy", "logits", takes_grad_output=True, written="logits",
    shape=lambda logits: logits[:1] * (len(logits) > 1) + logits[2:],
)  # fmt: skip
CROSS_ENTROPY_AND_SCALE = _with_scale(CROSS_ENTROPY, logit_scale.some_gradients)
LINEAR = _twins(
    linear, "linear_cross_entropy", "features", "linear_weight", "linear_bias", takes_grad_output=True,
    shape=lambda features: features[:-1], some=linear_gradients.some_gradients,
)  # fmt: skip
LINEAR_AND_SCALE = _with_scale(LINEAR, linear_gradients.some_gradients)
BINARY = _twins(
    binary, "binary_cross_entropy_with_logits", "logits", takes_grad_output=True, written="logits",
    shape=lambda logits: logits,
)  # fmt: skip
CLIP = _twins(clip, "clip_loss", "similarity", "logit_scale", written="similarity")
CLIP_FROM_FEATURES = _twins(clip_from_features, "clip_loss_from_features", *_PAIRS, some=pair_gradients.of_clip)
SIGLIP = _twins(siglip, "siglip_loss", *_PAIRS, "logit_bias", some=pair_gradients.of_siglip)
INFO_NCE = _twins(
    info_nce, "info_nce", "query", "positive_key", "negative_keys", "temperature", some=pair_gradients.of_info_nce
)
NT_XENT = _twins(nt_xent, "nt_xent", "first_views", "second_views", "temperature", shape=lambda first: (2 * first[0],))
SUP_CON = _twins(sup_con, "sup_con", "features", "temperature")
