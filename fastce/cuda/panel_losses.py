"""Cross entropy of the rows of panels: the kernels of `fastce.cuda.cross_entropy`, in place, a panel at a time."""

import dataclasses
import math
from typing import Any

import numpy as np

from fastce.arguments.reductions import ROOM
from fastce.cuda._kernels.jobs import (
    CLASS_INDICES,
    CROSS_ENTROPY,
    NO_MASS,
    NO_TARGETS,
    SPARSE,
    Job,
    Options,
    Targets,
    options_of,
)
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.cross_entropy import reduced_loss
from fastce.cuda.flat import nothing
from fastce.cuda.layout import Rows, rows_of
from fastce.cuda.libraries import Library
from fastce.cuda.precision import fits
from fastce.cuda.products import array_module, as_reals, of_numbers, on_device, reshaped, rows_between, seen, seen_flat
from fastce.cuda.run import Call, add_up_losses, run
from fastce.cuda.targets import DeviceTargets, no_targets
from fastce.cuda.verdicts import check


class PanelLosses:
    """The losses of rows, panel by panel: kept for "none", else summed in float64."""

    def __init__(
        self,
        targets: DeviceTargets,
        options: Options,
        shape: tuple[int, int],
        reduction: str,
        above: Any = None,
        is_capped: bool = False,
        of_losses: np.dtype[Any] | None = None,
        by_scale: bool = False,
    ) -> None:
        """The targets are checked; ``above`` is what the gradients of rows are multiplied by, a flat array of Numba.

        ``of_losses`` is the dtype of the losses of rows, where that is not what they are computed in. With ``by_scale``
        the report of the targets adds up the derivative by the scale.
        """
        self.targets = targets
        self.options = options
        self.reduction = reduction
        self.is_capped = is_capped
        self.by_scale = by_scale
        self.rows: int = shape[0]
        self.columns: int = shape[1]
        self.library: Library = targets.library
        self.real: np.dtype[Any] = np.dtype(type(options.one))
        dtype = (of_losses or self.real).name if reduction == "none" else "float64"
        self.results: DeviceArray = empty(self.library, (self.rows,), dtype)
        self.above: Any = nothing("float64") if above is None else above

    def take(self, rows: slice, panel: DeviceArray, writes: bool, of_panel: DeviceTargets | None = None) -> None:
        """Compute the losses of these rows; their logits become their gradient, if that is wanted.

        The targets are their part of all, unless there are some for this panel.
        """
        described = part_of(self.targets, rows) if of_panel is None else of_panel
        job = Job(
            CROSS_ENTROPY, writes, described.points, described.dense, self.is_capped, self.real == np.float64,
            by_scale=self.by_scale,
        )  # fmt: skip
        above = self.above[rows] if self.above.size > 1 else self.above
        call = Call(job, self.options, described.arrays, described.mass_rows, above)
        logits, results = _matrix(panel), rows_between(self.results, rows.start, rows.stop)
        run(call, logits, logits if writes else None, results.flat(), self.targets.report)

    def sharpen(self, rows: slice, panel: DeviceArray, targets: Any, factor: float) -> None:
        """Give the slopes of confident targets their digits: factor (p - 1), where 1 - p is -expm1(-loss).

        ``targets`` are the classes of all rows whose target is one class, and below 0 for other rows.
        """
        xp, slopes, classes = array_module(), seen(panel), targets[rows]
        places = xp.arange(len(slopes)), xp.maximum(classes, 0)
        sharp = factor * xp.expm1(-seen(self.results)[rows].astype(np.float64))
        slopes[places] = xp.where(classes < 0, slopes[places], sharp.astype(slopes.dtype))

    def value(self) -> Any:
        """What the reduction asks for, of the caller's library for "none"; the host waits for other ones."""
        if self.reduction == "none":
            return self.results.given
        add_up_losses(self.results, self.rows, self.targets.report)
        return reduced_loss(self.targets, self.rows, self.columns, self.reduction)


class ClassLosses:
    """A loss from features (`fastce.products.loss.Loss`): of each row, cross entropy with one class as its target."""

    sweeps = 1

    def __init__(
        self, classes: Any, columns: int, within: Any, of_losses: np.dtype[Any], reduction: str, library: Library
    ) -> None:
        dtype, matrix = within.dtype, (classes.size, columns)
        self.scale: float = within.scale
        self.by_scale: bool = within.is_plain
        self.library = library
        self.is_plain: bool = within.is_plain and fits(dtype, self.scale)
        power = 0 if self.is_plain else ROOM
        targets = own_targets(library, dtype, matrix, reduction, 2.0**-power, classes=on_device(classes, library))
        options = options_of(dtype, self.scale if self.is_plain else 2.0**power)
        self.losses: PanelLosses = PanelLosses(targets, options, matrix, reduction, of_losses=of_losses)

    def read(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=False)

    def turn(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=True)

    def _take(self, rows: slice, products: Any, writes: bool) -> None:
        if not self.is_plain:
            self._shift(products)
        self.losses.take(rows, of_numbers(products, self.library), writes)
        if not self.is_plain and self.by_scale and writes:
            products *= self.scale

    def _shift(self, products: Any) -> None:
        """Make scale (x - top) / 2**ROOM of each row: see `fastce.cpu.panel_losses`."""
        if products.shape[1]:
            products[...] = 0.5 * products - 0.5 * products.max(axis=1, keepdims=True)
            products *= math.ldexp(self.scale, -ROOM)
            products *= 2.0

    def value(self) -> Any:
        return self.losses.value()


