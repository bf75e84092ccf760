"""One checked call of cross_entropy, run over blocks: a row in each lane where that is possible, else row by row."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.reductions import reduced
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.cross_entropy import cross_entropy_rows
from fastce.cpu._kernels.cross_entropy_columns import point_columns
from fastce.cpu._kernels.hard_columns import kernel_of_columns, of_plain, plain_losses
from fastce.cpu._kernels.narrow import Narrow
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.along_rows import NO_PRODUCTS, AlongRows, of_rows
from fastce.cpu.call import CrossEntropyCall, in_memory_order
from fastce.cpu.columns import (
    Columns,
    CopiedColumns,
    Place,
    columns_of,
    columns_to_write,
    cut_in_runs,
    reading_order,
)
from fastce.cpu.extremes import are_extreme, extremes_of
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.long_rows import cross_entropy_of_long_rows
from fastce.cpu.mass_targets import MassTargets
from fastce.cpu.pieces import is_long
from fastce.cpu.point_columns import PointColumns, PointRows
from fastce.cpu.rooms import Room
from fastce.cpu.row_losses import EACH, RowLosses
from fastce.cpu.threads import cut_rows, for_each

_NO_EXPONENT: Array | int = 0


def run(
    call: CrossEntropyCall,
    upstream: Array | None,
    out: Array | None,
    n_threads: int | None,
    products: Array | None = None,
) -> Any:
    """The value of the loss; for gradient and products see `row_losses`."""
    order = reading_order(call.array, (call.axis,), out)
    if order is not None and not call.targets.has_points:
        return _as_memory_lies(call, order, upstream, out, n_threads, products)
    return row_losses(call, upstream, out, n_threads, products).value(*call.targets.total)


def _as_memory_lies(
    call: CrossEntropyCall,
    order: tuple[int, ...],
    upstream: Array | None,
    out: Array | None,
    n_threads: int | None,
    products: Array | None,
) -> Any:
    """The same with the axes of the logits in this order; losses are added in that of C whatever it is."""
    in_order, upstream, out, back = in_memory_order(call, order, upstream, out)
    reduction = "none" if call.reduction == "none" else EACH
    losses = row_losses(in_order._replace(reduction=reduction), upstream, out, n_threads, products)
    if call.reduction == "none":
        return np.ascontiguousarray(losses.value(0.0).transpose(back))
    total, exponent = losses.total(back, call.parts)
    total_weight, more = call.targets.total
    return reduced(total, call.reduction, total_weight, exponent - more)


def cube_of(call: CrossEntropyCall) -> Columns | CopiedColumns | None:
    """The logits as a cube, if a row is computed in each lane; None if kernels go along rows."""
    return None if call.targets.lies_in_rows else columns_of(call.array, call.axis, call.logits.dtype)


def row_losses(
    call: CrossEntropyCall,
    upstream: Array | None,
    out: Array | None,
    n_threads: int | None,
    products: Array | None = None,
) -> RowLosses:
    """The losses of all rows, and the gradient of the loss in ``out`` if that is given.

    ``products`` receives the sum of gradient * logit of each row, for which see slope_products.py; not in half
    precision, nor beside an ``out`` that is the logits, or where there is a `cube_of` them.
    """
    dtype = call.logits.dtype
    if isinstance(call.targets, MassTargets) and isinstance(call.targets.points, PointRows) and dtype == np.float32:
        return _in_float64(call, call.targets.points, upstream, out, n_threads, products)
    of_losses, of_gradient = are_extreme(call.options, call.targets, dtype.itemsize, upstream)
    if of_losses:
        return one_by_one(call, upstream, out, n_threads, products)
    if of_gradient or call.exponent:
        losses = row_losses(call._replace(exponent=0), None, None, n_threads)  # those of the twin
        one_by_one(call._replace(reduction="sum"), upstream, out, n_threads, products)
        return losses
    cube = cube_of(call)
    if cube is None and is_long(call.logits.classes):
        return _by_pieces(call, upstream, out, n_threads, products)
    if cube is None:
        return AlongRows(call, upstream, out, products).compute(n_threads)
    gradient = None if out is None else columns_to_write(out, call.axis, cube, dtype)
    return _by_columns(call, cube, upstream, gradient, out, n_threads, products)


def _in_float64(
    call: CrossEntropyCall, points: PointRows, upstream: Array | None, out: Array | None, n_threads: int | None,
    products: Array | None,
) -> RowLosses:  # fmt: skip
    """The same of a matrix of few classes, of whose masses float32 would lose digits."""
    given = call.targets
    targets = MassTargets(
        None, points, PointColumns(points), given.per_class, given.per_row, points.dtype, call.logits.rows
    )
    wide = call._replace(logits=Rows(call.array, call.axis, points.dtype), targets=targets)
    if products is None or out is None:
        return row_losses(wide, upstream, out, n_threads, products)
    row_losses(wide, upstream, None, n_threads, products)
    return row_losses(wide, upstream, out, n_threads)


def one_by_one(
    call: CrossEntropyCall,
    upstream: Array | None,
    out: Array | None,
    n_threads: int | None,
    products: Array | None = None,
) -> RowLosses:
    """A call whose options are beyond the range of the fast kernels."""
    blocks = cut_rows(call.logits.rows, call.logits.row_bytes)
    losses, extremes = RowLosses(call.logits, call.reduction, call.parts), extremes_of(call, upstream, out, products)

    def work(start: int, stop: int) -> None:
        losses.put(slice(start, stop), *extremes.compute(start, stop))

    for_each(blocks, work, n_threads)
    return losses


def _by_pieces(
    call: CrossEntropyCall, upstream: Array | None, out: Array | None, n_threads: int | None, products: Array | None
) -> RowLosses:
    losses = RowLosses(call.logits, call.reduction, call.parts)
    gradient = None if out is None else Rows(out, call.axis, call.logits.dtype)
    extremes = extremes_of(call, upstream, out, products)
    cross_entropy_of_long_rows(
        call.logits, call.targets, call.options, upstream, gradient, products, extremes, losses.put, n_threads
    )
    return losses


def _by_columns(
    call: CrossEntropyCall,
    cube: Columns | CopiedColumns,
    upstream: Array | None,
    gradient: Columns | CopiedColumns | None,
    out: Array | None,
    n_threads: int | None,
    products: Array | None,
) -> RowLosses:
    rows, targets, dtype = call.logits, call.targets, call.logits.dtype
    of_targets = targets.cube if isinstance(targets, MassTargets) else None
    in_place = isinstance(cube, Columns) and isinstance(gradient, Columns | None) and products is None
    points = of_targets.rows.points if isinstance(of_targets, PointColumns) and call.options.softcap == 0.0 else None
    in_runs = points is not None or isinstance(of_targets, Columns | None)
    runs, blocks = cut_in_runs(cube, dtype.itemsize, n_threads, in_place=in_place, in_runs=in_runs)
    losses = RowLosses(rows, call.reduction, call.parts, blocks)
    narrow = Narrow(cube.narrow, of_targets is not None and of_targets.narrow, gradient is not None and gradient.narrow)
    with_slopes, is_plain = gradient is not None or products is not None, cube.narrow and targets.weigh_alike
    of_columns = kernel_of_columns(rows.classes, call.options, of_targets is None, with_slopes, is_plain)
    kernel = of_columns if points is None else point_columns
    entry_point = kernel.compiled(dtype)
    past_cache = out is not None and isinstance(gradient, Columns) and goes_past_cache(out, call.array)
    none, slopes = storage_view(np.empty((0, 0, 0), dtype)), Room()

    def work(place: Place, before: int, starts: list[int]) -> None:
        of_block, misfits, exponents = np.empty(place.shape), np.zeros(place.shape, np.uint8), _NO_EXPONENT
        above = of_rows(upstream, slice(place.start, place.stop))
        room, of_products = none if gradient is None else gradient.room(place), np.empty((0, 0))
        if products is not None:
            of_products = products[place.start : place.stop].reshape(place.shape)
            room = slopes.lines((place.shape[0], rows.classes, place.shape[1]), dtype)
        arguments = (
            *cube.to_read(place), narrow, targets.columns(place, points is None), call.options, of_block, misfits,
            above.reshape((1, 1) if above.size == 1 else place.shape), of_products, room, past_cache,
            *(() if points is None else (points, place.start)),
        )  # fmt: skip
        entry_point(*(of_plain(*arguments) if kernel is plain_losses else arguments))
        odd = np.flatnonzero(misfits) if np.count_nonzero(misfits) else None
        logits = None if odd is None else call.logits.copy(odd + place.start)  # a copied block may replace them
        if gradient is not None:
            silently(gradient.put_back, place, room)
        if odd is not None and logits is not None:
            exponents = np.zeros(of_block.size, np.int32)
            mended = _mended(call, logits, odd + place.start, upstream, out, products)
            of_block.reshape(-1)[odd], exponents[odd] = mended
        losses.put_run(before, starts, slice(place.start, place.stop), of_block.reshape(-1), exponents)

    for_each(runs, work, n_threads)
    return losses


def _mended(
    call: CrossEntropyCall,
    logits: Array,
    numbers: Array,
    upstream: Array | None,
    out: Array | None,
    products: Array | None,
) -> tuple[Array, Array]:
    """(losses, exponents) of rows that did not fit, row by row; their gradients and products are stored too."""
    exponents = np.zeros(numbers.size, np.int32)
    losses, misfits = np.empty(numbers.size), np.zeros(numbers.size, np.uint8)
    grad = np.empty((0, 0) if out is None and products is None else logits.shape, logits.dtype)
    of_products = NO_PRODUCTS if products is None else np.empty(numbers.size)
    cross_entropy_rows.compiled(logits.dtype)(
        storage_view(logits), call.targets.of(numbers), call.options, losses, misfits, of_rows(upstream, numbers),
        of_products, storage_view(grad), False, np.empty(0, compute_dtype(logits.dtype)), False,
    )  # fmt: skip
    if out is not None:
        gradient = Rows(out, call.axis)
        gradient.put(numbers, cast(grad, gradient.dtype))
    if products is not None:
        products[numbers] = of_products
    odd = np.flatnonzero(misfits)
    if odd.size:
        extremes = extremes_of(call, upstream, out, products)
        losses[odd], exponents[odd] = extremes.losses_of(numbers[odd], logits[odd])
    return losses, exponents
