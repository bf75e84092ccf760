"""SigLIP's loss from features: every pair is a yes-or-no question of its own, so that one sweep over tiles does."""

from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import finite, positive, reduction_of
from fastce.arguments.positives import Positives, checked_shape, positives_of
from fastce.arguments.silence import quietly
from fastce.cpu.sigmoid import sigmoid_losses
from fastce.engine import by_device
from fastce.products.features import Features, feature_arrays, products_of_pairs
from fastce.products.gradients import MEMORY_BUDGET, Gradient
from fastce.products.progress import Progress
from fastce.products.ranges import Range, dtype_of_products, range_of
from fastce.products.sweep import PairsOfTiles
from fastce.products.tiles import Place, Tiles
from fastce.typing import (
    AnyArray,
    Float,
    FloatArray,
    Number,
    PairOptions,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
    SiglipValueAndGrad,
)


class _Call(NamedTuple):
    tiles: Tiles
    points: Positives
    range: Range
    bias: float
    reduction: str
    dtype: np.dtype[Any]  # of losses
    progress: Progress
    n_threads: int | None


# fmt: off
@overload
def siglip_loss(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number, logit_bias: Number,
    *, reduction: Reduced = "mean", **options: Unpack[PairOptions]
) -> float: ...
@overload
def siglip_loss(
    image_features: RealArray, text_features: AnyArray, logit_scale: Number, logit_bias: Number,
    *, reduction: Literal["none"], **options: Unpack[PairOptions]
) -> FloatArray: ...
@overload
def siglip_loss(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number, logit_bias: Number,
    *, reduction: Literal["none"], **options: Unpack[PairOptions]
) -> Any: ...
# fmt: on
@by_device
def siglip_loss(
    image_features: Any,
    text_features: Any,
    logit_scale: Number,
    logit_bias: Number,
    *,
    targets: Any = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    r"""SigLIP's loss of the products of features; the matrix of all products never exists.

    .. math:: \frac1N \Big[\sum_{ij} \mathrm{softplus}(z_{ij}) - \sum_{\mathrm{positives}} z_{ij}\Big],
              \quad z = \mathrm{logit\_scale} \cdot A B^T + \mathrm{logit\_bias}

    Parameters
    ----------
    image_features, text_features : array_like, shapes (N, D) and (M, D)
        As in `clip_loss_from_features`.
    logit_scale : float
        Positive factor of the products.
    logit_bias : float
        Added to every logit.
    targets : array_like of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        The pairs that belong together: the column of each row, or all that are not 0. By default row i belongs to row
        i, for which N must be M.
    normalize, memory_budget, progress, n_threads
        As in `clip_loss_from_features`.
    reduction : {"mean", "sum", "none"}, default: "mean"
        The sum over all pairs divided by N, the sum itself, or one for each row of `image_features`.
        The mean of an empty batch is nan, its sum 0.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (N,).

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `clip_loss_from_features`.

    Notes
    -----
    A positive costs softplus(-z), so that confident pairs keep their digits. What float32 is too coarse for is computed
    in float64, as in `clip_loss_from_features`; here the bias counts, too.

    References
    ----------
    .. [1] X. Zhai et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> images = np.array([[1.0, 0.2], [0.1, 0.9]])
    >>> texts = np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.siglip_loss(images, texts, 10.0, -5.0, normalize=True), 10)
    0.2724921806
    """
    call = _checked_call(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress,
        n_threads,
    )  # fmt: skip
    with call.progress, quietly():
        return _swept(call, None)[0]


# fmt: off
@overload
def siglip_loss_value_and_grad(
    image_features: RealArray[Float], text_features: RealArray[Float], logit_scale: Number, logit_bias: Number,
    *, reduction: Reduced = "mean", **options: Unpack[PairOptions]
) -> SiglipValueAndGrad[float, NDArray[Float]]: ...
@overload
def siglip_loss_value_and_grad(
    image_features: RealArray[Float], text_features: RealArray[Float], logit_scale: Number, logit_bias: Number,
    *, reduction: Literal["none"], **options: Unpack[PairOptions]
) -> SiglipValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def siglip_loss_value_and_grad(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number, logit_bias: Number,
    *, reduction: Reduction = "mean", **options: Unpack[PairOptions]
) -> SiglipValueAndGrad[Any, Any]: ...
# fmt: on
@by_device
def siglip_loss_value_and_grad(
    image_features: Any,
    text_features: Any,
    logit_scale: Number,
    logit_bias: Number,
    *,
    targets: Any = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> SiglipValueAndGrad:
    """SigLIP's loss from features and all of its gradients, in one sweep.

    Parameters
    ----------
    image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress, \
n_threads
        As in `siglip_loss`.

    Returns
    -------
    SiglipValueAndGrad
        ``value``; ``grad_image_features`` and ``grad_text_features`` in the shapes and dtypes of the features;
        ``grad_logit_scale`` and ``grad_logit_bias``, Python floats. For ``reduction="none"`` the gradients are those
        of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> images = np.array([[1.0, 0.2], [0.1, 0.9]])
    >>> texts = np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.siglip_loss_value_and_grad(images, texts, 10.0, -5.0).grad_logit_bias, 6)
    0.270377
    """
    call = _checked_call(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress,
        n_threads,
    )  # fmt: skip
    left, right = call.tiles.left, call.tiles.right
    gradients = Gradient(left.rows, left), Gradient(right.rows, right)
    with call.progress, quietly():
        value, of_bias = _swept(call, gradients)
        (image,), along = left.finished(gradients[0].total, rest=call.range.rest_of_left)
        (text,), _ = right.finished(gradients[1].total, False, call.range.rest_of_right)
    return SiglipValueAndGrad(value, image, text, call.range.of_scale(along), of_bias)


def _checked_call(
    image_features: Any,
    text_features: Any,
    logit_scale: Any,
    logit_bias: Any,
    targets: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
    n_threads: int | None,
) -> _Call:
    arrays = feature_arrays([image_features, text_features], ["image_features", "text_features"])
    points = positives_of(targets, checked_shape(arrays, targets))
    scale, bias = positive(logit_scale, "logit_scale"), finite(logit_bias, "logit_bias")
    reduction = reduction_of(reduction)
    within = range_of(arrays[:1], arrays[1:], scale, bias, normalize)
    left = Features(arrays[:1], within.dtype, normalize, n_threads, power=within.left_power)
    right = Features(arrays[1:], within.dtype, normalize, n_threads, power=within.right_power)
    tiles = Tiles(left, right, memory_budget)
    reporter = Progress(progress, len(tiles.places), "siglip_loss")
    return _Call(tiles, points, within, bias, reduction, dtype_of_products(arrays), reporter, n_threads)


def _swept(call: _Call, gradients: tuple[Gradient, Gradient] | None) -> tuple[Any, float]:
    """(value, gradient of the bias); the gradients of the features are added up if there is room for them."""
    tiles, points = call.tiles, call.points
    share = 1.0 / max(tiles.left.rows, 1) if call.reduction == "mean" else 1.0
    scale, factor = call.range.scale, share * call.range.factor
    products = products_of_pairs(tiles.left, points.rows, tiles.right, points.columns, call.n_threads)
    of_points, slopes = _positives(scale * products + call.bias)
    losses = np.zeros(tiles.left.rows) + np.bincount(points.rows, of_points, tiles.left.rows)  # integers if none
    masked = PairsOfTiles(tiles, points.rows, points.columns)
    slopes_of_rows = np.zeros(tiles.left.rows)

    def work(place: Place, tile: Array) -> None:
        chosen, rows, columns = masked.of(place)
        tile[rows, columns] = -np.inf
        here, here_slopes = sigmoid_losses(tile, scale, call.bias, factor, gradients is not None, call.n_threads)
        losses[place.rows] += here
        slopes_of_rows[place.rows] += here_slopes
        if gradients is not None:
            tile[rows, columns] = slopes[chosen] * factor
            tiles.add_to_gradients(place, tile, *gradients)

    tiles.sweep(work, call.progress)
    of_bias = share * float(slopes_of_rows.sum() + slopes.sum())
    if call.reduction == "none":
        return losses.astype(call.dtype), of_bias
    if call.reduction == "mean" and not losses.size:
        return np.nan, of_bias
    value = share * float(losses.sum())
    return value if np.isfinite(value) else float((share * losses).sum()), of_bias


def _positives(z: Array) -> tuple[Array, Array]:
    """softplus(-z) and its derivative, of the pairs that belong together."""
    e = np.exp(-np.abs(z))
    return np.maximum(-z, 0.0) + np.log1p(e), -np.where(z < 0.0, 1.0, e) / (1.0 + e)
