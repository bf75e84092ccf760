"""logsumexp and softmax, run over blocks: a row in each lane where that is possible, else row by row."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, forwards, kernel_dtype
from fastce.arguments.numbers import checked_num_threads
from fastce.arguments.silence import cast, store
from fastce.cpu._kernels.softmax import logsumexp_rows, softmax_rows
from fastce.cpu._kernels.softmax_columns import logsumexp_columns, softmax_columns
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.along_rows import exps_kept
from fastce.cpu.columns import (
    SIDE_BY_SIDE_BYTES,
    Columns,
    CopiedColumns,
    Place,
    columns_of,
    columns_to_write,
    cut_for_threads,
    reading_order,
)
from fastce.cpu.layout import Rows, cut_as_read, goes_past_cache, write_rows
from fastce.cpu.long_softmax import softmax_of_long_rows
from fastce.cpu.pieces import is_long, pieces
from fastce.cpu.rooms import Room
from fastce.cpu.threads import for_each

FLOAT64 = np.dtype(np.float64)
LEFT_OF = 64  # elements, at least, that become one: then the rest is a thirty-second of the array's size or less


def logsumexp_over(array: Array, axes: tuple[int, ...], n_threads: int | None, dtype: np.dtype[Any] = FLOAT64) -> Array:
    """Logsumexp over these axes in this dtype, one number per row."""
    if array.ndim == 0:
        array, axes = array.reshape(1), (0,)
    if not axes:
        return cast(array.astype(FLOAT64), dtype).ravel()
    if _is_better_in_turn(array, axes):
        first = max(axes, key=array.shape.__getitem__)
        left = [n for k, n in enumerate(array.shape) if k != first]
        partial = logsumexp_over(array, (first,), n_threads).reshape(left)
        return logsumexp_over(partial, tuple(k - (k > first) for k in axes if k != first), n_threads, dtype)
    order = reading_order(array, axes)
    if order is not None or any(step < 0 for k, step in enumerate(array.strides) if k not in axes):
        return _logsumexp_as_memory_lies(array, axes, order or tuple(range(array.ndim)), n_threads, dtype)
    parts = [Rows(array[piece], axes) for piece in pieces(array.shape, axes)]
    rows = parts[0].rows
    if n_threads is not None:
        checked_num_threads(n_threads)
    if parts[0].classes == 0:
        return np.full(rows, -np.inf, dtype)
    if len(parts) == 1 and len(axes) == 1 and (cube := columns_of(array, axes[0], parts[0].dtype)) is not None:
        return _logsumexp_of_columns(cube, parts[0], n_threads, dtype)
    kernel = logsumexp_rows.compiled(parts[0].dtype)
    results = np.empty((len(parts), rows))

    def look(k: int, start: int, stop: int) -> None:
        kernel(parts[k].block(start, stop), results[k, start:stop])

    row_blocks = cut_as_read(*parts, n_threads=n_threads)
    for_each([(k, *block) for k in range(len(parts)) for block in row_blocks], look, n_threads)
    return cast(results[0], dtype) if len(parts) == 1 else logsumexp_over(results, (0,), n_threads, dtype)


def _is_better_in_turn(array: Array, axes: tuple[int, ...]) -> bool:
    """Whether to go over one axis, then over the others: of what is left of it, little beside the array, in float64.

    Rows of axes that are not the last ones would be copied. Float64 would lose the digits of results near 0.
    """
    if len(axes) < 2 or min(axes) == array.ndim - len(axes) or kernel_dtype(array.dtype).itemsize == 8:
        return False
    return bool(max(array.shape[k] for k in axes) >= LEFT_OF)


def _logsumexp_as_memory_lies(
    array: Array, axes: tuple[int, ...], order: tuple[int, ...], n_threads: int | None, dtype: np.dtype[Any]
) -> Array:
    """The same with the axes in this order, and forwards through all rows."""
    way = tuple(slice(None) if k in axes else step for k, step in enumerate(forwards(array)))
    results = logsumexp_over(array[way].transpose(order), tuple(order.index(k) for k in axes), n_threads, dtype)
    rows = [k for k in order if k not in axes]
    results = results.reshape([array.shape[k] for k in rows]).transpose(np.argsort(rows))
    return results[tuple(way[k] for k in sorted(rows))].ravel()


def _logsumexp_of_columns(
    cube: Columns | CopiedColumns, rows: Rows, n_threads: int | None, dtype: np.dtype[Any]
) -> Array:
    """The same of rows in lanes. Those of a block are in float64, and cast while they are in the cache.

    All of them at once would be a tenth of what is read, of 21 classes of float32, in memory that is mapped anew.
    """
    tasks = cut_for_threads(cube, rows.dtype.itemsize, n_threads, in_place=isinstance(cube, Columns))
    kernel = logsumexp_columns.compiled(rows.dtype)
    results, room = np.empty(rows.rows, dtype), Room()

    def work(place: Place) -> None:
        here = of_all = results[place.start : place.stop]
        if dtype != FLOAT64:
            here = room.of(here.shape, FLOAT64)
        misfits = np.zeros(place.shape, np.uint8)
        kernel(*cube.to_read(place), cube.narrow, here.reshape(place.shape), misfits)
        if np.count_nonzero(misfits):
            odd = np.flatnonzero(misfits)
            of_odd = np.empty(odd.size)
            logsumexp_rows.compiled(rows.dtype)(storage_view(rows.copy(odd + place.start)), of_odd)
            here[odd] = of_odd
        if here is not of_all:
            store(of_all, slice(None), here)

    for_each(tasks, work, n_threads)
    return results


def softmax_over(array: Array, axes: tuple[int, ...], out: Array, n_threads: int | None, *, logarithm: bool) -> None:
    """Softmax over these axes, or its logarithm, into ``out``, which may be the array itself."""
    order = reading_order(array, axes, out)
    if order is not None:
        array, out, axes = array.transpose(order), out.transpose(order), (order.index(axes[0]),)
    dtype = kernel_dtype(array.dtype)
    rows, written = Rows(array, axes, dtype), Rows(out, axes, dtype)
    if len(axes) == 1:
        cube = columns_of(array, axes[0], dtype)
        if cube is not None and not _goes_along_rows(cube, rows):
            target = columns_to_write(out, axes[0], cube, dtype)
            _softmax_of_columns(cube, target, rows, written, n_threads, logarithm=logarithm)
            return
    if is_long(rows.classes):
        softmax_of_long_rows(array, axes, out, dtype, n_threads, logarithm=logarithm)
        return
    kernel = softmax_rows.compiled(dtype)
    past_cache = written.matrix is not None and goes_past_cache(out, array)

    exps, real, count = Room(), compute_dtype(dtype), 0 if logarithm else exps_kept(rows.classes, dtype)
    write_rows(
        rows, written, lambda here, block, room: kernel(block, room, exps.of((count,), real), logarithm, past_cache),
        n_threads,
    )  # fmt: skip


def _goes_along_rows(cube: Columns | CopiedColumns, rows: Rows) -> bool:
    """Whether rows are better copied and read one by one: side by side they are too long, or to be copied anyway."""
    is_too_much = isinstance(cube, CopiedColumns) or rows.row_bytes > SIDE_BY_SIDE_BYTES
    return is_too_much and not cube.narrow and rows.is_across and cube.shape[0] == 1


def _softmax_of_columns(
    cube: Columns | CopiedColumns,
    target: Columns | CopiedColumns,
    rows: Rows,
    written: Rows,
    n_threads: int | None,
    *,
    logarithm: bool,
) -> None:
    in_place = isinstance(cube, Columns) and isinstance(target, Columns)
    tasks = cut_for_threads(cube, rows.dtype.itemsize, n_threads, in_place=in_place)
    kernel = softmax_columns.compiled(rows.dtype)
    past_cache = isinstance(target, Columns) and goes_past_cache(written.view, rows.view)

    def work(place: Place) -> None:
        misfits, room = np.zeros(place.shape, np.uint8), target.room(place)
        kernel(*cube.to_read(place), cube.narrow, room, target.narrow, logarithm, misfits, past_cache)
        odd = np.flatnonzero(misfits)
        if odd.size:  # in place, they are still what they were, but a copy of the block is not put back yet
            block = rows.copy(odd + place.start)
        target.put_back(place, room)
        if odd.size:
            softmax_rows.compiled(rows.dtype)(
                storage_view(block), storage_view(block), np.empty(0, compute_dtype(rows.dtype)), logarithm, False
            )
            written.put(odd + place.start, block)

    for_each(tasks, work, n_threads)
