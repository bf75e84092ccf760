"""NT-Xent, the loss of SimCLR: two views of each example, each to be told from all others as the other's partner.

Both sides of the products are the same features, so that tiles above the diagonal do for those below.
"""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.engine import by_engine
from fastce.losses.plain_features import plain_nt_xent
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
    NtXentValueAndGrad,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
)


@overload
def nt_xent(
    first_views: AnyArray, second_views: AnyArray, *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> float: ...
@overload
def nt_xent(
    first_views: RealArray, second_views: AnyArray, *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> FloatArray: ...
@overload
def nt_xent(
    first_views: AnyArray, second_views: AnyArray, *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> Any: ...
@by_engine
def nt_xent(
    first_views: Any,
    second_views: Any,
    *,
    temperature: Number = 0.5,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    r"""The normalised temperature-scaled cross entropy of SimCLR, of two views of each example.

    Each of the 2 N views is to be told from all others as the partner of its own partner:

    .. math:: -\frac{1}{2N} \sum_i \log \frac{\exp(z_i \cdot z_{i'} / \tau)}{\sum_{k \ne i} \exp(z_i \cdot z_k / \tau)}

    Parameters
    ----------
    first_views, second_views : array_like, shape (N, D)
        Row i of one belongs to row i of the other. Dtypes and strides as in `clip_loss_from_features`.
    temperature : float, default: 0.5
        Positive divisor of the products.
    normalize : bool, default: True
        Whether rows are divided by their lengths first. A row of length 0 stays 0 and has gradient 0.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Of the losses of the 2 N views; for "none" those of `first_views` come first. The mean of an
        empty batch is nan, its sum 0.
    memory_budget, progress, n_threads
        As in `clip_loss_from_features`. Only half of the products are computed.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (2 N,).

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit or arguments make no sense.

    Notes
    -----
    What float32 is too coarse for (large products, low temperatures) is computed in float64, as in
    `clip_loss_from_features`.

    References
    ----------
    .. [1] T. Chen et al., "A Simple Framework for Contrastive Learning of Visual Representations", ICML 2020.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> first, second = np.array([[1.0, 0.2], [0.1, 0.9]]), np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.nt_xent(first, second), 10)
    0.4376914463
    """
    plain = plain_nt_xent(
        first_views, second_views, temperature, normalize, reduction, memory_budget, progress, n_threads,
        want_gradient=False,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(first_views, n_threads) as engine:
        return _checked_call(
            engine, first_views, second_views, temperature, normalize, reduction, memory_budget, progress
        ).value()


# fmt: off
@overload
def nt_xent_value_and_grad(
    first_views: RealArray[Float], second_views: RealArray[Float],
    *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> NtXentValueAndGrad[float, NDArray[Float]]: ...
@overload
def nt_xent_value_and_grad(
    first_views: RealArray[Float], second_views: RealArray[Float],
    *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> NtXentValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def nt_xent_value_and_grad(
    first_views: AnyArray, second_views: AnyArray,
    *, reduction: Reduction = "mean", **options: Unpack[ContrastiveOptions]
) -> NtXentValueAndGrad[Any, Any]: ...
# fmt: on
@by_engine
def nt_xent_value_and_grad(
    first_views: Any,
    second_views: Any,
    *,
    temperature: Number = 0.5,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> NtXentValueAndGrad:
    """The NT-Xent loss and all of its gradients.

    Parameters
    ----------
    first_views, second_views, temperature, normalize, reduction, memory_budget, progress, n_threads
        As in `nt_xent`.

    Returns
    -------
    NtXentValueAndGrad
        ``value``; ``grad_first_views`` and ``grad_second_views`` in the shapes and dtypes of the views;
        ``grad_temperature``, a Python float. For ``reduction="none"`` the gradients are those of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> first, second = np.array([[1.0, 0.2], [0.1, 0.9]]), np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> fastce.nt_xent_value_and_grad(first, second).grad_first_views.round(4)
    array([[-0.0711,  0.3555],
           [ 0.2688, -0.0299]])
    """
    plain: NtXentValueAndGrad | None = plain_nt_xent(
        first_views, second_views, temperature, normalize, reduction, memory_budget, progress, n_threads,
        want_gradient=True,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(first_views, n_threads) as engine:
        call = _checked_call(
            engine, first_views, second_views, temperature, normalize, reduction, memory_budget, progress
        )
        value, gradients, _, along = call.value_and_gradients()
        first, second = gradients if len(gradients) == 2 else _halves(engine, *gradients)
        of_temperature = call.range.of_temperature(0.5 * along)  # every product counts twice
        return NtXentValueAndGrad(value, engine.given(first), engine.given(second), of_temperature)


def _checked_call(
    engine: Engine,
    first_views: Any,
    second_views: Any,
    temperature: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
) -> LossCall:
    arrays = feature_arrays(engine, [first_views, second_views], ["first_views", "second_views"])
    if arrays[0].shape[0] != arrays[1].shape[0]:
        raise ValueError(f"first_views and second_views differ in shape: {arrays[0].shape} and {arrays[1].shape}")
    arrays = engine.joined(arrays)
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(engine, arrays, arrays, scale, normalize=normalize)
    views = Features(engine, arrays, within.dtype, normalize, power=within.left_power)
    products = products_of(views, views, memory_budget)
    loss = engine.partner_losses(products, within, reduction, dtype_of_products(engine, arrays))
    return LossCall("nt_xent", engine, within, products, loss, progress)


def _halves(engine: Engine, gradient: Any) -> tuple[Any, Any]:
    """Those of the first views and of the second ones."""
    views = gradient.shape[0] // 2
    return engine.part(gradient, 0, views), engine.part(gradient, views, 2 * views)
