"""The targets and weights of a call, made ready for kernels and checked on the device."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastce.arguments.arrays import class_index_error
from fastce.arguments.numbers import number
from fastce.arguments.places import is_on_device
from fastce.arguments.sparse import mass_error
from fastce.cuda._kernels.checks import PER_BLOCK, THREADS, Checked, check_kernel
from fastce.cuda._kernels.jobs import (
    BAD_CLASS_WEIGHT,
    BAD_MASS,
    BAD_ROW_WEIGHT,
    BAD_STRUCTURE,
    BAD_TARGET,
    BAD_TOTAL_WEIGHT,
    BEYOND,
    CLASS_INDICES,
    CLASS_WEIGHTS,
    IS_BAD,
    NO_MASS,
    NO_TARGETS,
    PROBABILITIES,
    SPARSE,
    SPREAD,
    Targets,
)
from fastce.cuda.arrays import DeviceArray, device_array
from fastce.cuda.flat import nothing
from fastce.cuda.launching import launch
from fastce.cuda.layout import FLOATS, Rows, contiguous, filled, rows_of
from fastce.cuda.libraries import Library
from fastce.cuda.precision import BeyondRange, limits
from fastce.cuda.rooms import Rooms, rooms_of
from fastce.cuda.sparse import csr_arrays, is_sparse

INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
NOT_THERE = -(2**63)  # of ignored classes that no number of 64 bits is


@dataclass
class DeviceTargets:
    """What rows are compared with, as kernels take it."""

    points: int
    dense: int
    arrays: Targets
    mass_rows: Rows | None
    library: Library
    kept: list[DeviceArray]  # alive while kernels run
    report: Any = None  # where the verdict of the last `check` will be
    weights_given: Any = None  # of classes, in float64 if they were that
    masses_given: Any = None  # of sparse targets, in float64 if they were that


class _Reader:
    """Reads the arrays of one call, all in the order of its stream; what it makes stays alive with it."""

    def __init__(self, logits: DeviceArray) -> None:
        self.library = logits.library
        self.kept: list[DeviceArray] = []

    def keep(self, array: DeviceArray) -> DeviceArray:
        self.kept.append(array)
        return array

    def read(self, value: Any, name: str) -> DeviceArray:
        return self.keep(device_array(value, name, self.library))


def no_targets(real: str) -> Targets:
    """What kernels without targets get: empty arrays."""
    indices, reals, float64s = (nothing(name) for name in ("int64", real, "float64"))
    return Targets(indices, indices, reals, reals, reals, float64s, -1)


def described_targets(
    targets: Any,
    logits: DeviceArray,
    axis: int,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: int,
    spread: float,
    real: str,
    name: str = "logits",
) -> DeviceTargets:
    """The targets of logits, whose shapes are checked here; their values `check` looks at."""
    reader = _Reader(logits)
    lead, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis]
    per_class = weights_given = per_row = None
    if weight is not None:
        weights = _class_weights(reader, weight, classes)
        as_given = weights.dtype_name if weights.dtype_name in ("float32", "float64") else "float64"
        per_class, weights_given = (reader.keep(contiguous(weights, name)) for name in (real, as_given))
    if sample_weight is not None:
        per_row = reader.keep(_row_weights(reader, sample_weight, lead))
    dense = NO_MASS if spread == 0.0 else SPREAD if per_class is None else CLASS_WEIGHTS
    none = no_targets(real)
    indices, first_points, masses, probabilities = none[:4]
    points, mass_rows, masses_given = NO_TARGETS, None, None
    if is_sparse(targets):
        points = SPARSE
        of_masses, of_columns, of_starts = (
            reader.keep(part) for part in csr_arrays(targets, "targets", reader.library)
        )
        _check_sparse_shape(of_starts, tuple(targets.shape), lead, classes)
        is_wide = of_masses.dtype_name == "float64"
        masses_given = reader.keep(contiguous(of_masses, "float64" if is_wide else real)).flat()
        masses = reader.keep(contiguous(of_masses, real)).flat()
        indices, first_points = reader.keep(contiguous(of_columns)).flat(), reader.keep(contiguous(of_starts)).flat()
    else:
        given = reader.read(targets, "targets")
        if given.dtype_name in INTEGERS:
            points = CLASS_INDICES
            _check_shape(given.shape, lead, logits.shape, name)
            indices = reader.keep(contiguous(given)).flat()
        elif given.dtype_name in FLOATS:
            dense = PROBABILITIES
            mass_rows = _probabilities(reader, given, logits, axis, name)
            probabilities = mass_rows.array.flat()
        else:
            raise TypeError(
                "targets must be class indices (integers), class probabilities (floats) or a sparse array, got dtype "
                f"{given.dtype_name}"
            )
    if points != CLASS_INDICES and ignore_index >= 0:
        raise ValueError(f"ignore_index applies to class indices, got {ignore_index} with targets of probabilities")
    arrays = Targets(
        indices, first_points, masses, probabilities,
        none.class_weight if per_class is None else per_class.flat(),
        none.row_weight if per_row is None else per_row.flat(),
        ignore_index if NOT_THERE <= ignore_index < -NOT_THERE else NOT_THERE,
    )  # fmt: skip
    return DeviceTargets(
        points, dense, arrays, mass_rows, logits.library, reader.kept, None,
        None if weights_given is None else weights_given.flat(), masses_given,
    )  # fmt: skip


def _row_weights(reader: _Reader, value: Any, lead: tuple[int, ...]) -> DeviceArray:
    """One weight per row; a number stands for the same in all."""
    if not is_on_device(value):
        return filled(reader.library, lead, number(value, "sample_weight"))
    array = reader.read(value, "sample_weight")
    if array.shape in ((), (1,)):
        array = reader.keep(replace(array, shape=lead, strides=(0,) * len(lead)))  # of all rows
    if array.shape != lead:
        raise ValueError(f"sample_weight has shape {array.shape}, expected {lead}")
    return contiguous(array, "float64")


def _class_weights(reader: _Reader, value: Any, classes: int) -> DeviceArray:
    array = reader.read(value, "weight")
    if array.shape != (classes,):
        raise ValueError(f"weight has shape {array.shape}, expected {(classes,)}")
    return array


def _probabilities(reader: _Reader, given: DeviceArray, logits: DeviceArray, axis: int, name: str) -> Rows:
    if given.shape != logits.shape:
        raise ValueError(f"targets of probabilities have shape {given.shape}, but {name} have {logits.shape}")
    rows = rows_of(given, axis)
    return rows if rows is not None else rows_of(reader.keep(contiguous(given)), axis)  # type: ignore[return-value]


def _check_shape(shape: tuple[int, ...], lead: tuple[int, ...], logits_shape: tuple[int, ...], name: str) -> None:
    if shape != lead:
        raise ValueError(
            f"targets of class indices have shape {shape}, expected {lead} for {name} of shape {logits_shape}"
        )


def _check_sparse_shape(starts: DeviceArray, shape: tuple[int, ...], lead: tuple[int, ...], classes: int) -> None:
    rows = int(np.prod(lead, dtype=np.int64))
    if shape != (rows, classes) or starts.size != rows + 1:
        raise ValueError(f"sparse targets have shape {shape}, expected {(rows, classes)}: one row per row of logits")


# --- values ----------------------------------------------------------------------------------------------------------


def check(
    described: DeviceTargets,
    rows: int,
    classes: int,
    is_mean: bool,
    upstream: float,
    writes: bool = False,
    above: Any = None,
    tickets: int = 0,
    numbers: int = 0,
) -> Rooms:
    """Have the device look at all targets and weights, and find the total weight of the rows.

    Class weights and masses must be of the range that elements are computed in. Rows are multiplied by their weights
    and by ``above`` in float64, but for gradients; these are of ratios to the total weight in means.

    Returns
    -------
    Rooms
        The report that `verdict` reads; and so many tickets and numbers, for the kernels that come after.
    """
    arrays, is_wide = described.arrays, is_float64(described)
    none, (least, most) = nothing("float64"), _limits(arrays)
    weights = described.weights_given
    if weights is None:
        weights = arrays.class_weight
    masses, above = (none if array is None else array for array in (described.masses_given, above))
    most_above = 0.0
    if writes and not is_wide and (above.size or arrays.row_weight.size):
        most_above = most / max(abs(upstream), 1.0)
    blocks = max(1, -(-max(rows, weights.size) // PER_BLOCK))
    rooms = rooms_of(described.library, 1 + tickets, blocks + numbers)
    described.report = rooms.report
    launch(
        check_kernel(described.points), blocks, THREADS, described,
        arrays, weights, masses, above,
        Checked(rows, classes, PER_BLOCK, is_mean, is_wide, upstream, least, most, most_above),
        rooms.report, rooms.numbers[:blocks], rooms.tickets[:1],
    )  # fmt: skip
    return Rooms(rooms.report, rooms.tickets[1:], rooms.numbers[blocks:])


def verdict(described: DeviceTargets, rows: int, classes: int) -> Any:
    """The report, or the error of whatever was found wrong: the host waits for the device here.

    Where float32 has not the range for the numbers of a call, that is a `BeyondRange`.
    """
    report, limit = described.report.copy_to_host(), _limits(described.arrays)
    if report[BAD_CLASS_WEIGHT] > 0.0:
        bad = number_at(described.weights_given, classes - int(report[BAD_CLASS_WEIGHT]))
        raise weight_error("weight", bad, limit)
    if report[BAD_ROW_WEIGHT] > 0.0:
        bad = number_at(described.arrays.row_weight, rows - int(report[BAD_ROW_WEIGHT]))
        raise weight_error("sample_weight", bad, limit)
    if report[BAD_TARGET] > 0.0:
        row = rows - int(report[BAD_TARGET])
        raise class_index_error(row, _bad_index(described, row, classes), classes)
    if report[BAD_STRUCTURE] > 0.0:
        raise ValueError(
            f"sparse targets are inconsistent, or their indices not sorted and unique, in row "
            f"{rows - int(report[BAD_STRUCTURE])}"
        )
    if report[BAD_MASS] > 0.0:
        row = rows - int(report[BAD_MASS])
        raise mass_error(_bad_mass(described, row), row)
    if report[BEYOND] > 0.0:
        raise BeyondRange(is_float64(described), is_written=report[IS_BAD] == 0.0)
    if report[BAD_TOTAL_WEIGHT] > 0.0:
        raise ValueError("on a GPU, the weights that a mean is divided by must add up to less than 1.8e308 in size")
    return report


def is_float64(described: DeviceTargets) -> bool:
    """Whether elements are computed in float64."""
    return bool(described.arrays.class_weight.dtype == np.float64)


def _limits(arrays: Targets) -> tuple[float, float]:
    """The smallest and the largest weight that elements can be multiplied by."""
    return limits(arrays.class_weight.dtype)


def number_at(numbers: Any, k: int) -> float:
    """Number k of an array on the device."""
    return float(numbers[k : k + 1].copy_to_host()[0])


def weight_error(name: str, weight: float, within: tuple[float, float]) -> ValueError:
    """What is wrong with a weight, where these sizes are accepted."""
    low, high = within
    if not math.isfinite(weight):
        return ValueError(f"{name} must be finite, got {weight}")
    return ValueError(f"on a GPU, sizes of {name} must be 0 or between {low} and {high}, got {weight}")


def _bad_mass(described: DeviceTargets, row: int) -> float:
    """The first mass of this row of a sparse matrix that is none."""
    first, end = (int(k) for k in described.arrays.first_points[row : row + 2].copy_to_host())
    masses = described.masses_given[first:end].copy_to_host()
    return next(float(mass) for mass in masses if not 0.0 <= mass < np.inf)


def _bad_index(described: DeviceTargets, row: int, classes: int) -> int:
    """The first class index out of range of this row."""
    arrays = described.arrays
    first, end = row, row + 1
    if described.points == SPARSE:
        first, end = (int(k) for k in arrays.first_points[row : row + 2].copy_to_host())
    indices = arrays.classes[first:end].copy_to_host()
    return next(int(c) for c in indices if not 0 <= int(c) < classes)
