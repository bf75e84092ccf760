"""Cross entropy of a row and its gradient: two looks at the logits, the second while they are still in cache.

With the masses q_c of targets.py,

    loss = sum_c q_c (lse - x_c) + z lse^2                 gradient_c = p_c (sum_k q_k + 2 z lse) - q_c

The heaviest point y is left out of the row's sum S = s + e_y, so that -log p_y = log1p(s / e_y) and p_y - 1 = -s / S
keep their digits when p_y is close to 1. Every other lse - x_c is log S - (x_c - reference), two small numbers; the
difference of lse and x_c themselves would lose what the row has in common.
"""

import math

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, outlined, real_of, structure, vector
from fastce.kernels.memory import (
    BLOCK,
    element,
    finish_stores,
    lanes_of,
    load,
    load_first,
    next_step,
    prefetch,
    row_pointer,
    scratch_block,
    set_element,
    store,
    store_first,
    store_past_cache,
)
from fastce.kernels.rows import (
    SPARE,
    add_compensated,
    capping,
    end_of_block,
    fill_masses,
    guessed_maximum,
    log_times_power,
    prepared,
    row_maximum,
    row_state,
    to_real,
)
from fastce.kernels.simd import fma
from fastce.kernels.targets import (
    Options,
    Targets,
    dense_mass,
    dense_part,
    heaviest_point,
    likeliest_class,
    mass_of_point,
    send_for_target,
    targets_of_row,
    weight_of_row,
)
from fastce.kernels.vector import LN2, LN2_LOW, exp_in_float64, exp_parts, scaling, tanh

PREFETCHED = 65_536  # elements of the next row that are asked for while this row's gradient is written


@inline
def capped_element(row, c, options):
    """One logit after softcap (and after logit_scale if there is a cap), as float64."""
    x = element(row, c)
    if options.softcap > 0.0:
        return options.softcap * tanh(x * (options.logit_scale / options.softcap))
    return x


@inline
def above(power, scale, x):
    """power * ln(2) - scale * x, rounded once where it matters."""
    product = scale * x
    if not math.isfinite(product):
        return -product
    return (fma(power, LN2, -product) - fma(scale, x, -product)) + power * LN2_LOW


@outlined
def distances_in_float64(row, classes, left_out, reference, options, targets):
    """The sum of q (x - reference), one by one: for rows whose differences overflow float32."""
    total = 0.0
    for c in range(classes):
        mass = dense_mass(targets, options, c) if targets.has_probabilities or targets.has_class_weight else 1.0
        if c != left_out and mass != 0.0:
            total += mass * (capped_element(row, c, options) - reference)
    return total


@inline
def add_points(row, left_out, loss, mass, mass_y, log_total, power, scale, offset, options, targets):
    """(loss, mass, mass_y) with the row's points added; the one that is left out adds to mass_y alone."""
    losses, masses = (loss, 0.0), (mass, 0.0)
    for point in range(targets.first_point, targets.end_point):
        c = targets.classes[point]
        q = mass_of_point(targets, options, point)
        if c == left_out:
            mass_y += q
        elif q != 0.0:
            x = capped_element(row, c, options)
            losses = add_compensated(losses, q * (log_total + above(power, scale, x - offset)))
            masses = add_compensated(masses, q)
    return losses[0] + losses[1], masses[0] + masses[1], mass_y


