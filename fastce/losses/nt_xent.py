"""NT-Xent, the loss of SimCLR: two views of each example, each to be told from all others as the other's partner.

Both sides of the products are the same features, so that tiles above the diagonal do for those below.
"""

from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.arguments.positives import positives_of
from fastce.arguments.silence import quietly
from fastce.cpu.sides import value_of
from fastce.engine import by_device
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.progress import Progress
from fastce.products.ranges import dtype_of_products, range_of
from fastce.products.sweep import TilesCall, both_sides, gradients
from fastce.products.tiles import Tiles
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
@by_device
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
    call = _checked_call(
        first_views, second_views, temperature, normalize, reduction, memory_budget, progress, n_threads, sweeps=1
    )
    with call.progress, quietly():
        return value_of(*both_sides(call, keep=False), call.reduction, call.dtype)


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
@by_device
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
    call = _checked_call(
        first_views, second_views, temperature, normalize, reduction, memory_budget, progress, n_threads, sweeps=2
    )
    with call.progress, quietly():
        sides = both_sides(call, keep=True)
        total = gradients(call, *sides)[0].total
        (first, second), along = call.tiles.left.finished(total, rest=call.range.rest_of_left)
        value = value_of(*sides, call.reduction, call.dtype)
    return NtXentValueAndGrad(value, first, second, call.range.of_temperature(0.5 * along))


def _checked_call(
    first_views: Any,
    second_views: Any,
    temperature: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
    n_threads: int | None,
    sweeps: int,
) -> TilesCall:
    arrays = feature_arrays([first_views, second_views], ["first_views", "second_views"])
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"first_views and second_views differ in shape: {arrays[0].shape} and {arrays[1].shape}")
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(arrays, arrays, scale, normalize=normalize)
    views = Features(arrays, within.dtype, normalize, n_threads, power=within.left_power)
    everyone = np.arange(views.rows)
    partners = positives_of(np.roll(everyone, views.rows // 2), (views.rows, views.rows))
    tiles = Tiles(views, views, memory_budget)
    reporter = Progress(progress, sweeps * len(tiles.places), "nt_xent")
    of_losses = dtype_of_products(arrays)
    return TilesCall(tiles, partners, (everyone, everyone), within, 0.0, reduction, of_losses, reporter, n_threads)
