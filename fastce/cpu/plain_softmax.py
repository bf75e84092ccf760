"""Plain calls of logsumexp and softmax; see plain.py."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import cast
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.softmax import logsumexp_rows, softmax_rows
from fastce.cpu._kernels.softmax_columns import logsumexp_columns, softmax_columns
from fastce.cpu.along_rows import exps_kept
from fastce.cpu.layout import goes_past_cache
from fastce.cpu.plain import any_misfit, cube_of, in_runs, is_one_run, room_for, rows_of
from fastce.cpu.rooms import Room
from fastce.cpu.threads import for_each


def plain_logsumexp(a: Any, axis: Any, keepdims: bool, n_threads: Any) -> Any:
    """Logsumexp over the last axis, or None."""
    rows = rows_of(a, axis, n_threads)
    if rows is None:
        return None
    count, classes = rows.shape
    results = np.empty(count)
    if classes > NARROW:
        kernel = logsumexp_rows.compiled(rows.dtype)
        if is_one_run(rows):
            kernel(rows, results)
        else:
            for_each(in_runs((rows, results), n_threads), kernel, n_threads)
    else:
        cube, misfits = cube_of(rows), np.zeros((1, count), np.uint8)
        logsumexp_columns.compiled(rows.dtype)(cube, cube, True, results[None], misfits)
        if any_misfit(misfits):
            return None
    results = cast(results, rows.dtype)
    lead = a.shape[:-1]
    if keepdims:
        return results.reshape(*lead, 1)
    return results if len(lead) == 1 else results.reshape(lead)[()]


def plain_softmax(x: Any, axis: Any, out: Any, n_threads: Any, *, logarithm: bool) -> Array | None:
    """Softmax over the last axis, or its logarithm, or None. It may be ``out``."""
    rows = rows_of(x, axis, n_threads)
    room = None if rows is None else room_for(x, out)
    if rows is None or room is None:
        return None
    result = room.reshape(rows.shape)
    if rows.shape[1] > NARROW:
        kernel = softmax_rows.compiled(rows.dtype)
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
    else:
        cube, misfits = cube_of(rows), np.zeros((1, len(rows)), np.uint8)
        softmax_columns.compiled(rows.dtype)(cube, cube, True, cube_of(result), True, logarithm, misfits, False)
        if any_misfit(misfits):
            return None
    return room
