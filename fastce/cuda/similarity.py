"""A similarity matrix on a GPU, or a panel of its rows: both directions of its loss, and its gradient.

Nothing waits for the device but `Similarity.value`, at the end. What is known of a tile's rows and columns is a 64th of
the matrix at most.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from fastce.cuda._kernels.clip import (
    LANES,
    SIDE_THREADS,
    SMALL_PART,
    Factors,
    Weights,
    add_directions,
    gather,
    gradient_kernel,
    side_kernel,
)
from fastce.cuda._kernels.jobs import Options, options_of
from fastce.cuda._kernels.similarity_states import MERGE_THREADS, merge, states_kernel
from fastce.cuda._kernels.similarity_tiles import ROWS_OF_BLOCK, THREADS, Matrix, Points
from fastce.cuda._kernels.similarity_totals import FEW, NEAR_THREADS, find_near
from fastce.cuda._kernels.states import WARP
from fastce.cuda.arrays import DeviceArray, empty, zeros
from fastce.cuda.launching import launch
from fastce.cuda.layout import lanes_of
from fastce.cuda.libraries import Library
from fastce.cuda.positives import DevicePositives
from fastce.cuda.precision import check_plain
from fastce.cuda.products import of_numbers
from fastce.cuda.run import add_up, numbers_of

ENOUGH_BLOCKS = 2048  # to keep all multiprocessors busy
HIGHEST = 1024  # rows of a tile
TOGETHER = 32  # states that one thread merges
CHUNK_BYTES = 16
VALUE, OF_SCALE = range(2)  # what the host reads in the end


class States(NamedTuple):
    """The states of rows (or columns), all of them for each part of the matrix: item i of part p is p * count + i.

    The totals, sums of a part of each element, are empty if nobody asks for them.
    """

    tops: Any
    rests: Any
    totals: Any

    def between(self, start: int, stop: int) -> "States":
        """Some of them."""
        return States(*(field[start:stop] if field.size else field for field in self))


class Similarity:
    """A loss on a similarity matrix of this shape and dtype, given whole or in ``panels`` of rows.

    Each panel is `read`; then `take_sides`; for gradients each panel is written (`write_gradient`); then the `value`.
    """

    def __init__(
        self,
        library: Library,
        shape: tuple[int, int],
        dtype_name: str,
        positives: DevicePositives,
        scale: float,
        smoothing: float,
        reduction: str,
        panels: int = 1,
        of_losses: str | None = None,
    ) -> None:
        """``of_losses`` is the dtype of the losses of rows, where that is not what they are computed in."""
        self.library = library
        self.shape = shape
        self.positives = positives
        self.reduction = reduction
        self.scale = scale
        self.smoothing = smoothing
        self.is_smoothed: bool = smoothing > 0.0
        self.real: np.dtype[Any] = np.dtype(np.float64 if dtype_name == "float64" else np.float32)
        self.of_losses = of_losses or self.real.name
        self.options: Options = options_of(self.real, scale)
        few, many = (4, 4) if dtype_name == "float64" else (6, 8 if dtype_name == "float32" else 6)
        self.blocks = few if self.is_smoothed else many  # of a multiprocessor: as many as leave registers enough
        self.kept: dict[Any, DeviceArray] = {}
        self.report: DeviceArray = zeros(library, (OF_SCALE + panels,), "float64")
        self.panels_read: int = 0
        self.panels_written: int = 0
        self.rows: States = self._states("rows", shape[0])
        self.columns_of_panels: States = self._states("columns of panels", panels * shape[1])
        self.columns: States = self.columns_of_panels if panels == 1 else self._states("columns", shape[1])
        self.near: list[Any] = [
            self._room(("near", side), count if self.is_smoothed else 0, self.real.name)
            for side, count in enumerate(shape)
        ]
        self.part: float = 1.0 if reduction == "mean" else 0.5 ** sum(shape).bit_length()  # of sums of y dL/dx
        self.elements: Any = self._room("elements", positives.count)
        self.slopes: Any = self._room("slopes", positives.count)
        self.kept["losses"] = zeros(library, (max(sum(shape), 1),), "float64")
        self.losses: Any = self.kept["losses"].flat()
        self.factors: list[Factors] = [self._factors(*side) for side in enumerate(shape)]

    def _room(self, name: Any, size: int, dtype_name: str = "float64") -> Any:
        """Memory of this name, made when it is first asked for, or if it must grow."""
        if name not in self.kept or self.kept[name].size < size:
            self.kept[name] = empty(self.library, (max(size, 1),), dtype_name)
        return self.kept[name].flat()[:size]

    def _states(self, name: Any, size: int, dtype_name: str = "float64") -> States:
        tops, rests = (self._room((name, field), size, dtype_name) for field in ("tops", "rests"))
        return States(tops, rests, self._room((name, "totals"), size if self.is_smoothed else 0))

    def _factors(self, side: int, count: int) -> Factors:
        sizes = {"references": count, "shares": count, "spreads": count if self.is_smoothed else 0}
        return Factors(*(self._room((name, side), size, self.real.name) for name, size in sizes.items()))

    def _launch(self, kernel: Any, items: int, threads: int, *args: Any) -> None:
        """Launch a kernel with a thread for each item."""
        if items:
            launch(kernel, -(-items // threads), threads, self.report, *args)

    def read(self, panel: DeviceArray, first_row: int = 0) -> None:
        """Find the states of the rows of a panel, and of its columns; and the elements that are points."""
        if panel.size == 0:
            return
        matrix = matrix_of(panel, panel, first_row)
        rows, columns, down = matrix.rows, matrix.columns, -(-matrix.rows // matrix.height)
        of_rows = self._states("rows of tiles", matrix.across * rows, self.real.name)
        of_columns = self._states("columns of tiles", down * columns, self.real.name)
        kernel, flat = states_kernel(self.real == np.float64, self.is_smoothed, self.blocks), panel.flat()
        launch(
            kernel, matrix.across * down, THREADS, panel,
            flat, matrix, self.options, *self._near(flat, matrix), *of_rows, *of_columns,
        )  # fmt: skip
        self._merge(of_rows, rows, matrix.across, self.rows.between(first_row, first_row + rows))
        at = self.panels_read * columns
        self._merge(of_columns, columns, down, self.columns_of_panels.between(at, at + columns))
        start, end = self.positives.between(first_row, first_row + rows)
        points = self.positives.rows, self.positives.columns
        self._launch(gather, end - start, SIDE_THREADS, flat, matrix, *points, start, end, self.elements)
        self.panels_read += 1

    def _near(self, flat: Any, matrix: Matrix) -> tuple[Any, Any]:
        """Numbers near the elements of the rows of a panel, and those of all columns, which the first panel tells."""
        rows, columns = self.near
        if not self.is_smoothed:
            return rows, columns
        rows, few = rows[matrix.first_row : matrix.first_row + matrix.rows], min(FEW, matrix.columns)
        steps = matrix.row_step, matrix.column_step
        self._launch(find_near, matrix.rows, NEAR_THREADS, flat, matrix.origin, *steps, matrix.rows, few, rows)
        if self.panels_read == 0:
            few, steps = min(FEW, matrix.rows), steps[::-1]
            self._launch(
                find_near, matrix.columns, NEAR_THREADS, flat, matrix.origin, *steps, matrix.columns, few, columns
            )
        return rows, columns

    def _merge(self, states: States, count: int, parts: int, into: States) -> None:
        """The states of all parts together."""
        like, level = self._room("like", 1, self.real.name), 0
        while True:
            groups = -(-parts // TOGETHER)
            merged = into if groups == 1 else self._states(("merged", level), groups * count)
            self._launch(
                merge, groups * count, MERGE_THREADS, *states, count, parts, TOGETHER, *merged, like, self.options
            )
            if groups == 1:
                return
            states, parts, level = merged, groups, level + 1

    def take_sides(self) -> None:
        """The losses of rows and columns, and what their gradients are made of."""
        rows, columns = self.shape
        if self.panels_read > 1:
            self._merge(self.columns_of_panels, columns, self.panels_read, self.columns)
        pairs = self.positives
        self._take_side(0, self.rows, pairs.of_rows, 0)
        self._take_side(1, self.columns, pairs.of_columns, rows)

    def _take_side(self, number: int, states: States, owners: Any, at: int) -> None:
        if 0 in self.shape:
            return  # no states have been found, and no loss is there
        share = 1.0 / max(self.positives.present[number], 1) if self.reduction == "mean" else 1.0
        weights = Weights(
            self.scale, self.scale * share, self.smoothing, 0.5 * share, float(self.shape[1 - number]),
            float(self.options.lowered),
        )  # fmt: skip
        count = self.shape[number]
        self._launch(
            side_kernel(number == 1), count * LANES, SIDE_THREADS,
            *states, self.near[number], count, self.elements, owners, weights, at, self.losses, self.factors[number],
            self.slopes,
        )  # fmt: skip

    def write_gradient(self, panel: DeviceArray, out: DeviceArray, first_row: int = 0) -> None:
        """Write the gradient of a panel into ``out``, which may be the panel itself."""
        if panel.size == 0:
            return
        matrix, into = matrix_of(panel, out, first_row), matrix_of(out, panel, first_row)
        blocks = matrix.across * -(-matrix.rows // matrix.height)
        self._room("sums", blocks)
        sums, points = self.kept["sums"], Points(self.positives.first_points, self.positives.columns)
        launch(
            gradient_kernel(self.positives.is_diagonal, self.is_smoothed, self.blocks), blocks, THREADS, panel,
            panel.flat(), out.flat(), matrix, into, self.options, *self.factors, points, self.slopes, self.part,
            sums.flat(),
        )  # fmt: skip
        add_up(sums, blocks, self.report, OF_SCALE + self.panels_written)
        self.panels_written += 1

    def value(self) -> tuple[Any, float]:
        """What the reduction asks for, and the gradient of the scale if gradients were written."""
        rows, columns = self.shape
        results = None
        if self.reduction == "none":
            results = empty(self.library, (rows,), self.of_losses)
            self._launch(add_directions, rows, SIDE_THREADS, self.losses, rows, results.flat())
            if not self.panels_written:
                return results.given, 0.0
        elif rows + columns:
            add_up(self.kept["losses"], rows + columns, self.report, VALUE)
        numbers = numbers_of(self.report)
        of_scale = float(numbers[OF_SCALE:].sum()) / (SMALL_PART * self.part)
        if results is not None:
            return results.given, of_scale
        is_mean_of_none = self.reduction == "mean" and self.positives.present == (0, 0)
        return math.nan if is_mean_of_none else float(numbers[VALUE]), of_scale


class PanelSimilarity:
    """CLIP's loss from features (`fastce.products.loss.Loss`), whose panels are read, and then written."""

    sweeps = 2

    def __init__(
        self,
        products: Any,
        positives: DevicePositives,
        within: Any,
        smoothing: float,
        reduction: str,
        of_losses: np.dtype[Any],
        library: Library,
    ) -> None:
        check_plain(within)
        self.library = library
        self.has_sides: bool = False
        self.similarity: Similarity = Similarity(
            library, (products.left.rows, products.right.rows), within.dtype.name, positives, within.scale, smoothing,
            reduction, len(products.places), of_losses.name,
        )  # fmt: skip

    def read(self, place: Any, panel: Any) -> None:
        self.similarity.read(of_numbers(panel, self.library), place.rows.start)

    def _take_sides(self) -> None:
        if not self.has_sides:
            self.similarity.take_sides()
            self.has_sides = True

    def turn(self, place: Any, panel: Any) -> None:
        self._take_sides()
        array = of_numbers(panel, self.library)
        self.similarity.write_gradient(array, array, place.rows.start)

    def value(self) -> Any:
        self._take_sides()
        return self.similarity.value()[0]


def matrix_of(array: DeviceArray, other: DeviceArray, first_row: int) -> Matrix:
    """How kernels find the elements of an array that they read together with another one."""
    (rows, columns), lanes = array.shape, lanes_of(array)
    across, height = -(-columns // (WARP * lanes)), HIGHEST
    while height > ROWS_OF_BLOCK and across * -(-rows // height) < ENOUGH_BLOCKS:
        height //= 2
    is_aligned = _has_chunks(array) and _has_chunks(other)
    row_step, column_step = array.strides
    return Matrix(rows, columns, array.origin, row_step, column_step, is_aligned, across, height, first_row)


def _has_chunks(array: DeviceArray) -> bool:
    """Whether chunks lie as they must in each row."""
    row_step, column_step = array.strides
    return (
        column_step == 1
        and array.pointer % CHUNK_BYTES == 0
        and (array.shape[0] <= 1 or row_step * array.itemsize % CHUNK_BYTES == 0)
    )
