"""InfoNCE in stripes of queries: one task for each does, since only queries have losses."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import checked_memory_budget, flag, inverse_temperature, reduction_of
from fastce.arguments.positives import check_negatives, check_positives
from fastce.cpu.engine import Cpu
from fastce.cpu.panel_losses import ClassLosses, PanelLosses
from fastce.dask.features import (
    FeatureStripes,
    as_rows,
    check_progress,
    computed_in,
    dask_array,
    dask_features,
    parts_of_gradients,
)
from fastce.dask.tasks import Key
from fastce.losses.info_nce import WithPairs, products_with_keys
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.loss import swept
from fastce.products.panels import PanelsOfOwnKeys
from fastce.products.ranges import Range
from fastce.products.tiles import Products
from fastce.typing import InfoNceValueAndGrad, Number, Reduction


def info_nce(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> Any:
    """As `fastce.info_nce`, of Dask arrays.

    Parameters
    ----------
    query, positive_key : dask.array.Array, shape (N, D)
        A task takes one chunk of rows of the queries, and all keys that are shared by queries.
    negative_keys : dask.array.Array, shape (M, D) or (N, M, D), optional
        As in `fastce.info_nce`. Arrays of NumPy will do for all arguments.
    temperature, normalize, reduction
        As in `fastce.info_nce`.
    memory_budget, progress, n_threads
        As in `fastce.dask.clip_loss_from_features`.

    Returns
    -------
    dask.array.Array
        Of shape (); for "none" of shape (N,), in the chunks of `query`.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> query = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> key = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> round(float(fastce.dask.info_nce(query, key).compute()), 10)
    0.0022995943
    """
    check_progress(progress)
    call = _Call(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, n_threads, writes=False
    )
    return call.value(call.sweep(_losses))


def info_nce_value_and_grad(
    query: Any,
    positive_key: Any,
    negative_keys: Any = None,
    *,
    temperature: Number = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> InfoNceValueAndGrad[Any, Any]:
    """As `fastce.info_nce_value_and_grad`, of Dask arrays.

    Parameters
    ----------
    query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, progress, n_threads
        As in `info_nce`.

    Returns
    -------
    InfoNceValueAndGrad
        Of Dask arrays: gradients in the chunks of what they belong to, the last None if there are no `negative_keys`;
        that of the temperature of shape (). Compute them together, by ``dask.compute(*result)``.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> query = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> key = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> fastce.dask.info_nce_value_and_grad(query, key).grad_query.compute().round(4)
    array([[-0.0038,  0.0189],
           [ 0.0024, -0.0003]])
    """
    check_progress(progress)
    return _Call(
        query, positive_key, negative_keys, temperature, normalize, reduction, memory_budget, n_threads, writes=True
    ).value_and_gradients()


class _Call:
    """A checked call."""

    def __init__(
        self,
        query: Any,
        positive_key: Any,
        negative_keys: Any,
        temperature: Any,
        normalize: Any,
        reduction: Any,
        memory_budget: Any,
        n_threads: Any,
        writes: bool,
    ) -> None:
        arrays = dask_features([query, positive_key], ["query", "positive_key"])
        check_positives(*arrays)
        self.has_negatives: bool = negative_keys is not None
        number = None
        if self.has_negatives:
            arrays.append(dask_array(negative_keys, "negative_keys"))
            check_negatives(arrays[2].shape, *arrays[0].shape)
            number = arrays[2].shape[-2]
        options: dict[str, Any] = {
            "scale": inverse_temperature(temperature), "normalize": flag(normalize, "normalize"),
            "reduction": reduction_of(reduction), "memory_budget": checked_memory_budget(memory_budget),
            "writes": writes,
        }  # fmt: skip
        self.reduction: str = options["reduction"]
        self.of_losses: np.dtype[Any] = computed_in(*arrays)
        self.of_stripe: dict[str, Any] = {
            "reduction": self.reduction, "of_losses": self.of_losses, "number": number,
            "whole_rows": arrays[0].shape[0],
        }  # fmt: skip
        shared = 1 if number is None or arrays[2].ndim == 2 else 0  # keys of all queries are the last array
        cut = len(arrays) - shared
        self.striped = FeatureStripes("info_nce", arrays[:cut], arrays[cut:], [], options, n_threads, _products)
        self.tasks = self.striped.tasks

    def sweep(self, function: Any) -> list[Key]:
        first = [self.tasks.constant(stripe.rows.start) for stripe in self.striped.stripes]
        return self.striped.sweep(function, first, **self.of_stripe)

    def value(self, losses: list[Key]) -> Any:
        options = {name: self.of_stripe[name] for name in ("reduction", "of_losses", "whole_rows")}
        if self.reduction != "none":
            return self.tasks.number("value", self.tasks.add(_reduced, losses, **options))
        parts = [self.tasks.add(_kept, key) for key in losses]
        return self.tasks.array("value", parts, self.striped.chunks, self.of_losses)

    def value_and_gradients(self) -> InfoNceValueAndGrad[Any, Any]:
        striped, keys = self.striped, self.sweep(_losses_and_gradients)
        of_query, of_positive, *of_negative = striped.gradients(keys)
        of_temperature = self.tasks.add(_grad_of_temperature, striped.others(keys, 0), striped.within)
        return InfoNceValueAndGrad(
            self.value(striped.others(keys, 1)),
            of_query,
            of_positive,
            of_negative[0] if of_negative else None,
            self.tasks.number("temperature", of_temperature),
        )


def _products(engine: Cpu, arrays: Sequence[Array], within: Range, normalize: bool, memory_budget: int) -> Products:
    shape = arrays[2].shape if len(arrays) > 2 else ()
    rows = [as_rows(engine, array) for array in arrays]
    return products_with_keys(engine, rows, shape, within, normalize, memory_budget)


def _losses(engine: Cpu, products: Products, within: Range, first: int, **options: Any) -> PanelLosses:
    return _swept(engine, products, within, first, writes=False, **options)


def _losses_and_gradients(
    engine: Cpu, products: Products, within: Range, first: int, **options: Any
) -> tuple[Any, ...]:
    losses = _swept(engine, products, within, first, writes=True, **options)
    if not isinstance(products, WithPairs):
        return *parts_of_gradients(products, within), losses
    of_query, of_negative, along = parts_of_gradients(products, within)
    if isinstance(products.negatives, PanelsOfOwnKeys):
        keys = products.negatives.right
        ((of_negative,), _) = keys.finished(of_negative, False, within.rest_of_right)
        of_negative = of_negative.reshape(len(of_query), products.negatives.number, keys.width)
    return of_query, products.finished_positive(within)[0], of_negative, along, losses


def _swept(
    engine: Cpu,
    products: Products,
    within: Range,
    first: int,
    *,
    reduction: str,
    of_losses: np.dtype[Any],
    number: int | None,
    whole_rows: int,
    writes: bool,
) -> PanelLosses:
    """Each query's own key comes after the ``number`` of negative ones; without these it is that of its row of all."""
    rows = products.left.rows
    own = np.arange(first, first + rows) if number is None else np.full(rows, number)
    loss = ClassLosses(own, of_losses, within.scale, within.is_plain, reduction, engine.n_threads, whole_rows)
    swept("info_nce", products, loss, None, writes)
    return loss.losses


def _reduced(
    engine: Cpu, parts: Sequence[PanelLosses], *, reduction: str, of_losses: np.dtype[Any], whole_rows: int
) -> Any:
    whole = PanelLosses(whole_rows, of_losses, reduction)
    whole.sums = [total for part in parts for total in part.sums]
    return np.float64(whole.value((whole_rows,), whole_rows))


def _kept(engine: Cpu, losses: PanelLosses) -> Array:
    return losses.kept


def _grad_of_temperature(engine: Cpu, along: Sequence[float], within: Range) -> Any:
    return np.float64(within.of_temperature(sum(along)))
