"""The targets and weights of a call, made ready for kernels; `fastce.cuda.verdicts` has the device look at them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastce.arguments.numbers import number
from fastce.arguments.places import is_on_device
from fastce.cuda._kernels.jobs import (
    CLASS_INDICES,
    CLASS_WEIGHTS,
    NO_MASS,
    NO_TARGETS,
    PROBABILITIES,
    SPARSE,
    SPREAD,
    Targets,
)
from fastce.cuda.arrays import DeviceArray, device_array
from fastce.cuda.flat import nothing
from fastce.cuda.layout import FLOATS, Rows, contiguous, filled, rows_of
from fastce.cuda.libraries import Library
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
    report: Any = None  # where the verdict of the last check will be
    weights_given: Any = None  # of classes, in float64 if they were that
    masses_given: Any = None  # of sparse targets, in float64 if they were that

    def set(self, **arrays: Any) -> None:
        """Put these in the place of arrays that do not apply."""
        self.arrays = self.arrays._replace(**arrays)


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
    """The targets of logits, whose shapes are checked here; their values `fastce.cuda.verdicts.check` looks at."""
    reader, none = _Reader(logits), no_targets(real)
    lead, classes = logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape[axis]
    dense = NO_MASS if spread == 0.0 else SPREAD if weight is None else CLASS_WEIGHTS
    described = DeviceTargets(NO_TARGETS, dense, none, None, logits.library, reader.kept)
    described.set(ignore_index=ignore_index if NOT_THERE <= ignore_index < -NOT_THERE else NOT_THERE)
    if weight is not None:
        _set_class_weights(described, reader, weight, classes, real)
    if sample_weight is not None:
        described.set(row_weight=reader.keep(_row_weights(reader, sample_weight, lead)).flat())
    if is_sparse(targets):
        _set_points(described, reader, targets, lead, classes, real)
    else:
        _set_dense(described, reader, reader.read(targets, "targets"), logits, axis, name)
    if described.points != CLASS_INDICES and ignore_index >= 0:
        raise ValueError(f"ignore_index applies to class indices, got {ignore_index} with targets of probabilities")
    return described


def _set_class_weights(described: DeviceTargets, reader: _Reader, value: Any, classes: int, real: str) -> None:
    array = reader.read(value, "weight")
    if array.shape != (classes,):
        raise ValueError(f"weight has shape {array.shape}, expected {(classes,)}")
    as_given = array.dtype_name if array.dtype_name in ("float32", "float64") else "float64"
    described.set(class_weight=reader.keep(contiguous(array, real)).flat())
    described.weights_given = reader.keep(contiguous(array, as_given)).flat()


def _set_points(
    described: DeviceTargets, reader: _Reader, targets: Any, lead: tuple[int, ...], classes: int, real: str
) -> None:
    """A sparse matrix: its points, and the mass at each."""
    masses, columns, starts = (reader.keep(part) for part in csr_arrays(targets, "targets", reader.library))
    _check_sparse_shape(starts, tuple(targets.shape), lead, classes)
    as_given = "float64" if masses.dtype_name == "float64" else real
    described.points = SPARSE
    described.masses_given = reader.keep(contiguous(masses, as_given)).flat()
    described.set(
        classes=reader.keep(contiguous(columns)).flat(),
        first_points=reader.keep(contiguous(starts)).flat(),
        masses=reader.keep(contiguous(masses, real)).flat(),
    )


def _set_dense(
    described: DeviceTargets, reader: _Reader, given: DeviceArray, logits: DeviceArray, axis: int, name: str
) -> None:
    """An array: class indices, or probabilities."""
    if given.dtype_name in INTEGERS:
        _check_shape(given.shape, logits.shape[:axis] + logits.shape[axis + 1 :], logits.shape, name)
        described.points = CLASS_INDICES
        described.set(classes=reader.keep(contiguous(given)).flat())
    elif given.dtype_name in FLOATS:
        described.dense = PROBABILITIES
        described.mass_rows = _probabilities(reader, given, logits, axis, name)
        described.set(probabilities=described.mass_rows.array.flat())
    else:
        raise TypeError(
            "targets must be class indices (integers), class probabilities (floats) or a sparse array, got dtype "
            f"{given.dtype_name}"
        )


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
