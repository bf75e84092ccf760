"""One checked call of cross_entropy, run over blocks: a row in each lane where that is possible, else row by row."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, class_axis, compute_dtype, real_array
from fastce.arguments.numbers import reduction_of
from fastce.arguments.options import checked_options
from fastce.arguments.reductions import reduced
from fastce.cpu._kernels.cross_entropy import ROWS_AT_A_TIME, cross_entropy_rows
from fastce.cpu._kernels.cross_entropy_columns import cross_entropy_columns
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._kernels.targets import Options
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.checked_targets import for_mean, target_rows
from fastce.cpu.columns import Columns, CopiedColumns, Place, columns_of, columns_to_write, cut_columns, reading_order
from fastce.cpu.extremes import Extremes, are_extreme
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.long_rows import cross_entropy_of_long_rows
from fastce.cpu.pieces import is_long
from fastce.cpu.rooms import Room
from fastce.cpu.row_losses import EACH, RowLosses
from fastce.cpu.targets import MassTargets, TargetRows
from fastce.cpu.threads import cut_rows, in_turn

_NO_UPSTREAM = np.ones(1)
_NO_EXPONENT: Array | int = 0
LANES = 16  # of a vector at most
EXPS_OF_ROWS, LARGEST_EXPS = 1 << 17, 1 << 18  # bytes of exps that are kept for some rows, or for a single long one


class CrossEntropyCall(NamedTuple):
    """A checked call of cross_entropy."""

    array: Array
    axis: int
    logits: Rows
    targets: TargetRows
    options: Options
    reduction: str
    exponent: int = 0  # of what gradients are multiplied by, as a power of two


def run(call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None) -> Any:
    """The value of the loss, and its gradient in ``out`` if that is given."""
    order = reading_order(call.array, (call.axis,), out)
    if order is not None and not call.targets.has_points:
        return _as_memory_lies(call, order, upstream, out, n_threads)
    return row_losses(call, upstream, out, n_threads).value(*call.targets.total)


def _as_memory_lies(
    call: CrossEntropyCall, order: tuple[int, ...], upstream: Array | None, out: Array | None, n_threads: int | None
) -> Any:
    """The same with the axes of the logits in this order; losses are added in that of C whatever it is."""
    in_order, upstream, out, back = in_memory_order(call, order, upstream, out)
    reduction = "none" if call.reduction == "none" else EACH
    return reduced_losses(in_order, row_losses(in_order._replace(reduction=reduction), upstream, out, n_threads), back)


def in_memory_order(
    call: CrossEntropyCall, order: tuple[int, ...], upstream: Any, out: Array | None
) -> tuple[CrossEntropyCall, Any, Array | None, tuple[int, ...]]:
    """(call, upstream, out) with the axes of the logits in this order, and how those of rows are put back."""
    lead = [k - (k > call.axis) for k in order if k != call.axis]
    numbers = np.arange(call.logits.rows).reshape(call.logits.lead).transpose(lead).ravel()
    array, axis = call.array.transpose(order), order.index(call.axis)
    in_order = call._replace(
        array=array,
        axis=axis,
        logits=Rows(array, axis, call.logits.dtype),
        targets=call.targets.in_order(numbers, order, call.axis),
    )
    if upstream is not None and upstream.size > 1:
        upstream = upstream[numbers]
    return in_order, upstream, None if out is None else out.transpose(order), tuple(np.argsort(lead))


def reduced_losses(call: CrossEntropyCall, losses: RowLosses, back: tuple[int, ...]) -> Any:
    """What the reduction asks for, of losses that are kept in another order: added in that of C."""
    if call.reduction == "none":
        return np.ascontiguousarray(losses.value(0.0).transpose(back))
    total, exponent = losses.total(back)
    total_weight, more = call.targets.total
    return reduced(total, call.reduction, total_weight, exponent - more)


def blocks_of_sums(call: CrossEntropyCall) -> list[tuple[int, int]]:
    """The rows whose losses `row_losses` adds to one sum, of options that the fast kernels take."""
    cube = columns_of(call.array, call.axis, call.logits.dtype)
    if cube is not None and not call.targets.lies_in_rows:
        return [(place.start, place.stop) for place in cut_columns(cube.shape, call.logits.dtype.itemsize)]
    if is_long(call.logits.classes):
        return [(i, i + 1) for i in range(call.logits.rows)]
    return cut_rows(call.logits.rows, call.logits.row_bytes)


def row_losses(call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None) -> RowLosses:
    """The losses of all rows, and the gradient of the loss in ``out`` if that is given."""
    dtype = call.logits.dtype
    of_losses, of_gradient = are_extreme(call.options, call.targets, dtype.itemsize, upstream)
    if of_losses:
        return one_by_one(call, upstream, out, n_threads)
    if of_gradient or call.exponent:
        losses = row_losses(call._replace(exponent=0), None, None, n_threads)  # those of the twin
        one_by_one(call._replace(reduction="sum"), upstream, out, n_threads)
        return losses
    cube = columns_of(call.array, call.axis, dtype)
    if cube is None or call.targets.lies_in_rows:
        if is_long(call.logits.classes):
            return _by_pieces(call, upstream, out, n_threads)
        return _by_rows(call, upstream, out, n_threads)
    gradient = None if out is None else columns_to_write(out, call.axis, cube, dtype)
    return _by_columns(call, cube, upstream, gradient, out, n_threads)


def _extremes(call: CrossEntropyCall, upstream: Array | None, out: Array | None) -> Extremes:
    return Extremes(
        call.logits, call.targets, call.options, upstream, (None if out is None else Rows(out, call.axis), None),
        exponent=call.exponent,
    )  # fmt: skip


def one_by_one(call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None) -> RowLosses:
    """A call whose options are beyond the range of the fast kernels."""
    blocks = cut_rows(call.logits.rows, call.logits.row_bytes)
    losses, extremes = RowLosses(call.logits, call.reduction, len(blocks)), _extremes(call, upstream, out)

    def work(k: int, start: int, stop: int) -> None:
        losses.put(k, slice(start, stop), *extremes.compute(start, stop))

    in_turn([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    return losses


def _by_pieces(call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None) -> RowLosses:
    losses = RowLosses(call.logits, call.reduction, call.logits.rows)
    gradient = None if out is None else Rows(out, call.axis)
    extremes = _extremes(call, upstream, out)
    cross_entropy_of_long_rows(
        call.logits, call.targets, call.options, upstream, gradient, extremes, losses.put, n_threads
    )
    return losses


def _by_rows(call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None) -> RowLosses:
    rows, targets = call.logits, call.targets
    blocks = cut_rows(rows.rows, rows.row_bytes)
    losses = RowLosses(rows, call.reduction, len(blocks))
    gradient = None if out is None else Rows(out, call.axis)
    past_cache = gradient is not None and gradient.matrix is not None and goes_past_cache(gradient.view, call.array)
    kernel = cross_entropy_rows.compiled(rows.dtype)
    none = storage_view(np.empty((0, 0), rows.dtype))
    exps = Room()

    def work(k: int, start: int, stop: int) -> None:
        of_block, misfits, exponents = np.empty(stop - start), np.zeros(stop - start, np.uint8), _NO_EXPONENT
        block = rows.block(start, stop)
        room = none if gradient is None else gradient.room_for(rows, block, start, stop)
        kernel(
            block, targets.block(start, stop), call.options, of_block, misfits,
            _of_rows(upstream, slice(start, stop)), room, _room_for_exps(exps, rows, gradient), past_cache,
        )  # fmt: skip
        odd = np.flatnonzero(misfits) if np.count_nonzero(misfits) else None
        logits = None if odd is None else rows.copy(odd + start)  # a copied block may replace them
        if gradient is not None:
            gradient.put_back(start, stop, room)
        if odd is not None and logits is not None:
            exponents = np.zeros(stop - start, np.int32)
            of_block[odd], exponents[odd] = _extremes(call, upstream, out).losses_of(odd + start, logits)
        losses.put(k, slice(start, stop), of_block, exponents)

    in_turn([(k, *block) for k, block in enumerate(blocks)], work, n_threads)
    return losses


def _room_for_exps(room: Room, rows: Rows, gradient: Rows | None) -> Array:
    """Where a kernel may keep the exps of some rows for their gradients; none if that is none or they are too long."""
    dtype = compute_dtype(rows.dtype)
    of_row = -(-rows.classes // LANES) * LANES
    if gradient is None or of_row * dtype.itemsize > LARGEST_EXPS:
        return np.empty(0, dtype)
    return room.of((max(of_row, min(ROWS_AT_A_TIME * of_row, EXPS_OF_ROWS // dtype.itemsize)),), dtype)


def _of_rows(upstream: Array | None, rows: slice | Array) -> Array:
    """What the gradients of these rows are multiplied by: one number each, or one for all."""
    if upstream is None:
        return _NO_UPSTREAM
    of_rows: Array = upstream[rows] if upstream.size > 1 else upstream
    return of_rows


def _by_columns(
    call: CrossEntropyCall,
    cube: Columns | CopiedColumns,
    upstream: Array | None,
    gradient: Columns | CopiedColumns | None,
    out: Array | None,
    n_threads: int | None,
) -> RowLosses:
    rows, targets, dtype = call.logits, call.targets, call.logits.dtype
    places = cut_columns(cube.shape, dtype.itemsize)
    losses = RowLosses(rows, call.reduction, len(places))
    of_targets = targets.cube if isinstance(targets, MassTargets) else None
    narrow = Narrow(cube.narrow, of_targets is not None and of_targets.narrow, gradient is not None and gradient.narrow)
    kernel = cross_entropy_columns.compiled(dtype)
    past_cache = out is not None and isinstance(gradient, Columns) and goes_past_cache(out, call.array)
    none = storage_view(np.empty((0, 0, 0), dtype))

    def work(k: int, place: Place) -> None:
        of_block, misfits, exponents = np.empty(place.shape), np.zeros(place.shape, np.uint8), _NO_EXPONENT
        above = _of_rows(upstream, slice(place.start, place.stop))
        room = none if gradient is None else gradient.room(place)
        kernel(
            *cube.to_read(place), narrow, targets.columns(place), call.options, of_block, misfits,
            above.reshape(place.shape if above.size > 1 else (1, 1)), room, past_cache,
        )  # fmt: skip
        odd = np.flatnonzero(misfits) if np.count_nonzero(misfits) else None
        logits = None if odd is None else call.logits.copy(odd + place.start)  # a copied block may replace them
        if gradient is not None:
            gradient.put_back(place, room)
        if odd is not None and logits is not None:
            exponents = np.zeros(of_block.size, np.int32)
            of_block.reshape(-1)[odd], exponents[odd] = _mended(call, logits, odd + place.start, upstream, out)
        losses.put(k, slice(place.start, place.stop), of_block.reshape(-1), exponents)

    in_turn(list(enumerate(places)), work, n_threads)
    return losses


def _mended(
    call: CrossEntropyCall, logits: Array, numbers: Array, upstream: Array | None, out: Array | None
) -> tuple[Array, Array]:
    """(losses, exponents) of rows that did not fit, row by row; their gradients are stored too."""
    exponents = np.zeros(numbers.size, np.int32)
    losses, misfits = np.empty(numbers.size), np.zeros(numbers.size, np.uint8)
    grad = np.empty(logits.shape if out is not None else (0, 0), logits.dtype)
    cross_entropy_rows.compiled(logits.dtype)(
        storage_view(logits), call.targets.of(numbers), call.options, losses, misfits,
        _of_rows(upstream, numbers), storage_view(grad), np.empty(0, compute_dtype(logits.dtype)), False,
    )  # fmt: skip
    if out is not None:
        Rows(out, call.axis).put(numbers, grad)
    odd = np.flatnonzero(misfits)
    if odd.size:
        losses[odd], exponents[odd] = _extremes(call, upstream, out).losses_of(numbers[odd], logits[odd])
    return losses, exponents


def cross_entropy_call(
    logits: Any,
    targets: Any,
    axis: Any,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    smoothing_over: Any,
    logit_scale: Any,
    softcap: Any,
    z_loss: Any,
    reduction: Any,
    n_threads: int | None,
) -> CrossEntropyCall:
    """Check the arguments that all forms of cross_entropy share."""
    array = real_array(logits, "logits")
    axis = class_axis(array, axis, "logits")
    rows = Rows(array, axis)
    options = Options(*checked_options(rows.classes, label_smoothing, smoothing_over, logit_scale, softcap, z_loss))
    described = target_rows(
        targets,
        rows,
        array.shape,
        axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        smoothed=options.spread > 0.0,
        n_threads=n_threads,
    )
    reduction = reduction_of(reduction)
    return CrossEntropyCall(
        array, axis, rows, for_mean(described) if reduction == "mean" else described, options, reduction
    )


def of_counted(upstream: Array, targets: TargetRows) -> Array:
    """The same numbers; of one per row, 1 for rows that are ignored or have no weight: any will do there."""
    counted = targets.counted() if upstream.size > 1 else None
    if counted is None:
        return upstream
    result = np.ones(upstream.size)
    result[counted] = upstream[counted]
    return result
