"""The derivative of cross entropy by its logit scale, without a matrix of gradients.

The gradient of a block of rows is written into a thread's room, small enough to stay in cache, and multiplied with its
logits there. With G the gradient by the logits x, a the scale and m the largest logit of a row,

    dL/da = sum_c G_c x_c / a = [ sum_c G_c (x_c - m) + m sum_c G_c ] / a

and sum_c G_c is 0 but for the z-loss, which adds 2 a z v lse to it. A softcap's slopes leave no such sum: m is 0 then.
"""

import copy
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, memory_order
from fastce.arguments.reductions import sum_of_terms
from fastce.arguments.silence import silently
from fastce.cpu._kernels.slope_products import slope_products_rows
from fastce.cpu.columns import columns_of, reading_order
from fastce.cpu.copying import EDGE
from fastce.cpu.cross_entropy import (
    CrossEntropyCall,
    blocks_of_sums,
    in_memory_order,
    one_by_one,
    reduced_losses,
    row_losses,
    run,
)
from fastce.cpu.extremes import are_extreme
from fastce.cpu.layout import Rows
from fastce.cpu.pieces import is_long
from fastce.cpu.rooms import Room
from fastce.cpu.row_losses import EACH, RowLosses
from fastce.cpu.running import states_over
from fastce.cpu.targets import MassTargets, TargetRows
from fastce.cpu.threads import BLOCK_BYTES, for_each

_FLOAT64 = np.dtype(np.float64)


class Part(NamedTuple):
    """Some rows of a call, from start to stop in its order, and their place in the array."""

    start: int
    stop: int
    place: tuple[Any, ...]


def value_and_scale_products(
    call: CrossEntropyCall, upstream: Array, out: Array | None, n_threads: int | None
) -> tuple[Any, Array, float]:
    """(value, the derivative of each row's loss by the scale, times a number; that number).

    Rows come in the order that they are read in. ``out`` receives the gradient by the logits, and may be these.
    """
    itemsize = call.logits.dtype.itemsize
    if call.exponent or any(are_extreme(call.options, call.targets, itemsize, upstream)):
        fraction, exponent = math.frexp(call.options.logit_scale)
        above = call._replace(exponent=call.exponent - exponent, reduction=EACH)
        products = _products(above, upstream, None, _FLOAT64, one_by_one, n_threads)[1]
        return run(call, upstream, out, n_threads), products, fraction
    order = reading_order(call.array, (call.axis,), out)
    back = None
    if order is not None and not call.targets.has_points:
        call, upstream, out, back = in_memory_order(call, order, upstream, out)
    losses, products = _products(call, upstream, out, compute_dtype(call.logits.dtype), row_losses, n_threads)
    return _value(call, losses, back), products, call.options.logit_scale


def scale_derivative(products: Array, divisor: float) -> float:
    """The sum over the rows, in the order of their numbers."""
    total, exponent = silently(sum_of_terms, products)
    return float(silently(np.ldexp, total / divisor, exponent))


def _value(call: CrossEntropyCall, each: tuple[Array, Array], back: tuple[int, ...] | None) -> Any:
    """What the reduction asks for, from losses as pairs: added as those of `cross_entropy` are, bit for bit."""
    if back is not None and call.reduction != "none":
        losses = RowLosses(call.logits, EACH, 0)
        losses.put(0, slice(None), *each)
        return reduced_losses(call, losses, back)
    blocks = blocks_of_sums(call)
    losses = RowLosses(call.logits, call.reduction, len(blocks))
    for k, (start, stop) in enumerate(blocks):
        exponents = each[1][start:stop]
        losses.put(k, slice(start, stop), each[0][start:stop], exponents if exponents.any() else 0)
    return losses.value(*call.targets.total) if back is None else reduced_losses(call, losses, back)


def _products(
    call: CrossEntropyCall,
    upstream: Array,
    out: Array | None,
    dtype: np.dtype[Any],
    compute: Callable[..., RowLosses],
    n_threads: int | None,
) -> tuple[tuple[Array, Array], Array]:
    """(losses as pairs, the sum of slope * logit) of all rows; slopes are computed in this dtype."""
    rows = call.logits.rows
    losses, exponents, products = np.empty(rows), np.zeros(rows, np.int32), np.zeros(rows)
    counted = call.targets.counted()
    is_counted = None if counted is None else np.bincount(counted, minlength=rows) > 0
    memory = Room()
    within = n_threads if is_long(call.logits.classes) else 1  # a long row keeps all threads busy

    def work(part: Part) -> None:
        here = slice(part.start, part.stop)
        array, above = call.array[part.place], upstream[here] if upstream.size > 1 else upstream
        some = _part_of(call, array, part, dtype)
        of_out = None if out is None else out[part.place]
        is_room = of_out is None or of_out.dtype != dtype or np.may_share_memory(of_out, array)
        slopes = _room(memory, array, dtype) if is_room or of_out is None else of_out
        found = compute(some, above, slopes, within)
        assert found.each is not None
        losses[here], exponents[here] = found.each
        products[here] = _row_products(some, above, slopes)
        if of_out is not None and is_room:
            silently(np.copyto, of_out, slopes, "unsafe")

    parts = list(_parts(call))
    for_each([(k, k + 1) for k in range(len(parts))], lambda k, _: work(parts[k]), 1 if within != 1 else n_threads)
    return (losses, exponents), products if is_counted is None else np.where(is_counted, products, 0.0)


