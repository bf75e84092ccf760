"""The functions of fastce for arrays on a GPU, and what the losses from features are computed with there."""

import contextlib
import dataclasses
import functools
import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.deferring import is_deferred
from fastce.arguments.labels import Classes
from fastce.arguments.numbers import checked_num_threads
from fastce.arguments.positives import Positives
from fastce.arguments.silence import quietly
from fastce.cuda.arrays import DeviceArray, device_array, empty, library_holding, wait_for_readers, zeros
from fastce.cuda.layer import Layer
from fastce.cuda.layout import FLOATS, contiguous, copy
from fastce.cuda.libraries import Library
from fastce.cuda.matrix_similarity import MatrixSimilarity
from fastce.cuda.panel_losses import ClassLosses
from fastce.cuda.positives import device_positives, host_positives, sparse_on_host
from fastce.cuda.precision import with_range
from fastce.cuda.products import (
    array_module,
    as_halves,
    as_reals,
    finish,
    host_numbers,
    multiply,
    of_numbers,
    on_device,
    reshaped,
    rows_between,
    seen,
    working_in,
)
from fastce.cuda.self_similarity import LabelLosses, PartnerLosses
from fastce.cuda.sigmoid import sigmoid_losses, sums_of_points
from fastce.cuda.similarity import PanelSimilarity
from fastce.cuda.sparse import is_sparse
from fastce.cuda.statistics import best_ranks

R = TypeVar("R")
DEFERRED = frozenset({
    "cross_entropy", "cross_entropy_value_and_grad", "logsumexp", "softmax", "log_softmax"
})  # fmt: skip
BLOCK_BYTES = 1 << 24  # of rows that are made ready, or finished, at a time


@functools.cache
def namesake(public: Callable[..., Any]) -> Callable[..., Any]:
    """The function of this name; what is left out has the default of the public one."""
    home = public.__module__.rpartition(".")[2]
    return _called(getattr(import_module(f"fastce.cuda.{home}"), public.__name__), public)


@functools.cache
def taking_device_arrays(public: Callable[..., Any]) -> Callable[..., Any]:
    """The public function itself, which is written for any engine."""
    return _called(public, public)


