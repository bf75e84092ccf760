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
    """The tasks of a call on features, all computed within the same range.

    Arrays ``of_rows`` are cut into stripes, as the first of them is, the left side of all products; the others, of
    which there is one at most, belong to each stripe as a whole.
    """

    def __init__(
        self,
        name: str,
        of_rows: Sequence[Any],
        whole: Sequence[Any],
        further: Sequence[Any],
        options: dict[str, Any],
        n_threads: Any,
        products: Callable[..., Products] | None = None,
    ) -> None:
        """Options are checked; all of them, and the ``further`` arrays, make a call what it is."""
        chunks = of_rows[0].chunks[0]
        self.given: list[Any] = [*of_rows, *whole]
        self.of_rows: list[Any] = [in_stripes(array, chunks) for array in of_rows]
        whole_in_rows = [in_stripes(array, array.chunks[0]) for array in whole]
        self.whole: list[Any] = [array.rechunk(-1) for array in whole_in_rows]
        arrays = [*self.of_rows, *whole_in_rows, *self.whole, *further]
        self.tasks: Tasks = Tasks(name, arrays, options, n_threads)
        self.stripes: list[Stripe] = stripes_of(chunks)
        self.normalize: bool = options["normalize"]
        self.of_products: dict[str, Any] = {
            "products": products or _products, "normalize": self.normalize, "memory_budget": options["memory_budget"],
        }  # fmt: skip
        self.within: Key = add_range(self.tasks, self.of_rows[:1], [*self.of_rows[1:], *whole_in_rows], options)

    @property
    def chunks(self) -> Any:
        """Those of one number for each row."""
        return self.of_rows[0].chunks[:1]

    def sweep(self, function: Callable[..., Any], *args: Sequence[Key], **options: Any) -> list[Key]:
        """The keys of function(engine, products, within, *args, **options) of each stripe, which has its own args."""
        whole = [first_block(array) for array in self.whole]
        return [
            self.tasks.add(
                _with_products, [block(array, stripe.number) for array in self.of_rows] + whole, self.within,
                *of_stripe, stripe=stripe, kind=function.__name__, function=function, **self.of_products, **options,
            )
            for stripe, *of_stripe in zip(self.stripes, *args, strict=True)
        ]  # fmt: skip

    def gradients(self, keys: Sequence[Key]) -> list[Any]:
        """Those of all arrays, with which the results of these keys begin: that of a whole one as far as it goes."""
        results = [
            self.tasks.array(f"grad{k}", keys, array.chunks, result_dtype(array), k)
            for k, array in enumerate(self.of_rows)
        ]
        for array in self.whole:
            total = self.tasks.tree(added, [self.tasks.picked(key, len(self.of_rows)) for key in keys])
            done = self.tasks.add(_finished_whole, first_block(array), total, self.within, normalize=self.normalize)
            results.append(self.tasks.array("whole", [done], array.chunks, result_dtype(array)))
        return [result.rechunk(array.chunks) for result, array in zip(results, self.given, strict=True)]

    def others(self, keys: Sequence[Key], place: int) -> list[Key]:
        """One of the results that come after the gradients, the sum of row * gradient of the left side first."""
        return [self.tasks.picked(key, len(self.given) + place) for key in keys]


def in_stripes(array: Any, chunks: Any) -> Any:
    """The array in these chunks of rows."""
    return array.rechunk({0: chunks} | dict.fromkeys(range(1, array.ndim), -1))


def block(array: Any, number: int) -> Key:
    """The key of a chunk of rows."""
    return (array.name, number, *(0,) * array.ndim)[: array.ndim + 1]


def first_block(array: Any) -> Key:
    """The key of the only chunk of an array."""
    return block(array, 0)


def add_range(tasks: Tasks, left: Sequence[Any], right: Sequence[Any], options: dict[str, Any]) -> Key:
    """The key of the `Range` of all products of the left arrays with the right ones, each in chunks of rows."""
    normalize, width = options["normalize"], left[0].shape[-1]
    sizes = [[_sizes_of(tasks, array, normalize) for array in side] for side in (left, right)]
    return tasks.add(_range, *sizes, width=width, scale=options["scale"], bias=options.get("bias", 0.0))


def _sizes_of(tasks: Tasks, array: Any, normalize: bool) -> list[Key]:
    """Those of the chunks of rows; of normalized ones there is nothing to be read."""
    if normalize:
        return [tasks.constant(Size.of(Cpu(1), array._meta, normalize))]
    return [
        tasks.add(_size, block(array, stripe.number), stripe=stripe, normalize=normalize)
        for stripe in stripes_of(array.chunks[0])
    ]


def _size(engine: Cpu, array: Array, *, normalize: bool) -> Size:
    return Size.of(engine, as_rows(engine, array), normalize)


def as_rows(engine: Cpu, array: Array) -> Array:
    """All vectors of an array as the rows of a matrix."""
    return array if array.ndim == 2 else engine.reshaped(array, (math.prod(array.shape[:-1]), array.shape[-1]))


def _range(
    engine: Cpu, left: list[list[Size]], right: list[list[Size]], *, width: int, scale: float, bias: float
) -> Range:
    of_left, of_right = ([Size.of_whole(parts) for parts in side] for side in (left, right))
    return range_of_sizes(of_left, of_right, width, scale, bias)


def _with_products(
    engine: Cpu,
    arrays: Sequence[Array],
    within: Range,
    *args: Any,
    function: Callable[..., Any],
    products: Callable[..., Products],
    normalize: bool,
    memory_budget: int,
    **options: Any,
) -> Any:
    return function(engine, products(engine, arrays, within, normalize, memory_budget), within, *args, **options)


def _products(engine: Cpu, arrays: Sequence[Array], within: Range, normalize: bool, memory_budget: int) -> Products:
    left, right = arrays
    return products_of(
        Features(engine, [left], within.dtype, normalize, power=within.left_power),
        Features(engine, [right], within.dtype, normalize, power=within.right_power),
        memory_budget,
    )


def parts_of_gradients(products: Products, within: Range) -> tuple[Array, Array, float]:
    """The gradient of the left features; that of the right ones as far as it goes; the sum of row * gradient."""
    (of_left,), along = products.finished_left(within)
    return of_left, products.of_right.memory, along


def added(engine: Cpu, parts: Sequence[Array]) -> Array:
    """The sum of two."""
    total: Array = np.add(*parts)
    return total


def _finished_whole(engine: Cpu, array: Array, total: Array, within: Range, *, normalize: bool) -> Array:
    features = Features(engine, [array], within.dtype, normalize, power=within.right_power)
    # The sum is used up, and is not ours: it may be what another task holds.
    gradients, _ = features.finished(total.copy(), False, within.rest_of_right)
    gradient: Array = gradients[0]
    return gradient


def grad_of_scale(engine: Cpu, along: Sequence[float], within: Range) -> Any:
    """The gradient of the scale, from the sums of row * gradient of all stripes."""
    return np.float64(within.of_scale(sum(along)))
