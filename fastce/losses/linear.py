"""Cross entropy of a linear layer's outputs, from its inputs and weights: logits exist a panel of rows at a time."""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.engine import by_engine
from fastce.losses.linear_gradients import OF_LAYER, computed
from fastce.losses.plain_features import plain_linear
from fastce.products.engine import engine_for
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import (
    AnyArray,
    Float,
    FloatArray,
    Index,
    LinearCrossEntropyValueAndGrad,
    LinearGradOptions,
    LinearOptions,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
    SmoothingOver,
    Targets,
)


# fmt: off
@overload
def linear_cross_entropy(
    features: AnyArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Reduced = "mean", **options: Unpack[LinearOptions]
) -> float: ...
@overload
def linear_cross_entropy(
    features: RealArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[LinearOptions]
) -> FloatArray: ...
@overload
def linear_cross_entropy(
    features: AnyArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[LinearOptions]
) -> Any: ...
# fmt: on
@by_engine
def linear_cross_entropy(
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
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    """Cross entropy of ``features @ linear_weight.T + linear_bias``, which never exists as a whole.

    Parameters
    ----------
    features : array_like, shape (..., D)
        float32 and float64 are computed in their own dtype (the widest of the features, weights and bias), float16 and
        bfloat16 in float32, integers and booleans in float64. Any strides, but more than two dimensions are copied if
        they are not contiguous; never written to.
    linear_weight : array_like, shape (V, D)
        One row for each class.
    targets : array_like of int, array_like of float, or SciPy sparse array
        As in `cross_entropy` for logits of shape (..., V) whose class axis is the last.
    linear_bias : array_like, shape (V,), optional
        Added to the logits.
    weight, sample_weight, ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss, reduction
        As in `cross_entropy`.
    memory_budget : int, default: 268435456
        Bytes that may be used beyond inputs and gradients, 256 MiB by default, if that is enough for one row of logits.
        The more rows fit, the faster the products.
    progress : bool or callable, optional
        As in `clip_loss_from_features`; the steps are panels of rows.
    n_threads : int, optional
        Of fastce's own work. The products are NumPy's, which uses as many threads as its BLAS library is set to.

    Returns
    -------
    float or ndarray
        As `cross_entropy`.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `cross_entropy`.

    Notes
    -----
    Rows that are ignored or have no weight are left out from the start: they take no time, whatever they hold. Products
    that might overflow the dtype of the features are computed in float64, divided by powers of two.
    `n_threads` changes no bit of the result; the number of threads of BLAS and the budget may.

    References
    ----------
    .. [1] E. Wijmans et al., "Cut Your Losses in Large-Vocabulary Language Models", ICLR 2025.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> features = np.array([[1.0, 0.5], [-0.2, 0.8]])
    >>> linear_weight = np.array([[0.3, 0.1], [0.0, 1.0], [-0.5, 0.2]])
    >>> round(fastce.linear_cross_entropy(features, linear_weight, [0, 1]), 10)
    0.841047648
    """
    options = {
        "targets": targets, "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    plain = plain_linear(
        features, linear_weight, linear_bias, options, memory_budget, progress, n_threads, want_gradient=False
    )
    if plain is not None:
        return plain
    with engine_for(features, n_threads) as engine:
        return computed(engine, features, linear_weight, linear_bias, options, memory_budget, progress)[0]


# fmt: off
@overload
def linear_cross_entropy_value_and_grad(
    features: RealArray[Float], linear_weight: RealArray[Float], targets: Targets,
    *, reduction: Reduced = "mean", **options: Unpack[LinearGradOptions]
) -> LinearCrossEntropyValueAndGrad[float, NDArray[Float]]: ...
@overload
def linear_cross_entropy_value_and_grad(
    features: RealArray[Float], linear_weight: RealArray[Float], targets: Targets,
    *, reduction: Literal["none"], **options: Unpack[LinearGradOptions]
) -> LinearCrossEntropyValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def linear_cross_entropy_value_and_grad(
    features: AnyArray, linear_weight: AnyArray, targets: Targets,
    *, reduction: Reduction = "mean", **options: Unpack[LinearGradOptions]
) -> LinearCrossEntropyValueAndGrad[Any, Any]: ...
# fmt: on
@by_engine
def linear_cross_entropy_value_and_grad(
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
) -> LinearCrossEntropyValueAndGrad:
    """Cross entropy of a linear layer's outputs and all of its gradients, in one sweep.

    Parameters
    ----------
    features, linear_weight, targets, linear_bias, weight, sample_weight, ignore_index, label_smoothing, \
smoothing_over, logit_scale, softcap, z_loss, reduction, memory_budget, progress, n_threads
        As in `linear_cross_entropy`.
    grad_output : float or array_like, optional
        As in `cross_entropy_value_and_grad`.

    Returns
    -------
    LinearCrossEntropyValueAndGrad
        ``value``; ``grad_features``, ``grad_linear_weight`` and ``grad_linear_bias`` in the shapes and dtypes of what
        they belong to; the last is None without a bias.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> features = np.array([[1.0, 0.5], [-0.2, 0.8]])
    >>> linear_weight = np.array([[0.3, 0.1], [0.0, 1.0], [-0.5, 0.2]])
    >>> fastce.linear_cross_entropy_value_and_grad(features, linear_weight, [0, 1]).grad_features.round(4)
    array([[-0.1379,  0.2074],
           [-0.0377, -0.2153]])
    """
    options = {
        "targets": targets, "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    plain: LinearCrossEntropyValueAndGrad | None = plain_linear(
        features, linear_weight, linear_bias, options, memory_budget, progress, n_threads, grad_output,
        want_gradient=True,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(features, n_threads) as engine:
        value, *gradients, _ = computed(
            engine, features, linear_weight, linear_bias, options, memory_budget, progress, OF_LAYER, grad_output
        )
        return LinearCrossEntropyValueAndGrad(value, *gradients)
