"""The values of targets and weights, which the device looks at, and the errors of what it finds."""

import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import class_index_error
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
    IS_BAD,
    SPARSE,
    Targets,
)
from fastce.cuda.flat import nothing
from fastce.cuda.launching import launch
from fastce.cuda.precision import BeyondRange, limits
from fastce.cuda.rooms import Rooms, rooms_of
from fastce.cuda.targets import DeviceTargets


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
