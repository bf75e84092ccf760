"""What losses from features are computed with on the CPU: NumPy, its BLAS, fastce's kernels and threads."""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype, plain_array, real_array
from fastce.arguments.labels import Classes
from fastce.arguments.positives import Positives, positives_of
from fastce.arguments.silence import quietly
from fastce.cpu import best_positive
from fastce.cpu.dots import largest_square_of, products_of_rows, products_with, sum_of_rows
from fastce.cpu.ends import fits_one_tile
from fastce.cpu.layer import Layer
from fastce.cpu.layout import Rows
from fastce.cpu.matrix_similarity import MatrixSimilarity
from fastce.cpu.one_tile import OneTile, is_one_tile
from fastce.cpu.panel_losses import ClassLosses
from fastce.cpu.rooms import Room
from fastce.cpu.sigmoid import sigmoid_losses
from fastce.cpu.statistics import statistics_of
from fastce.cpu.threads import cut_rows, for_each
from fastce.cpu.tile_similarity import LabelSimilarity, TileSimilarity

R = TypeVar("R")


class Cpu:
    """See `fastce.products.engine.Engine`. BLAS has its threads, and then fastce has its own."""

    xp: ModuleType = np
    prefers_tiles = True
    columns_at_a_time = 4096
    flops_at_a_time: float = 2.0**35  # Ctrl-C is heard between products
    sums_apart = 1

    def __init__(self, n_threads: int | None) -> None:
        self.n_threads = n_threads
        self._room: Array = np.empty(0)
        self._rooms: list[Room] = []  # whose memory goes back with this engine

    def working(self) -> np.errstate:
        return quietly()

    def finish(self) -> None:
        pass

    # --- the caller's arrays

    def array(self, value: Any, name: str) -> Array:
        return real_array(value, name)

    def host_numbers(self, value: Any, name: str) -> Array:
        return plain_array(value, name)

    def dtype_of(self, array: Array) -> np.dtype[Any]:
        return compute_dtype(kernel_dtype(array.dtype))

    def reshaped(self, array: Array, shape: tuple[int, ...]) -> Array:
        return array.reshape(shape)

    def is_ready(self, array: Array, dtype: np.dtype[Any]) -> bool:
        step, next_element = array.strides
        return (
            array.dtype == dtype
            and array.flags.aligned
            and next_element == array.itemsize
            and step >= array.shape[1] * array.itemsize
        )

    def halves(self, array: Array, rows: slice) -> None:
        return None

    def reals(self, array: Array, rows: slice | Array, dtype: np.dtype[Any]) -> Array:
        return np.asarray(array[rows]).astype(dtype, copy=False)

    # --- new ones, and results

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.empty(shape, dtype)

    def room(self, size: int, dtype: np.dtype[Any]) -> Array:
        self._rooms.append(Room())
        return self._rooms[-1].of((size,), dtype)

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        return np.zeros(shape, dtype)

    def seen(self, memory: Array) -> Array:
        return memory

    def has_dtype(self, array: Array, dtype: np.dtype[Any]) -> bool:
        return kernel_dtype(array.dtype) == dtype

    def like(self, array: Array) -> Array:
        return np.zeros(array.shape, kernel_dtype(array.dtype))

    def part(self, memory: Array, start: int, stop: int) -> Array:
        return memory[start:stop]

    def put(self, memory: Array, rows: slice | Array, values: Array) -> None:
        memory[rows] = values

    def memory_of(self, numbers: Array) -> Array:
        return numbers

    def given(self, memory: Array, shape: tuple[int, ...] | None = None) -> Array:
        return memory if shape is None else memory.reshape(shape)

    # --- work

    def multiply(self, a: Array, b: Array, out: Array, *, adds: bool = False) -> None:
        if not adds:
            np.matmul(a, b, out=out)
            return
        if self._room.size < out.size or self._room.dtype != out.dtype:
            self._room = self.room(out.size, out.dtype)
        product = np.matmul(a, b, out=self._room[: out.size].reshape(out.shape))

        def work(start: int, stop: int) -> None:
            out[start:stop] += product[start:stop]

        self.for_each(len(out), out.shape[1] * out.itemsize, work)

    def products_of_rows(
        self,
        left: Array,
        rows: Array,
        right: Array,
        columns: Array,
        left_factors: Array | None = None,
        right_factors: Array | None = None,
    ) -> Array:
        return products_of_rows(left, rows, right, columns, left_factors, right_factors, self.n_threads)

    def products_with(self, array: Array, vector: Array, factors: Array | None) -> Array:
        return products_with(array, vector, factors, self.n_threads)

    def sum_of_rows(self, array: Array, factors: Array | None) -> Array:
        return sum_of_rows(array, factors, self.n_threads)

    def largest_square(self, array: Array) -> float:
        return largest_square_of(array, self.n_threads)

    def joined(self, arrays: list[Array]) -> list[Array]:
        rows, dtypes = sum(map(len, arrays)), {kernel_dtype(array.dtype) for array in arrays}
        return [np.concatenate(arrays)] if len(dtypes) == 1 and fits_one_tile(rows, rows) else arrays

    def cuts(self, rows: int, row_bytes: int) -> list[tuple[int, int]]:
        return cut_rows(rows, row_bytes)

    def for_each(self, rows: int, row_bytes: int, work: Callable[[int, int], None]) -> None:
        for_each(cut_rows(rows, row_bytes), work, self.n_threads)

    def in_turn(self, tasks: Sequence[tuple[Any, ...]], work: Callable[..., None]) -> None:
        for_each(tasks, work, self.n_threads)

    # --- losses

    def positives(self, targets: Any, shape: tuple[int, int]) -> Positives:
        return positives_of(targets, shape)

    def on_host(self, targets: Any, name: str) -> Any:
        return targets

    def best_ranks(self, panel: Array, first: Array, classes: Array) -> Array:
        rows = Rows(panel, 1)
        best, _ = best_positive.Positives(first, classes).best(rows, self.n_threads).targets()
        return statistics_of(rows, best, ("target_rank",), self.n_threads)["target_rank"]

    def sums_of_points(self, points: Positives, values: Array) -> Array:
        rows = points.first_points.size - 1
        return np.zeros(rows) + np.bincount(points.rows, values, rows)  # integers if there are none

    def sigmoids(self, tile: Array, scale: float, bias: float, factor: float, writes: bool) -> tuple[Array, Array]:
        return sigmoid_losses(tile, scale, bias, factor, writes, self.n_threads)

    def matrix_losses(
        self, array: Any, targets: Any, scale: float, smoothing: float, reduction: str
    ) -> MatrixSimilarity:
        return MatrixSimilarity(array, targets, scale, smoothing, reduction, self.n_threads)

    def pair_losses(
        self, products: Any, targets: Any, within: Any, smoothing: float, reduction: str, of_losses: np.dtype[Any]
    ) -> TileSimilarity:
        points = positives_of(targets, (products.left.rows, products.right.rows))
        of_tiles = OneTile if is_one_tile(products, points, within) else TileSimilarity
        return of_tiles(products, points, within, smoothing, reduction, of_losses, self.n_threads)

    def partner_losses(self, products: Any, within: Any, reduction: str, of_losses: np.dtype[Any]) -> TileSimilarity:
        rows = products.left.rows
        partners = np.roll(np.arange(rows), rows // 2)
        return self.pair_losses(products, partners, within, 0.0, reduction, of_losses)

    def label_losses(
        self, products: Any, classes: Classes, within: Any, reduction: str, of_losses: np.dtype[Any]
    ) -> LabelSimilarity:
        return LabelSimilarity(products, classes, within, reduction, of_losses, self.n_threads)

    def layer(
        self, features: Any, weight: Any, bias: Any, lead: tuple[int, ...], options: dict[str, Any], is_wide: bool
    ) -> Layer:
        return Layer(features, weight, bias, lead, options, self.n_threads)

    def with_range(self, compute: Callable[[bool], R]) -> R:
        return compute(False)

    def class_losses(
        self, classes: Array, columns: int, within: Any, of_losses: np.dtype[Any], reduction: str
    ) -> ClassLosses:
        return ClassLosses(classes, of_losses, within.scale, within.is_plain, reduction, self.n_threads)