def _parts(call: CrossEntropyCall) -> Iterator[Part]:
    """Parts of a cache's size, cut by shape alone; rows side by side in memory stay so many that these are read."""
    lead, axis, row_bytes = call.logits.lead, call.axis, max(call.logits.row_bytes, 1)
    if not call.logits.rows:
        return
    k, inner = 0, math.prod(lead[1:])
    while k < len(lead) - 1 and inner * row_bytes > BLOCK_BYTES:
        k += 1
        inner = math.prod(lead[k + 1 :])
    if not lead:
        yield Part(0, 1, ())
        return
    are_apart = call.array.strides[axis] == call.array.itemsize
    least = 1 if are_apart else 8 * EDGE
    step = max(least, BLOCK_BYTES // (inner * row_bytes))
    number = max(1, lead[k] // step)
    cuts = [*range(0, number * step, step), lead[k]]  # the last may be longer: few rows may be computed otherwise
    start = 0
    for outer in np.ndindex(lead[:k]):
        for first, last in itertools.pairwise(cuts):
            place = [*(slice(j, j + 1) for j in outer), slice(first, last), *[slice(None)] * (len(lead) - k - 1)]
            place.insert(axis, slice(None))
            stop = start + (last - first) * inner
            yield Part(start, stop, tuple(place))
            start = stop


def _part_of(call: CrossEntropyCall, array: Array, part: Part, dtype: np.dtype[Any]) -> CrossEntropyCall:
    """The call of some of its rows; their losses are kept."""
    of_rows = call.logits.dtype if call.logits.dtype.itemsize >= 4 else dtype  # slopes of halves have too few digits
    targets = _targets_of(call.targets, part, call.axis)
    return call._replace(array=array, logits=Rows(array, call.axis, of_rows), targets=targets, reduction=EACH)


def _targets_of(targets: TargetRows, part: Part, axis: int) -> TargetRows:
    some, rows = copy.copy(targets), slice(part.start, part.stop)
    some.per_row = None if targets.per_row is None else targets.per_row[rows]
    if not isinstance(some, MassTargets) or not isinstance(targets, MassTargets):
        some.indices = targets.indices[rows]  # type: ignore[union-attr]
        return some
    some.rows = part.stop - part.start
    some.row_weight = targets.row_weight[rows]
    if targets.points is not None:
        classes, masses, first_points = targets.points
        some.points = classes, masses, first_points[part.start : part.stop + 1]
    elif targets.probabilities is not None:
        whole = np.moveaxis(targets.probabilities.view, -1, axis)
        array, kind, dtype = whole[part.place], type(targets.probabilities), targets.probabilities.dtype
        some.probabilities = kind(array, axis, dtype)
        some.cube = None if targets.cube is None else columns_of(array, axis, dtype, kind)
    return some


def _room(memory: Room, array: Array, dtype: np.dtype[Any]) -> Array:
    """A thread's room for the slopes of an array, which lie as that does."""
    order = memory_order(array)
    room = memory.of(tuple(array.shape[k] for k in order), dtype)
    return room.transpose(np.argsort(order))


def _row_products(some: CrossEntropyCall, upstream: Array, slopes: Array) -> Array:
    """The sum of slope * logit of these rows."""
    rows, of_slopes = Rows(some.array, some.axis, slopes.dtype), Rows(slopes, some.axis)
    logits, block = rows.block(0, rows.rows), of_slopes.block(0, rows.rows)
    products = np.empty(rows.rows)
    below_top = some.options.softcap == 0.0
    slope_products_rows.compiled(slopes.dtype)(logits, block, below_top, products)
    odd = np.flatnonzero(~np.isfinite(products))
    if odd.size:
        products[odd] = silently(_by_halves, logits[odd].astype(np.float64), block[odd].astype(np.float64), below_top)
    if below_top and some.options.z_loss > 0.0:
        products += silently(_common_part, some, upstream)
    return products


def _by_halves(logits: Array, slopes: Array, below_top: bool) -> Array:
    """The same of rows whose differences have no room in a float."""
    near = logits.max(axis=1, keepdims=True, initial=-np.inf) if below_top else 0.0
    halves = np.where(slopes == 0.0, 0.0, slopes * (0.5 * logits - 0.5 * near))
    total: Array = 2.0 * np.add.reduce(halves, axis=1)
    return total


def _common_part(some: CrossEntropyCall, upstream: Array) -> Array:
    """The largest logit times the sum of all slopes, which is that of the z-loss."""
    scale, per_row = some.options.logit_scale, some.targets.per_row
    states = states_over(some.array, (some.axis,), 1, scale)
    weight = np.ldexp(upstream if per_row is None else upstream * per_row, some.exponent)
    return 2.0 * some.options.z_loss * weight * scale * states.logsumexp(scale) * states.tops
