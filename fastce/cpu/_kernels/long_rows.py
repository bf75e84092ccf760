"""Pieces of a very long row: what cross_entropy.py and softmax.py do to a row, done to each piece on its own.

A piece comes as a matrix of one row, with the targets that lie in it, numbered from its start. The states of a row's
pieces are the columns of one table; cpu/long_row.py merges them, by the law in cpu/pieces.py.
"""

from numba import types

from fastce.cpu._kernels.blocks import scratch_block, wide_scratch_block
from fastce.cpu._kernels.cross_entropy import write_gradient
from fastce.cpu._kernels.row_losses import add_points, has_lost_digits, look_at_row, must_be_left
from fastce.cpu._kernels.slope_products import common_part, sum_of_products, taken_off
from fastce.cpu._kernels.softmax import found_in_row, write_row
from fastce.cpu._kernels.softmax import look_at_row as look_at_softmax
from fastce.cpu._kernels.states import FITS, finish_gradients, finish_states, new_states
from fastce.cpu._kernels.targets import (
    dense_mass,
    heaviest_point,
    likeliest_class,
    options_type,
    scale_of,
    targets_of_row,
    targets_type,
    weight_of_row,
)
from fastce.cpu._vectors.compiler import kernel, matrix, vector
from fastce.cpu._vectors.memory import finish_stores, pointer, row_pointer

_table = vector(types.float64)


@kernel(lambda storage: (targets_type(storage), options_type, types.int64, vector(types.float64)))
def target_to_leave_out(targets, options, classes, choice):
    """choice = (class, mass): the heaviest point, or without points the likeliest of all."""
    of_row = targets_of_row(targets, 0)
    if of_row.end_point > of_row.first_point:
        choice[0], choice[1] = heaviest_point(of_row, options)
    else:
        likeliest = likeliest_class(of_row, options, classes)
        choice[0], choice[1] = likeliest, dense_mass(of_row, options, likeliest)


@kernel(
    lambda storage: (
        matrix(storage),
        targets_type(storage),
        options_type,
        types.int64,
        types.float64,
        _table,
        types.int64,
    )
)
def look_at_piece(logits, targets, options, left_out, at_least, states, k):
    """Column k of the states from one piece, without one class (-1: none); the reference is near this or above."""
    row = row_pointer(logits, 0)
    room = scratch_block(row)
    look_at_row(
        row, logits.shape[1], options, targets_of_row(targets, 0), left_out, at_least, pointer(states), k, room,
        wide_scratch_block(), (room, False, False),
    )  # fmt: skip


@kernel(lambda storage: (targets_type(storage), options_type, _table, types.int64))
def finish_long_row(targets, options, states, count):
    """The loss of a row whose merged state stands in ``count`` columns; FITS is 0 if that has lost digits."""
    table = pointer(states)
    scale = scale_of(options)
    finish_states(table, 0, count, scale, options.z_loss)
    lost = targets.probabilities.shape[0] > 0
    lost = lost and has_lost_digits(row_pointer(targets.probabilities, 0), scale, table, 0)
    states[FITS] = 0.0 if lost else 1.0


@kernel(lambda storage: (matrix(storage), targets_type(storage), options_type, _table, types.int64))
def add_points_of_piece(logits, targets, options, states, k):
    """Add the points of one piece, but the heaviest of the row, to loss and mass in column k."""
    scale = scale_of(options)
    add_points(row_pointer(logits, 0), options, targets_of_row(targets, 0), scale, pointer(states), k)


@kernel(lambda storage: (matrix(storage), types.int64, targets_type(storage), options_type, _table, types.int64))
def judge_long_row(logits, classes, targets, options, states, k):
    """FITS becomes 0 if this finished row must be left to extremes.py; ``k`` is the column that knows its target.

    Only the dtype of the logits matters.
    """
    row, of_row = row_pointer(logits, 0), targets_of_row(targets, 0)
    is_left = must_be_left(row, classes, options, of_row, weight_of_row(targets, 0), pointer(states), k)
    states[FITS] = 0.0 if is_left else 1.0


@kernel(lambda storage: (options_type, _table, types.int64))
def finish_long_gradient(options, states, count):
    """What the gradients of a row's pieces are made of, from a finished row in ``count`` columns."""
    finish_gradients(pointer(states), count, options.softcap)


@kernel(
    lambda storage: (
        matrix(storage), targets_type(storage), options_type, _table, types.int64, matrix(storage), _table,
        types.boolean,
    )
)  # fmt: skip
def write_gradient_of_piece(logits, targets, options, states, k, gradient, products, past_cache):
    """gradient[0] is the gradient of one piece, whose row is column k; products[k], if any, its part of
    the sum of gradient * logit."""
    row, out, table = row_pointer(logits, 0), row_pointer(gradient, 0), pointer(states)
    room = scratch_block(row)
    write_gradient(logits, 0, 0, options, targets, table, k, out, room, room, past_cache)
    if products.shape[0] > 0:
        near = taken_off(options, table, k)
        products[k] = sum_of_products(row, out, logits.shape[1], near)
        if k == 0:
            products[k] += common_part(near, table, k)
    if past_cache:
        finish_stores()


@kernel(lambda storage: (matrix(storage), types.boolean, types.float64, vector(types.float64)))
def look_at_softmax_piece(logits, logarithm, at_least, found):
    """found = what `write_row` must know, of one piece; the reference is near ``at_least`` or above."""
    row = row_pointer(logits, 0)
    states = new_states()
    look_at_softmax(row, logits.shape[1], 1.0, at_least, states, 0, scratch_block(row), wide_scratch_block())
    found[0], found[1], found[2] = found_in_row(states, logarithm)


@kernel(lambda storage: (matrix(storage), matrix(storage), vector(types.float64), types.boolean, types.boolean))
def write_softmax_of_piece(logits, out, found, logarithm, past_cache):
    """The softmax of one piece, or its logarithm, from what was found out about the row. out may be logits."""
    row = row_pointer(logits, 0)
    write_row(
        row, logits.shape[1], row_pointer(out, 0), row, (found[0], found[1], found[2]), logarithm, scratch_block(row),
        past_cache,
    )  # fmt: skip
    if past_cache:
        finish_stores()
