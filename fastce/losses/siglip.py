"""SigLIP's loss from features: every pair is a yes-or-no question of its own, so that one sweep over tiles does."""

from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.numbers import finite, positive, reduction_of
from fastce.arguments.positives import Positives, checked_shape
from fastce.arguments.reductions import factor_of_rows
from fastce.engine import by_engine
from fastce.losses.plain_features import plain_siglip
from fastce.losses.sigmoid import of_positives, reduced_losses
from fastce.products.engine import Engine, engine_for
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.loss import LossCall
from fastce.products.panels import products_of
from fastce.products.ranges import Range, dtype_of_products, range_of
from fastce.products.tiles import Pairs, Place, Products
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
@by_engine
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
    plain = plain_siglip(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress,
        n_threads, want_gradient=False,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(image_features, n_threads) as engine:
        return checked_call(
            engine, image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction,
            memory_budget, progress,
        )[0].value()  # fmt: skip


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
@by_engine
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
    plain: SiglipValueAndGrad | None = plain_siglip(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress,
        n_threads, want_gradient=True,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(image_features, n_threads) as engine:
        call, loss = checked_call(
            engine, image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction,
            memory_budget, progress,
        )  # fmt: skip
        value, (image,), (text,), along = call.value_and_gradients()
        of_scale = call.range.of_scale(along)
        return SiglipValueAndGrad(value, engine.given(image), engine.given(text), of_scale, loss.of_bias())


def checked_call(
    engine: Engine,
    image_features: Any,
    text_features: Any,
    logit_scale: Any,
    logit_bias: Any,
    targets: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
) -> "tuple[LossCall, Sigmoids]":
    """The arguments of the loss and its twin, checked; and the loss, which knows the gradient of the bias."""
    arrays = feature_arrays(engine, [image_features, text_features], ["image_features", "text_features"])
    points = engine.positives(targets, checked_shape(arrays, targets))
    scale, bias = positive(logit_scale, "logit_scale"), finite(logit_bias, "logit_bias")
    reduction = reduction_of(reduction)
    within = range_of(engine, arrays[:1], arrays[1:], scale, bias, normalize)
    left = Features(engine, arrays[:1], within.dtype, normalize, power=within.left_power)
    right = Features(engine, arrays[1:], within.dtype, normalize, power=within.right_power)
    products = products_of(left, right, memory_budget)
    loss = Sigmoids(products, points, within, bias, reduction, dtype_of_products(engine, arrays))
    return LossCall("siglip_loss", engine, within, products, loss, progress), loss


class Sigmoids:
    """softplus(z) of each pair's logit z, softplus(-z) of those that belong together, summed up for each row.

    These are few: theirs are computed apart, in float64, and in the tiles their products are -inf.
    """

    sweeps = 1

    def __init__(
        self,
        products: Products,
        points: Positives,
        within: Range,
        bias: float,
        reduction: str,
        of_losses: np.dtype[Any],
        whole_rows: int | None = None,
    ) -> None:
        """The products may be those of some rows of a whole that has so many."""
        engine = products.engine
        self.engine: Engine = engine
        self.scale: float = within.scale
        self.bias: float = bias
        self.reduction = reduction
        self.of_losses = of_losses
        rows = products.left.rows
        self.share: float = factor_of_rows(reduction, rows if whole_rows is None else whole_rows)
        self.factor: float = self.share * within.factor
        self.points: Pairs = products.pairs(points.rows, points.columns)
        logits = within.scale * self.points.products() + bias
        of_points, slopes = of_positives(engine.xp, logits)
        self.slopes: Any = slopes
        self.losses: Any = engine.sums_of_points(points, of_points)
        self.slopes_of_rows: Any = engine.xp.zeros(rows)

    def read(self, place: Place, tile: Any) -> None:
        """See `fastce.products.loss.Loss`."""
        self._take(place, tile, writes=False)

    def turn(self, place: Place, tile: Any) -> None:
        """See `fastce.products.loss.Loss`."""
        chosen, where = self._take(place, tile, writes=True)
        tile[where] = self.slopes[chosen] * self.factor

    def _take(self, place: Place, tile: Any, writes: bool) -> tuple[Any, tuple[Any, Any]]:
        chosen, where = self.points.of(place)
        tile[where] = -np.inf
        losses, slopes = self.engine.sigmoids(tile, self.scale, self.bias, self.factor, writes)
        self.losses[place.rows] += losses
        self.slopes_of_rows[place.rows] += slopes
        return chosen, where

    def value(self) -> Any:
        """See `fastce.products.loss.Loss`."""
        if self.reduction == "none":
            return self.engine.given(self.engine.memory_of(self.losses.astype(self.of_losses)))
        return reduced_losses(self.losses, self.reduction)

    def of_bias(self) -> float:
        """The gradient of the bias, once all tiles are turned."""
        return self.share * float(self.slopes_of_rows.sum() + self.slopes.sum())
