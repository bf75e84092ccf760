"""Features of two sides, in stripes: each chunk of rows of the left side meets all rows of the right side in one task.

What crosses the network are the right features, once to each worker, what is known of rows, and the stripes' parts of
the right side's gradient, which add up in a tree: never a product.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import dask.array as da
import numpy as np

from fastce.arguments.arrays import Array, check_widths, real_array
from fastce.arguments.words import shown
from fastce.cpu.engine import Cpu
from fastce.dask.tasks import Key, Stripe, Tasks, stripes_of
from fastce.products.features import Features
from fastce.products.panels import products_of
from fastce.products.progress import checked_progress
from fastce.products.ranges import Range, Size, dtype_of_products, range_of_sizes
from fastce.products.tiles import Products


def dask_array(value: Any, name: str) -> Any:
    """A Dask array of real numbers whose chunks are known; anything else that is an array becomes one."""
    if not isinstance(value, da.Array):
        array = real_array(value, name)
        return da.from_array(array, chunks=("auto", *[-1] * (array.ndim - 1)) if array.ndim else ())
    real_array(value._meta, name)
    if any(math.isnan(size) for size in value.shape):
        raise ValueError(f"{name} has chunks of unknown size: call its compute_chunk_sizes() first")
    return value


def dask_features(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """As `fastce.products.features.feature_arrays`."""
    arrays = [dask_array(value, name) for value, name in zip(values, names, strict=True)]
    check_widths(arrays, names)
    return arrays


def check_progress(progress: Any) -> None:
    """Refuse to show what Dask shows."""
    if checked_progress(progress) is not None:
        raise ValueError(
            f"progress must be None for Dask arrays, got {shown(progress)}: "
            "dask.diagnostics.ProgressBar and distributed.progress show it"
        )


def computed_in(*arrays: Any) -> np.dtype[Any]:
    """The dtype of losses of these."""
    return dtype_of_products(Cpu(1), arrays)


def result_dtype(array: Any) -> np.dtype[Any]:
    """The dtype of an array's gradient."""
    dtype: np.dtype[Any] = Cpu(1).like(array._meta).dtype
    return dtype


class FeatureStripes:
    """The tasks of a call on features of two sides, all computed within the same range."""

    def __init__(
        self, name: str, left: Any, right: Any, further: Sequence[Any], options: dict[str, Any], n_threads: Any
    ) -> None:
        """Options are checked; all of them, and the ``further`` arrays, make a call what it is."""
        self.given = left, right
        self.left, rows_of_right = left.rechunk({1: -1}), right.rechunk({1: -1})
        self.right = rows_of_right.rechunk(-1)
        self.tasks: Tasks = Tasks(name, [self.left, rows_of_right, self.right, *further], options, n_threads)
        self.stripes: list[Stripe] = stripes_of(self.left.chunks[0])
        self.normalize: bool = options["normalize"]
        self.memory_budget: int = options["memory_budget"]
        self.right_key: Key = first_block(self.right)
        self.within: Key = add_range(self.tasks, [self.left], [rows_of_right], options)

    def sweep(self, function: Callable[..., Any], *args: Sequence[Key], **options: Any) -> list[Key]:
        """The keys of function(engine, products, within, *args, **options) of each stripe, which has its own args."""
        options |= {"normalize": self.normalize, "memory_budget": self.memory_budget}
        return [
            self.tasks.add(
                _with_products, (self.left.name, stripe.number, 0), self.right_key, self.within, *of_stripe,
                stripe=stripe, kind=function.__name__, function=function, **options,
            )
            for stripe, *of_stripe in zip(self.stripes, *args, strict=True)
        ]  # fmt: skip

    def gradients(self, keys: Sequence[Key]) -> tuple[Any, Any]:
        """Those of both sides, from results whose first two are what `parts_of_gradients` gives."""
        left, right = self.given
        of_left = self.tasks.array("left", keys, self.left.chunks, result_dtype(left), 0)
        total = self.tasks.tree(_added, [self.tasks.picked(key, 1) for key in keys])
        whole = self.tasks.add(_finished_right, self.right_key, total, self.within, normalize=self.normalize)
        of_right = self.tasks.array("right", [whole], self.right.chunks, result_dtype(right))
        return of_left.rechunk(left.chunks), of_right.rechunk(right.chunks)


def first_block(array: Any) -> Key:
    """The key of the only chunk of an array."""
    return (array.name, *(0,) * array.ndim)


def add_range(tasks: Tasks, left: Sequence[Any], right: Sequence[Any], options: dict[str, Any]) -> Key:
    """The key of the `Range` of all products of the left arrays with the right ones, each in chunks of rows."""
    normalize, width = options["normalize"], left[0].shape[-1]
    sizes = [[_sizes_of(tasks, array, normalize) for array in side] for side in (left, right)]
    return tasks.add(_range, *sizes, width=width, scale=options["scale"], bias=options.get("bias", 0.0))


def _sizes_of(tasks: Tasks, array: Any, normalize: bool) -> list[Key]:
    """Those of the chunks of rows; of normalized ones there is nothing to be read."""
    if normalize:
        return [tasks.constant(Size.of(Cpu(1), array._meta, normalize))]
    rest = (0,) * (array.ndim - 1)
    return [
        tasks.add(_size, (array.name, stripe.number, *rest), stripe=stripe, normalize=normalize)
        for stripe in stripes_of(array.chunks[0])
    ]


def _size(engine: Cpu, array: Array, *, normalize: bool) -> Size:
    return Size.of(engine, engine.reshaped(array, (-1, array.shape[-1])) if array.ndim == 3 else array, normalize)


def _range(
    engine: Cpu, left: list[list[Size]], right: list[list[Size]], *, width: int, scale: float, bias: float
) -> Range:
    of_left, of_right = ([Size.of_whole(parts) for parts in side] for side in (left, right))
    return range_of_sizes(of_left, of_right, width, scale, bias)


def _with_products(
    engine: Cpu,
    left: Array,
    right: Array,
    within: Range,
    *args: Any,
    function: Callable[..., Any],
    normalize: bool,
    memory_budget: int,
    **options: Any,
) -> Any:
    return function(
        engine,
        products_of(
            Features(engine, [left], within.dtype, normalize, power=within.left_power),
            Features(engine, [right], within.dtype, normalize, power=within.right_power),
            memory_budget,
        ),
        within, *args, **options,
    )  # fmt: skip


def parts_of_gradients(products: Products, within: Range) -> tuple[Array, Array, float]:
    """The gradient of the left features; that of the right ones as far as it goes; the sum of row * gradient."""
    (of_left,), along = products.finished_left(within)
    return of_left, products.of_right.memory, along


def _added(engine: Cpu, parts: Sequence[Array]) -> Array:
    total: Array = np.add(*parts)
    return total


def _finished_right(engine: Cpu, right: Array, total: Array, within: Range, *, normalize: bool) -> Array:
    features = Features(engine, [right], within.dtype, normalize, power=within.right_power)
    # The sum is used up, and is not ours: it may be what another task holds.
    gradients, _ = features.finished(total.copy(), False, within.rest_of_right)
    gradient: Array = gradients[0]
    return gradient


def grad_of_scale(engine: Cpu, along: Sequence[float], within: Range) -> Any:
    """The gradient of the scale, from the sums of row * gradient of all stripes."""
    return np.float64(within.of_scale(sum(along)))
