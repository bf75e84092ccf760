"""Contrastive losses on a given similarity matrix: rows and columns from one read, the gradient from a second."""

from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.numbers import fraction, positive, reduction_of
from fastce.arguments.positives import check_similarity
from fastce.engine import by_engine
from fastce.products.engine import Engine, MatrixLoss, engine_for
from fastce.typing import (
    AnyArray,
    ClipGradOptions,
    ClipOptions,
    ClipValueAndGrad,
    Float,
    FloatArray,
    Number,
    RealArray,
    Reduced,
    Reduction,
    Targets,
)


@overload
def clip_loss(
    similarity: AnyArray, targets: Targets | None = None, *, reduction: Reduced = "mean", **options: Unpack[ClipOptions]
) -> float: ...
@overload
def clip_loss(
    similarity: RealArray, targets: Targets | None = None, *, reduction: Literal["none"], **options: Unpack[ClipOptions]
) -> FloatArray: ...
@overload
def clip_loss(
    similarity: AnyArray, targets: Targets | None = None, *, reduction: Literal["none"], **options: Unpack[ClipOptions]
) -> Any: ...
@by_engine
def clip_loss(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: Number = 1.0,
    label_smoothing: Number = 0.0,
    reduction: Reduction = "mean",
    n_threads: int | None = None,
) -> Any:
    r"""CLIP's symmetric cross entropy of a similarity matrix (rows: images, columns: texts), from one read of it.

    .. math:: \frac12 \Big[\frac1N \sum_i (\mathrm{lse}_j\, x_{ij} - x_{ii})
              + \frac1N \sum_j (\mathrm{lse}_i\, x_{ij} - x_{jj})\Big], \quad x = \mathrm{logit\_scale} \cdot S

    Parameters
    ----------
    similarity : array_like, shape (N, M)
        Dtypes and strides as in `cross_entropy`. Square unless `targets` are given.
    targets : array_like of int, shape (N,), or SciPy sparse array, shape (N, M), optional
        Each row's positive column, or several positives with non-negative weights; by default the diagonal. The target
        distribution of a row (column) is its positives, normalised to sum 1; rows and columns without positives are
        left out of their mean.
    logit_scale : float, default: 1.0
        Positive factor of the similarities.
    label_smoothing : float in [0, 1], default: 0.0
        Mass spread over all columns of a row, and over all rows of a column.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Half the mean over rows plus half the mean over columns; half the sums; or, for square matrices,
        ``(row_i + column_i) / 2``. Without any positive the mean is nan, the sum 0, and so are all gradients.
    n_threads : int, optional
        As in `cross_entropy`.

    Returns
    -------
    float or ndarray
        A Python float; for "none" an array of shape (N,).

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `cross_entropy`.

    References
    ----------
    .. [1] A. Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", ICML 2021.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> similarity = np.array([[2.0, 0.5, -1.0], [0.3, 1.8, 0.2], [-0.5, 0.4, 1.5]])
    >>> round(fastce.clip_loss(similarity), 10)
    0.3226813394
    """
    with engine_for(similarity, n_threads) as engine:
        return _checked_call(engine, similarity, targets, logit_scale, label_smoothing, reduction).value()


# fmt: off
@overload
def clip_loss_value_and_grad(
    similarity: RealArray[Float], targets: Targets | None = None,
    *, reduction: Reduced = "mean", **options: Unpack[ClipGradOptions]
) -> ClipValueAndGrad[float, NDArray[Float]]: ...
@overload
def clip_loss_value_and_grad(
    similarity: RealArray[Float], targets: Targets | None = None,
    *, reduction: Literal["none"], **options: Unpack[ClipGradOptions]
) -> ClipValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def clip_loss_value_and_grad(
    similarity: AnyArray, targets: Targets | None = None,
    *, reduction: Reduction = "mean", **options: Unpack[ClipGradOptions]
) -> ClipValueAndGrad[Any, Any]: ...
# fmt: on
@by_engine
def clip_loss_value_and_grad(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: Number = 1.0,
    label_smoothing: Number = 0.0,
    reduction: Reduction = "mean",
    out: Any = None,
    n_threads: int | None = None,
) -> ClipValueAndGrad:
    """CLIP's loss and its gradients: one read for the value, a second for the gradient.

    Parameters
    ----------
    similarity, targets, logit_scale, label_smoothing, reduction, n_threads
        As in `clip_loss`.
    out : ndarray, optional
        Receives the gradient; of its shape and dtype, writable. May be `similarity` itself, which is then replaced.

    Returns
    -------
    ClipValueAndGrad
        ``value``; ``grad`` with respect to `similarity`, in its dtype; ``grad_logit_scale``, a Python float. For
        ``reduction="none"`` the gradients are those of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> similarity = np.array([[2.0, 0.5], [0.3, 1.8]])
    >>> fastce.clip_loss_value_and_grad(similarity).grad.round(4)
    array([[-0.0842,  0.0991],
           [ 0.0842, -0.0991]])
    """
    with engine_for(similarity, n_threads) as engine:
        call = _checked_call(engine, similarity, targets, logit_scale, label_smoothing, reduction)
        return ClipValueAndGrad(*call.value_and_grad(out))


def _checked_call(
    engine: Engine, similarity: Any, targets: Any, logit_scale: Any, label_smoothing: Any, reduction: Any
) -> MatrixLoss:
    array = engine.array(similarity, "similarity")
    check_similarity(array.shape, targets, reduction_of(reduction))
    scale, smoothing = positive(logit_scale, "logit_scale"), fraction(label_smoothing, "label_smoothing")
    return engine.matrix_losses(array, targets, scale, smoothing, reduction)
