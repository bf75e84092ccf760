"""SupCon: the other rows with the same label are a row's positives, however many there are."""

from collections.abc import Callable
from typing import Any, Literal, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from fastce.arguments.arrays import Array, plain_array
from fastce.arguments.labels import Classes, checked_labels
from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.arguments.positives import pairs
from fastce.arguments.silence import quietly
from fastce.cpu.sides import Side, shares, value_of
from fastce.cpu.sums import half_difference
from fastce.cpu.threads import BLOCK_BYTES, in_turn
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
@by_device
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
    call, classes = _checked_call(
        features, labels, temperature, normalize, reduction, memory_budget, progress, n_threads, sweeps=1
    )
    with call.progress, quietly():
        sides = _sides(call, classes, keep=False)
        return value_of(*sides, call.reduction, call.dtype)


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
@by_device
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
    call, classes = _checked_call(
        features, labels, temperature, normalize, reduction, memory_budget, progress, n_threads, sweeps=2
    )
    with call.progress, quietly():
        sides = _sides(call, classes, keep=True)
        total = gradients(call, *sides)[0].total
        _attract(call, classes, sides[0], total)
        (gradient,), along = call.tiles.left.finished(total, rest=call.range.rest_of_left)
        value = value_of(*sides, call.reduction, call.dtype)
    return SupConValueAndGrad(value, gradient, call.range.of_temperature(0.5 * along))


def _checked_call(
    features: Any,
    labels: Any,
    temperature: Any,
    normalize: bool,
    reduction: Any,
    memory_budget: Any,
    progress: Any,
    n_threads: int | None,
    sweeps: int,
) -> tuple[TilesCall, "Classes"]:
    arrays = feature_arrays([features], ["features"])
    classes = Classes(checked_labels(plain_array(labels, "labels"), len(arrays[0])))
    scale, reduction = inverse_temperature(temperature), reduction_of(reduction)
    within = range_of(arrays, arrays, scale, normalize=normalize)
    rows = Features(arrays, within.dtype, normalize, n_threads, power=within.left_power)
    everyone = np.arange(rows.rows)
    tiles = Tiles(rows, rows, memory_budget)
    reporter = Progress(progress, sweeps * len(tiles.places), "sup_con")
    couples = pairs(*classes.couples(), (rows.rows, rows.rows))
    of_losses = dtype_of_products(arrays)
    call = TilesCall(tiles, couples, (everyone, everyone), within, 0.0, reduction, of_losses, reporter, n_threads)
    return call, classes


def _sides(call: TilesCall, classes: Classes, keep: bool) -> tuple[Side, Side]:
    """The losses of all rows: lse less the mean similarity with the positives, of which there are two or more.

    Those of a single one may be tiny, and are computed as CLIP's. All others are at least log(2).
    """
    sides = both_sides(call, keep)
    mean = np.zeros(classes.others.size)
    number = np.maximum(classes.others, 1)

    def work(rows: Array, of_rows: Array, mates: Array) -> None:
        mean[rows] = np.einsum("ij,ij->i", of_rows, mates) / number[rows]

    _for_each_class(call, classes, work)
    for side in sides:
        unit = 2.0**-side.shift
        quarters = 0.5 * (0.5 * unit * np.log(side.total) + half_difference(side.tops, mean, call.scale * unit))
        side.quarter_losses = np.where(classes.others > 1, quarters, side.quarter_losses)
        side.share = shares(classes.others > 0, call.reduction)
    return sides


def _attract(call: TilesCall, classes: Classes, side: Side, gradient: Array) -> None:
    """Add the part of the gradient that draws rows of the same label together; from both rows of each pair.

    That of couples is there already.
    """
    slopes = np.where(classes.others > 1, -2.0 * call.range.factor * side.share / np.maximum(classes.others, 1), 0.0)

    def work(rows: Array, of_rows: Array, mates: Array) -> None:
        gradient[rows] += slopes[rows, None] * mates

    _for_each_class(call, classes, work)


def _for_each_class(call: TilesCall, classes: Classes, work: Callable[[Array, Array, Array], None]) -> None:
    """work(numbers, rows, the sum of all other rows with the same label), all in float64, for some rows at a time."""
    features = call.tiles.left
    at_a_time = max(1, BLOCK_BYTES // (8 * max(features.width, 1)))

    def of_group(numbers: Array, first: Array) -> None:
        blocks = [slice(k, k + at_a_time) for k in range(0, numbers.size, at_a_time)]
        if len(blocks) == 1:
            totals = np.add.reduceat(features.gathered(numbers), first, axis=0)
        else:  # a single class
            totals = sum(features.gathered(numbers[block]).sum(axis=0) for block in blocks)[None]
        class_of_row = np.searchsorted(first, np.arange(numbers.size), side="right") - 1
        for block in blocks:
            rows = features.gathered(numbers[block])
            work(numbers[block], rows, totals[class_of_row[block]] - rows)

    in_turn(list(classes.groups(at_a_time)), of_group, call.n_threads)
