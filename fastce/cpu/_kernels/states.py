"""What is known of each row of a group between looking at its logits and writing its gradient; all in float64.

The states lie in a table, one field a line, one row a column, so that the end of a loss (two logarithms, an exponential
and two divisions a row) is done for eight rows at a time. For a row of few classes that end is most of the work.

With the sum s of exp(scale (x - offset)) / 2**exponent over all classes but the target y, e_y the same of y, and the
masses q of targets.py:

    total = s + e_y        lse - x_y = log1p(s / e_y)        lse - x_c = log(total) - (x_c - reference)

The first keeps its digits however small it is; the second adds up from ``distances``, the sum of q_c (x_c - near).
"""

import math

from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import LN2, LN2_LOW, LOG2E, SPARE, exp, exp_in_parts, scaling
from fastce.cpu._vectors.lanes import any_nan, split
from fastce.cpu._vectors.logarithm import log1p, log1p_for, log_times_power, sum_with_log1p
from fastce.cpu._vectors.memory import keep_first, load, load_first, store
from fastce.cpu._vectors.rooms import float64_room
from fastce.cpu._vectors.simd import copysign, float64_vector, fma, where_equal, where_less, where_zero

LOWEST = -1.7976931348623157e308  # a product below has become -inf
UNLIKELY = 1e15  # s / e_y from which on e_y is nothing beside s
LANES = float64_vector.lanes
GROUP = 128  # rows in a table at most
FIELDS = 21  # of a row, one a line of the table

# found by looking at the logits
OFFSET, EXPONENT, NEAR = 0 * GROUP, 1 * GROUP, 2 * GROUP  # the reference; near is close to it, in the dtype of x
REST, DISTANCES, REST_MASS = 3 * GROUP, 4 * GROUP, 5 * GROUP  # sums without the target
X_TARGET, TARGET_MASS = 6 * GROUP, 7 * GROUP  # its logit less the offset (-inf: no target), its mass
TARGET = 16 * GROUP  # its class number
# what follows from it
LOSS, TOTAL, EXP_TARGET, Z_MASS = 8 * GROUP, 9 * GROUP, 10 * GROUP, 11 * GROUP
# for the gradient: UPSTREAM is given, factor * exp(scale x) / 2**exponent is its first term
UPSTREAM, FACTOR, FACTOR_EXPONENT, TARGET_GRADIENT = 12 * GROUP, 13 * GROUP, 14 * GROUP, 15 * GROUP
FITS = 17 * GROUP  # 1, or 0 where the row must be left to other kernels
TOP = 18 * GROUP  # the largest x of a row in a lane: its term is not in REST yet
AT_TARGET = 19 * GROUP  # x of the target as the sum has met it
LSE = AT_TARGET  # of a row without targets
PRODUCTS = AT_TARGET  # of a row along which a kernel goes: sum of exp (x - x of the target); NaN if that is not known
KEPT = 20 * GROUP  # 1 where the exps of the first look are kept for the gradient

new_states = float64_room(FIELDS * GROUP)


@inline
def without_offset(states):
    """Rows of a kernel that does without offsets, and what of the others it may leave as it is: all mass on targets."""
    for k in range(GROUP):
        for field in (OFFSET, DISTANCES, REST_MASS, Z_MASS):
            states[field + k] = 0.0
        states[TARGET_MASS + k] = 1.0


@inline
def no_row(states, k):
    """A row that costs nothing: total 1, no mass."""
    states[OFFSET + k] = 0.0
    states[EXPONENT + k] = 0.0
    states[NEAR + k] = 0.0
    states[REST + k] = 1.0
    states[DISTANCES + k] = 0.0
    states[REST_MASS + k] = 0.0
    states[X_TARGET + k] = -math.inf
    states[TARGET_MASS + k] = 0.0
    states[TARGET + k] = -1.0


@inline
def above(power, scale, x):
    """power * ln(2) - scale * x, rounded once where it matters; +inf for -inf."""
    product = x * scale
    minus = product * -1.0
    difference = (fma(power, LN2, minus) - fma(x, scale, minus)) + power * LN2_LOW
    return where_less(product, LOWEST, minus, difference)


@inline
def of_others_and_target(x, near, rest, ratio, exponent, scale, zero, row):
    """(lse - scale near, lse - scale x) of one vector of rows, whose targets are x; for the dtype of ``row``.

    The ratio is s / e_y. Where some target is so unlikely (or missing) that it says nothing, the rest is the total, and
    both come from that instead.
    """
    of_target = log1p_for(row, ratio)
    of_others = fma(x - near, scale, of_target)
    if any_nan(where_less(ratio, UNLIKELY, zero, math.nan)):
        log_total = log_times_power(rest, zero - SPARE)
        power = exponent + SPARE
        of_target = where_less(ratio, UNLIKELY, of_target, log_total + above(power, scale, x))
        of_others = where_less(ratio, UNLIKELY, of_others, log_total + above(power, scale, near))
    return of_others, of_target


