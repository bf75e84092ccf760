"""The options of functions, each once, as `**options: Unpack[...]` of overloads.

A test holds them against the functions' signatures.
"""

from typing import TypedDict

from fastce.typing.arguments import (
    AnyArray,
    FloatArray,
    Hessian,
    Index,
    Number,
    ProgressOption,
    SmoothingOver,
    SupportsDLPack,
    Targets,
)


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