def _matrix(array: DeviceArray) -> Rows:
    """The rows of a matrix."""
    rows = rows_of(array, 1)
    assert rows is not None
    return rows


# --- targets ---------------------------------------------------------------------------------------------------------


def own_targets(
    library: Library,
    real: np.dtype[Any],
    shape: tuple[int, int],
    reduction: str,
    upstream: float = 1.0,
    *,
    classes: DeviceArray | None = None,
    row_weight: DeviceArray | None = None,
) -> DeviceTargets:
    """Targets that are not a caller's: one class of each row, or none; and float64 weights of rows.

    The gradient is multiplied by the ``upstream``.
    """
    arrays, kept = no_targets(real.name), [array for array in (classes, row_weight) if array is not None]
    if classes is not None:
        arrays = arrays._replace(classes=classes.flat())
    if row_weight is not None:
        arrays = arrays._replace(row_weight=row_weight.flat())
    points = NO_TARGETS if classes is None else CLASS_INDICES
    described = DeviceTargets(points, NO_MASS, arrays, None, library, kept)
    check(described, *shape, reduction == "mean", upstream)
    return described


def part_of(described: DeviceTargets, rows: slice) -> DeviceTargets:
    """The targets of these rows."""
    arrays, mass_rows = described.arrays, described.mass_rows
    if described.points == SPARSE:
        arrays = arrays._replace(first_points=arrays.first_points[rows.start : rows.stop + 1])
    elif arrays.classes.size:
        arrays = arrays._replace(classes=arrays.classes[rows])
    if arrays.row_weight.size:
        arrays = arrays._replace(row_weight=arrays.row_weight[rows])
    if mass_rows is not None:
        arrays, mass_rows = _part_of_probabilities(arrays, mass_rows, rows)
    return dataclasses.replace(described, arrays=arrays, mass_rows=mass_rows)


def _part_of_probabilities(arrays: Targets, masses: Rows, rows: slice) -> tuple[Targets, Rows]:
    """Kernels of matrices begin at the first element of an array; those for any strides at the origin."""
    start = rows.start * masses.cube.outer_step
    part = dataclasses.replace(masses, outer=rows.stop - rows.start)
    if masses.is_matrix:
        return arrays._replace(probabilities=arrays.probabilities[start:]), part
    return arrays, dataclasses.replace(part, cube=masses.cube._replace(origin=masses.cube.origin + start))


def numbers_of_counted(described: DeviceTargets) -> Any:
    """The numbers of the rows that are not ignored and have some weight; None for all of them.

    The host waits for their number, unless all rows count whatever the targets and weights are.
    """
    xp, arrays = array_module(), described.arrays
    counts = None
    if arrays.row_weight.size:
        counts = seen_flat(arrays.row_weight) != 0.0
    if described.points == CLASS_INDICES:
        have_class = seen_flat(arrays.classes).astype(np.int64) != arrays.ignore_index
        counts = have_class if counts is None else counts & have_class
    if counts is None:
        return None
    numbers = xp.flatnonzero(counts)
    return None if numbers.size == counts.size else numbers


def picked(described: DeviceTargets, numbers: Any) -> DeviceTargets:
    """The checked targets of the rows of these numbers, but for probabilities: see `picked_probabilities`."""
    library, arrays = described.library, described.arrays
    kept = [*described.kept]

    def new(values: Any) -> Any:
        kept.append(on_device(values, library))
        return kept[-1].flat()

    if described.points == SPARSE:
        first_points, places = _picked_points(seen_flat(arrays.first_points), numbers)
        arrays = arrays._replace(
            first_points=new(first_points),
            classes=new(seen_flat(arrays.classes)[places]),
            masses=new(seen_flat(arrays.masses)[places]),
        )
    elif arrays.classes.size:
        arrays = arrays._replace(classes=new(seen_flat(arrays.classes)[numbers]))
    if arrays.row_weight.size:
        arrays = arrays._replace(row_weight=new(seen_flat(arrays.row_weight)[numbers]))
    return dataclasses.replace(described, arrays=arrays, kept=kept)


def _picked_points(first_points: Any, numbers: Any) -> tuple[Any, Any]:
    """Where in the points of these rows each row begins, and where these points are among all."""
    xp = array_module()
    begin = first_points[numbers].astype(np.int64)
    ends = xp.cumsum(first_points[numbers + 1].astype(np.int64) - begin)
    first = xp.concatenate([xp.zeros(1, np.int64), ends])
    points = xp.arange(int(first[-1]))
    row = xp.searchsorted(ends, points, side="right")
    return first, begin[row] + points - first[row]


def picked_probabilities(described: DeviceTargets, rows: slice, numbers: Any, room: DeviceArray) -> DeviceTargets:
    """The targets of these of the rows picked, with the probabilities of their numbers copied to a room."""
    masses = described.mass_rows
    assert masses is not None
    matrix = reshaped(masses.array, (masses.outer, masses.classes), (masses.cube.outer_step, masses.cube.class_step))
    seen(room)[...] = as_reals(matrix, room.flat_dtype, numbers)
    arrays = described.arrays._replace(
        probabilities=room.flat(), row_weight=described.arrays.row_weight[rows]
    )  # fmt: skip
    return dataclasses.replace(described, arrays=arrays, mass_rows=_matrix(room), kept=[*described.kept, room])
