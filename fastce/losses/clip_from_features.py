"""CLIP's loss from features: exact, with all gradients, in memory that does not grow with the square of the batch."""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.numbers import fraction, positive, reduction_of
from fastce.arguments.positives import check_pairs, checked_shape
from fastce.engine import by_engine
from fastce.losses.plain_features import plain_clip
from fastce.products.engine import Engine, engine_for
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.loss import LossCall
from fastce.products.panels import products_of
from fastce.products.ranges import dtype_of_products, range_of
from fastce.typing import (
    AnyArray,
    ClipFromFeaturesOptions,
    ClipFromFeaturesValueAndGrad,
    Float,
    FloatArray,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
)


# fmt: off
@overload
def clip_loss_from_features(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number = 1.0,
    *, reduction: Reduced = "mean", **options: Unpack[ClipFromFeaturesOptions]
) -> float: ...
@overload
def clip_loss_from_features(
    image_features: RealArray, text_features: AnyArray, logit_scale: Number = 1.0,
    *, reduction: Literal["none"], **options: Unpack[ClipFromFeaturesOptions]
) -> FloatArray: ...
@overload
def clip_loss_from_features(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number = 1.0,
    *, reduction: Literal["none"], **options: Unpack[ClipFromFeaturesOptions]
) -> Any: ...
# fmt: on
@by_engine
def clip_loss_from_features(
    image_features: Any,
    text_features: Any,
    logit_scale: Number = 1.0,
    *,
    targets: Any = None,
    label_smoothing: Number = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    r"""CLIP's symmetric cross entropy of the products of features; the matrix of all products never exists.

    The loss is `clip_loss` of ``image_features @ text_features.T``, computed tile by tile.

    Parameters
    ----------
    image_features : array_like, shape (N, D)
        float32 and float64 are computed in their own dtype (the wider of the two sides'), float16 and bfloat16 in
        float32, integers and booleans in float64. Any strides; never written to. See the notes for logits that are too
        large for float32.
    text_features : array_like, shape (M, D)
        Of the same width.
    logit_scale : float, default: 1.0
        Positive factor of the products, an inverse temperature.
    targets : array_like of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        As in `clip_loss`: by default row i belongs to row i, for which N must be M.
    label_smoothing : float in [0, 1], default: 0.0
        Mass spread over all columns of a row, and over all rows of a column.
    normalize : bool, default: False
        Whether the rows of both sides are divided by their lengths first. A row of length 0 stays 0 and has gradient 0.
    reduction : {"mean", "sum", "none"}, default: "mean"
        As in `clip_loss`: without any positive the mean is nan, the sum 0.
    memory_budget : int, default: 268435456
        Bytes that may be used beyond the features and their gradients, 256 MiB by default. Tiles for which there is
        room are kept from the first sweep to the second, which then need not multiply them again; there is a least
        size of tiles, 256 x 256.
    progress : bool or callable, optional
        True: a bar of tqdm, if that is installed, else a line on stderr. Or a callable(done, total), called after each
        tile from the thread that made this call; what it raises ends the call.
    n_threads : int, optional
        Of fastce's own work on the tiles. The products are NumPy's, which uses as many threads as its BLAS library is
        set to.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (N,).

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `clip_loss`.

    Notes
    -----
    All is computed in float64 where float32 would not do: where logits may reach 2**20, by the lengths of the features,
    or the scale is below 2**-60 or beyond float32. Features may be of any finite size; where their products are beyond
    the range of float64, powers of two are taken out of them first. Results keep their dtypes. Products
    are rounded: where logits exceed 1e15, that is by more than 1, and pairs of the same features may differ.

    `n_threads` changes no bit of the result. The number of threads that BLAS uses may change its products in the last
    digits, and so may another `memory_budget`, by other tiles. Half precision is converted a tile at a time. Gradients
    of a narrower dtype than the products are added up in the dtype of the products, in arrays that come on top of the
    budget; so does what is known of each row and of each positive, about a hundred bytes.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> images = np.array([[1.0, 0.2], [0.1, 0.9]])
    >>> texts = np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.clip_loss_from_features(images, texts, 10.0, normalize=True), 10)
    0.002388097
    """
    plain = plain_clip(
        image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget,
        progress, n_threads, want_gradient=False,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(image_features, n_threads) as engine:
        return checked_call(
            engine, image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction,
            memory_budget, progress,
        ).value()  # fmt: skip


# fmt: off
@overload
def clip_loss_from_features_value_and_grad(
    image_features: RealArray[Float], text_features: RealArray[Float], logit_scale: Number = 1.0,
    *, reduction: Reduced = "mean", **options: Unpack[ClipFromFeaturesOptions]
) -> ClipFromFeaturesValueAndGrad[float, NDArray[Float]]: ...
@overload
def clip_loss_from_features_value_and_grad(
    image_features: RealArray[Float], text_features: RealArray[Float], logit_scale: Number = 1.0,
    *, reduction: Literal["none"], **options: Unpack[ClipFromFeaturesOptions]
) -> ClipFromFeaturesValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def clip_loss_from_features_value_and_grad(
    image_features: AnyArray, text_features: AnyArray, logit_scale: Number = 1.0,
    *, reduction: Reduction = "mean", **options: Unpack[ClipFromFeaturesOptions]
) -> ClipFromFeaturesValueAndGrad[Any, Any]: ...
# fmt: on
@by_engine
def clip_loss_from_features_value_and_grad(
    image_features: Any,
    text_features: Any,
    logit_scale: Number = 1.0,
    *,
    targets: Any = None,
    label_smoothing: Number = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> ClipFromFeaturesValueAndGrad:
    """CLIP's loss from features and all of its gradients, without the matrix of products or one of its gradient.

    Parameters
    ----------
    image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget, \
progress, n_threads
        As in `clip_loss_from_features`.

    Returns
    -------
    ClipFromFeaturesValueAndGrad
        ``value``; ``grad_image_features`` and ``grad_text_features`` in the shapes and dtypes of the features, through
        the normalisation if there is one; ``grad_logit_scale``, a Python float. For ``reduction="none"`` the gradients
        are those of the sum.

    Notes
    -----
    With G the gradient of the matrix of products S: ``scale * G @ B``, ``scale * G.T @ A``, and the sum of G * S.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> images = np.array([[1.0, 0.2], [0.1, 0.9]])
    >>> texts = np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> fastce.clip_loss_from_features_value_and_grad(images, texts).grad_image_features.round(4)
    array([[-0.0935,  0.2016],
           [ 0.0777, -0.1701]])
    """
    plain: ClipFromFeaturesValueAndGrad | None = plain_clip(
        image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction, memory_budget,
        progress, n_threads, want_gradient=True,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(image_features, n_threads) as engine:
        call = checked_call(
            engine, image_features, text_features, logit_scale, targets, label_smoothing, normalize, reduction,
            memory_budget, progress,
        )  # fmt: skip
        value, (image,), (text,), along = call.value_and_gradients()
        of_scale = call.range.of_scale(along)
        return ClipFromFeaturesValueAndGrad(value, engine.given(image), engine.given(text), of_scale)


def checked_call(
    engine: Engine,
    image_features: Any,
    text_features: Any,
    logit_scale: Any,
    targets: Any,
    label_smoothing: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
) -> LossCall:
    """The arguments of the loss and its twin, checked."""
    arrays = feature_arrays(engine, [image_features, text_features], ["image_features", "text_features"])
    reduction = reduction_of(reduction)
    shape = checked_shape(arrays, targets)
    check_pairs(shape, reduction)
    scale, smoothing = positive(logit_scale, "logit_scale"), fraction(label_smoothing, "label_smoothing")
    within = range_of(engine, arrays[:1], arrays[1:], scale, normalize=normalize)
    left = Features(engine, arrays[:1], within.dtype, normalize, power=within.left_power)
    right = Features(engine, arrays[1:], within.dtype, normalize, power=within.right_power)
    products = products_of(left, right, memory_budget)
    of_losses = dtype_of_products(engine, arrays)
    loss = engine.pair_losses(products, targets, within, smoothing, reduction, of_losses)
    return LossCall("clip_loss_from_features", engine, within, products, loss, progress)
