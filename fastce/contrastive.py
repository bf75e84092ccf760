"""Contrastive losses on a given similarity matrix: rows and columns from one read, the gradient from a second."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments import Array, checked_out, compute_dtype, fraction, positive, real_array, reduction_of
from fastce.kernels.clip import clip_gradient
from fastce.layout import Rows, goes_past_cache
from fastce.positives import positives_of
from fastce.similarity_sums import Side, SimilarityCall, both_sides
from fastce.threads import cut_rows, for_each

SPREAD = {"float32": 90.0, "float64": 900.0}  # of the powers of two near exp(lse) that one exp may serve
LARGEST_EXPONENT = 2.0**19  # of a logsumexp, for a gradient computed in float32


class ClipValueAndGrad(NamedTuple):
    """The CLIP loss, its gradient with respect to the similarities, and to the logit scale."""

    value: float | Array
    grad: Array
    grad_logit_scale: float


def clip_loss(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
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
        ``(row_i + column_i) / 2``.
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
    call = _checked_call(similarity, targets, logit_scale, label_smoothing, reduction)
    return _value(call, *both_sides(call, n_threads))


def clip_loss_value_and_grad(
    similarity: Any,
    targets: Any = None,
    *,
    logit_scale: float = 1.0,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    out: Array | None = None,
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
    call = _checked_call(similarity, targets, logit_scale, label_smoothing, reduction)
    dtype = call.similarity.dtype
    out = checked_out(out, call.array.shape, dtype, call.array, [targets])
    by_row, by_column = both_sides(call, n_threads)
    of_rows, of_columns = _powers(by_row), _powers(by_column)
    if max(np.abs(of_rows[0]).max(initial=0.0), np.abs(of_columns[0]).max(initial=0.0)) > LARGEST_EXPONENT:
        dtype = np.dtype(np.float64)
    similarity, gradient, n_columns = (
        Rows(call.array, dtype=dtype),
        Rows(out, dtype=dtype),
        call.similarity.classes,
    )
    smoothing = np.array([call.smoothing / n_columns, call.smoothing / max(call.similarity.rows, 1)])
    points = call.positives
    slopes = _slopes(by_row, points.rows, points.row_mass, smoothing[0], call) + _slopes(
        by_column, points.columns, points.column_mass, smoothing[1], call
    )
    together = _brought_together(of_rows, of_columns, dtype)
    of_rows, of_columns = np.ascontiguousarray(of_rows.T), of_columns.astype(compute_dtype(dtype))
    scale_gradient = np.empty(call.similarity.rows)
    past_cache = goes_past_cache(out, call.similarity.view)
    kernel = clip_gradient.compiled(dtype)

    def work(start: int, stop: int) -> None:
        room = gradient.room(start, stop)
        kernel(
            similarity.block(start, stop), points.first_points[start : stop + 1], points.columns, slopes,
            call.scale, of_rows[start:stop], of_columns, together, smoothing, room, scale_gradient[start:stop],
            past_cache,
        )  # fmt: skip
        gradient.put_back(start, stop, room)

    for_each(cut_rows(call.similarity.rows, call.similarity.row_bytes), work, n_threads)
    return ClipValueAndGrad(_value(call, by_row, by_column), out, float(scale_gradient.sum()))


# --- arguments -------------------------------------------------------------------------------------------------------


def _checked_call(
    similarity: Any, targets: Any, logit_scale: Any, label_smoothing: Any, reduction: Any
) -> SimilarityCall:
    array = real_array(similarity, "similarity")
    if array.ndim != 2:
        raise ValueError(f"similarity must have two dimensions, got shape {array.shape}")
    rows, columns = array.shape
    reduction = reduction_of(reduction)
    if rows != columns and (targets is None or reduction == "none"):
        why = "unless targets are given" if targets is None else "for reduction='none'"
        raise ValueError(f"similarity must be square {why}, got shape {array.shape}")
    scale, smoothing = positive(logit_scale, "logit_scale"), fraction(label_smoothing, "label_smoothing")
    return SimilarityCall(array, Rows(array), positives_of(targets, array.shape), scale, smoothing, reduction)


def _value(call: SimilarityCall, by_row: Side, by_column: Side) -> Any:
    if call.reduction == "none":
        return (0.5 * (by_row.losses + by_column.losses)).astype(compute_dtype(call.similarity.dtype))
    if call.reduction == "sum":
        return 0.5 * float(by_row.losses.sum() + by_column.losses.sum())
    if not by_row.factor.any():
        return math.nan
    return float((by_row.losses * by_row.factor).sum() + (by_column.losses * by_column.factor).sum())


def _slopes(side: Side, owner: Array, mass: Array, spread: float, call: SimilarityCall) -> Array:
    """dL/dx of the positives, one direction's part: a (p - target), with p - 1 = expm1(x - lse) for its digits."""
    missing = 1.0 - (1.0 - call.smoothing) * mass - spread
    with np.errstate(invalid="ignore"):
        return side.factor[owner] * (np.expm1(-side.of_points) + missing)


def _powers(side: Side) -> Array:
    """(exponent, factor / (exp(lse) / 2**exponent), factor) for each row or column."""
    fraction_of_total, power = np.frexp(side.total)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        finite = np.isfinite(side.total) & (side.total > 0.0)
        left_over = np.where(finite, side.factor / fraction_of_total, np.nan)
    exponent = np.where(finite, side.exponent + power, 0.0)
    return np.stack([exponent, np.where(side.factor == 0.0, 0.0, left_over), side.factor])


def _brought_together(of_rows: Array, of_columns: Array, dtype: np.dtype[Any]) -> bool:
    """Give all rows and columns the lowest of their powers of two, unless exp would leave the dtype's range."""
    exponents = np.concatenate([of_rows[0], of_columns[0]])
    lowest, spread = exponents.min(initial=np.inf), np.ptp(exponents) if exponents.size else 0.0
    together = bool(spread <= SPREAD[compute_dtype(dtype).name])
    if together:
        for side in (of_rows, of_columns):
            side[1] = np.ldexp(side[1], (lowest - side[0]).astype(np.int64))
            side[0] = lowest
    return together
