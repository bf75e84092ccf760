"""The targets and weights of a call, made ready for kernels and checked on the device."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numba import cuda

from fastce.arguments.arrays import class_index_error
from fastce.arguments.numbers import number
from fastce.arguments.places import is_on_device
from fastce.arguments.sparse import mass_error
from fastce.cuda._kernels.checks import (
    THREADS,
    check_class_indices,
    check_factors,
    check_sparse,
    check_weights,
    finish_checks,
)
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
    REPORT,
    SPARSE,
    SPREAD,
    Targets,
)
from fastce.cuda._kernels.sums import PER_BLOCK
from fastce.cuda.arrays import DeviceArray, csr_arrays, device_array, empty, is_sparse, zeros
from fastce.cuda.launching import launch
from fastce.cuda.layout import FLOATS, Rows, blocks_for, contiguous, rows_of
from fastce.cuda.libraries import Library
from fastce.cuda.precision import BeyondRange, limits
from fastce.cuda.run import numbers_of, sums_of_blocks

_INTEGERS = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")


@dataclass
class DeviceTargets:
    """What rows are compared with, as kernels take it, and where the verdict of the checks will be."""

    points: int
    dense: int
    arrays: Targets
    mass_rows: Rows | None
    report: DeviceArray
    kept: list[DeviceArray]  # alive while kernels run
    weights_given: Any = None  # of classes, in float64
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


def no_targets(library: Library, real: str) -> Targets:
    """What kernels without targets get: empty arrays, which need no memory to last."""
    indices, reals, float64s = (empty(library, (1,), name).flat()[:0] for name in ("int64", real, "float64"))
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
        per_class, weights_given = (reader.keep(contiguous(weights, name)) for name in (real, "float64"))
    if sample_weight is not None:
        per_row = reader.keep(_row_weights(reader, sample_weight, lead))
    dense = NO_MASS if spread == 0.0 else SPREAD if per_class is None else CLASS_WEIGHTS
    nothing = no_targets(logits.library, real)
    indices, first_points, masses, probabilities = nothing[:4]
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
        if given.dtype_name in _INTEGERS:
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
        nothing.class_weight if per_class is None else per_class.flat(),
        nothing.row_weight if per_row is None else per_row.flat(),
        ignore_index,
    )  # fmt: skip
    report = reader.keep(zeros(logits.library, (REPORT,), "float64"))
    flat = None if weights_given is None else weights_given.flat()
    return DeviceTargets(points, dense, arrays, mass_rows, report, reader.kept, flat, masses_given)


def _row_weights(reader: _Reader, value: Any, lead: tuple[int, ...]) -> DeviceArray:
    """One weight per row; a number stands for the same in all."""
    is_number = not is_on_device(value)
    array = reader.read(
        cuda.to_device(np.full(1, number(value, "sample_weight"))) if is_number else value, "sample_weight"
    )
    if is_number or array.shape in ((), (1,)):
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
) -> None:
    """Have the device look at all targets and weights, and find the total weight of the rows.

    Class weights and masses must be of the range that elements are computed in. Rows are multiplied by their weights
    and by ``above`` in float64, but for gradients; these are of ratios to the total weight in means.
    """
    arrays, report, is_wide = described.arrays, described.report, is_float64(described)
    flat, (low, high) = report.flat(), _limits(arrays)
    given = arrays.class_weight if described.weights_given is None else described.weights_given
    for weights, least, most, bad, beyond in (
        (given, low, high, BAD_CLASS_WEIGHT, BAD_CLASS_WEIGHT if is_wide else BEYOND),
        (arrays.row_weight, 0.0, math.inf, BAD_ROW_WEIGHT, BEYOND),
    ):
        if weights.size:
            count = weights.size
            launch(check_weights, blocks_for(count), THREADS, report, weights, count, least, most, flat, bad, beyond)
    above = arrays.row_weight[:0] if above is None else above
    if writes and not is_wide and (above.size or arrays.row_weight.size):
        most = high / max(abs(upstream), 1.0)
        launch(check_factors, blocks_for(rows), THREADS, report, arrays, above, rows, is_mean, most, flat)
    blocks, known = 0, float(rows)
    totals = described.report
    if described.points == CLASS_INDICES:
        blocks, known = max(1, -(-rows // PER_BLOCK)), 0.0
        totals = empty(report.library, (blocks,), "float64")
        launch(check_class_indices, blocks, THREADS, report, arrays, rows, classes, PER_BLOCK, flat, totals.flat())
    elif described.points == SPARSE:
        stored = arrays.classes.size
        masses, most = described.masses_given, math.inf if is_wide else high
        launch(
            check_sparse, blocks_for(rows), THREADS, report,
            arrays, masses, rows, classes, stored, 0.0 if is_wide else low, most, flat,
        )  # fmt: skip
    if described.points != CLASS_INDICES and arrays.row_weight.size:
        known = 0.0
        totals, blocks = sums_of_blocks(report.library, arrays.row_weight, rows)
    described.kept.append(totals)
    launch(finish_checks, 1, THREADS, report, totals.flat(), blocks, known, is_mean, upstream, flat)


def verdict(described: DeviceTargets, rows: int, classes: int) -> Any:
    """The report, or the error of whatever was found wrong: the host waits for the device here.

    Where float32 has not the range for the numbers of a call, that is a `BeyondRange`.
    """
    report, limit = numbers_of(described.report), _limits(described.arrays)
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
