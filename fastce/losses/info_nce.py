"""InfoNCE: each query is to be told its positive key among negative ones; a panel of queries at a time."""

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Literal, Unpack, overload

from numpy.typing import NDArray

from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.arguments.positives import check_negatives, check_positives
from fastce.engine import by_engine
from fastce.losses.plain_features import plain_info_nce
from fastce.products.engine import Engine, engine_for
from fastce.products.features import Features, feature_arrays
from fastce.products.gradients import MEMORY_BUDGET, Gradient
from fastce.products.loss import LossCall
from fastce.products.panels import Panels, PanelsOfOwnKeys
from fastce.products.progress import Progress
from fastce.products.ranges import Range, dtype_of_products, range_of
from fastce.products.tiles import Place, Products
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
@by_engine
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
    plain = plain_info_nce(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads,
        want_gradient=False,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(query, n_threads) as engine:
        return checked_call(
            engine, query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress
        )[0].value()


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
@by_engine
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
    plain: InfoNceValueAndGrad | None = plain_info_nce(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads,
        want_gradient=True,
    )  # fmt: skip
    if plain is not None:
        return plain
    with engine_for(query, n_threads) as engine:
        call, shape = checked_call(
            engine, query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress
        )
        value, (of_query,), of_keys, along = call.value_and_gradients()
        of_negative = engine.given(of_keys[1], shape) if shape else None
        of_temperature = call.range.of_temperature(along)
        return InfoNceValueAndGrad(value, engine.given(of_query), engine.given(of_keys[0]), of_negative, of_temperature)


def checked_call(
    engine: Engine, query: Any, positive_key: Any, negative_keys: Any, temperature: Any, normalize: bool,
    reduction: Any, memory_budget: Any, progress: Any,
) -> tuple[LossCall, tuple[int, ...]]:  # fmt: skip
    """(the call, the shape of the negative keys if there are any)."""
    arrays = feature_arrays(engine, [query, positive_key], ["query", "positive_key"])
    queries, width = arrays[0].shape
    check_positives(*arrays)
    shape: tuple[int, ...] = ()
    if negative_keys is not None:
        negative = engine.array(negative_keys, "negative_keys")
        shape = negative.shape
        arrays.append(_checked_negatives(engine, negative, queries, width))
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(engine, arrays[:1], arrays[1:], scale, normalize=normalize)
    products = products_with_keys(engine, arrays, shape, within, normalize, memory_budget)
    own = engine.xp.full(queries, shape[-2]) if shape else engine.xp.arange(queries)
    losses = engine.class_losses(
        own, shape[-2] + 1 if shape else queries, within, dtype_of_products(engine, arrays), reduction
    )
    return LossCall("info_nce", engine, within, products, losses, progress), shape


def products_with_keys(
    engine: Engine, arrays: Sequence[Any], shape: tuple[int, ...], within: Range, normalize: bool, memory_budget: Any
) -> "Panels | WithPairs":
    """The products of queries with positive keys, or with negative ones, of this shape, and their own positive one."""
    powers = [within.left_power, within.right_power, within.right_power]
    first, second, *others = (
        Features(engine, [array], within.dtype, normalize, power=power)
        for array, power in zip(arrays, powers[: len(arrays)], strict=True)
    )
    if not others:
        return Panels(first, second, memory_budget)
    if len(shape) == 3:
        return WithPairs(PanelsOfOwnKeys(first, others[0], shape[1], memory_budget), second)
    return WithPairs(Panels(first, others[0], memory_budget, 1, bytes_of_row=3 * first.row_bytes), second)


def _checked_negatives(engine: Engine, array: Any, queries: int, width: int) -> Any:
    """All negative keys as rows of a matrix."""
    check_negatives(array.shape, queries, width)
    return engine.reshaped(array, (queries * array.shape[1], width)) if array.ndim == 3 else array


class WithPairs(Products):
    """Panels of queries and negative keys; the last column are the products of queries with their own keys."""

    unit: str = "panel"

    def __init__(self, negatives: Products, positive: Features) -> None:
        super().__init__(negatives.left, negatives.right)
        self.negatives = negatives
        self.places: list[Place] = negatives.places
        self.positive = positive

    @cached_property
    def of_right(self) -> Gradient:
        """The gradient of the negative keys."""
        return self.negatives.of_right

    @cached_property
    def of_positive(self) -> Gradient:
        """The gradient of the queries' own keys."""
        return Gradient(self.positive)

    def leave_out(self, side: str) -> None:
        """See `Products.leave_out`: of negative keys; those of pairs cost little."""
        self.negatives.leave_out(side)

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """See `Products.sweep`."""

        def with_pairs(place: Place, panel: Any) -> None:
            pairs = self.engine.xp.arange(place.rows.start, place.rows.stop)
            panel[:, -1] = self.left.products_of_pairs(pairs, self.positive, pairs)
            work(place, panel)

        self.negatives.sweep(with_pairs, progress)

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """See `Products.add_to_gradients`."""
        rows, of_pairs = place.rows, slopes[:, -1:]
        self.negatives.add_to_gradients(place, slopes[:, :-1])
        self.negatives.of_left.total[rows] += of_pairs * self.positive.panel(rows)
        self.of_positive.total[rows] = of_pairs * self.left.panel(rows)

    def finished(self, within: Range) -> tuple[list[Any], list[Any], float]:
        """As `Products.finished`; of the keys those of positive ones come first."""
        of_query, of_negative, along = self.negatives.finished(within)
        return of_query, self.finished_positive(within) + of_negative, along

    def finished_left(self, within: Range) -> tuple[list[Any], float]:
        """See `Products.finished_left`."""
        return self.negatives.finished_left(within)

    def finished_positive(self, within: Range) -> list[Any]:
        """The gradient of the positive keys."""
        return self.positive.finished(self.of_positive.memory, False, within.rest_of_right)[0]
