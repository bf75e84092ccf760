"""SigLIP's loss in stripes of image features: one task for each does, since every pair is a question of its own."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import checked_memory_budget, finite, flag, positive, reduction_of
from fastce.arguments.positives import Positives, checked_shape
from fastce.cpu.engine import Cpu
from fastce.dask.features import (
    FeatureStripes,
    check_progress,
    computed_in,
    dask_features,
    grad_of_scale,
    parts_of_gradients,
)
from fastce.dask.pairs import Pairs
from fastce.losses.siglip import Sigmoids
from fastce.losses.sigmoid import reduced_losses
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.loss import swept
from fastce.products.ranges import Range
from fastce.products.tiles import Products
from fastce.typing import Number, Reduction, SiglipValueAndGrad


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
    progress: None = None,
    n_threads: int | None = None,
) -> Any:
    """As `fastce.siglip_loss`, of Dask arrays.

    Parameters
    ----------
    image_features, text_features, targets : dask.array.Array
        As in `fastce.dask.clip_loss_from_features`.
    logit_scale, logit_bias, normalize, reduction
        As in `fastce.siglip_loss`.
    memory_budget, progress, n_threads
        As in `fastce.dask.clip_loss_from_features`.

    Returns
    -------
    dask.array.Array
        Of shape (); for "none" of shape (N,), in the chunks of `image_features`.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> images = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> texts = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> loss = fastce.dask.siglip_loss(images, texts, 10.0, -5.0, normalize=True)
    >>> round(float(loss.compute()), 10)
    0.2724921806
    """
    check_progress(progress)
    call = _Call(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, n_threads,
        writes=False,
    )  # fmt: skip
    return call.value(call.sweep(_losses))


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
    progress: None = None,
    n_threads: int | None = None,
) -> SiglipValueAndGrad[Any, Any]:
    """As `fastce.siglip_loss_value_and_grad`, of Dask arrays.

    Parameters
    ----------
    image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, progress, \
n_threads
        As in `siglip_loss`.

    Returns
    -------
    SiglipValueAndGrad
        Of Dask arrays: gradients in the chunks of the features, those of numbers of shape (). Compute them together,
        by ``dask.compute(*result)``.

    Examples
    --------
    >>> import dask, dask.array as da, numpy as np, fastce.dask
    >>> images = da.from_array(np.array([[1.0, 0.2], [0.1, 0.9]]), chunks=(1, 2))
    >>> texts = da.from_array(np.array([[0.8, 0.1], [0.3, 1.1]]), chunks=(1, 2))
    >>> result = fastce.dask.siglip_loss_value_and_grad(images, texts, 10.0, -5.0)
    >>> round(float(result.grad_logit_bias.compute()), 6)
    0.270377
    """
    check_progress(progress)
    return _Call(
        image_features, text_features, logit_scale, logit_bias, targets, normalize, reduction, memory_budget, n_threads,
        writes=True,
    ).value_and_gradients()  # fmt: skip


class _Call:
    """A checked call."""

    def __init__(
        self,
        image_features: Any,
        text_features: Any,
        logit_scale: Any,
        logit_bias: Any,
        targets: Any,
        normalize: Any,
        reduction: Any,
        memory_budget: Any,
        n_threads: Any,
        writes: bool,
    ) -> None:
        left, right = dask_features([image_features, text_features], ["image_features", "text_features"])
        shape = checked_shape([left, right], targets)
        pairs = Pairs(targets, shape)
        options: dict[str, Any] = {
            "scale": positive(logit_scale, "logit_scale"), "bias": finite(logit_bias, "logit_bias"),
            "normalize": flag(normalize, "normalize"), "reduction": reduction_of(reduction), "targets": pairs.known,
            "memory_budget": checked_memory_budget(memory_budget), "writes": writes,
        }  # fmt: skip
        self.reduction: str = options["reduction"]
        self.of_losses = computed_in(left, right)
        self.of_stripe: dict[str, Any] = {
            "bias": options["bias"], "reduction": self.reduction, "whole_rows": shape[0],
        }  # fmt: skip
        self.striped = FeatureStripes("siglip_loss", [left], [right], pairs.arrays, options, n_threads)
        self.tasks = self.striped.tasks
        self.points = pairs.of_stripes(self.tasks, pairs.of_all(self.tasks), self.striped.stripes)

    def sweep(self, function: Any) -> Any:
        return self.striped.sweep(function, self.points, **self.of_stripe)

    def value(self, losses: Any) -> Any:
        if self.reduction != "none":
            return self.tasks.number("value", self.tasks.add(_reduced, losses, reduction=self.reduction))
        parts = [self.tasks.add(_rounded, key, dtype=self.of_losses) for key in losses]
        return self.tasks.array("value", parts, self.striped.chunks, self.of_losses)

    def value_and_gradients(self) -> SiglipValueAndGrad[Any, Any]:
        tasks, keys = self.tasks, self.sweep(_losses_and_gradients)
        of_left, of_right = self.striped.gradients(keys)
        along, losses, of_bias = (self.striped.others(keys, place) for place in range(3))
        return SiglipValueAndGrad(
            self.value(losses),
            of_left,
            of_right,
            tasks.number("scale", tasks.add(grad_of_scale, along, self.striped.within)),
            tasks.number("bias", tasks.add(_sum, of_bias)),
        )


def _losses(engine: Cpu, products: Products, within: Range, points: Positives, **options: Any) -> Array:
    return _swept(products, within, points, writes=False, **options).losses  # type: ignore[no-any-return]


def _losses_and_gradients(
    engine: Cpu, products: Products, within: Range, points: Positives, **options: Any
) -> tuple[Array, Array, float, Array, float]:
    loss = _swept(products, within, points, writes=True, **options)
    return *parts_of_gradients(products, within), loss.losses, loss.of_bias()


def _swept(
    products: Products,
    within: Range,
    points: Positives,
    *,
    bias: float,
    reduction: str,
    whole_rows: int,
    writes: bool,
) -> Sigmoids:
    loss = Sigmoids(products, points, within, bias, reduction, within.dtype, whole_rows)
    swept("siglip_loss", products, loss, None, writes)
    return loss


def _reduced(engine: Cpu, losses: Sequence[Array], *, reduction: str) -> Any:
    return np.float64(reduced_losses(np.concatenate(losses), reduction))


def _rounded(engine: Cpu, losses: Array, *, dtype: np.dtype[Any]) -> Array:
    return losses.astype(dtype)


def _sum(engine: Cpu, parts: Sequence[float]) -> Any:
    return np.float64(sum(parts))
