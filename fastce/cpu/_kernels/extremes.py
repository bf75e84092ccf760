"""Cross entropy of rows whose numbers, or whose options, no fast kernel can take: each row alone, in float64.

The formulas are those of cross_entropy.py and boosting.py. Nothing overflows on the way: every product and every sum
that could is a pair (f, e), standing for f 2**e, until it is a result. Of the differences that exp takes, one that
overflows is so far below the row's maximum that its exp is 0.
"""

import math

import numpy as np
from numba import types

from fastce.cpu._kernels.cross_entropy import fill_row
from fastce.cpu._kernels.rows import add_compensated
from fastce.cpu._kernels.targets import (
    Curvature,
    options_type,
    targets_of_row,
    targets_type,
    weight_of_row,
)
from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure, vector
from fastce.cpu._vectors.memory import row_pointer
from fastce.cpu._vectors.simd import fma

NOTHING = -10_000  # the exponent of 0
HUGE = 2.0**1000  # differences of larger numbers are halved
LINEAR = 2.0**-28  # tanh(x) = x to 53 bits below


# --- numbers as pairs ------------------------------------------------------------------------------------------------


@outlined
def pair(x):
    """(f, e) with x = f 2**e and 1/2 <= |f| < 1."""
    if x == 0.0 or not math.isfinite(x):
        return x, NOTHING if x == 0.0 else 0
    f, e = math.frexp(x)
    return f, int(e)


@inline
def times(a, b):
    """The product of two pairs."""
    f, e = pair(a[0] * b[0])
    return f, max(e + a[1] + b[1], NOTHING)


@inline
def plus(a, b):
    """The sum of two pairs."""
    e = max(a[1], b[1])
    f, more = pair(in_units(a, e) + in_units(b, e))
    return f, max(e + more, NOTHING)


@outlined
def in_units(a, e):
    """The pair as a number of units of 2**e: 0 or infinite beyond float64."""
    return math.ldexp(a[0], min(max(a[1] - e, -3000), 3000))


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
    """exp(scale (x - m)), where the two roundings of that are made good: exp(d + low) = exp(d) (1 + low).

    Half an ulp of a d of 46 would be 23 ulp of its exp, which may be all of a loss.
    """
    result = math.exp(below(x, m, scale))
    if result == 0.0 or abs(x) > HUGE or abs(m) > HUGE:
        return result
    d = x - m
    part = d - x
    lost = (x - (d - part)) - (m + part)
    return result + result * (fma(scale, d, -(scale * d)) + scale * lost)


@outlined
def pair_below(x, m, scale):
    """The same as a pair."""
    if abs(x) > HUGE or abs(m) > HUGE:
        f, e = times(pair(0.5 * x - 0.5 * m), scale)
        return f, e + 1
    return times(pair(x - m), scale)


@outlined
def look_at(row, classes, options):
    """(largest logit, NaN if there is one; its class; the sum of exp(x - m) of all others)."""
    largest, top = -math.inf, 0
    for c in range(classes):
        x, _ = logit(row[c], options)
        if math.isnan(x):
            return x, c, x
        if x > largest:
            largest, top = x, c
    rest = (0.0, 0.0)
    if math.isfinite(largest):
        scale = left_scale(options)
        for c in range(classes):
            if c != top:
                x, _ = logit(row[c], options)
                rest = add_compensated(rest, exp_below(x, largest, scale))
    return largest, top, rest[0] + rest[1]


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
    of_total = times((f, e + largest), pair(log_total))
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
    scale, point = left_scale(options), targets.first_point
    slope_scale = pair(options.logit_scale)
    for c in range(classes):
        mass, point = mass_of(targets, options, c, point)
        x, t = logit(row[c], options)
        p, remainder = 1.0 / (1.0 + rest), rest / (1.0 + rest)
        if c == top:
            bracket = (others + of_z) * p - of_top * remainder
        else:
            p = exp_below(x, m, scale) * p
            remainder = 1.0 - p
            bracket = p * (others + of_top + of_z) - in_units(mass, unit)
        slope = (1.0 - t) * (1.0 + t)
        with_slope = times(times(pair(bracket * slope), slope_scale), factor)
        gradient[c] = in_units(with_slope, -unit)
        if hessian[1]:
            curved = pair((p * remainder * (others + of_top + of_z) + twice_z * p * p) * slope)
            if options.softcap > 0.0:
                cap = pair(options.softcap)
                f, e = pair(-2.0 * t * bracket / cap[0])
                curved = plus(curved, (f, max(e - cap[1], NOTHING)))
            curved = times(times(curved, pair(slope * curvature.factor)), times(slope_scale, slope_scale))
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
    log_total = math.log1p(rest)
    lse = plus(times(pair(m), pair(left_scale(options))), pair(log_total))
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