@outlined
def leave_targets_out(states, count, scale, at_target):
    """REST, from which the largest term has been held back, becomes the sum without the target.

    Where the target is the largest it is that already. Elsewhere its term is less than the one that comes in, so that
    the difference keeps its digits.
    """
    scaled_by = scaling(states, scale, 1.0)
    for k in range(0, count, LANES):
        exponent, rest, top = load(states, EXPONENT + k), load(states, REST + k), load(states, TOP + k)
        others = (rest - exp(load(states, X_TARGET + k), exponent, scaled_by)) + exp(top, exponent, scaled_by)
        store(states, REST + k, where_equal(load(states, at_target + k), top, rest, others))


@inline
def keep_finished(states, k, loss, total, exp_target, lse, z_loss):
    """Into the table: total, exp of the target, 2 z lse, and the loss with its z_loss, which is returned, too."""
    loss += lse * lse * z_loss
    loss = where_less(total, math.inf, loss, math.nan)
    store(states, Z_MASS + k, lse * (2.0 * z_loss))
    store(states, LOSS + k, loss)
    store(states, TOTAL + k, total)
    store(states, EXP_TARGET + k, exp_target)
    return loss


@outlined
def finish_states(states, first, stop, scale, z_loss):
    """Loss, total, exp of the target and 2 z lse of these rows, and of those that share a vector with them.

    NaN in a sum makes the loss NaN; a mass of 0 counts for nothing, even beside an infinity.
    """
    scaled_by = scaling(states, scale, 1.0)
    zero = load_first(states, 0, 0, 0.0)
    for k in range(first - first % LANES, stop, LANES):
        exponent, rest = load(states, EXPONENT + k), load(states, REST + k)
        x, near = load(states, X_TARGET + k), load(states, NEAR + k)
        exp_target = exp(x, exponent, scaled_by)
        of_others, of_target = of_others_and_target(x, near, rest, rest / exp_target, exponent, scale, zero, states)
        loss = load(states, REST_MASS + k) * of_others - load(states, DISTANCES + k) * scale
        mass = load(states, TARGET_MASS + k)
        loss += where_zero(mass, zero, mass * of_target)
        total, lse = rest + exp_target, zero
        if z_loss > 0.0:
            lse = load(states, OFFSET + k) * scale + log_times_power(total, exponent)
        keep_finished(states, k, loss, total, exp_target, lse, z_loss)


@outlined
def finish_logsumexp(states, count):
    """LOSS becomes lse - x_max and TOTAL the whole sum, where REST is the sum without x_max."""
    scaled_by = scaling(states, 1.0, 1.0)
    for k in range(0, count, LANES):
        rest = load(states, REST + k)
        exp_largest = exp(load(states, TOP + k), load(states, EXPONENT + k), scaled_by)
        store(states, LOSS + k, log1p(rest / exp_largest))
        store(states, TOTAL + k, rest + exp_largest)


@outlined
def sum_in_full(states, count):
    """LSE becomes x_max + log1p(rest / e_max), with all roundings on the way made good.

    The logarithm of many classes is a large number, whose last digits are all of a result near 0. e_max is high + low,
    and so is the quotient.
    """
    scaled_by = scaling(states, 1.0, 1.0)
    for k in range(0, count, LANES):
        top, rest = load(states, TOP + k), load(states, REST + k)
        q, power = exp_in_parts(top, load(states, EXPONENT + k), scaled_by)
        high = fma(q, power, power)
        ratio = rest / high
        lost = (fma(ratio * -1.0, high, rest) - ratio * fma(q, power, power - high)) / high
        store(states, LSE + k, sum_with_log1p(ratio, lost, top))


