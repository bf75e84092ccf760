"""The three kinds of targets and the weights, as the kernels take them.

Class indices and the non-zeros of a sparse matrix are points; a dense matrix of probabilities is read block by
block. Indices are copied before they are checked: in a kernel, one that is out of range would read somebody else's
memory, and another thread may change the caller's array at any time.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastce.arguments import Array, Rows, compute_dtype, integer, plain_array, real_array, weights
from fastce.kernels.targets import Targets

_NO_INTEGERS = np.empty(0, np.int64)
_NO_FLOATS = np.empty(0, np.float64)
_NO_WEIGHT = {name: np.empty(0, name) for name in ("float32", "float64")}
_NO_PROBABILITIES = {name: np.empty((0, 0), name) for name in ("float32", "float64")}


@dataclass(slots=True)
class TargetRows:
    """The targets of a whole call. ``total_weight`` is what a mean divides by."""

    first_points: Array
    classes: Array
    masses: Array
    probabilities: Rows | None
    class_weight: Array
    row_weight: Array
    total_weight: float

    def block(self, start: int, stop: int, rows: int) -> Targets:
        """The targets of these rows."""
        no_probabilities = _NO_PROBABILITIES[self.class_weight.dtype.name]
        if stop - start == rows and self.probabilities is None:
            return Targets(
                self.first_points,
                self.classes,
                self.masses,
                no_probabilities,
                self.class_weight,
                self.row_weight,
            )
        per_row = slice(start, stop) if self.first_points.size == 0 else slice(None)
        return Targets(
            self.first_points[start : stop + 1],
            self.classes[per_row],
            self.masses[per_row],
            no_probabilities if self.probabilities is None else self.probabilities.block(start, stop),
            self.class_weight,
            self.row_weight[start:stop],
        )


def target_rows(
    targets: Any,
    logits: Rows,
    logits_shape: tuple[int, ...],
    axis: int,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    smoothed: bool,
    name: str = "logits",
) -> TargetRows:
    """Check and describe the targets of ``logits``; ``smoothed`` says whether every class has some mass."""
    ignored_class = integer(ignore_index, "ignore_index")
    per_class = None if weight is None else weights(weight, "weight", (logits.classes,))
    per_row = None if sample_weight is None else _sample_weight(sample_weight, logits)

    first_points, masses, probabilities = _NO_INTEGERS, _NO_FLOATS, None
    if is_sparse(targets):
        classes, masses, first_points = _sparse_points(targets, (logits.rows, logits.classes))
    else:
        array = _dense_targets(targets)
        if array.dtype.kind in "iu":
            classes, ignored = class_indices(array, logits, logits_shape, ignored_class, name)
            return _index_rows(classes, ignored, per_class, per_row, logits, smoothed)
        if array.shape != logits_shape:
            raise ValueError(f"targets of probabilities have shape {array.shape}, but {name} have {logits_shape}")
        classes, probabilities = _NO_INTEGERS, Rows(array, axis, compute_dtype(logits.dtype))
    if ignored_class >= 0:
        raise ValueError(f"ignore_index applies to class indices, got {ignored_class} with targets of probabilities")
    return TargetRows(
        first_points,
        classes,
        masses,
        probabilities,
        _kernel_weight(per_class, logits),
        _NO_FLOATS if per_row is None else per_row,
        logits.rows if per_row is None else float(per_row.sum()),
    )


def _sample_weight(value: Any, logits: Rows) -> Array:
    """One weight per row; a number stands for the same in all."""
    if np.ndim(value) == 0:
        value = np.full(logits.lead, real_array(value, "sample_weight"))
    return weights(value, "sample_weight", logits.lead).ravel()


def _index_rows(
    classes: Array,
    ignored: Array | None,
    per_class: Array | None,
    per_row: Array | None,
    logits: Rows,
    smoothed: bool,
) -> TargetRows:
    """Ignored rows get weight 0; class weights that concern only the targets are looked up here."""
    row_weight = _NO_FLOATS if per_row is None else per_row
    if ignored is not None:
        row_weight = np.where(ignored, 0.0, 1.0 if per_row is None else per_row)
    masses, weight_of_target = _NO_FLOATS, None
    if per_class is not None:
        weight_of_target = per_class[classes]
        if not smoothed:
            masses, per_class = weight_of_target, None
    if weight_of_target is None:
        total = float(row_weight.sum()) if row_weight.size else float(logits.rows)
    else:
        total = float((weight_of_target * row_weight if row_weight.size else weight_of_target).sum())
    return TargetRows(_NO_INTEGERS, classes, masses, None, _kernel_weight(per_class, logits), row_weight, total)


def _kernel_weight(per_class: Array | None, logits: Rows) -> Array:
    dtype = compute_dtype(logits.dtype)
    return _NO_WEIGHT[dtype.name] if per_class is None else per_class.astype(dtype)


def _dense_targets(targets: Any) -> Array:
    array = plain_array(targets, "targets")
    if array.dtype.kind not in "iuf" and array.dtype.name != "bfloat16":
        raise TypeError(
            f"targets must be class indices (integers), class probabilities (floats) or a SciPy sparse array, "
            f"got dtype {array.dtype}"
        )
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"targets have dtype {array.dtype}: convert them to float64")
    return array


def class_indices(
    targets: Array, logits: Rows, logits_shape: tuple[int, ...], ignored_class: int | None, name: str
) -> tuple[Array, Array | None]:
    """The indices as a fresh int64 vector, 0 where ignored, and which those are (None: none)."""
    if targets.shape != logits.lead:
        raise ValueError(
            f"targets of class indices have shape {targets.shape}, expected {logits.lead} for {name} of shape "
            f"{logits_shape}"
        )
    classes = targets.astype(np.int64).ravel()
    as_unsigned = classes.view(np.uint64)  # negative ones become the largest
    may_be_ignored = ignored_class is not None and 0 <= ignored_class < logits.classes
    if not may_be_ignored and (not classes.size or as_unsigned.max() < logits.classes):
        return classes, None
    ignored = np.zeros(classes.shape, bool) if ignored_class is None else classes == ignored_class
    if targets.dtype == np.uint64 and ignored_class is not None and ignored_class < 0:
        ignored &= targets.ravel() < 2**63
    wrong = (as_unsigned >= logits.classes) & ~ignored
    if wrong.any():
        row = int(wrong.argmax())
        raise class_index_error(row, targets.ravel()[row], logits.classes)
    classes[ignored] = 0
    return classes, ignored if ignored.any() else None


def class_index_error(row: int, index: Any, classes: int) -> IndexError:
    return IndexError(f"targets in row {row} hold class index {index}, accepted are 0 to {classes - 1}")


# --- sparse ----------------------------------------------------------------------------------------------------------


def is_sparse(targets: Any) -> bool:
    """Whether this is a SciPy sparse array or matrix; SciPy's module is not imported to find out."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and sparse.issparse(targets)


