"""Cross entropy of a row and its gradient: two looks at the logits, the second while they are still in cache.

With the masses q_c of targets.py,

    loss = sum_c q_c (lse - x_c) + z lse^2                 gradient_c = p_c (sum_k q_k + 2 z lse) - q_c

The losses, and why the heaviest point is left out of their sums, are in row_losses.py. For the same reason p_y - 1 is
computed as -s / S.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import (
    capping,
    end_of_block,
    first_block,
    on_block,
    row_to_send_for,
    scratch_block,
    wide_scratch_block,
    write_vectors,
)
from fastce.cpu._kernels.row_losses import find_states
from fastce.cpu._kernels.rows import cleared_states
from fastce.cpu._kernels.slope_products import common_part, product_of_look, sum_of_products, taken_off
from fastce.cpu._kernels.states import (
    EXPONENT,
    FACTOR,
    FACTOR_EXPONENT,
    FITS,
    KEPT,
    LOSS,
    OFFSET,
    REST_MASS,
    TARGET,
    TARGET_GRADIENT,
    TARGET_MASS,
    TOTAL,
    UPSTREAM,
    Z_MASS,
    finish_gradients,
)
from fastce.cpu._kernels.targets import (
    capped_element,
    dense_mass,
    dense_part,
    mass_of_point,
    masses_at,
    options_type,
    scale_of,
    targets_of_row,
    targets_type,
    weight_of_row,
)
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, real_of, vector
from fastce.cpu._vectors.exponential import add_exp, exp_in_float64, keeps_exps, scaling
from fastce.cpu._vectors.memory import (
    finish_stores,
    from_element,
    lanes_of,
    load_first,
    pointer,
    row_pointer,
    sends_beside_stores,
    store_first,
    to_real,
)
from fastce.cpu._vectors.simd import fma

ROWS_AT_A_TIME = 16
CACHED = 65_536  # elements of a group of rows
# What exps that were kept are multiplied by, as a power of two: float32 holds it as well, and it raises none of those
# that exp has taken for 0.
LOWEST_FACTOR = -100.0


@inline
def gradient_of_vector(x, i, count, past_cache, rest):
    """upstream * (p_c * mass - q_c), times the derivative of the cap, 1 - (x / cap)^2."""
    dense, exponent, offset, scaled_by, inverse_cap, one = rest
    gradient = add_exp(masses_at(dense, i, count), x, exponent, scaled_by)
    if inverse_cap > 0:
        capped = (x + offset) * inverse_cap
        gradient = gradient * (one - capped * capped)
    return gradient


@inline
def plain_gradient_of_vector(x, i, count, past_cache, rest):
    """The same where q is one number and there is no cap.

    upstream * mass / sum is a factor of exp's coefficients, so that one fma ends it.
    """
    minus_q, exponent, scaled_by = rest
    return add_exp(minus_q, x, exponent, scaled_by)


@inline
def kept_gradient_of_vector(e, i, count, past_cache, rest):
    """The same from exp, which the first look has kept."""
    minus_q, factor = rest
    return fma(e, factor, minus_q)


@inline
def write_gradient_of_block(block, first, start, stop, rest):
    """The gradient of the elements from ``start`` to ``stop``."""
    how, of_vector = rest
    dense, exponent, _, scaled_by, inverse_cap, _ = of_vector
    if dense[3] or dense[5] or inverse_cap > 0:
        write_vectors(gradient_of_vector, block, first, start, stop, how, of_vector)
    else:
        minus_q = load_first(block, first, 0, dense[1])
        write_vectors(plain_gradient_of_vector, block, first, start, stop, how, (minus_q, exponent, scaled_by))


@inline
def gradient_of_point(row, c, mass, states, k, options, targets):
    """p_c (sum q + 2 z lse) - q_c of one class, in float64."""
    if c == states[TARGET + k]:
        return states[TARGET_GRADIENT + k]
    x = capped_element(row, c, options)
    scale = scale_of(options)
    p = exp_in_float64(x - states[OFFSET + k], states[EXPONENT + k], scale) / states[TOTAL + k]
    all_masses = states[REST_MASS + k] + states[TARGET_MASS + k] + states[Z_MASS + k]
    gradient = p * all_masses - (mass + dense_mass(targets, options, c))
    if options.softcap > 0.0:
        gradient *= 1.0 - (x / options.softcap) ** 2
    return states[UPSTREAM + k] * gradient


@inline
def next_alone(start, classes, point, end_point, left_out, targets):
    """(the next class that is computed alone, the one after it): points, or the class that was left out."""
    if point < end_point:
        return targets.classes[point], targets.classes[point + 1] if point + 1 < end_point else classes
    return left_out if left_out >= start else classes, classes


@inline
def write_gradient_of_row(row, classes, options, targets, states, k, room, kept, out, past_cache, next_row):
    """The gradient of one row from its state: from the exps that were kept, or exp again, of logits still in cache.

    The logits may be replaced by their gradient: each is read before its place is written.
    """
    ratio, cap, _ = capping(row, options.logit_scale, options.softcap)
    scale = scale_of(options)
    offset = to_real(row, states[OFFSET + k])
    rest = (
        dense_part(row, targets, options, -states[UPSTREAM + k]),
        to_real(row, states[FACTOR_EXPONENT + k]),
        offset,
        scaling(row, scale, states[FACTOR + k]),
        to_real(row, 1.0 / options.softcap if options.softcap > 0.0 else 0.0),
        to_real(row, 1.0),
    )
    exponent_of_factor = states[EXPONENT + k] - states[FACTOR_EXPONENT + k]
    is_kept = keeps_exps(row) and states[KEPT + k] > 0.0 and LOWEST_FACTOR < exponent_of_factor < 0.0
    of_kept = (
        load_first(kept, 0, 0, to_real(row, -states[UPSTREAM + k] * options.spread)),
        to_real(row, math.ldexp(states[FACTOR + k], int(exponent_of_factor)) if is_kept else 0.0),
    )
    left_out = int(states[TARGET + k])
    point, end_point = targets.first_point, targets.end_point
    start, first = 0, first_block(out, past_cache)
    while start < classes:
        c, after = next_alone(start, classes, point, end_point, left_out, targets)
        stop, value = min(end_of_block(start, classes, lanes_of(row), first), after), 0.0
        if c < stop:
            mass = mass_of_point(targets, options, point) if point < end_point else 0.0
            value = gradient_of_point(row, c, mass, states, k, options, targets)
            point += 1
        alone = c, to_real(row, value)
        if is_kept:
            how = out, past_cache, row_to_send_for(row, next_row, start, sends_beside_stores()), alone
            write_vectors(kept_gradient_of_vector, kept, start, start, stop, how, of_kept)
        else:
            how = out, past_cache, row_to_send_for(row, next_row, start), alone
            on_block(write_gradient_of_block, row, start, stop, (ratio, cap), offset, room, (how, rest))
        start = stop


@outlined
def fill_row(row, classes, value, out):
    """The same number in the whole row."""
    lanes = lanes_of(row)
    vector = load_first(row, 0, 0, to_real(row, value))
    for i in range(0, classes, lanes):
        store_first(out, i, vector, min(lanes, classes - i))


@inline
def write_gradient(logits, i, next_i, options, targets, states, k, out, room, kept, past_cache):
    """The gradient of row i from its state, whatever that is, into the row ``out``; row ``next_i`` is sent for."""
    classes = logits.shape[1]
    row = row_pointer(logits, i)
    if weight_of_row(targets, i) == 0.0:
        fill_row(row, classes, 0.0, out)
    elif not math.isfinite(states[OFFSET + k]) or math.isnan(states[TOTAL + k]):
        fill_row(row, classes, math.nan, out)
    else:
        next_row, of_row = row_pointer(logits, next_i), targets_of_row(targets, i)
        write_gradient_of_row(row, classes, options, of_row, states, k, room, kept, out, past_cache, next_row)


@inline
def prepare_gradients(first, count, options, targets, states, upstream):
    """What the gradients of ``count`` rows from ``first`` on are made of."""
    for k in range(count):
        from_above = upstream[first + k] if upstream.shape[0] > 1 else upstream[0]
        states[UPSTREAM + k] = weight_of_row(targets, first + k) * from_above * options.logit_scale
    finish_gradients(states, count, options.softcap)


@inline
def write_gradients(logits, first, count, options, targets, states, gradient, room, kept, past_cache, products):
    """The gradients of ``count`` rows from ``first`` on, and their sums of gradient * logit.

    Where ``kept`` says that only these sums are wanted, the gradient has room for one row: of those whose look has not
    given them.
    """
    rows, classes = logits.shape
    is_wanted, has_products = not kept[2], products.shape[0] > 0
    for k in range(count):
        i, next_i = first + k, min(first + k + count, rows - 1)
        is_counted = weight_of_row(targets, i) != 0.0
        if has_products:
            products[i] = product_of_look(states, k) if is_counted and not is_wanted else 0.0
        if states[FITS + k] > 0.0 and (is_wanted or math.isnan(products[i])):
            exps, slopes = from_element(kept[0], k * kept[1]), row_pointer(gradient, i if is_wanted else 0)
            write_gradient(logits, i, next_i, options, targets, states, k, slopes, room, exps, past_cache)
            if has_products and is_counted:
                row, near = row_pointer(logits, i), taken_off(options, states, k)
                products[i] = sum_of_products(row, slopes, classes, near) + common_part(near, states, k)


@kernel(
    lambda storage: (
        matrix(storage),
        targets_type(storage),
        options_type,
        vector(types.float64),
        vector(types.uint8),
        vector(types.float64),
        vector(types.float64),
        matrix(storage),
        types.boolean,
        vector(real_of(storage)),
        types.boolean,
    )
)
def cross_entropy_rows(
    logits, targets, options, losses, misfits, upstream, products, gradient, is_room, room_for_exps, past_cache
):
    """losses[i] = v_i times the loss of row i; if the gradient has rows, gradient[i] = v_i upstream_i d loss_i / d x_i.

    If there are products, products[i] = sum_c gradient_ic x_ic; the gradient may then be room for a single row, which
    only rows whose look has not given that are written to. Rows of weight 0 are 0, whatever they hold. Rows where
    ``misfits`` becomes 1 have no gradient written: they are for `extreme_rows`. Rows are taken in groups that a
    second-level cache holds until their gradients are written, with their exps if there is room for those of a row.
    """
    rows, classes = logits.shape
    states = cleared_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    lanes = lanes_of(room)
    group, stride = min(ROWS_AT_A_TIME, CACHED // classes), 0
    if keeps_exps(row_pointer(logits, 0)) and room_for_exps.shape[0] > 0:
        stride = (classes + lanes - 1) // lanes * lanes
        group = min(ROWS_AT_A_TIME, room_for_exps.shape[0] // stride)
    kept = pointer(room_for_exps), stride, is_room
    for first in range(0, rows, max(1, group)):
        count = min(max(1, group), rows - first)
        find_states(logits, first, count, options, targets, states, room, wide_room, kept)
        for k in range(count):
            losses[first + k] = weight_of_row(targets, first + k) * states[LOSS + k]
            if states[FITS + k] == 0.0:
                misfits[first + k] = 1
        if gradient.shape[0] > 0:
            prepare_gradients(first, count, options, targets, states, upstream)
            write_gradients(
                logits, first, count, options, targets, states, gradient, room, kept, past_cache, products
            )  # fmt: skip
    if past_cache:
        finish_stores()
