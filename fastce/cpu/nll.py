"""Negative log likelihood: one entry of each row, by a kernel where that holds all products, else by NumPy in pairs."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.reductions import powers_of, product
from fastce.arguments.silence import silently, store
from fastce.cpu._kernels.likelihood import LikelihoodTargets, likelihood_rows
from fastce.cpu.class_indices import as_int64, number_of_ignored
from fastce.cpu.columns import Place, around, as_cube, cut_columns, shape_of_cube, starts_of
from fastce.cpu.index_targets import IndexTargets
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.rooms import Room
from fastce.cpu.row_losses import RowLosses
from fastce.cpu.threads import for_each

ORDINARY = 250.0  # powers of two of weights, and of what is above, whose products float64 has all digits of
SLICE = 1024  # rows that are worth a kernel's call
_NONE = np.empty(0)


class NllCall(NamedTuple):
    """A checked call of nll_loss."""

    array: Array
    axis: int
    rows: Rows
    targets: IndexTargets
    reduction: str

    @property
    def places(self) -> list[Place]:
        """The blocks of rows whose losses are summed each on their own, whoever computes them."""
        return cut_columns(shape_of_cube(self.array.shape, self.axis), self.array.itemsize)


def run(call: NllCall, upstream: Array, exponent: int, out: Array | None, n_threads: int | None) -> Any:
    """The value of the loss, and its gradient in ``out`` if that is given: that of ``upstream * 2**exponent``."""
    factors = [call.targets.per_class, call.targets.per_row, upstream]
    is_ordinary = exponent == 0 and all(max(map(abs, powers_of(factor))) < ORDINARY for factor in factors)
    losses = _by_kernel(call, upstream, out, n_threads) if is_ordinary else None
    if losses is not None:
        return losses.value(*call.targets.total)
    losses = _in_slices(call, n_threads) if is_ordinary and out is not None else None
    return _by_numpy(call, upstream, exponent, out, losses)


def _by_kernel(call: NllCall, upstream: Array, out: Array | None, n_threads: int | None) -> RowLosses | None:
    """None if a gradient cannot be written where it lies, or float64 cannot hold all products of log probabilities."""
    array, targets = call.array, call.targets
    dtype = compute_dtype(call.rows.dtype)
    is_replaced = out is not None and dtype == np.float64 and np.may_share_memory(out, array)
    shape = around(array.shape, call.axis)
    gradient = np.empty((0, 0, 0), dtype) if out is None else as_cube(out, shape, dtype)
    if gradient is None or is_replaced:
        return None
    cube = as_cube(array, shape, dtype)
    if cube is None and out is None and (losses := _in_slices(call, n_threads)) is not None:
        return losses
    cube = _of_entries(call, dtype) if cube is None else cube
    described, found = _described(targets), np.zeros(1, np.int64)
    places = call.places
    parts = starts_of(places)
    kernel = likelihood_rows.compiled(dtype)
    kept, memory = RowLosses(call.rows, call.reduction, parts, parts), Room()
    past_cache = out is not None and goes_past_cache(out, array)

    def work(k: int, place: Place) -> None:
        here = slice(place.start, place.stop)
        losses = memory.of((place.stop - place.start,), np.dtype(np.float64))
        above = upstream[here] if upstream.size > 1 else upstream
        room = gradient if out is None else gradient[place.outer, :, place.rows]
        kernel(cube[place.outer, :, place.rows], _of_rows(described, here), above, losses, room, found, past_cache)
        kept.put_run(k, [0], here, losses)

    for_each(list(enumerate(places)), work, n_threads)
    return None if found[0] else kept


def _described(targets: IndexTargets) -> LikelihoodTargets:
    """The targets of all rows as a kernel takes them."""
    ignored, exists = number_of_ignored(targets.ignored_class, targets.indices.dtype)
    per_class, per_row = (_NONE if weights is None else weights for weights in (targets.per_class, targets.per_row))
    return LikelihoodTargets(as_int64(targets.indices), ignored if exists else -1, per_class, per_row)


def _of_rows(targets: LikelihoodTargets, rows: slice | Array) -> LikelihoodTargets:
    per_row = targets.row_weight
    return targets._replace(classes=targets.classes[rows], row_weight=per_row[rows] if per_row.size else per_row)


def _in_slices(call: NllCall, n_threads: int | None) -> RowLosses | None:
    """The same of what is no single cube, in cubes of its two longest axes of rows; None if these are small, too."""
    view, lead = call.rows.view, call.rows.lead
    if len(lead) < 2 or view.dtype not in (np.float32, np.float64) or not view.flags.aligned:
        return None
    by_length = sorted(range(len(lead)), key=lead.__getitem__)
    others, (outer, rows) = by_length[:-2], sorted(by_length[-2:], key=lambda k: -abs(view.strides[k]))
    size = lead[outer] * lead[rows]
    if size < SLICE:
        return None
    cubes = view.transpose(*others, outer, len(lead), rows)
    numbers = np.arange(call.rows.rows).reshape(lead).transpose(*others, outer, rows)
    described, found, losses = _described(call.targets), np.zeros(1, np.int64), np.empty(call.rows.rows)
    kernel, memory, no_gradient = likelihood_rows.compiled(view.dtype), Room(), np.empty((0, 0, 0), view.dtype)

    def work(*place: int) -> None:
        here, of_slice = numbers[place].ravel(), memory.of((size,), losses.dtype)
        kernel(cubes[place], _of_rows(described, here), np.ones(1), of_slice, no_gradient, found, False)
        losses[here] = of_slice

    for_each(list(np.ndindex(cubes.shape[: len(others)])), work, n_threads)
    kept = RowLosses(call.rows, call.reduction, starts_of(call.places))
    kept.put(slice(None), losses)
    return None if found[0] else kept


def _by_numpy(call: NllCall, upstream: Array, exponent: int, out: Array | None, losses: RowLosses | None) -> Any:
    """The same of log probabilities and weights of any size, dtype and strides; without losses that are known."""
    where, masses, exponents = _places_of(call), *call.targets.weights()
    if losses is None:
        products, more = product(masses, -_picked(call, where, np.dtype(np.float64)))
        losses = RowLosses(call.rows, call.reduction, starts_of(call.places))
        losses.put(slice(None), products, exponents + more)
    value = losses.value(*call.targets.total)
    if out is not None:
        out[...] = 0
        fractions, more = product(masses, -upstream)
        slopes = silently(np.ldexp, fractions, exponents + more + exponent)
        store(_narrowed(out, call.axis), where, slopes.reshape(np.shape(where[-1])))
    return value


def _of_entries(call: NllCall, dtype: np.dtype[Any]) -> Array:
    """The targets' entries for a kernel that could not read them where they are: as cube, the same for all classes."""
    outer, classes, rows = shape_of_cube(call.array.shape, call.axis)
    entries = _picked(call, _places_of(call), dtype)
    return np.broadcast_to(entries.reshape(outer, 1, rows), (outer, classes, rows))


def _picked(call: NllCall, where: tuple[Any, ...], dtype: np.dtype[Any]) -> Array:
    """What stands in these places of the log probabilities, one a row."""
    return np.asarray(_narrowed(call.rows.view, -1)[where], dtype=dtype).ravel()


def _places_of(call: NllCall) -> tuple[Any, ...]:
    """Where the targets' entries stand in an array whose class axis is last, see `_narrowed`."""
    lead = _narrowed(call.rows.view, -1).shape[:-1]
    classes = call.targets.picked(slice(0, call.targets.indices.size))[0]
    return (*np.indices(lead, sparse=True), classes.reshape(lead)[()])


def _narrowed(array: Array, axis: int) -> Array:
    """A view whose class axis is last, without axes of length 1: an index may have 63 parts, an array 64 axes."""
    moved = np.moveaxis(array, axis, -1)
    return moved.squeeze(tuple(k for k, n in enumerate(moved.shape[:-1]) if n == 1))