def _called(function: Callable[..., Any], public: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(public)
    names = tuple(signature.parameters)
    defaults = {name: one.default for name, one in signature.parameters.items() if one.default is not one.empty}
    by_place = sum(one.kind is not one.KEYWORD_ONLY for one in signature.parameters.values())

    def on_device(*args: Any, **kwargs: Any) -> Any:
        given = defaults | dict(zip(names, args, strict=False)) | kwargs
        if len(given) != len(names) or len(args) > by_place or not kwargs.keys().isdisjoint(names[: len(args)]):
            signature.bind(*args, **kwargs)  # an error, which says what is wrong
        if given["n_threads"] is not None:
            checked_num_threads(given["n_threads"], "n_threads")  # of the CPU, which has nothing to do here
        if is_deferred() and public.__name__ not in DEFERRED:
            raise TypeError(
                f"{public.__qualname__} of arrays on a GPU waits for them: call it out of fastce.deferred()"
            )
        result = function(**given)
        wait_for_readers(given.values())
        return result

    return on_device


def gradient_like(logits: Any) -> Any:
    """A new array of the caller's library, for the gradient with respect to its array of logits."""
    array = device_array(logits, "logits")
    dtype_name = array.dtype_name if array.dtype_name in FLOATS else "float64"
    return empty(array.library, array.shape, dtype_name).given


class Gpu:
    """See `fastce.products.engine.Engine`. Numbers are CuPy's, in the caller's stream; NumPy's in the simulator."""

    prefers_tiles = False
    columns_at_a_time = 1 << 62
    flops_at_a_time: float = math.inf
    sums_apart = 0

    def __init__(self, array: Any) -> None:
        self.library: Library = library_holding(array)

    @property
    def xp(self) -> ModuleType:
        module: ModuleType = array_module()
        return module

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        with working_in(self.library), quietly():
            yield

    def finish(self) -> None:
        finish(self.library)

    # --- the caller's arrays

    def array(self, value: Any, name: str) -> DeviceArray:
        array = value if isinstance(value, DeviceArray) else device_array(value, name, self.library)
        return array if array.dtype_name in FLOATS else contiguous(array, "float64")

    def reshaped(self, array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
        steps = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return reshaped(contiguous(array), shape, steps)

    def host_numbers(self, value: Any, name: str) -> Array:
        numbers: Array = host_numbers(device_array(value, name, self.library))
        return numbers

    def dtype_of(self, array: DeviceArray) -> np.dtype[Any]:
        return np.dtype(np.float64 if array.dtype_name == "float64" else np.float32)

    def has_dtype(self, array: DeviceArray, dtype: np.dtype[Any]) -> bool:
        return array.dtype_name == dtype.name

    def is_ready(self, array: DeviceArray, dtype: np.dtype[Any]) -> bool:
        step, next_element = array.strides
        rows, width = array.shape
        return array.dtype_name == dtype.name and (next_element == 1 or width == 1) and (step >= width or rows == 1)

    def halves(self, array: DeviceArray, rows: slice) -> Any:
        return as_halves(rows_between(array, rows.start, rows.stop))

    def reals(self, array: DeviceArray, rows: Any, dtype: np.dtype[Any]) -> Any:
        if isinstance(rows, slice):
            return as_reals(rows_between(array, rows.start, rows.stop), dtype)
        return as_reals(array, dtype, rows)

    # --- memory, and numbers

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> DeviceArray:
        return zeros(self.library, shape, dtype.name)

    def like(self, array: DeviceArray) -> DeviceArray:
        return zeros(self.library, array.shape, array.dtype_name)

    def part(self, memory: DeviceArray, start: int, stop: int) -> DeviceArray:
        if (start, stop) == (0, memory.shape[0]):
            return memory
        return dataclasses.replace(rows_between(memory, start, stop), given=memory.given[start:stop])

    def seen(self, memory: DeviceArray) -> Any:
        return seen(memory)

    def put(self, memory: DeviceArray, rows: Any, values: Any) -> None:
        if memory.dtype_name == "bfloat16":
            rounded = empty(self.library, values.shape, "bfloat16")
            copy(of_numbers(values, self.library), rounded)
            values = seen(rounded)
        seen(memory)[rows] = values

    def memory_of(self, numbers: Any) -> DeviceArray:
        return on_device(numbers, self.library)

    def given(self, memory: DeviceArray, shape: tuple[int, ...] | None = None) -> Any:
        return memory.given if shape in (None, memory.shape) else memory.given.reshape(shape)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        return seen(empty(self.library, shape, dtype.name))

    def room(self, size: int, dtype: np.dtype[Any]) -> Any:
        return self.empty((size,), dtype)

    # --- work: one kernel, or product, after the other

    def multiply(self, a: Any, b: Any, out: Any, *, adds: bool = False) -> None:
        multiply(a, b, out, adds=adds)

    def products_of_rows(
        self, left: Any, rows: Any, right: Any, columns: Any, left_factors: Any = None, right_factors: Any = None
    ) -> None:
        return None

    def products_with(self, array: Any, vector: Any, factors: Any) -> None:
        return None

    def sum_of_rows(self, array: Any, factors: Any) -> None:
        return None

    def largest_square(self, array: Any) -> None:
        return None

    def joined(self, arrays: list[Any]) -> list[Any]:
        return arrays

    def cuts(self, rows: int, row_bytes: int) -> list[tuple[int, int]]:
        step = max(1, BLOCK_BYTES // max(row_bytes, 1))
        return [(start, min(start + step, rows)) for start in range(0, rows, step)]

    def for_each(self, rows: int, row_bytes: int, work: Callable[[int, int], None]) -> None:
        self.in_turn(self.cuts(rows, row_bytes), work)

    def in_turn(self, tasks: Sequence[tuple[Any, ...]], work: Callable[..., None]) -> None:
        for task in tasks:
            work(*task)

    # --- losses

    def positives(self, targets: Any, shape: tuple[int, int]) -> Positives:
        return host_positives(targets, shape, self.library)

    def on_host(self, targets: Any, name: str) -> Any:
        if is_sparse(targets):
            return sparse_on_host(targets, self.library, name)
        return targets if targets is None else self.host_numbers(targets, name)

    def best_ranks(self, panel: Any, first: Array, classes: Array) -> Array:
        return best_ranks(of_numbers(panel, self.library), first, classes)

    def sums_of_points(self, points: Positives, values: Any) -> Any:
        return sums_of_points(points, values, self.library)

    def sigmoids(self, tile: Any, scale: float, bias: float, factor: float, writes: bool) -> tuple[Any, Any]:
        return sigmoid_losses(tile, scale, bias, factor, writes, self.library)

    def matrix_losses(
        self, array: Any, targets: Any, scale: float, smoothing: float, reduction: str
    ) -> MatrixSimilarity:
        return MatrixSimilarity(array, targets, scale, smoothing, reduction)

    def pair_losses(
        self, products: Any, targets: Any, within: Any, smoothing: float, reduction: str, of_losses: np.dtype[Any]
    ) -> PanelSimilarity:
        shape = products.left.rows, products.right.rows
        points = device_positives(targets, shape, self.library)
        return PanelSimilarity(products, points, within, smoothing, reduction, of_losses, self.library)

    def partner_losses(self, products: Any, within: Any, reduction: str, of_losses: np.dtype[Any]) -> PartnerLosses:
        return PartnerLosses(products, within, reduction, of_losses, self.library)

    def label_losses(
        self, products: Any, classes: Classes, within: Any, reduction: str, of_losses: np.dtype[Any]
    ) -> LabelLosses:
        return LabelLosses(products, classes, within, reduction, of_losses, self.library)

    def layer(
        self, features: Any, weight: Any, bias: Any, lead: tuple[int, ...], options: dict[str, Any], is_wide: bool
    ) -> Layer:
        return Layer(features, weight, bias, lead, options, is_wide)

    def with_range(self, compute: Callable[[bool], R]) -> R:
        return with_range(compute)

    def class_losses(
        self, classes: Any, columns: int, within: Any, of_losses: np.dtype[Any], reduction: str
    ) -> ClassLosses:
        return ClassLosses(classes, columns, within, of_losses, reduction, self.library)
