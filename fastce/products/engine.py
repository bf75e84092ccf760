"""What losses of features and of their products ask of an engine: of the CPU, or of a GPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, Protocol, TypeVar

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.labels import Classes
from fastce.arguments.places import is_on_device
from fastce.arguments.positives import Positives
from fastce.cpu.engine import Cpu
from fastce.engine import cuda_functions

R = TypeVar("R")


class MatrixLoss(Protocol):
    """A loss of a whole matrix of products, checked."""

    def value(self) -> Any:
        """What the reduction asks for."""

    def value_and_grad(self, out: Any) -> tuple[Any, Any, float]:
        """(value, the gradient, in ``out`` or new, that of the scale)."""


class Engine(Protocol):
    """Where products of features live and how they are computed: `fastce.cpu.engine.Cpu`, `fastce.cuda.engine.Gpu`.

    An *array* is one of the caller's. *Memory* is new, and given to the caller in the end. *Numbers* are arrays of
    ``xp``, NumPy or a module like it: `reals` of arrays, `seen` memory, and what is `empty` for a while.
    """

    prefers_tiles: bool  # to panels of all columns
    columns_at_a_time: int  # of a panel
    flops_at_a_time: float
    sums_apart: int  # 1 if products are added to a sum by way of a room, 0 if they are added at once

    @property
    def xp(self) -> ModuleType:
        """The module of numbers."""

    def working(self) -> AbstractContextManager[Any]:
        """In which all others are called; numbers that are not finite are worth no warning."""

    def finish(self) -> None:
        """Wait until all that was asked for is done."""

    # --- arrays of the caller

    def array(self, value: Any, name: str) -> Any:
        """An array of real numbers; errors name it."""

    def host_numbers(self, value: Any, name: str) -> Array:
        """A small array of any dtype, as one of NumPy."""

    def reshaped(self, array: Any, shape: tuple[int, ...]) -> Any:
        """The same elements; a copy if they are not contiguous."""

    def dtype_of(self, array: Any) -> np.dtype[Any]:
        """What it is computed in: float32 or float64."""

    def has_dtype(self, array: Any, dtype: np.dtype[Any]) -> bool:
        """Whether results for it have this dtype."""

    def is_ready(self, array: Any, dtype: np.dtype[Any]) -> bool:
        """Whether products of this dtype take its rows as they are."""

    def halves(self, array: Any, rows: slice) -> Any:
        """Some rows as products take halves, in half precision; None if these are none, or not to be taken so."""

    def reals(self, array: Any, rows: Any, dtype: np.dtype[Any]) -> Any:
        """Some rows, by a slice or by their numbers, as numbers of this dtype; a view where that will do."""

    # --- memory, and numbers

    def zeros(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Memory, of zeros."""

    def like(self, array: Any) -> Any:
        """Memory of the shape and dtype of an array, of zeros."""

    def part(self, memory: Any, start: int, stop: int) -> Any:
        """The memory of some of its rows."""

    def seen(self, memory: Any) -> Any:
        """Its numbers: what is written there is in the memory."""

    def put(self, memory: Any, rows: Any, values: Any) -> None:
        """Write numbers of another dtype, or some that are not there yet."""

    def given(self, memory: Any, shape: tuple[int, ...] | None = None) -> Any:
        """The memory as the caller gets it, in another shape if that is wanted."""

    def memory_of(self, numbers: Any) -> Any:
        """Memory that holds these numbers."""

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        """Numbers, of anything."""

    def room(self, size: int, dtype: np.dtype[Any]) -> Any:
        """The same, for as long as the call lasts."""

    # --- work

    def multiply(self, a: Any, b: Any, out: Any, *, adds: bool = False) -> None:
        """Out = a @ b, or out += a @ b."""

    def products_of_rows(
        self, left: Any, rows: Any, right: Any, columns: Any, left_factors: Any = None, right_factors: Any = None
    ) -> Any:
        """The products left[rows[k]] @ right[columns[k]] of arrays, in float64; None if there is no kernel for that.

        All rows of an array have factors, or none has.
        """

    def products_with(self, array: Any, vector: Any, factors: Any) -> Any:
        """Every row, times its factor, times a vector of float64, likewise."""

    def sum_of_rows(self, array: Any, factors: Any) -> Any:
        """The sum of all rows, each times its factor, likewise."""

    def largest_square(self, array: Any) -> float | None:
        """The largest squared length of a row, of those that are finite; None if there is no kernel for that."""

    def joined(self, arrays: list[Any]) -> list[Any]:
        """The arrays, or a single one that holds their rows, where products of all of these are computed faster."""

    def cuts(self, rows: int, row_bytes: int) -> list[tuple[int, int]]:
        """The blocks of rows that work is done in."""

    def for_each(self, rows: int, row_bytes: int, work: Callable[[int, int], None]) -> None:
        """work(start, stop) for all of them, in any order or at once."""

    def in_turn(self, tasks: Sequence[tuple[Any, ...]], work: Callable[..., None]) -> None:
        """work(*task) for all of these, in any order or at once."""

    # --- losses

    def positives(self, targets: Any, shape: tuple[int, int]) -> Positives:
        """Which pairs of rows and columns belong together, in arrays of NumPy."""

    def on_host(self, targets: Any, name: str) -> Any:
        """Integers or a sparse matrix, as NumPy and SciPy have them; on the CPU, as they are given."""

    def best_ranks(self, panel: Any, first: Array, classes: Array) -> Array:
        """How many columns of each row come before the best of its classes, ``first[i]`` to ``first[i + 1]`` of these.

        In an array of NumPy; -1, or anything, where there is none.
        """

    def sums_of_points(self, points: Positives, values: Any) -> Any:
        """The sum of the values of the points of each row."""

    def sigmoids(self, tile: Any, scale: float, bias: float, factor: float, writes: bool) -> tuple[Any, Any]:
        """The sums over each row of softplus(z) and of sigmoid(z), where z = scale * tile + bias.

        The tile becomes factor * sigmoid(z), if that is wanted.
        """

    def matrix_losses(self, array: Any, targets: Any, scale: float, smoothing: float, reduction: str) -> MatrixLoss:
        """CLIP's on a matrix of the caller's."""

    def pair_losses(
        self, products: Any, targets: Any, within: Any, smoothing: float, reduction: str, of_losses: np.dtype[Any]
    ) -> Any:
        """CLIP's, of the targets' pairs: a `fastce.products.loss.Loss`, as those below."""

    def partner_losses(self, products: Any, within: Any, reduction: str, of_losses: np.dtype[Any]) -> Any:
        """NT-Xent's, of features with themselves: each row of the first half has its partner in the second."""

    def label_losses(
        self, products: Any, classes: Classes, within: Any, reduction: str, of_losses: np.dtype[Any]
    ) -> Any:
        """SupCon's, of features with themselves; its ``complete`` adds to their gradient what is of no single tile."""

    def layer(
        self, features: Any, weight: Any, bias: Any, lead: tuple[int, ...], options: dict[str, Any], is_wide: bool
    ) -> Any:
        """A call of linear_cross_entropy: its ``losses(grad_output, wants_gradients)`` are what is to be swept.

        They are `fastce.products.layer.LayerLoss`; the first tells the value, the last one the gradients.
        """

    def with_range(self, compute: Callable[[bool], R]) -> R:
        """compute(is_wide), until that has the range for the numbers of the call."""

    def class_losses(self, classes: Any, columns: int, within: Any, of_losses: np.dtype[Any], reduction: str) -> Any:
        """Cross entropy of rows of products with one class each, of as many ``columns``.

        Panels are theirs to change. Turned, they hold (p - target) times the scale (`Range.factor`), for a mean divided
        by the number of rows. The value is an array of the caller's kind for "none".
        """


@contextmanager
def engine_for(array: Any, n_threads: int | None) -> Iterator[Engine]:
    """The engine that computes with this array and all others of its call, at work."""
    engine: Engine = cuda_functions().Gpu(array) if is_on_device(array) else Cpu(n_threads)
    with engine.working():
        yield engine