@outlined
def mark_fitting(states, count, scale, highest):
    """FITS is 1 where a row has a finite loss from terms up to 2**highest, else 0; returns whether all rows fit."""
    zero = load_first(states, 0, 0, 0.0)
    all_fit = True
    for k in range(0, (count + 15) // 16 * 16, LANES):  # to the end of a vector of float32
        here = max(0, min(LANES, count - k))
        loss, height = load(states, LOSS + k), load(states, TOP + k) * (scale * LOG2E) - load(states, EXPONENT + k)
        odd = keep_first(where_less(height, highest, loss - loss, math.nan), here)
        store(states, FITS + k, keep_first(where_zero(odd, zero + 1.0, zero), here))
        all_fit = all_fit and not any_nan(odd)
    return all_fit


@inline
def unless_mass_fits(mass, is_float64):
    """0 where sums and products of a row's masses stay within its dtype's range, and keep their digits there, else NaN.

    Options may multiply float32 by up to 2**100, see extremes.py. The sum of all masses tells: what is lost of a single
    one, that is so much smaller, is nothing beside the others.
    """
    least, most = (2.0**-700, 2.0**200) if is_float64 else (2.0**-60, 2.0**24)
    return where_zero(mass, 0.0, where_less(mass, least, math.nan, where_less(most, mass, math.nan, 0.0)))


@inline
def if_outweighed(rest, exp_target, loss, mass):
    """NaN where most of p, and of the mass, is on another class than the target: the loss has lost digits; else 0.

    Class weights may leave nearly all of a smoothed target to such a class, of which these sums know no more than
    lse - x; so may smoothing over the others, where there is one. Rows that do not fit are few, and extremes.py knows.
    """
    return where_less(exp_target, rest, where_less(loss, mass * 0.5, math.nan, 0.0), 0.0)


@inline
def mass_of_row(states, k):
    """The size of all masses of a row."""
    return abs(states[REST_MASS + k]) + abs(states[TARGET_MASS + k])


@inline
def has_fitting_mass(states, k, is_float64):
    """See `unless_mass_fits`."""
    return not math.isnan(unless_mass_fits(mass_of_row(states, k), is_float64))


@inline
def is_outweighed(states, k):
    """See `if_outweighed`."""
    loss = abs(states[LOSS + k])
    return math.isnan(if_outweighed(states[REST + k], states[EXP_TARGET + k], loss, mass_of_row(states, k)))


@inline
def size_of(states, field):
    """The sizes of one vector of a field."""
    return copysign(load(states, field), load_first(states, 0, 0, 1.0))


@inline
def mark_odd(states, k, odd, count):
    """FITS becomes 0 where a lane of one vector of rows is NaN; returns whether none is."""
    odd = keep_first(odd, min(LANES, count - k))
    store(states, FITS + k, where_zero(odd, load(states, FITS + k), 0.0))
    return not any_nan(odd)


@outlined
def mark_fitting_masses(states, count, is_float64):
    """FITS becomes 0 where a row's masses do not fit; returns whether all do."""
    all_fit = True
    for k in range(0, count, LANES):
        mass = size_of(states, REST_MASS + k) + size_of(states, TARGET_MASS + k)
        fit = mark_odd(states, k, unless_mass_fits(mass, is_float64), count)
        all_fit = all_fit and fit
    return all_fit


@outlined
def mark_outweighed(states, count):
    """FITS becomes 0 where a row `is_outweighed`; returns whether none is."""
    all_fit = True
    for k in range(0, count, LANES):
        mass = size_of(states, REST_MASS + k) + size_of(states, TARGET_MASS + k)
        loss, rest, exp_target = size_of(states, LOSS + k), load(states, REST + k), load(states, EXP_TARGET + k)
        fit = mark_odd(states, k, if_outweighed(rest, exp_target, loss, mass), count)
        all_fit = all_fit and fit
    return all_fit


@inline
def report_misfits(states, count, first, misfits):
    """Note the rows that do not fit."""
    for k in range(count):
        if states[FITS + k] == 0.0:
            misfits[first + k] = 1


@outlined
def finish_gradients(states, count, softcap):
    """What the gradients of the first ``count`` rows are made of.

        gradient_c = upstream (p_c (sum_k q_k + 2 z lse) - q_c)

    The first term's factor is split into a number near 1 and a power of two, which exp takes as part of its own: where
    p_c is below the smallest normal number, but not the product, that is right. At the target p_y - 1 is -rest / total,
    which keeps its digits; so does the quotient where the rest is near the least that exp reaches.
    """
    one = load_first(states, 0, 0, 1.0)
    for k in range(0, count, LANES):
        upstream, total = load(states, UPSTREAM + k), load(states, TOTAL + k)
        of_others = load(states, REST_MASS + k) + load(states, Z_MASS + k)
        mass = load(states, TARGET_MASS + k)
        fraction, power, _ = split(total)
        factor = upstream * (of_others + mass) / fraction
        size = where_less(factor, 0.0, factor * -1.0, factor) + 2.0**-1000  # 0 has no power of two
        _, power_of_factor, inverse = split(size)
        store(states, FACTOR + k, factor * inverse)
        store(states, FACTOR_EXPONENT + k, load(states, EXPONENT + k) + (power - power_of_factor))
        gradient = load(states, EXP_TARGET + k) * of_others - mass * load(states, REST + k)
        gradient = gradient / (total * 2.0**-SPARE) * (upstream * 2.0**-SPARE)
        if softcap > 0.0:
            capped = load(states, X_TARGET + k) * (1.0 / softcap)
            gradient = gradient * (one - capped * capped)
        store(states, TARGET_GRADIENT + k, gradient)