@inline
def loss_of_row(row, classes, options, targets, room, masses):
    """(loss, state) of one row; the state is what its gradient needs, see `write_gradient_of_row`."""
    ratio, cap, scaled_by = capping(row, options.logit_scale, options.softcap)
    scale = 1.0 if options.softcap > 0.0 else options.logit_scale
    dense = dense_part(row, targets, options, 1.0)
    varies = dense[3] or dense[5]
    left_out = heaviest_point(targets, options)
    if targets.has_probabilities:
        largest, _ = row_maximum(row, classes, ratio, cap, room)  # x - near must be small where the mass is
    else:
        largest = guessed_maximum(row, classes, ratio, cap, room)
    while True:
        x_y, exp_y = 0.0, 0.0
        if left_out >= 0:
            x_y = capped_element(row, left_out, options)
            largest = max(largest, x_y)
        offset, exponent, near, (rest, distances, rest_mass) = row_state(
            row, classes, left_out, largest, (ratio, cap), scaled_by, room, dense, masses
        )
        if not math.isfinite(offset):
            return math.nan, (offset, exponent, 1.0, math.nan, -1, 0.0, 0.0, 0.0, 0.0, 0.0)
        if left_out >= 0:
            exp_y = exp_in_float64(x_y - offset, exponent, scale)
        total = rest + exp_y
        power = exponent + SPARE
        log_total = math.log(total * 2.0**-SPARE)
        if math.isinf(distances) and (varies or options.spread > 0.0):
            distances = distances_in_float64(row, classes, left_out, offset + near, options, targets)
        if not varies:
            rest_mass *= options.spread
            distances = distances * options.spread if options.spread > 0.0 else 0.0
        loss = rest_mass * (log_total + above(power, scale, near)) - scale * distances
        mass_y = dense_mass(targets, options, left_out) if left_out >= 0 else 0.0
        loss, rest_mass, mass_y = add_points(
            row, left_out, loss, rest_mass, mass_y, log_total, power, scale, offset, options, targets
        )
        if mass_y != 0.0:
            if rest < 1e15 * exp_y:
                loss += mass_y * math.log1p(rest / exp_y)
            else:
                loss += mass_y * (log_total + above(power, scale, x_y - offset))
        if dense[3] and left_out < 0 and loss < 0.5 * rest_mass:
            # the dense sum has lost digits: once more, without the class that most of the mass is on
            left_out = likeliest_class(targets.probabilities, classes)
            continue
        break
    if math.isnan(total):
        loss = math.nan
    z_mass = 0.0
    if options.z_loss > 0.0:
        lse = scale * offset + log_times_power(total, exponent)
        loss += options.z_loss * lse * lse
        z_mass = 2.0 * options.z_loss * lse
    return loss, (offset, exponent, total, rest, left_out, x_y, exp_y, mass_y, rest_mass, z_mass)


@inline
def gradient_vector(x, minus_q, reference, cap):
    """upstream * (p_c * mass - q_c), times the derivative of the cap, 1 - (x / cap)^2.

    upstream * mass / sum is a factor of exp's coefficients, so that one fma ends it.
    """
    exponent, offset, scaled_by = reference
    inverse_cap, one = cap
    a, power = exp_parts(x, exponent, scaled_by)
    gradient = fma(a, power, minus_q)
    if inverse_cap > 0:
        capped = (x + offset) * inverse_cap
        gradient = gradient * (one - capped * capped)
    return gradient


@inline
def write_gradient_of_block(block, first, masses, out, start, stop, reference, cap, past_cache, next_row):
    """Whole vectors, past the cache if so asked, and the partial ones at either end; the next row is sent for."""
    lanes = lanes_of(block)
    nothing = to_real(block, 0.0)
    to_block, i = first - start, start
    while i < stop:
        whole, count = next_step(out, i, stop, past_cache)
        if count > 0:
            x = load_first(block, i + to_block, count, nothing)
            minus_q = load_first(masses, i - start, count, nothing)
            store_first(out, i, gradient_vector(x, minus_q, reference, cap), count)
            i += count
            continue
        for _ in range(whole):
            x, minus_q = load(block, i + to_block), load(masses, i - start)
            gradient = gradient_vector(x, minus_q, reference, cap)
            if past_cache:
                if i < PREFETCHED:
                    prefetch(next_row, i)
                store_past_cache(out, i, gradient)
            else:
                store(out, i, gradient)
            i += lanes


@inline
def gradient_of_point(row, c, mass, state, options, targets, upstream):
    """p_c (sum q + 2 z lse) - q_c of one class, in float64; for the class that was left out, p - 1 = -rest / sum."""
    offset, exponent, total, rest, left_out, x_y, exp_y, mass_y, rest_mass, z_mass = state
    if c == left_out:
        x = x_y
        gradient = (exp_y * (rest_mass + z_mass) - mass_y * rest) / total
    else:
        x = capped_element(row, c, options)
        scale = 1.0 if options.softcap > 0.0 else options.logit_scale
        p = exp_in_float64(x - offset, exponent, scale) / total
        gradient = p * (rest_mass + mass_y + z_mass) - (mass + dense_mass(targets, options, c))
    if options.softcap > 0.0:
        gradient *= 1.0 - (x / options.softcap) ** 2
    return upstream * gradient


