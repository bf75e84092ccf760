"""The types of results."""

from typing import TYPE_CHECKING, Generic, NamedTuple

from fastce.typing.arguments import FloatArray

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Python's own has no defaults before 3.13

    Value = TypeVar("Value", covariant=True, default=float | FloatArray)
    Grad = TypeVar("Grad", covariant=True, default=FloatArray)
else:
    from typing import TypeVar

    Value, Grad = map(TypeVar, ("Value", "Grad"))


class ValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """A loss and its gradient with respect to the logits."""

    value: Value
    grad: Grad


class ValueAndGradLogitScale(NamedTuple, Generic[Value]):
    """A loss and its derivative with respect to the logit scale."""

    value: Value
    grad_logit_scale: float


class GradAndHess(NamedTuple, Generic[Grad]):
    """The gradient and the diagonal of the Hessian with respect to the logits, both of their shape."""

    grad: Grad
    hess: Grad


class ClipValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The CLIP loss, its gradient with respect to the similarities, and to the logit scale."""

    value: Value
    grad: Grad
    grad_logit_scale: float


class ClipFromFeaturesValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The CLIP loss, and its gradients with respect to both sides' features and the logit scale."""

    value: Value
    grad_image_features: Grad
    grad_text_features: Grad
    grad_logit_scale: float


class SiglipValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The SigLIP loss, and its gradients with respect to both sides' features, the logit scale and the bias."""

    value: Value
    grad_image_features: Grad
    grad_text_features: Grad
    grad_logit_scale: float
    grad_logit_bias: float


class InfoNceValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The InfoNCE loss, and its gradients with respect to queries, keys (None: not given) and temperature."""

    value: Value
    grad_query: Grad
    grad_positive_key: Grad
    grad_negative_keys: Grad | None
    grad_temperature: float


class NtXentValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The NT-Xent loss, and its gradients with respect to both sets of views and the temperature."""

    value: Value
    grad_first_views: Grad
    grad_second_views: Grad
    grad_temperature: float


class SupConValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The SupCon loss, and its gradients with respect to the features and the temperature."""

    value: Value
    grad_features: Grad
    grad_temperature: float


class LinearCrossEntropyValueAndGrad(NamedTuple, Generic[Value, Grad]):
    """The loss, and its gradients with respect to features, weights and bias (None if there is no bias)."""

    value: Value
    grad_features: Grad
    grad_linear_weight: Grad
    grad_linear_bias: Grad | None
