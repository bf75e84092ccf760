"""Cross entropy of rows whose numbers, or whose options, no fast kernel can take: each row alone, in float64.

The formulas are those of cross_entropy.py and boosting.py. Nothing overflows or sinks on the way: every product, sum
and exponential that could is a pair (f, e), standing for f 2**e, until it is a result. Of the differences that exp
takes, one that overflows is so far below the row's maximum that its exp is 0.
"""

import math

import numpy as np
from numba import types

from fastce.cpu._kernels.cross_entropy import fill_row
from fastce.cpu._kernels.pairs import NOTHING, in_units, pair, plus, times, with_power
from fastce.cpu._kernels.rows import add_compensated
from fastce.cpu._kernels.targets import (
    Curvature,
    options_type,
    targets_of_row,
    targets_type,
    weight_of_row,
)
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure, vector
from fastce.cpu._vectors.exponential import LN2, LN2_LOW, LOG2E
from fastce.cpu._vectors.memory import row_pointer
from fastce.cpu._vectors.simd import fma

HUGE = 2.0**1000  # differences of larger numbers are halved
LINEAR = 2.0**-28  # tanh(x) = x to 53 bits below
PLAIN = -700.0  # exp is an ordinary number from here on


# --- logits ----------------------------------------------------------------------------------------------------------


@outlined
def logit(x, options):
    """(the logit that the softmax is of, less the factor that `left_scale` gives; tanh of what is capped)."""
    if options.softcap == 0.0 or math.isnan(x):
        return x, 0.0
    scaled, cap = times(pair(x), pair(options.logit_scale)), pair(options.softcap)
    t = math.tanh(in_units((scaled[0] / cap[0], scaled[1] - cap[1]), 0))
    return in_units(scaled, 0) if abs(t) < LINEAR else options.softcap * t, t


@inline
def left_scale(options):
    """What a logit is still to be multiplied by."""
    return 1.0 if options.softcap > 0.0 else options.logit_scale


@outlined
def below(x, m, scale):
    """scale (x - m), -inf if that is what it rounds to."""
    if abs(x) > HUGE or abs(m) > HUGE:
        return 2.0 * (scale * (0.5 * x - 0.5 * m))
    return scale * (x - m)


@outlined
def exp_below(x, m, scale):
    """(f, e) with exp(scale (x - m)) = f 2**e, e 0 where f is an ordinary number, the roundings of x - m made good.

    exp(d + low) = exp(d) (1 + low): half an ulp of a d of 46 would be 23 ulp of its exp, which may be all of a loss.
    """
    far = below(x, m, scale)
    if not far > NOTHING * LN2:
        return 0.0, NOTHING
    power = 0.0 if far > PLAIN else math.floor(far * LOG2E)
    result = math.exp(fma(-power, LN2, far) - power * LN2_LOW)
    if abs(x) > HUGE or abs(m) > HUGE:
        return result, int(power)
    d = x - m
    part = d - x
    lost = (x - (d - part)) - (m + part)
    return result + result * (fma(scale, d, -(scale * d)) + scale * lost), int(power)


@outlined
def pair_below(x, m, scale):
    """The same as a pair."""
    if abs(x) > HUGE or abs(m) > HUGE:
        f, e = times(pair(0.5 * x - 0.5 * m), scale)
        return f, e + 1
    return times(pair(x - m), scale)


@outlined
def look_at(row, classes, options):
    """(largest logit, NaN if there is one; its class; (s, e): s 2**e is the sum of exp(x - m) of all others).

    e is 0 unless that sum is less than any ordinary number.
    """
    largest, second, top = -math.inf, -math.inf, 0
    for c in range(classes):
        x, _ = logit(row[c], options)
        if math.isnan(x):
            return x, c, (x, 0)
        if x > largest:
            largest, second, top = x, largest, c
        elif x > second:
            second = x
    if not math.isfinite(largest):
        return largest, top, (0.0, 0)
    scale = left_scale(options)
    rest, (_, power) = (0.0, 0.0), exp_below(second, largest, scale)
    for c in range(classes):
        if c != top:
            x, _ = logit(row[c], options)
            rest = add_compensated(rest, in_units(exp_below(x, largest, scale), power))
    return largest, top, (rest[0] + rest[1], power)


