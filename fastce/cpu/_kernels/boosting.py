"""Gradient and Hessian diagonal of each row's cross entropy, from one read of the logits.

With the masses q_c of targets.py, M = sum_k q_k and x = f(u) the logit u after scale and cap, the row's loss
L = M lse - sum_c q_c x_c + z lse^2 has the derivatives

    g_c = dL/dx_c   = p_c (M + 2 z lse) - q_c
    h_c = d2L/dx_c2 = p_c (1 - p_c) (M + 2 z lse) + 2 z p_c^2
    dL/du_c = f' g_c,   d2L/du_c2 = f'^2 h_c + f'' g_c

with f' = a, f'' = 0, or for f(u) = s tanh(a u / s), with t = x / s,  f' = a (1 - t^2),  f'' = -(2 a / s) t f'.

1 - p_c is rounded away where p_c is close to 1. Only one class can have more than half of the probability: its
1 - p is (the sum of all others) / S, as in the gradient of the class that is left out there.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import (
    NO_CLASS,
    block_maximum,
    capping,
    end_of_block,
    first_block,
    on_block,
    put_vector,
    row_maximum,
    row_to_send_for,
    scratch_block,
    wide_scratch_block,
    write_vectors,
)
from fastce.cpu._kernels.cross_entropy import fill_row, gradient_of_point
from fastce.cpu._kernels.ranks import first_index
from fastce.cpu._kernels.row_losses import find_states
from fastce.cpu._kernels.rows import cleared_states
from fastce.cpu._kernels.states import (
    EXP_TARGET,
    EXPONENT,
    FITS,
    OFFSET,
    REST,
    REST_MASS,
    TARGET,
    TARGET_MASS,
    TOTAL,
    UPSTREAM,
    Z_MASS,
    finish_gradients,
)
from fastce.cpu._kernels.statistics import reference_of, row_pass
from fastce.cpu._kernels.targets import (
    Curvature,
    capped_element,
    dense_part,
    mass_of_point,
    masses_at,
    options_type,
    scale_of,
    targets_of_row,
    targets_type,
    weight_of_row,
)
from fastce.cpu._vectors.compiler import inline, kernel, matrix, structure, vector
from fastce.cpu._vectors.exponential import exp, exp_in_float64, scaling
from fastce.cpu._vectors.memory import elements_to_boundary, finish_stores, lanes_of, row_pointer, set_element, to_real
from fastce.cpu._vectors.simd import fma, where_less


@inline
def state_of_row(states):
    """What is known of the one row in the table, by number: see states.py."""
    return (
        states[OFFSET], states[EXPONENT], states[TOTAL], states[REST], int(states[TARGET]), states[EXP_TARGET],
        states[TARGET_MASS], states[REST_MASS], states[Z_MASS],
    )  # fmt: skip


@inline
def dominating_class(row, classes, options, state, room):
    """(class, its exp, the others' sum) of the class with more than half of the probability; -1 if there is none.

    Mostly it is the class that the row's loss has left out of its sum. If it is another, the row is summed again
    without that.
    """
    offset, exponent, total, rest, left_out, exp_y = state[0], state[1], state[2], state[3], state[4], state[5]
    if exp_y > rest:
        return left_out, exp_y, rest
    ratio, cap, scaled_by = capping(row, options.logit_scale, options.softcap)
    scale = scale_of(options)
    largest = row_maximum(row, classes, (ratio, cap), room)
    if 2.0 * exp_in_float64(largest - offset, exponent, scale) < total:
        return -1, 0.0, 0.0
    reference = reference_of(row, exponent, 0.0, scaled_by)
    _, at, rest, _, times, _ = row_pass(
        row, classes, -1, (ratio, cap), to_real(row, offset), reference, room, False, False
    )
    if times > 1.0 or rest > 0.5 * total:
        return -1, 0.0, 0.0
    stop = min(at + lanes_of(row) * lanes_of(row), classes)
    c = first_index(row, at, stop, float(block_maximum(row, at, at, stop, ())))  # a cap does not change the order
    return c, exp_in_float64(capped_element(row, c, options) - offset, exponent, scale), rest


@inline
def factors_of_row(options, curvature, weight, state):
    """(v a, factor of p in the gradient, A and B of h = p (A - B p), factor of t times the gradient in h)."""
    mass_y, rest_mass, z_mass = state[6], state[7], state[8]
    mass = rest_mass + mass_y + z_mass
    upstream = weight * options.logit_scale
    curved = upstream * options.logit_scale * curvature.factor
    bend = 2.0 * options.logit_scale / options.softcap * curvature.factor if options.softcap > 0.0 else 0.0
    return upstream, upstream * mass, curved * mass, curved * (mass - 2.0 * options.z_loss), bend


@inline
def hessian_of_point(row, c, gradient, dominating, state, options, factors, lowest):
    """One class in float64; ``gradient`` is what `gradient_of_point` gives."""
    offset, exponent, total = state[0], state[1], state[2]
    _, _, linear, quadratic, bend = factors
    x = capped_element(row, c, options)
    scale = scale_of(options)
    p = exp_in_float64(x - offset, exponent, scale) / total
    remainder = 1.0 - p
    if c == dominating[0]:
        p = dominating[1] / (dominating[1] + dominating[2])
        remainder = dominating[2] / (dominating[1] + dominating[2])
    hessian = p * (quadratic * remainder + (linear - quadratic))
    if options.softcap > 0.0:
        t = x / options.softcap
        slope = 1.0 - t * t
        hessian = slope * slope * hessian - bend * t * gradient
    return lowest if hessian < lowest else hessian


@inline
def write_hessian(x, i, count, past_cache, rest):
    """The gradient of a vector of classes that all have at most half of the probability; their Hessian is written."""
    dense, hessian_row, (exponent, offset, to_p), constants, (inverse_cap, bend, one) = rest
    of_p, linear, quadratic, lowest = constants
    p = exp(x, exponent, to_p)
    gradient = fma(p, of_p, masses_at(dense, i, count))
    hessian = p * (linear - p * quadratic)
    if inverse_cap > 0:
        t = (x + offset) * inverse_cap
        slope = one - t * t
        gradient = gradient * slope
        hessian = slope * slope * hessian - t * gradient * bend
    put_vector(hessian_row, i, where_less(hessian, lowest, lowest, hessian), count, past_cache)
    return gradient


@inline
def write_derivatives_of_block(block, first, start, stop, rest):
    """The derivatives of the elements from ``start`` to ``stop``, none of which is computed alone."""
    how, rest_of_vector = rest
    write_vectors(write_hessian, block, first, start, stop, how, rest_of_vector)


@inline
def next_alone(start, classes, left_out, dominating, point, end_point, targets):
    """The next class that is computed in float64: a point, the one that was left out, the dominating one."""
    c = classes
    if start <= left_out:
        c = left_out
    if start <= dominating:
        c = min(c, dominating)
    return min(c, targets.classes[point]) if point < end_point else c


@inline
def write_derivatives_of_row(
    row, classes, options, targets, curvature, weight, states, room, outputs, past_cache, next_row
):
    """Gradient and Hessian of one row from the state of its loss; the logits may be replaced by the gradient."""
    gradient, hessian = outputs
    state = state_of_row(states)
    dominating = dominating_class(row, classes, options, state, room)
    factors = factors_of_row(options, curvature, weight, state)
    offset, exponent, total, left_out = state[0], state[1], state[2], state[4]
    ratio, cap, _ = capping(row, options.logit_scale, options.softcap)
    fraction, power = math.frexp(total)
    scale = scale_of(options)
    to_p = scaling(row, scale, 1.0 / fraction)
    reference = (to_real(row, exponent + power), to_real(row, offset), to_p)
    constants = (
        to_real(row, factors[1]),
        to_real(row, factors[2]),
        to_real(row, factors[3]),
        to_real(row, curvature.lowest),
    )
    inverse_cap = 1.0 / options.softcap if options.softcap > 0.0 else 0.0
    of_cap = (to_real(row, inverse_cap), to_real(row, factors[4]), to_real(row, 1.0))
    dense = dense_part(row, targets, options, -factors[0])
    states[UPSTREAM] = factors[0]
    finish_gradients(states, 1, options.softcap)
    point, end_point, start, first = targets.first_point, targets.end_point, 0, first_block(gradient, past_cache)
    while start < classes:
        alone = next_alone(start, classes, left_out, dominating[0], point, end_point, targets)
        if alone == start:
            mass = 0.0
            if point < end_point and targets.classes[point] == start:
                mass = mass_of_point(targets, options, point)
                point += 1
            g = gradient_of_point(row, start, mass, states, 0, options, targets)
            h = hessian_of_point(row, start, g, dominating, state, options, factors, curvature.lowest)
            set_element(gradient, start, g)
            set_element(hessian, start, h)
            start += 1
            continue
        stop = min(end_of_block(start, classes, lanes_of(row), first), alone)
        rest = (dense, hessian, reference, constants, of_cap)
        how = gradient, past_cache, row_to_send_for(row, next_row, start), (NO_CLASS, to_real(row, 0.0))
        on_block(write_derivatives_of_block, row, start, stop, (ratio, cap), reference[1], room, (how, rest))
        start = stop


def _types(storage):
    array, curvature = matrix(storage), structure(Curvature, types.float64, types.float64)
    return array, targets_type(storage), options_type, curvature, vector(types.uint8), array, array, types.boolean


@kernel(_types)
def gradient_and_hessian_rows(logits, targets, options, curvature, misfits, gradient, hessian, past_cache):
    """gradient[i] and hessian[i]: the derivatives of v_i times the loss of row i; the gradient may replace logits.

    Where v_i is 0 both are 0, whatever the row holds, the Hessian at least the lowest that the booster accepts. Rows
    where ``misfits`` becomes 1 are not written: they are for `extreme_rows`.
    """
    rows, classes = logits.shape
    states = cleared_states()
    room, wide_room = scratch_block(row_pointer(logits, 0)), wide_scratch_block()
    for i in range(rows):
        row, gradient_row, hessian_row = row_pointer(logits, i), row_pointer(gradient, i), row_pointer(hessian, i)
        weight = weight_of_row(targets, i)
        if weight == 0.0:
            fill_row(gradient_row, classes, 0.0, gradient_row)
            fill_row(hessian_row, classes, max(0.0, curvature.lowest), hessian_row)
            continue
        of_row = targets_of_row(targets, i)
        find_states(logits, i, 1, options, targets, states, room, wide_room, (room, 0, False))
        if states[FITS] == 0.0:
            misfits[i] = 1
            continue
        if not math.isfinite(states[OFFSET]) or math.isnan(states[TOTAL]):
            fill_row(gradient_row, classes, math.nan, gradient_row)
            fill_row(hessian_row, classes, math.nan, hessian_row)
            continue
        next_row = row_pointer(logits, min(i + 1, rows - 1))
        same_phase = elements_to_boundary(gradient_row, 0) == elements_to_boundary(hessian_row, 0)
        write_derivatives_of_row(
            row,
            classes,
            options,
            of_row,
            curvature,
            weight,
            states,
            room,
            (gradient_row, hessian_row),
            past_cache and same_phase,  # vectors of both then start at multiples of their size
            next_row,
        )
    if past_cache:
        finish_stores()
