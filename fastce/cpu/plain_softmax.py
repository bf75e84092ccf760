"""Plain calls of logsumexp and softmax; see plain.py."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, new_like
from fastce.arguments.silence import cast
from fastce.cpu._kernels.softmax import logsumexp_rows, softmax_rows
from fastce.cpu._kernels.softmax_columns import logsumexp_columns, softmax_columns
from fastce.cpu.along_rows import exps_kept
from fastce.cpu.layout import goes_past_cache
from fastce.cpu.plain import FewClasses, any_misfit, few_classes, in_runs, is_one_run, room_for, rows_of, view_of
from fastce.cpu.rooms import Room
from fastce.cpu.threads import for_each


def plain_logsumexp(a: Any, axis: Any, keepdims: bool, n_threads: Any) -> Any:
    """Logsumexp over one axis, or None."""
    few = few_classes(a, axis, n_threads)
    if few is not None:
        axis, lead, view = few
        results: Array = np.empty(lead)
        cube, misfits = view.cube_of(a), np.zeros(view.shape, np.uint8)
        logsumexp_columns.compiled(a.dtype)(cube, cube, view.narrow, results.reshape(view.shape), misfits)
        if any_misfit(misfits):
            return None
    else:
        rows = rows_of(a, axis, n_threads)
        if rows is None:
            return None
        axis, lead, results = a.ndim - 1, a.shape[:-1], np.empty(len(rows))
        kernel = logsumexp_rows.compiled(rows.dtype)
        if is_one_run(rows):
            kernel(rows, results)
        else:
            for_each(in_runs((rows, results), n_threads), kernel, n_threads)
    results = cast(results, a.dtype)
    if keepdims:
        return results.reshape(*lead[:axis], 1, *lead[axis:])
    return results if len(lead) == 1 else results.reshape(lead)[()]


def plain_softmax(x: Any, axis: Any, out: Any, n_threads: Any, *, logarithm: bool) -> Array | None:
    """Softmax over one axis, or its logarithm, or None. It may be ``out``."""
    few = few_classes(x, axis, n_threads)
    if few is not None:
        return _softmax_of_few(x, few, out, logarithm=logarithm)
    rows = rows_of(x, axis, n_threads)
    room = None if rows is None else room_for(x, out)
    if rows is None or room is None:
        return None
    result, kernel = room.reshape(rows.shape), softmax_rows.compiled(rows.dtype)
    count = 0 if logarithm else exps_kept(rows.shape[1], rows.dtype)
    if is_one_run(rows):
        kernel(rows, result, np.empty(count, rows.dtype), logarithm, False)
    else:
        exps, past_cache = Room(), goes_past_cache(room)
        for_each(
            in_runs((rows, result), n_threads),
            lambda block, out: kernel(block, out, exps.of((count,), rows.dtype), logarithm, past_cache),
            n_threads,
        )
    return room


def _softmax_of_few(x: Array, few: FewClasses, out: Any, *, logarithm: bool) -> Array | None:
    """The same of few classes."""
    axis, _, view = few
    lies_in_order = x.flags.c_contiguous
    room = room_for(x, out) if lies_in_order else new_like(x, x.dtype)
    to_write = None if room is None else view if lies_in_order else view_of(room, axis)
    if room is None or to_write is None:
        return None
    cube, misfits = view.cube_of(x), np.zeros(view.shape, np.uint8)
    softmax_columns.compiled(x.dtype)(
        cube, cube, view.narrow, to_write.cube_of(room), to_write.narrow, logarithm, misfits, False
    )
    return None if any_misfit(misfits) else room