@inline
def log1p_of(rest):
    """log(1 + s 2**e) of what `look_at` found, as a pair: so small a number is its own."""
    return pair(math.log1p(rest[0])) if rest[1] == 0 else with_power(rest[0], rest[1])


# --- losses and derivatives ------------------------------------------------------------------------------------------


@outlined
def mass_of(targets, options, c, point):
    """(q_c as a pair, the next point): w_c times what the dense part and the points of the class add up to."""
    mass = pair(options.spread)
    if targets.has_probabilities:
        mass = plus(mass, times(pair(options.keep), pair(np.float64(targets.probabilities[c]))))
    while point < targets.end_point and targets.classes[point] == c:
        of_point = pair(options.keep)
        if targets.has_masses:
            of_point = times(of_point, pair(targets.masses[point]))
        mass = plus(mass, of_point)
        point += 1
    if targets.has_class_weight:
        mass = times(mass, pair(np.float64(targets.class_weight[c])))
    return mass, point


@outlined
def loss_of(row, classes, options, targets, m, log_total):
    """The sum of q_c (lse - x_c) as a pair: q_c log S and q_c (m - x_c), of which neither is negative if q is not."""
    largest, farthest = NOTHING, NOTHING
    scale = pair(left_scale(options))
    point = targets.first_point
    for c in range(classes):  # in units of the largest, sums of numbers do
        mass, point = mass_of(targets, options, c, point)
        if mass[0] != 0.0:
            x, _ = logit(row[c], options)
            largest = max(largest, mass[1])
            farthest = max(farthest, times(mass, pair_below(x, m, scale))[1])
    masses, distances, point = (0.0, 0.0), (0.0, 0.0), targets.first_point
    for c in range(classes):
        mass, point = mass_of(targets, options, c, point)
        if mass[0] != 0.0:
            x, _ = logit(row[c], options)
            masses = add_compensated(masses, in_units(mass, largest))
            distances = add_compensated(distances, in_units(times(mass, pair_below(x, m, scale)), farthest))
    f, e = pair(masses[0] + masses[1])
    of_total = times((f, e + largest), log_total)
    f, e = pair(-(distances[0] + distances[1]))
    return plus(of_total, (f, e + farthest))


@outlined
def masses_without(row, classes, options, targets, top, unit):
    """(the sum of all q but that of one class, and that one's) in units."""
    others, of_top, point = (0.0, 0.0), 0.0, targets.first_point
    for c in range(classes):
        mass, point = mass_of(targets, options, c, point)
        q = in_units(mass, unit)
        if c == top:
            of_top = q
        else:
            others = add_compensated(others, q)
    return others[0] + others[1], of_top


@outlined
def largest_mass(classes, options, targets):
    """The exponent of the largest q."""
    largest, point = NOTHING, targets.first_point
    for c in range(classes):
        mass, point = mass_of(targets, options, c, point)
        largest = max(largest, mass[1])
    return largest