@inline
def write_gradient_of_row(
    row, classes, options, targets, state, upstream, room, masses, filled_with, out, past_cache, next_row
):
    """The gradient of one row from its state: exp again, from logits that are still in cache.

    Keeping the exps of the first look in a buffer of the row's size was measured too: no faster at any row length, for
    what it saves in arithmetic it spends on the second-level cache. The logits may be replaced by their gradient: each
    is read before its place is written. Without weights and probabilities, ``masses`` is the same for all rows that
    share what is returned, ``filled_with``.
    """
    offset, exponent, total, _, left_out, _, _, mass_y, rest_mass, z_mass = state
    ratio, cap, _ = capping(row, options.logit_scale, options.softcap)
    upstream *= options.logit_scale
    fraction, power = math.frexp(total)
    scale = 1.0 if options.softcap > 0.0 else options.logit_scale
    with_factor = scaling(row, scale, upstream * (rest_mass + mass_y + z_mass) / fraction)
    reference = (to_real(row, exponent + power), to_real(row, offset), with_factor)
    of_cap = (to_real(row, 1.0 / options.softcap if options.softcap > 0.0 else 0.0), to_real(row, 1.0))
    dense = dense_part(row, targets, options, -upstream)
    varies = dense[3] or dense[5]
    if not varies and filled_with != upstream:
        fill_masses(0, min(BLOCK, classes), dense, masses)
    point, end_point = targets.first_point, targets.end_point
    start = 0
    while start < classes:
        stop = end_of_block(start, classes, lanes_of(row))
        c = targets.classes[point] if point < end_point else (left_out if left_out >= start else classes)
        if c == start:
            mass = mass_of_point(targets, options, point) if point < end_point else 0.0
            set_element(out, c, gradient_of_point(row, c, mass, state, options, targets, upstream))
            point += 1
            start += 1
            continue
        stop = min(stop, c)
        block, first = prepared(row, start, stop, ratio, cap, reference[1], room)
        if varies:
            fill_masses(start, stop, dense, masses)
        write_gradient_of_block(block, first, masses, out, start, stop, reference, of_cap, past_cache, next_row)
        start = stop
    return upstream


@outlined
def fill_row(row, classes, value, out):
    """The same number in the whole row."""
    lanes = lanes_of(row)
    vector = load_first(row, 0, 0, to_real(row, value))
    for i in range(0, classes, lanes):
        store_first(out, i, vector, min(lanes, classes - i))


def _types_of_loss(storage):
    real = real_of(storage)
    integers, floats = vector(types.int64), vector(types.float64)
    targets = structure(Targets, integers, integers, floats, matrix(real), vector(real), floats)
    options = structure(Options, *(types.float64 for _ in Options._fields))
    return matrix(storage), targets, options, floats


@kernel(_types_of_loss)
def cross_entropy_rows(logits, targets, options, losses):
    """losses[i] = v_i times the loss of row i; 0 where v_i is 0, whatever the row holds."""
    rows, classes = logits.shape
    for i in range(rows):
        row = row_pointer(logits, i)
        weight = weight_of_row(targets, i)
        send_for_target(logits, targets, min(i + 2, rows - 1))
        losses[i] = 0.0
        if weight != 0.0:
            room, masses = scratch_block(row), scratch_block(row)
            loss, _ = loss_of_row(row, classes, options, targets_of_row(targets, i), room, masses)
            losses[i] = weight * loss


@kernel(
    lambda storage: (
        *_types_of_loss(storage),
        vector(types.float64),
        matrix(storage),
        types.boolean,
    )
)
def cross_entropy_rows_and_gradient(logits, targets, options, losses, upstream, gradient, past_cache):
    """As `cross_entropy_rows`, and gradient[i] = v_i * upstream_i * d loss_i / d logits[i]."""
    rows, classes = logits.shape
    filled_with = math.nan
    for i in range(rows):
        row, out = row_pointer(logits, i), row_pointer(gradient, i)
        room, masses = scratch_block(row), scratch_block(row)
        weight = weight_of_row(targets, i)
        send_for_target(logits, targets, min(i + 2, rows - 1))
        losses[i] = 0.0
        if weight == 0.0:
            fill_row(row, classes, 0.0, out)
            continue
        of_row = targets_of_row(targets, i)
        loss, state = loss_of_row(row, classes, options, of_row, room, masses)
        losses[i] = weight * loss
        if not math.isfinite(state[0]):
            fill_row(row, classes, math.nan, out)
            continue
        from_above = weight * (upstream[i] if upstream.shape[0] > 1 else upstream[0])
        next_row = row_pointer(logits, min(i + 1, rows - 1))
        filled_with = write_gradient_of_row(
            row,
            classes,
            options,
            of_row,
            state,
            from_above,
            room,
            masses,
            filled_with,
            out,
            past_cache,
            next_row,
        )
    if past_cache:
        finish_stores()
