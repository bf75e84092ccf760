"""The types of arguments and results, for annotations; every choice of an option is listed here.

Arrays of PyTorch, JAX, CuPy and others give results of their own kind (`help(fastce)`), typed as Any. A result without
dimensions, such as the loss "none" of one-dimensional logits, is a scalar of NumPy; types call it an array.
"""

from collections.abc import Callable, Sequence
from typing import (
    TYPE_CHECKING,
    Any,
    Generic,
    Literal,
    NamedTuple,
    Protocol,
    SupportsFloat,
    SupportsIndex,
    TypeAlias,
    TypedDict,
    Union,
)

import numpy as np
from numpy.typing import NDArray

# --- choices ---------------------------------------------------------------------------------------------------------

Reduced: TypeAlias = Literal["mean", "sum"]  # to a float
Reduction: TypeAlias = Literal[Reduced, "none"]
SmoothingOver: TypeAlias = Literal["all", "others"]
Pieces: TypeAlias = Literal["rows", "classes"]  # that logits come in
Hessian: TypeAlias = Literal["exact", "xgboost", "lightgbm", "absolute"]
FloatStatistic: TypeAlias = Literal["logsumexp", "max", "entropy", "target_log_prob"]
IntegerStatistic: TypeAlias = Literal["argmax", "target_rank"]
BooleanStatistic: TypeAlias = Literal["in_top_k"]
Statistic: TypeAlias = Literal[FloatStatistic, IntegerStatistic, BooleanStatistic]  # what `row_stats` can give
FloatName: TypeAlias = Literal["float32", "float64", "float16", "bfloat16"]

# --- results ---------------------------------------------------------------------------------------------------------

FloatArray: TypeAlias = NDArray[np.floating[Any]]

if TYPE_CHECKING:
    from typing_extensions import TypeVar  # Python's own has no defaults before 3.13

    Float = TypeVar("Float", bound=np.floating[Any], default=np.floating[Any])
    Value = TypeVar("Value", covariant=True, default=float | FloatArray)
    Grad = TypeVar("Grad", covariant=True, default=FloatArray)
    Number: TypeAlias = SupportsFloat  # an array of one element, too
    Index: TypeAlias = SupportsIndex
else:
    from typing import TypeVar

    Float, Value, Grad = map(TypeVar, ("Float", "Value", "Grad"))
    Number, Index = float, int  # what `help` says


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


# --- arguments -------------------------------------------------------------------------------------------------------


class SupportsArray(Protocol):
    """What NumPy makes an array of: arrays, data frames, tensors."""

    def __array__(self) -> Any: ...


class SupportsDLPack(Protocol):
    """An array of any library, on any device."""

    def __dlpack__(self) -> Any: ...


class SupportsToCSR(Protocol):
    """A sparse matrix of SciPy or CuPy."""

    def tocsr(self) -> Any:
        """In compressed sparse rows."""


Nested: TypeAlias = Sequence[Union[float, SupportsArray, "Nested"]]
RealArray: TypeAlias = NDArray[Float] | NDArray[np.integer[Any] | np.bool] | float | Nested
AnyArray: TypeAlias = SupportsArray | SupportsDLPack | float | Nested
Targets: TypeAlias = AnyArray | SupportsToCSR
Axes: TypeAlias = Index | tuple[Index, ...]
ProgressOption: TypeAlias = bool | Callable[[int, int], object] | None

# --- options ---------------------------------------------------------------------------------------------------------

# Each stands here once, as `**options: Unpack[...]` of overloads; a test holds them against the functions' signatures.


class Threads(TypedDict, total=False):
    """What all functions take."""

    n_threads: int | None


class Gradient(TypedDict, total=False):
    """Where a gradient with respect to logits goes, or anything of their shape."""

    out: FloatArray | SupportsDLPack | None


class ScaledGradient(Gradient, total=False):
    """The same of one that more is to be multiplied by."""

    grad_output: AnyArray | None


class Axis(TypedDict, total=False):
    """Where the classes are."""

    axis: Index | None


class Weights(TypedDict, total=False):
    """What losses of rows with targets take."""

    weight: AnyArray | None
    sample_weight: AnyArray | None
    ignore_index: Index


class RowOptions(Axis, Weights, Threads, total=False):
    """The options of `nll_loss`."""


class RowGradOptions(RowOptions, ScaledGradient, total=False):
    """The options of `nll_loss_value_and_grad`."""


class Shape(TypedDict, total=False):
    """What makes a cross entropy of a row."""

    label_smoothing: Number
    smoothing_over: SmoothingOver
    logit_scale: Number
    softcap: Number | None
    z_loss: Number


class CrossEntropyOptions(Axis, Weights, Shape, Threads, total=False):
    """The options of `cross_entropy`."""


class CrossEntropyGradOptions(CrossEntropyOptions, ScaledGradient, total=False):
    """The options of `cross_entropy_value_and_grad`."""


class BoostingOptions(CrossEntropyOptions, total=False):
    """The options of `cross_entropy_grad_and_hess`."""

    hessian: Hessian
    out: tuple[FloatArray | SupportsDLPack | None, FloatArray | SupportsDLPack | None] | None


class BinaryOptions(Threads, total=False):
    """The options of `binary_cross_entropy_with_logits`."""

    weight: AnyArray | None
    pos_weight: AnyArray | None


class BinaryGradOptions(BinaryOptions, ScaledGradient, total=False):
    """The options of `binary_cross_entropy_with_logits_value_and_grad`."""


class ClipOptions(Threads, total=False):
    """The options of `clip_loss`."""

    logit_scale: Number
    label_smoothing: Number


class ClipGradOptions(ClipOptions, Gradient, total=False):
    """The options of `clip_loss_value_and_grad`."""


class Sweep(TypedDict, total=False):
    """What all losses from features take."""

    memory_budget: int
    progress: ProgressOption


class SoftmaxOptions(Gradient, Threads, total=False):
    """The options of `softmax` and `log_softmax`."""


class StatisticsOptions(Axis, Threads, total=False):
    """The options of `row_stats`."""

    top_k: Index
    ignore_index: Index


class LinearOptions(Weights, Shape, Sweep, Threads, total=False):
    """The options of `linear_cross_entropy`."""

    linear_bias: AnyArray | None


class LinearGradOptions(LinearOptions, total=False):
    """The options of `linear_cross_entropy_value_and_grad`."""

    grad_output: AnyArray | None


class PairOptions(Sweep, Threads, total=False):
    """The options of `siglip_loss`."""

    targets: Targets | None
    normalize: bool


class ClipFromFeaturesOptions(PairOptions, total=False):
    """The options of `clip_loss_from_features`."""

    label_smoothing: Number


class ContrastiveOptions(Sweep, Threads, total=False):
    """The options of `info_nce`, `nt_xent` and `sup_con`."""

    temperature: Number
    normalize: bool
