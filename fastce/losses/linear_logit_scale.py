"""Cross entropy of a linear layer and its derivative with respect to the logit scale: learned temperature."""

from typing import Any, Literal, Unpack, overload

from fastce.engine import by_engine
from fastce.losses.linear_gradients import OF_SCALE, some_gradients
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import (
    AnyArray,
    FloatArray,
    Index,
    LinearGradOptions,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
    SmoothingOver,
    Targets,
    ValueAndGradLogitScale,
)


# fmt: off
@overload
def linear_cross_entropy_value_and_grad_logit_scale(
    features: AnyArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Reduced = "mean", **options: Unpack[LinearGradOptions]
) -> ValueAndGradLogitScale[float]: ...
@overload
def linear_cross_entropy_value_and_grad_logit_scale(
    features: RealArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[LinearGradOptions]
) -> ValueAndGradLogitScale[FloatArray]: ...
@overload
def linear_cross_entropy_value_and_grad_logit_scale(
    features: AnyArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Reduction = "mean", **options: Unpack[LinearGradOptions]
) -> ValueAndGradLogitScale[Any]: ...
# fmt: on
@by_engine
def linear_cross_entropy_value_and_grad_logit_scale(
    features: Any,
    linear_weight: Any,
    targets: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> ValueAndGradLogitScale:
    """Cross entropy of a linear layer's outputs and its derivative with respect to `logit_scale`.

    Neither a matrix of logits nor one of their gradients exists, nor any other gradient.

    Parameters
    ----------
    features, linear_weight, targets, linear_bias, weight, sample_weight, ignore_index, label_smoothing, \
smoothing_over, logit_scale, softcap, z_loss, reduction, grad_output, memory_budget, progress, n_threads
        As in `linear_cross_entropy_value_and_grad`.

    Returns
    -------
    ValueAndGradLogitScale
        ``value`` as `linear_cross_entropy` returns it, and ``grad_logit_scale``: a float.

    Raises
    ------
    IndexError, ValueError, TypeError
        As `linear_cross_entropy_value_and_grad`; also for arrays of Dask.

    See Also
    --------
    cross_entropy_value_and_grad_logit_scale : The same of logits, and how it is computed.

    Notes
    -----
    For "mean" and "sum" the derivative of ``value``; for "none" that of the sum of ``grad_output * value``. A panel of
    logits is in memory at a time, of which gradients are taken as in `cross_entropy_value_and_grad_logit_scale`: it
    costs the products of one panel with the weights, as the value alone does.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> features = np.array([[1.0, 0.5], [-0.2, 0.8]])
    >>> linear_weight = np.array([[0.3, 0.1], [0.0, 1.0], [-0.5, 0.2]])
    >>> found = fastce.linear_cross_entropy_value_and_grad_logit_scale(features, linear_weight, [0, 1], logit_scale=2.0)
    >>> round(found.value, 4), round(found.grad_logit_scale, 4)
    (0.6916, -0.1052)
    """
    value, *_, slope = some_gradients(
        OF_SCALE, features=features, linear_weight=linear_weight, targets=targets, linear_bias=linear_bias,
        weight=weight, sample_weight=sample_weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        smoothing_over=smoothing_over, logit_scale=logit_scale, softcap=softcap, z_loss=z_loss, reduction=reduction,
        grad_output=grad_output, memory_budget=memory_budget, progress=progress, n_threads=n_threads,
    )  # fmt: skip
    return ValueAndGradLogitScale(value, slope)
