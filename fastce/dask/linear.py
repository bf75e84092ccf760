"""Cross entropy of a linear layer in stripes of features: one task for each does, and has all weights of the layer."""

import functools
import math
from typing import Any

import dask.array as da
import numpy as np

from fastce.arguments.arrays import check_widths
from fastce.arguments.numbers import checked_memory_budget, is_one_number
from fastce.arguments.reductions import upstream_of
from fastce.arguments.sparse import checked_csr, is_sparse
from fastce.cpu.call import cross_entropy_call
from fastce.dask import linear_stripes
from fastce.dask.features import added, block, check_progress, computed_in, dask_array, first_block, in_stripes
from fastce.dask.features import result_dtype as dtype_of_gradient
from fastce.dask.tasks import Key, Stripe, Tasks, stripes_of
from fastce.losses.linear_gradients import check_dimensions, check_layer
from fastce.products.gradients import MEMORY_BUDGET
from fastce.typing import Index, LinearCrossEntropyValueAndGrad, Number, Reduction, SmoothingOver

_NAME = "linear_cross_entropy"
_OF_ALL_STRIPES = ("ignore_index", "label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss")


def linear_cross_entropy(
    features: Any,
    linear_weight: Any,
    targets: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> Any:
    """As `fastce.linear_cross_entropy`, of Dask arrays.

    Parameters
    ----------
    features : dask.array.Array, shape (..., D)
        A task takes one chunk along the first axis, and all weights of the layer.
    linear_weight : dask.array.Array, shape (V, D)
        All of it goes to each worker.
    targets : dask.array.Array, or SciPy sparse array
        As in `fastce.linear_cross_entropy`. Arrays of NumPy will do for all arguments.
    linear_bias, weight, sample_weight : dask.array.Array, optional
        As in `fastce.linear_cross_entropy`.
    ignore_index, label_smoothing, smoothing_over, logit_scale, softcap, z_loss, reduction
        As in `fastce.cross_entropy`.
    memory_budget, progress, n_threads
        As in `fastce.dask.clip_loss_from_features`.

    Returns
    -------
    dask.array.Array
        Of shape (); for "none" of that of the features without the last axis, in their chunks along the first.

    Notes
    -----
    An error in targets that are a Dask array counts rows from the beginning of the stripe that it names.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> features = da.from_array(np.array([[1.0, 0.5], [-0.2, 0.8]]), chunks=(1, 2))
    >>> linear_weight = np.array([[0.3, 0.1], [0.0, 1.0], [-0.5, 0.2]])
    >>> round(float(fastce.dask.linear_cross_entropy(features, linear_weight, [0, 1]).compute()), 10)
    0.841047648
    """
    check_progress(progress)
    options = {
        "targets": targets, "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    return _Call(features, linear_weight, linear_bias, options, None, memory_budget, n_threads, writes=False).value()


def linear_cross_entropy_value_and_grad(
    features: Any,
    linear_weight: Any,
    targets: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    sample_weight: Any = None,
    ignore_index: Index = -100,
    label_smoothing: Number = 0.0,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Number = 1.0,
    softcap: Number | None = None,
    z_loss: Number = 0.0,
    reduction: Reduction = "mean",
    grad_output: Any = None,
    memory_budget: int = MEMORY_BUDGET,
    progress: None = None,
    n_threads: int | None = None,
) -> LinearCrossEntropyValueAndGrad[Any, Any]:
    """As `fastce.linear_cross_entropy_value_and_grad`, of Dask arrays.

    Parameters
    ----------
    features, linear_weight, targets, linear_bias, weight, sample_weight, ignore_index, label_smoothing, \
smoothing_over, logit_scale, softcap, z_loss, reduction, memory_budget, progress, n_threads
        As in `linear_cross_entropy`.
    grad_output : float or dask.array.Array, optional
        As in `fastce.cross_entropy_value_and_grad`.

    Returns
    -------
    LinearCrossEntropyValueAndGrad
        Of Dask arrays: gradients in the chunks of what they belong to, that of the bias None without one. Compute them
        together, by ``dask.compute(*result)``.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> features = da.from_array(np.array([[1.0, 0.5], [-0.2, 0.8]]), chunks=(1, 2))
    >>> linear_weight = np.array([[0.3, 0.1], [0.0, 1.0], [-0.5, 0.2]])
    >>> result = fastce.dask.linear_cross_entropy_value_and_grad(features, linear_weight, [0, 1])
    >>> result.grad_features.compute().round(4)
    array([[-0.1379,  0.2074],
           [-0.0377, -0.2153]])
    """
    check_progress(progress)
    options = {
        "targets": targets, "weight": weight, "sample_weight": sample_weight, "ignore_index": ignore_index,
        "label_smoothing": label_smoothing, "smoothing_over": smoothing_over, "logit_scale": logit_scale,
        "softcap": softcap, "z_loss": z_loss, "reduction": reduction,
    }  # fmt: skip
    return _Call(
        features, linear_weight, linear_bias, options, grad_output, memory_budget, n_threads, writes=True
    ).value_and_gradients()


class _Call:
    """A checked call."""

    def __init__(
        self,
        features: Any,
        linear_weight: Any,
        linear_bias: Any,
        options: dict[str, Any],
        grad_output: Any,
        memory_budget: Any,
        n_threads: Any,
        writes: bool,
    ) -> None:
        given = dask_array(features, "features")
        check_dimensions(given)
        layer = dask_array(linear_weight, "linear_weight")
        self.lead: tuple[int, ...] = given.shape[:-1]
        self.classes: int = layer.shape[0]
        matrix = np.broadcast_to(np.zeros(()), (math.prod(self.lead), given.shape[-1]))
        check_widths([matrix, layer], ["features", "linear_weight"])
        bias = None if linear_bias is None else dask_array(linear_bias, "linear_bias")
        check_layer(layer, bias)
        self.given: list[Any] = [array for array in (given, layer, bias) if array is not None]
        self.dtype: np.dtype[Any] = computed_in(*self.given)
        self.options: dict[str, Any] = {name: options[name] for name in _OF_ALL_STRIPES} | {"dtype": self.dtype}
        self._check(options, grad_output)
        self.reduction: str = options["reduction"]
        self.options["reduction"] = "none" if self.reduction == "none" else "sum"
        chunks = given.chunks[0] if self.lead else (1,)
        self.stripes: list[Stripe] = stripes_of(chunks)
        self.features: Any = in_stripes(given, chunks if self.lead else given.shape)
        self.targets: Any = self._of_stripes(options["targets"], "targets")
        self.sample_weight: Any = self._of_stripes(options["sample_weight"], "sample_weight")
        self.grad_output: Any = self._of_stripes(grad_output, "grad_output")
        self.layer: Any = layer.rechunk(-1)
        self.bias: Any = None if bias is None else bias.rechunk(-1)
        self.weight: Any = None if options["weight"] is None else dask_array(options["weight"], "weight").rechunk(-1)
        arguments = (
            self.features, self.targets, self.sample_weight, self.grad_output, self.layer, self.bias, self.weight,
        )  # fmt: skip
        arrays = [argument for argument in arguments if isinstance(argument, da.Array)]
        budget = checked_memory_budget(memory_budget)
        self.tasks: Tasks = Tasks(_NAME, arrays, [options, grad_output, budget, writes], n_threads)
        self.keys: dict[str, list[Key]] = {
            "targets": self._keys(self.targets), "weight": self._keys(self.weight),
            "sample_weight": self._keys(self.sample_weight),
        }  # fmt: skip
        self.of_losses: dict[str, Any] = self.options | {"memory_budget": budget}

    def _check(self, options: dict[str, Any], grad_output: Any) -> None:
        """By zeros for what is not known yet."""
        logits = np.broadcast_to(np.zeros((), self.dtype), (*self.lead, self.classes))
        known = {name: _known(value, name) for name, value in options.items()}
        cross_entropy_call(logits, axis=-1, n_threads=1, **known)
        upstream_of(_known(grad_output, "grad_output"), options["reduction"], self.lead, 1.0)

    def _of_stripes(self, value: Any, name: str) -> Any:
        """An argument by row: an array in stripes, matrices of all stripes, or what is the same for all."""
        if value is None:
            return None
        if is_sparse(value):
            per_row = math.prod(self.lead[1:])
            matrix = checked_csr(value, (math.prod(self.lead), self.classes))
            cuts = [(stripe.rows.start * per_row, stripe.rows.stop * per_row) for stripe in self.stripes]
            return [matrix[start:stop] for start, stop in cuts] if self.lead else [matrix]
        array = dask_array(value, name)
        if not self.lead or (name != "targets" and is_one_number(array.shape)):
            return array.rechunk(-1)
        return in_stripes(array, self.features.chunks[0])

    def _keys(self, argument: Any) -> list[Key]:
        """Those of all stripes."""
        if isinstance(argument, list):
            return [self.tasks.constant(part) for part in argument]
        if not isinstance(argument, da.Array):
            return [self.tasks.constant(argument)] * len(self.stripes)
        if argument.npartitions != len(self.stripes):
            return [first_block(argument)] * len(self.stripes)
        return [block(argument, stripe.number) for stripe in self.stripes]

    def value(self) -> Any:
        return self._value(self._sweep(linear_stripes.losses))

    def value_and_gradients(self) -> LinearCrossEntropyValueAndGrad[Any, Any]:
        tasks, is_mean = self.tasks, self.reduction == "mean"
        keys = self._sweep(linear_stripes.losses_and_gradients, self._keys(self.grad_output), is_mean=is_mean)
        of_features = tasks.array("features", keys, self.features.chunks, dtype_of_gradient(self.features), 0)
        return LinearCrossEntropyValueAndGrad(
            self._value([tasks.picked(key, 3) for key in keys]),
            of_features.rechunk(self.given[0].chunks),
            self._of_whole(keys, self.layer, 1),
            None if self.bias is None else self._of_whole(keys, self.bias, 2),
        )

    def _sweep(self, function: Any, *args: list[Key], **options: Any) -> list[Key]:
        """The keys of what each stripe gives."""
        total = [self._total_weight] * len(self.stripes)
        layer = [self._keys(array) for array in (self.features, self.layer, self.bias)]
        columns = [*layer, *self.keys.values(), total, *args]
        return [
            self.tasks.add(function, *of_stripe, stripe=stripe, **self.of_losses, **options)
            for stripe, *of_stripe in zip(self.stripes, *columns, strict=True)
        ]

    def _of_whole(self, keys: list[Key], array: Any, place: int) -> Any:
        """The gradient of what all stripes have, in its chunks."""
        total = self.tasks.tree(added, [self.tasks.picked(key, place) for key in keys])
        dtype = dtype_of_gradient(array)
        done = self.tasks.add(linear_stripes.rounded, total, dtype=dtype)
        return self.tasks.array(f"grad{place}", [done], array.chunks, dtype).rechunk(self.given[place].chunks)

    def _value(self, losses: list[Key]) -> Any:
        if self.reduction != "none":
            value = self.tasks.add(linear_stripes.value, losses, self._total_weight, reduction=self.reduction)
            return self.tasks.number("value", value)
        chunks = (self.features.chunks[0], *((size,) for size in self.lead[1:])) if self.lead else ()
        return self.tasks.array("value", losses, chunks, self.dtype)

    @functools.cached_property
    def _total_weight(self) -> Key:
        """The key of what a mean divides by: known from targets and weights alone."""
        if self.reduction != "mean":
            return self.tasks.constant(linear_stripes.NO_WEIGHT)
        names = ("ignore_index", "label_smoothing", "smoothing_over")
        options = {name: self.options[name] for name in names}
        of_stripes = [
            self.tasks.add(
                linear_stripes.weight_of_stripe, *keys, stripe=stripe,
                lead=self.lead and (stripe.length, *self.lead[1:]), classes=self.classes, dtype=self.dtype, **options,
            )
            for stripe, *keys in zip(self.stripes, *self.keys.values(), strict=True)
        ]  # fmt: skip
        return self.tasks.add(linear_stripes.total_weight, of_stripes)


def _known(value: Any, name: str) -> Any:
    """The value, or zeros in the place of a Dask array."""
    if not isinstance(value, da.Array):
        return value
    array = dask_array(value, name)
    return np.broadcast_to(np.zeros((), array.dtype), array.shape)