def _sparse_points(targets: Any, shape: tuple[int, int]) -> tuple[Array, Array, Array]:
    """(classes, masses, first_points) in canonical form: sorted, duplicates summed."""
    if targets.ndim != 2 or targets.shape != shape:
        raise ValueError(f"sparse targets have shape {targets.shape}, expected {shape}: one row per row of logits")
    if targets.dtype.kind not in "fiub" or (targets.dtype.kind == "f" and targets.dtype.itemsize > 8):
        raise TypeError(f"sparse targets must hold real numbers, got dtype {targets.dtype}")
    matrix = checked_csr(targets)
    return (
        matrix.indices.astype(np.int64),
        matrix.data.astype(np.float64),
        matrix.indptr.astype(np.int64),
    )


def checked_csr(targets: Any) -> Any:
    """A CSR array with sorted, unique, checked indices; the caller's matrix is never changed."""
    if targets.format == "csr":
        _check_hand_made(targets)
        matrix = targets.copy()
    else:
        try:
            matrix = targets.tocsr(copy=True)
        except (ValueError, IndexError) as error:
            raise ValueError(f"sparse targets are inconsistent: {error}") from None
        _check_hand_made(matrix)
    matrix.has_canonical_format = False
    matrix.has_sorted_indices = False
    matrix.sum_duplicates()
    return matrix


def _check_hand_made(matrix: Any) -> None:
    """A CSR matrix is three arrays that anyone may have set to anything."""
    rows, classes = matrix.shape
    first, indices = np.asarray(matrix.indptr), np.asarray(matrix.indices)
    consistent = (
        first.shape == (rows + 1,)
        and first[0] == 0
        and bool((np.diff(first) >= 0).all())
        and first[-1] <= indices.size
        and indices.shape == np.shape(matrix.data)
    )
    if not consistent:
        raise ValueError("sparse targets are inconsistent: indptr must rise from 0 to the number of stored elements")
    used = indices[: first[-1]]
    wrong = (used < 0) | (used >= classes)
    if wrong.any():
        at = int(wrong.argmax())
        row = int(np.searchsorted(first, at, side="right")) - 1
        raise class_index_error(row, used[at], classes)


def smoothing(label_smoothing: float, over: str, classes: int) -> tuple[float, float]:
    """(keep, spread) with t' = keep * t + spread; "others" spreads over the classes that t leaves out."""
    if classes == 1 or label_smoothing == 0.0:
        return 1.0, 0.0
    if over == "all":
        return 1.0 - label_smoothing, label_smoothing / classes
    spread = label_smoothing / (classes - 1)
    return (1.0 - label_smoothing) - spread, spread


def mean_factor(total_weight: float) -> float:
    """What a mean multiplies gradients by: 0 where there is nothing to divide by."""
    return 1.0 / total_weight if total_weight > 0.0 else 0.0


def reduced(losses: Array, reduction: str, total_weight: float) -> float:
    """The sum or mean of row losses, as a Python float."""
    total = float(losses.sum())
    if reduction == "sum":
        return total
    return total / total_weight if total_weight > 0.0 else math.nan
