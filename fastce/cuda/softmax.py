"""logsumexp, softmax and log_softmax for arrays on a GPU."""

import dataclasses
from typing import Any

import numpy as np

from fastce.arguments.arrays import reduced_axes
from fastce.arguments.numbers import flag
from fastce.cuda._kernels.jobs import LOG_SOFTMAX, LOGSUMEXP, REPORT, SOFTMAX, Job, options_of
from fastce.cuda.arrays import DeviceArray, checked_out, empty, zeros
from fastce.cuda.cross_entropy import float_array, real_of
from fastce.cuda.layout import Rows, copy, rows_of, rows_over
from fastce.cuda.run import Call, run
from fastce.cuda.targets import no_targets


def logsumexp(**given: Any) -> Any:
    """See `fastce.logsumexp`."""
    keepdims = flag(given["keepdims"], "keepdims")
    if given["b"] is not None or flag(given["return_sign"], "return_sign"):
        raise TypeError("logsumexp of arrays on a GPU takes neither b nor return_sign: copy them to NumPy arrays first")
    array = float_array(given["a"], "a")
    axes = reduced_axes(array, given["axis"])  # type: ignore[arg-type]  # it has ndim
    kept = [1 if axis in axes else n for axis, n in enumerate(array.shape)]
    shape = kept if keepdims else [n for axis, n in enumerate(array.shape) if axis not in axes]
    results = empty(array.library, tuple(shape), array.dtype_name)
    rows, _ = _rows(array, axes)
    _run(LOGSUMEXP, rows, None, results)
    return results.given


def softmax(**given: Any) -> Any:
    """See `fastce.softmax`."""
    return _softmax(SOFTMAX, given)


def log_softmax(**given: Any) -> Any:
    """See `fastce.log_softmax`."""
    return _softmax(LOG_SOFTMAX, given)


def _softmax(kind: int, given: dict[str, Any]) -> Any:
    array = float_array(given["x"], "x")
    axes = reduced_axes(array, given["axis"])  # type: ignore[arg-type]
    out = checked_out(given["out"], array.shape, array.dtype_name, array, [])
    if array.size:
        source, _ = _rows(array, axes)
        written, copied = _rows(out, axes)
        results = empty(array.library, (source.count,), "float64")
        _run(kind, source, written, results)
        if copied is not None:
            copy(copied, _in_order(out, axes))
    return out.given


def _in_order(array: DeviceArray, axes: tuple[int, ...]) -> DeviceArray:
    """The array with these axes last, if they are several."""
    if len(axes) == 1:
        return array
    order = (*(axis for axis in range(array.ndim) if axis not in axes), *axes)
    shape = tuple(array.shape[axis] for axis in order)
    return dataclasses.replace(array, shape=shape, strides=tuple(array.strides[axis] for axis in order))


def _rows(array: DeviceArray, axes: tuple[int, ...]) -> tuple[Rows, DeviceArray | None]:
    """The array's rows; and, if no kernel can take them where they are, the copy of it whose rows they are.

    Kernels count the rows of all arrays of a call alike: those around one axis as outer and inner ones, all others as
    one sequence, whether the array is copied or not.
    """
    if (rows := _rows_where_they_are(array, axes)) is not None:
        return rows, None
    ordered = _in_order(array, axes)
    copied = empty(array.library, ordered.shape, array.dtype_name)
    copy(ordered, copied)
    last = axes if len(axes) == 1 else tuple(range(array.ndim - len(axes), array.ndim))
    rows = _rows_where_they_are(copied, last)
    assert rows is not None
    return rows, copied


def _rows_where_they_are(array: DeviceArray, axes: tuple[int, ...]) -> Rows | None:
    return rows_of(array, axes[0]) if len(axes) == 1 else rows_over(array, axes)


def _run(kind: int, rows: Rows, out: Rows | None, results: DeviceArray) -> None:
    if rows.count == 0:
        return
    real = real_of(rows.array)
    job = Job(kind, out is not None, is_float64=real == np.float64)
    targets = no_targets(rows.array.library, real.name)
    report = zeros(rows.array.library, (REPORT,), "float64")
    run(Call(job, options_of(real), targets, None, targets.row_weight, report), rows, out, results)
