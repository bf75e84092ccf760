"""Binary cross entropy with logits and its gradient, element by element.

With e = exp(-|x|), and of the weights a y and 1 - y the one that the sign of x is against and the one it is for,

    loss = a y softplus(-x) + (1 - y) softplus(x) = against |x| + (against + for) log1p(e)
    d loss / dx = (1 - y) s(x) - a y s(-x) = sign(x) (against - for e) / (1 + e)

With weights of one sign no two terms cancel. Where all weights are 1, against + for is 1, and a sum of log1p is
the logarithm of a product: one for as many vectors as a vector has lanes.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import BLOCK, scratch_block
from fastce.cpu._kernels.states import LANES
from fastce.cpu._kernels.transposition import copy_lines_into
from fastce.cpu._vectors.compiler import inline, kernel, matrix, real_of, vector
from fastce.cpu._vectors.elementary import log1p
from fastce.cpu._vectors.exponential import SPARE, exp, scaling
from fastce.cpu._vectors.logarithm import log1p as wide_log1p
from fastce.cpu._vectors.memory import (
    elements,
    elements_ahead,
    finish_stores,
    from_element,
    lanes_of,
    load_first,
    prefetch,
    row_pointer,
    store,
    to_real,
)
from fastce.cpu._vectors.rooms import storage_room
from fastce.cpu._vectors.simd import copysign, fma, where_less, where_zero
from fastce.cpu._vectors.stretches import copy_stretch
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide

block_room = storage_room(BLOCK)

TINY = 2.0**-100  # of e: far from the numbers that it loses digits to, and no summand beside 1


@inline
def times(factor, value, zero):
    """factor * value; 0 where the factor is 0, even beside an infinity."""
    return where_zero(factor, zero, factor * value)


@inline
def step_of(factors, classes):
    """1, or 0 for one vector that serves the whole row."""
    return 1 if factors.shape[1] >= classes else 0


@inline
def constants_of(row):
    """0, 1, -1, 1 / lanes and what exp needs, for `add_vector`."""
    of_exp = to_real(row, SPARE), to_real(row, 2.0**-SPARE), scaling(row, 1.0, 1.0)
    zero = to_real(row, 0.0)
    minus_one = load_first(row, 0, 0, to_real(row, -1.0))
    return zero, load_first(row, 0, 0, to_real(row, 1.0)), minus_one, to_real(row, 1.0 / lanes_of(row)), of_exp


@inline
def add_vector(rows, i, count, rooms, place, plain, has_rest, constants, sums):
    """Add one vector's losses to the sums, which are returned; write losses and gradient to their rooms.

    The sums are: (1 + e) (1 + e) ... - 1, which keeps the digits of small e; against |x| / lanes, which overflows only
    where a loss does; and with weights the losses themselves.
    """
    x_row, (y_row, rest_row), (weight, weight_step), (positive_weight, positive_step), above = rows
    upstream, upstream_step = above
    losses, wants_losses, gradient, wants_gradient = rooms
    zero, one, minus_one, share, (spare, to_normal, scaled_by) = constants
    product, sizes, total = sums
    x, y = elements(x_row, i, count, to_real(x_row, math.inf)), elements(y_row, i, count, to_real(x_row, 1.0))
    # the detour over 2**spare lets e be subnormal, and keeps the digits that it loses by that
    raised = exp(copysign(x, minus_one), zero - spare, scaled_by)
    e = raised * to_normal
    negative = elements(rest_row, i, count, zero) if has_rest else one - y
    positive, factor = y, elements(upstream, i * upstream_step, count, zero)
    if not plain:
        positive = y * elements(positive_weight, i * positive_step, count, zero)
    against, along = where_less(x, zero, positive, negative), where_less(x, zero, negative, positive)
    size = where_zero(against, zero, copysign(x, one))
    if plain:
        product = product + fma(e, product, e)
        sizes = fma(against * share, size, sizes)
    else:
        w = elements(weight, i * weight_step, count, zero)
        factor = factor * w
        tiny = to_real(x_row, TINY)
        rest = where_less(e, tiny, zero, (against + along) * log1p(e))  # log1p(e) is e where that is tiny
        loss = times(w, fma(against, size, rest), zero)
        loss = loss + where_less(e, tiny, times(w * to_normal, (against + along) * raised, zero), zero)
        total = add_wide(total, loss)
        if wants_losses:
            store(losses, place, loss)
    if wants_gradient:
        slope = (against - along * e) / (one + e)
        store(gradient, place, times(factor, where_less(x, zero, zero - slope, slope), zero))
    return product, sizes, total


@inline
def block_losses(rows, start, stop, rooms, plain, has_rest, constants, sums):
    """Add the losses of a block to (logs, sizes, total), which are returned; write what is asked for to the rooms."""
    row = rows[0]
    lanes = lanes_of(row)
    nothing = load_first(row, 0, 0, constants[0])
    logs, all_sizes, total = sums
    for chunk in range(start, stop, lanes * lanes):
        end = min(chunk + lanes * lanes, stop)
        whole = end - (end - chunk) % lanes
        here = nothing, nothing, total
        for i in range(chunk, whole, lanes):
            prefetch(row, i + elements_ahead(row))
            prefetch(rows[1][0], i + elements_ahead(rows[1][0]))
            here = add_vector(rows, i, lanes, rooms, i - start, plain, has_rest, constants, here)
        if whole < end:
            here = add_vector(rows, whole, end - whole, rooms, whole - start, plain, has_rest, constants, here)
        product, sizes, total = here
        if plain:
            halves = add_wide(zeros_wide(), product)
            logs = add_wide(logs, wide_log1p(halves[0]) + wide_log1p(halves[1]))
            all_sizes = add_wide(all_sizes, sizes)
    return logs, all_sizes, total


@inline
def row_of(matrix, row, classes, start, stop, room):
    """A row of so many classes, of which elements from start to stop will be read.

    It is read where it is, or from the ``room``, unless that is None: lines of any strides that make it are copied.
    """
    if room is None:
        return row_pointer(matrix, row)
    if matrix.shape[1] == classes and matrix.strides[1] == matrix.itemsize:
        return row_pointer(matrix, row)
    copy_lines_into(matrix, row * classes + start, row * classes + stop, room)
    return from_element(room, -start)


@inline
def over_rows(rooms, logits, targets, rest, factors, row_losses, losses, gradient, plain, past_cache):
    """`binary_rows`, or `binary_lines` if there are ``rooms`` for lines of logits and targets."""
    weight, positive_weight, upstream = factors
    count = row_losses.shape[0]
    classes = logits.size // max(count, 1)
    room, loss_room = scratch_block(row_pointer(logits, 0)), scratch_block(row_pointer(logits, 0))
    wants_losses, wants_gradient = losses.shape[0] > 0, gradient.shape[0] > 0
    outputs = loss_room, wants_losses, room, wants_gradient
    for i in range(count):
        x_row = row_pointer(logits, i)
        constants = constants_of(x_row)
        is_narrow = lanes_of(x_row) != LANES  # float32: float64 has all digits of any targets
        of_row = (
            (row_pointer(weight, i), step_of(weight, classes)),
            (row_pointer(positive_weight, i), step_of(positive_weight, classes)),
            (row_pointer(upstream, i), step_of(upstream, classes)),
        )
        sums = zeros_wide(), zeros_wide(), zeros_wide()
        for start in range(0, classes, BLOCK):
            stop = min(start + BLOCK, classes)
            y = row_of(targets, i, classes, start, stop, rooms[1]), row_pointer(rest, i)
            rows = row_of(logits, i, classes, start, stop, rooms[0]), y, *of_row
            if is_narrow and rest.shape[0] > 0:  # code of its own: one more question would cost a tenth of the time
                sums = block_losses(rows, start, stop, outputs, plain, True, constants, sums)
            else:
                sums = block_losses(rows, start, stop, outputs, plain, False, constants, sums)
            if wants_losses:
                copy_stretch(loss_room, -start, row_pointer(losses, i), start, stop, past_cache)
            if wants_gradient:
                copy_stretch(room, -start, row_pointer(gradient, i), start, stop, past_cache)
        row_losses[i] = sum_wide(sums[0]) + sum_wide(sums[1]) * lanes_of(x_row) + sum_wide(sums[2])
    if past_cache:
        finish_stores()


def _types(storage):
    reals = matrix(real_of(storage))
    outputs = vector(types.float64), reals, matrix(storage)
    return (matrix(storage), reals, reals, reals, reals, reals, *outputs, types.boolean, types.boolean)


@kernel(_types)
def binary_rows(
    logits, targets, rest, weight, positive_weight, upstream, row_losses, losses, gradient, plain, past_cache
):
    """row_losses[i] = sum of the row's losses; losses and gradient element by element, where they have rows.

    ``rest`` is 1 - targets, or has no rows where the difference loses nothing. Weights and upstream of one column are
    the same number in the whole row, repeated in a vector. ``plain`` says that the weights are 1 and the losses not
    asked for. Results go through a block in the first-level cache: sums must not depend on where a result happens to
    lie, and stores past the cache do.
    """
    factors = weight, positive_weight, upstream
    over_rows((None, None), logits, targets, rest, factors, row_losses, losses, gradient, plain, past_cache)


@kernel(_types)
def binary_lines(
    logits, targets, rest, weight, positive_weight, upstream, row_losses, losses, gradient, plain, past_cache
):
    """The same where a row may be made of several lines of logits, or of targets, of any strides.

    They are copied into the cache, a block at a time. What copies them would cost other rows a tenth of the time, too.
    """
    rooms, factors = (block_room(logits), block_room(targets)), (weight, positive_weight, upstream)
    over_rows(rooms, logits, targets, rest, factors, row_losses, losses, gradient, plain, past_cache)
