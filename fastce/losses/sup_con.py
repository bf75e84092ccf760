"""SupCon: the other rows with the same label are a row's positives, however many there are."""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.labels import Classes, checked_labels
from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.engine import by_engine
from fastce.products.engine import Engine, engine_for
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.loss import LossCall
from fastce.products.panels import products_of
from fastce.products.ranges import dtype_of_products, range_of
from fastce.typing import (
    AnyArray,
    ContrastiveOptions,
    Float,
    FloatArray,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
    SupConValueAndGrad,
)


@overload
def sup_con(
    features: AnyArray, labels: AnyArray, *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> float: ...
@overload
def sup_con(
    features: RealArray, labels: AnyArray, *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> FloatArray: ...
@overload
def sup_con(
    features: AnyArray, labels: AnyArray, *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> Any: ...
@by_engine
def sup_con(
    features: Any,
    labels: Any,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    r"""The supervised contrastive loss: the other rows with the same label are a row's positives.

    With :math:`P_i` the other rows with the label of row i, the loss of row i is

    .. math:: \frac{-1}{|P_i|} \sum_{p \in P_i} \log \frac{\exp(z_i \cdot z_p / \tau)}
              {\sum_{k \ne i} \exp(z_i \cdot z_k / \tau)}

    Parameters
    ----------
    features : array_like, shape (N, D)
        Dtypes and strides as in `clip_loss_from_features`. Several views of an example are several rows.
    labels : array_like of int, shape (N,)
        Any integers.
    temperature : float, default: 0.1
        Positive divisor of the products.
    normalize, memory_budget, progress, n_threads
        As in `nt_xent`.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Rows that are alone with their label cost nothing and do not count for the mean. Where all are alone, the mean,
        of nothing, is nan (and the gradients 0); the sum is 0, so that ``sup_con(..., reduction="sum") / max(n, 1)``
        with n the number of rows that are not alone is a mean that can be added to a running average.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (N,).

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit or arguments make no sense.

    Notes
    -----
    The sum over a row's positives is its product with the sum of their features, so that the number of pairs with the
    same label does not matter. What float32 is too coarse for (large products, low temperatures) is computed in
    float64, as in `clip_loss_from_features`.

    References
    ----------
    .. [1] P. Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020; this is its L_out.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> features = np.array([[1.0, 0.2], [0.1, 0.9], [0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.sup_con(features, [0, 1, 0, 1]), 10)
    0.0039918557
    """
    with engine_for(features, n_threads) as engine:
        return _checked_call(
            engine, features, labels, temperature, normalize, reduction, memory_budget, progress
        ).value()


@overload
def sup_con_value_and_grad(
    features: RealArray[Float], labels: AnyArray, *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> SupConValueAndGrad[float, NDArray[Float]]: ...
@overload
def sup_con_value_and_grad(
    features: RealArray[Float], labels: AnyArray, *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> SupConValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def sup_con_value_and_grad(
    features: AnyArray, labels: AnyArray, *, reduction: Reduction = "mean", **options: Unpack[ContrastiveOptions]
) -> SupConValueAndGrad[Any, Any]: ...
@by_engine
def sup_con_value_and_grad(
    features: Any,
    labels: Any,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> SupConValueAndGrad:
    """The supervised contrastive loss and all of its gradients.

    Parameters
    ----------
    features, labels, temperature, normalize, reduction, memory_budget, progress, n_threads
        As in `sup_con`.

    Returns
    -------
    SupConValueAndGrad
        ``value``; ``grad_features`` in the shape and dtype of the features; ``grad_temperature``, a Python float. For
        ``reduction="none"`` the gradients are those of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> features = np.array([[1.0, 0.2], [0.1, 0.9], [0.8, 0.1], [0.3, 1.1]])
    >>> fastce.sup_con_value_and_grad(features, [0, 1, 0, 1]).grad_features.round(4)
    array([[-0.0049,  0.0243],
           [ 0.0044, -0.0005],
           [-0.0017,  0.0138],
           [ 0.0274, -0.0075]])
    """
    with engine_for(features, n_threads) as engine:
        call = _checked_call(engine, features, labels, temperature, normalize, reduction, memory_budget, progress)
        value, (gradient,), _, along = call.value_and_gradients()
        of_temperature = call.range.of_temperature(0.5 * along)  # every product counts twice
        return SupConValueAndGrad(value, engine.given(gradient), of_temperature)


def _checked_call(
    engine: Engine,
    features: Any,
    labels: Any,
    temperature: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
) -> LossCall:
    arrays = feature_arrays(engine, [features], ["features"])
    classes = Classes(checked_labels(engine.host_numbers(labels, "labels"), arrays[0].shape[0]))
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(engine, arrays, arrays, scale, normalize=normalize)
    rows = Features(engine, arrays, within.dtype, normalize, power=within.left_power)
    products = products_of(rows, rows, memory_budget, bytes_of_pair=1 + within.dtype.itemsize)
    loss = engine.label_losses(products, classes, within, reduction, dtype_of_products(engine, arrays))
    return LossCall("sup_con", engine, within, products, loss, progress, loss.complete)
