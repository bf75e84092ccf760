"""logsumexp, softmax and log_softmax for arrays on a GPU."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import reduced_axes
from fastce.arguments.numbers import flag
from fastce.cuda._kernels.jobs import LOG_SOFTMAX, LOGSUMEXP, SOFTMAX, Job, options_of
from fastce.cuda.arrays import checked_out, empty
from fastce.cuda.axes import in_order, reduced_shape, rows_along, with_an_axis
from fastce.cuda.cross_entropy import float_array, real_of
from fastce.cuda.flat import nothing
from fastce.cuda.layout import Rows, copy
from fastce.cuda.rooms import rooms_of
from fastce.cuda.run import Call, plan_of
from fastce.cuda.signed_logsumexp import signed_logsumexp
from fastce.cuda.targets import no_targets


def logsumexp(**given: Any) -> Any:
    """See `fastce.logsumexp`."""
    keepdims, return_sign = flag(given["keepdims"], "keepdims"), flag(given["return_sign"], "return_sign")
    if given["b"] is not None or return_sign:
        return signed_logsumexp(given, keepdims=keepdims, return_sign=return_sign)
    array = with_an_axis(float_array(given["a"], "a"))
    axes = reduced_axes(array, given["axis"])  # type: ignore[arg-type]  # it has ndim
    results = empty(array.library, reduced_shape(array, axes, keepdims), array.dtype_name)
    rows, _ = rows_along(array, axes)
    _run(LOGSUMEXP, rows, None, results.flat())
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
        source, _ = rows_along(array, axes)
        written, copied = rows_along(out, axes)
        _run(kind, source, written, None)
        if copied is not None:
            copy(copied, in_order(out, axes))
    return out.given


def _run(kind: int, rows: Rows, out: Rows | None, results: Any) -> None:
    """Results are those of rows, or of no account if they are None."""
    if rows.count == 0:
        return
    real = real_of(rows.array)
    job = Job(kind, out is not None, is_float64=real == np.float64)
    call = Call(job, options_of(real), no_targets(real.name), None, nothing("float64"))
    plan = plan_of(call, rows, out, adds_up=False)
    rooms = rooms_of(rows.array.library, plan.tickets, plan.numbers + (rows.count if results is None else 0))
    plan.run(rooms, rooms.numbers[plan.numbers : plan.numbers + rows.count] if results is None else results)