@outlined
def write_derivatives(row, classes, options, targets, curvature, state, factor, gradient, hessian):
    """The gradient, and the Hessian if there is room for it: see boosting.py for both.

    In units of the largest of all masses the bracket of the gradient is an ordinary number.
    """
    (m, top, rest), z_mass = state
    z = pair(options.z_loss)
    unit = max(largest_mass(classes, options, targets), z_mass[1], z[1])
    others, of_top = masses_without(row, classes, options, targets, top, unit)
    of_z, twice_z = in_units(z_mass, unit), 2.0 * in_units(z, unit)
    all_masses = others + of_top + of_z
    p_top = 1.0 / (1.0 + rest[0]) if rest[1] == 0 else 1.0
    scale, point = left_scale(options), targets.first_point
    slope_scale = pair(options.logit_scale)
    for c in range(classes):
        mass, point = mass_of(targets, options, c, point)
        x, t = logit(row[c], options)
        if c == top:
            p, power, remainder, power_of_remainder = p_top, 0, rest[0] * p_top, rest[1]
            bracket = plus(pair((others + of_z) * p), with_power(-of_top * remainder, rest[1]))
        else:
            p, power = exp_below(x, m, scale)
            p *= p_top
            remainder, power_of_remainder = 1.0 - in_units((p, power), 0), 0
            bracket = plus(with_power(p * all_masses, power), (-mass[0], mass[1] - unit))
        slope = pair((1.0 - t) * (1.0 + t))
        with_slope = times(times(times(bracket, slope), slope_scale), factor)
        gradient[c] = in_units(with_slope, -unit)
        if hessian[1]:
            of_masses = with_power(p * remainder * all_masses, power + power_of_remainder)
            curved = times(plus(of_masses, with_power(twice_z * p * p, 2 * power)), slope)
            if options.softcap > 0.0:
                cap = pair(options.softcap)
                curved = plus(curved, with_power(-2.0 * t * bracket[0] / cap[0], bracket[1] - cap[1]))
            curved = times(times(times(curved, slope), pair(curvature.factor)), times(slope_scale, slope_scale))
            value = in_units(times(curved, factor), -unit)
            hessian[0][c] = curvature.lowest if value < curvature.lowest else value


@outlined
def row_of_extremes(row, classes, options, targets, curvature, weight, upstream, outputs):
    """The row's weight times its loss as a pair; its derivatives, times the upstream, go to the outputs there are."""
    gradient, has_gradient, hessian, has_hessian = outputs
    if weight == 0.0:
        if has_gradient:
            fill_row(row, classes, 0.0, gradient)
        if has_hessian:
            fill_row(row, classes, max(0.0, curvature.lowest), hessian)
        return 0.0, NOTHING
    m, top, rest = look_at(row, classes, options)
    if not math.isfinite(m):
        if has_gradient:
            fill_row(row, classes, math.nan, gradient)
        if has_hessian:
            fill_row(row, classes, math.nan, hessian)
        return math.nan, 0
    log_total = log1p_of(rest)
    lse = plus(times(pair(m), pair(left_scale(options))), log_total)
    z_mass = times(times(pair(2.0), pair(options.z_loss)), lse)
    of_z = times(times(lse, lse), pair(options.z_loss))
    loss = times(pair(weight), plus(loss_of(row, classes, options, targets, m, log_total), of_z))
    if has_gradient:
        factor = times(pair(weight), upstream)
        write_derivatives(
            row, classes, options, targets, curvature, ((m, top, rest), z_mass), factor, gradient,
            (hessian, has_hessian),
        )  # fmt: skip
    return loss


def _types(storage):
    array, floats = matrix(storage), vector(types.float64)
    curvature = structure(Curvature, types.float64, types.float64)
    integers = vector(types.int32)
    upstream = floats, types.int64
    return array, targets_type(storage), options_type, curvature, floats, integers, *upstream, array, array


@kernel(_types)
def extreme_rows(logits, targets, options, curvature, losses, exponents, upstream, exponent, gradient, hessian):
    """v_i times the loss of row i is losses[i] 2**exponents[i]; derivatives as in the other kernels.

    ``upstream`` has one number for all rows, or one for each, times 2**exponent. The outputs must not be the logits.
    """
    rows, classes = logits.shape
    for i in range(rows):
        outputs = (
            row_pointer(gradient, i), gradient.shape[0] > 0, row_pointer(hessian, i), hessian.shape[0] > 0,
        )  # fmt: skip
        f, e = pair(upstream[i] if upstream.shape[0] > 1 else upstream[0])
        losses[i], exponents[i] = row_of_extremes(
            row_pointer(logits, i), classes, options, targets_of_row(targets, i), curvature,
            weight_of_row(targets, i), (f, max(e + exponent, NOTHING)), outputs,
        )  # fmt: skip
