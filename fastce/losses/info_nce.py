"""InfoNCE: each query is to be told its positive key among negative ones; a panel of queries at a time."""

from typing import Any, Literal, NamedTuple, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, real_array
from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.arguments.reductions import mean_factor
from fastce.arguments.silence import quietly
from fastce.cpu.panel_losses import PanelLosses
from fastce.engine import by_device
from fastce.products.features import Features, feature_arrays, products_of_pairs
from fastce.products.gradients import MEMORY_BUDGET, Gradient
from fastce.products.panels import Panels, PanelsOfOwnKeys
from fastce.products.progress import Progress
from fastce.products.ranges import Range, dtype_of_products, range_of
from fastce.typing import (
    AnyArray,
    ContrastiveOptions,
    Float,
    FloatArray,
    InfoNceValueAndGrad,
    Number,
    ProgressOption,
    RealArray,
    Reduced,
    Reduction,
)


# fmt: off
@overload
def info_nce(
    query: AnyArray, positive_key: AnyArray, negative_keys: AnyArray | None = None,
    *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> float: ...
@overload
def info_nce(
    query: RealArray, positive_key: AnyArray, negative_keys: AnyArray | None = None,
    *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> FloatArray: ...
@overload
def info_nce(
    query: AnyArray, positive_key: AnyArray, negative_keys: AnyArray | None = None,
    *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> Any: ...
# fmt: on
@by_device
def info_nce(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> Any:
    r"""InfoNCE: cross entropy of each query's product with its own key among its products with negative keys.

    .. math:: -\frac1N \sum_i \log \frac{\exp(q_i \cdot k_i / \tau)}
              {\exp(q_i \cdot k_i / \tau) + \sum_{k \in \mathrm{negatives}} \exp(q_i \cdot k / \tau)}

    Parameters
    ----------
    query, positive_key : array_like, shape (N, D)
        Row i of one belongs to row i of the other. Dtypes and strides as in `clip_loss_from_features`.
    negative_keys : array_like, shape (M, D) or (N, M, D), optional
        Shared by all queries, or M for each (copied, if these are not contiguous). By default the positive keys of all
        other queries.
    temperature : float, default: 0.1
        Positive divisor of the products.
    normalize : bool, default: True
        Whether rows are divided by their lengths first. A row of length 0 stays 0 and has gradient 0.
    reduction : {"mean", "sum", "none"}, default: "mean"
        Of the losses of the queries. The mean of an
        empty batch is nan, its sum 0.
    memory_budget, progress, n_threads
        As in `linear_cross_entropy`.

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
    What float32 is too coarse for (large products, low temperatures) is computed in float64, as in
    `clip_loss_from_features`.

    References
    ----------
    .. [1] A. van den Oord et al., "Representation Learning with Contrastive Predictive Coding", 2018.
    .. [2] K. He et al., "Momentum Contrast for Unsupervised Visual Representation Learning", CVPR 2020.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> query, key = np.array([[1.0, 0.2], [0.1, 0.9]]), np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> round(fastce.info_nce(query, key), 10)
    0.0022995943
    >>> round(fastce.info_nce(query, key, [[0.5, -0.5], [-1.0, 0.0]]), 10)
    0.0059521897
    """
    call = _checked_call(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads
    )
    with call.progress, quietly():
        return _swept(call, None)


# fmt: off
@overload
def info_nce_value_and_grad(
    query: RealArray[Float], positive_key: RealArray[Float], negative_keys: RealArray[Float] | None = None,
    *, reduction: Reduced = "mean", **options: Unpack[ContrastiveOptions]
) -> InfoNceValueAndGrad[float, NDArray[Float]]: ...
@overload
def info_nce_value_and_grad(
    query: RealArray[Float], positive_key: RealArray[Float], negative_keys: RealArray[Float] | None = None,
    *, reduction: Literal["none"], **options: Unpack[ContrastiveOptions]
) -> InfoNceValueAndGrad[FloatArray, NDArray[Float]]: ...
@overload
def info_nce_value_and_grad(
    query: AnyArray, positive_key: AnyArray, negative_keys: AnyArray | None = None,
    *, reduction: Reduction = "mean", **options: Unpack[ContrastiveOptions]
) -> InfoNceValueAndGrad[Any, Any]: ...
# fmt: on
@by_device
def info_nce_value_and_grad(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: ProgressOption = None,
    n_threads: int | None = None,
) -> InfoNceValueAndGrad:
    """InfoNCE and all of its gradients, in one sweep.

    Parameters
    ----------
    query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads
        As in `info_nce`.

    Returns
    -------
    InfoNceValueAndGrad
        ``value``; ``grad_query``, ``grad_positive_key`` and ``grad_negative_keys`` in the shapes and dtypes of what
        they belong to, the last None if there are no `negative_keys`; ``grad_temperature``, a Python float. For
        ``reduction="none"`` the gradients are those of the sum.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> query, key = np.array([[1.0, 0.2], [0.1, 0.9]]), np.array([[0.8, 0.1], [0.3, 1.1]])
    >>> fastce.info_nce_value_and_grad(query, key).grad_query.round(4)
    array([[-0.0038,  0.0189],
           [ 0.0024, -0.0003]])
    """
    call = _checked_call(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads
    )
    gradients = _Gradients(call)
    with call.progress, quietly():
        value = _swept(call, gradients)
        return InfoNceValueAndGrad(value, *gradients.finished())


class _Call(NamedTuple):
    """A checked call. Without negative keys the positive ones are the right side of the panels."""

    panels: Panels | PanelsOfOwnKeys
    query: Features
    positive: Features
    negative: Features | None
    negative_shape: tuple[int, ...]
    range: Range
    reduction: str
    dtype: np.dtype[Any]  # of losses
    progress: Progress
    n_threads: int | None


def _checked_call(
    query: Any,
    positive_key: Any,
    negative_keys: Any,
    temperature: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
    n_threads: int | None,
) -> _Call:
    arrays = feature_arrays([query, positive_key], ["query", "positive_key"])
    if len(arrays[0]) != len(arrays[1]):
        raise ValueError(f"query and positive_key differ in shape: {arrays[0].shape} and {arrays[1].shape}")
    shape: tuple[int, ...] = ()
    if negative_keys is not None:
        array = real_array(negative_keys, "negative_keys")
        shape = array.shape
        arrays.append(_checked_negatives(array, *arrays[0].shape))
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(arrays[:1], arrays[1:], scale, normalize=normalize)
    dtype, powers = within.dtype, [within.left_power, within.right_power, within.right_power]
    first, second, *others = (
        Features([array], dtype, normalize, n_threads, power=power)
        for array, power in zip(arrays, powers[: len(arrays)], strict=True)
    )
    panels: Panels | PanelsOfOwnKeys
    if not others:
        panels = Panels(first, second, memory_budget)
    elif len(shape) == 2:
        panels = Panels(first, others[0], memory_budget, 1, bytes_of_row=3 * first.width * dtype.itemsize)
    else:
        panels = PanelsOfOwnKeys(first, others[0], shape[1], memory_budget)
    reporter = Progress(progress, len(panels.row_cuts), "info_nce", "panel")
    negative = others[0] if others else None
    of_losses = dtype_of_products(arrays)
    return _Call(panels, first, second, negative, shape, within, reduction, of_losses, reporter, n_threads)


def _checked_negatives(array: Array, queries: int, width: int) -> Array:
    """All negative keys as rows of a matrix."""
    fits = array.ndim in (2, 3) and array.shape[-1] == width and (array.ndim == 2 or array.shape[0] == queries)
    if not fits:
        raise ValueError(f"negative_keys have shape {array.shape}, expected (M, {width}) or ({queries}, M, {width})")
    return array.reshape(queries * array.shape[1], width) if array.ndim == 3 else array


class _Gradients:
    """The gradients of queries and keys, as far as the panels have come."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.of_query = np.zeros((call.query.rows, call.query.width), call.query.dtype)
        self.of_positive = Gradient(call.positive.rows, call.positive)
        self.of_negative = None if call.negative is None else Gradient(call.negative.rows, call.negative)

    def add(self, rows: slice, slopes: Array) -> None:
        """Add what a panel's slopes, the gradient of its logits, contribute."""
        panels = self.call.panels
        if self.of_negative is None:
            self.of_query[rows] = panels.gradient_of_left(slopes)
            panels.add_to_right(rows, slopes, self.of_positive)
            return
        of_pairs = slopes[:, -1:]
        self.of_query[rows] = panels.gradient_of_left(slopes[:, :-1]) + of_pairs * self.call.positive.panel(rows)
        panels.add_to_right(rows, slopes[:, :-1], self.of_negative)
        self.of_positive.total[rows] = of_pairs * self.call.query.panel(rows)

    def finished(self) -> tuple[Array, Array, Array | None, float]:
        """In the shapes and dtypes of what they belong to; and that of the temperature."""
        call, of_negative, rest = self.call, None, self.call.range.rest_of_right
        (of_query,), along = call.query.finished(self.of_query, rest=call.range.rest_of_left)
        (of_positive,), _ = call.positive.finished(self.of_positive.total, False, rest)
        if call.negative is not None and self.of_negative is not None:
            (flat,), _ = call.negative.finished(self.of_negative.total, False, rest)
            of_negative = flat.reshape(call.negative_shape)
        return of_query, of_positive, of_negative, call.range.of_temperature(along)


def _swept(call: _Call, gradients: _Gradients | None) -> Any:
    """The value; the gradients are added up if there is room for them."""
    losses = PanelLosses(call.query.rows, call.dtype, call.reduction)
    factor = None
    if gradients is not None:
        factor = mean_factor(call.query.rows) if call.reduction == "mean" else 1.0

    def work(rows: slice, logits: Array) -> None:
        targets = pairs = np.arange(rows.start, rows.stop)
        if call.negative is not None:
            targets = np.full(len(logits), logits.shape[1] - 1)
            logits[:, -1] = products_of_pairs(call.query, pairs, call.positive, pairs, call.n_threads)
        within = call.range
        losses.take_scaled(rows, logits, targets, factor, within.scale, within.is_plain, call.n_threads)
        if gradients is not None:
            gradients.add(rows, logits)

    call.panels.sweep(work, call.progress)
    return losses.value((call.query.rows,), call.query.rows)
