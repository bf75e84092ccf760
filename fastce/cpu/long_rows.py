"""Rows so long that they are cut: each piece is summed on its own, and the states of the pieces merge.

    look      every piece, in parallel: a reference of its own and the sums relative to it
    merge     (m1, s1) + (m2, s2); then the loss of the row, once
    write     every piece's gradient from the state of its row, in parallel

So one row keeps all threads busy, and Ctrl-C is heard within it. Rows are cut by shape alone.
"""

import copy
from collections.abc import Callable

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.long_rows import (
    finish_long_row,
    look_at_piece,
    target_to_leave_out,
    write_gradient_of_piece,
)
from fastce.cpu._kernels.targets import Options
from fastce.cpu.extremes import Extremes
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.long_row import LongCall, LongRow, Pieces
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.pieces import groups, pieces
from fastce.cpu.point_columns import PointRows
from fastce.cpu.rooms import Room
from fastce.cpu.targets import TargetRows
from fastce.cpu.threads import for_each


def cross_entropy_of_long_rows(
    logits: Rows,
    targets: TargetRows,
    options: Options,
    upstream: Array | None,
    gradient: Rows | None,
    products: Array | None,
    extremes: Extremes,
    put: Callable[[slice, Array, Array | int], None],
    n_threads: int | None,
) -> None:
    """Losses, handed to ``put(slice(i, i + 1), loss, exponent)`` row by row, and gradients if there is room.

    ``products`` receives the sum of gradient * logit of each row.
    """
    probabilities = targets.probabilities if isinstance(targets, MassTargets) else None
    assert not isinstance(probabilities, PointRows)  # of few classes
    parts = [
        Pieces(
            place[-1].start,
            _part_of(logits, place),
            None if probabilities is None else _part_of(probabilities, place),
            None if gradient is None else _part_of(gradient, place),
        )
        for place in pieces(logits.view.shape, (logits.view.ndim - 1,))
    ]
    if isinstance(targets, MassTargets) and probabilities is not None:
        targets = copy.copy(targets)
        targets.probabilities = parts[0].probabilities  # the others piece by piece: a row may have to be copied
    writes = gradient is not None or products is not None
    past_cache = gradient is not None and products is None and goes_past_cache(gradient.view, logits.view)
    call = LongCall(
        parts, targets, options, logits.dtype, 1.0 if options.softcap > 0.0 else options.logit_scale, products,
        Room(), past_cache,
        target_to_leave_out.compiled(logits.dtype),
        look_at_piece.compiled(logits.dtype),
        finish_long_row.compiled(logits.dtype),
        write_gradient_of_piece.compiled(logits.dtype) if writes else None,
    )  # fmt: skip
    for group in groups(logits.rows, len(parts), n_threads, read_once=not writes):
        rows = [LongRow(call, i) for i in group]
        _find_losses([row for row in rows if row.weight != 0.0], n_threads)
        odd = [row for row in rows if row.is_extreme()]
        for_each([(row.i, extremes, put) for row in odd], _put_extreme, n_threads)
        rows = [row for row in rows if row not in odd]
        for row in rows:
            put(slice(row.i, row.i + 1), row.loss(), 0)
        if writes:
            assert upstream is not None
            for row in rows:
                row.prepare_gradient(upstream)
            # what was read last is still in cache
            for_each([task for row in reversed(rows) for task in reversed(row.tasks())], LongRow.write, n_threads)
            for row in rows:
                row.put_product()


def _put_extreme(i: int, extremes: Extremes, put: Callable[[slice, Array, Array | int], None]) -> None:
    put(slice(i, i + 1), *extremes.compute(i, i + 1))


def _part_of(rows: Rows, place: tuple[slice, ...]) -> Rows:
    return type(rows)(rows.view[place], -1, rows.dtype)


def _find_losses(rows: list[LongRow], n_threads: int | None) -> None:
    for_each([task for row in rows for task in row.tasks()], LongRow.look, n_threads)
    _agree_and_finish(rows, n_threads)
    lost = [row for row in rows if row.has_lost_digits()]
    for_each([(row, row.leave_out_likeliest(n_threads)) for row in lost], LongRow.look, n_threads)
    _agree_and_finish(lost, n_threads)
    with_points = [row for row in rows if row.has_many_points()]
    for row in with_points:
        row.prepare_points()
    for_each([task for row in with_points for task in row.tasks()], LongRow.add_points, n_threads)
    for row in with_points:
        row.merge_points()


def _agree_and_finish(rows: list[LongRow], n_threads: int | None) -> None:
    for_each([task for row in rows for task in row.odd_tasks()], LongRow.look, n_threads)
    for row in rows:
        row.finish()
