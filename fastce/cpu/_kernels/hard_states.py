"""How rows end that have all their mass on a target, which hard.py has left out of their sums.

A vector of rows goes from its sums to its losses at once, in registers as far as they reach:

    loss = log1p(s 2**exponent / exp(scale x)),

a product with exp(-scale x), without a division. Most calls have neither class weights nor a z-loss, nor targets so
unlikely that such an exp says nothing: a loop of their own asks for nothing of that.
"""

import math

from fastce.cpu._kernels.column_targets import weigh_by_class
from fastce.cpu._kernels.lines import EXPS, REFERENCE, X_CHOSEN, whole_sums
from fastce.cpu._kernels.states import (
    DISTANCES,
    EXP_TARGET,
    EXPONENT,
    FITS,
    LANES,
    LOSS,
    NEAR,
    REST,
    REST_MASS,
    TARGET_MASS,
    TOTAL,
    UNLIKELY,
    X_TARGET,
    Z_MASS,
    of_others_and_target,
)
from fastce.cpu._kernels.targets import scale_of
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import inverse_exp_in_parts, with_factor_1
from fastce.cpu._vectors.lanes import any_nan
from fastce.cpu._vectors.logarithm import log1p_for, log_times_power
from fastce.cpu._vectors.memory import keep_first, lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.simd import fma, where_less, where_zero
from fastce.cpu._vectors.wide import load_wide, wide


@inline
def weighed(states, k, of_others, of_target, zero, row, scale, soft):
    """The loss of its masses; where one is 0, it is 0 beside an infinity, too."""
    mass = load_wide(row, states, TARGET_MASS + k)
    loss = where_zero(mass, zero, mass * of_target)
    if soft is not None:
        distances = load_wide(row, states, DISTANCES + k)
        loss += load_wide(row, states, REST_MASS + k) * of_others - distances * scale
    return loss


@inline
def with_z_loss(states, k, loss, of_target, rest, of_rows, scale, z_loss):
    """The loss and z lse^2; Z_MASS becomes 2 z lse. Of a likely target lse is what is exact: its logit, and more."""
    x, exponent, exp_target = of_rows
    lse = log_times_power(rest + exp_target, exponent)
    lse = where_less(rest, exp_target, fma(x, scale, of_target), lse)
    store(states, Z_MASS + k, lse * (2.0 * z_loss))
    return loss + lse * lse * z_loss


@inline
def loss_of_masses(states, k, rest, ratio, of_rows, zero, row, soft, scale, z_loss):
    """What masses and a z-loss, or targets so unlikely that their exps say nothing, make of losses."""
    x, exponent, _ = of_rows
    near = x if soft is None else load_wide(row, states, NEAR + k)
    of_others, of_target = of_others_and_target(x, near, rest, ratio, exponent, scale, zero, row)
    loss = weighed(states, k, of_others, of_target, zero, row, scale, soft)
    return with_z_loss(states, k, loss, of_target, rest, of_rows, scale, z_loss) if z_loss > 0.0 else loss


@inline
def keep_rows(states, k, rest, of_rows, one):
    """What else than losses is known of a vector of rows, into the table of states."""
    x, exponent, exp_target = of_rows
    store(states, X_TARGET + k, x)
    store(states, EXPONENT + k, exponent)
    store(states, REST + k, rest)
    store(states, EXP_TARGET + k, exp_target)
    store(states, TOTAL + k, rest + exp_target)
    store(states, FITS + k, one)


@inline
def finish_rows(states, running, sums, first, count, scaled_by, options, keeps):
    """Whether all of these rows fit; the options are (soft, scale, z_loss), or None for plain ones."""
    lanes, scaled_by = lanes_of(running), with_factor_1(scaled_by)
    zero = wide(load_first(running, 0, 0, to_real(running, 0.0)))
    odd, one = zero, zero + 1.0
    for k in range(0, count, lanes):
        x, exponent = load(running, X_CHOSEN + first + k), load(running, REFERENCE + first + k)
        part, power = inverse_exp_in_parts(x, exponent, scaled_by)
        inverse, x, exponent = fma(wide(part), wide(power), wide(power)), wide(x), wide(exponent)
        rest = whole_sums(running, sums, EXPS, first + k)
        ratio, of_rows = rest * inverse, (x, exponent, one / inverse)
        if keeps:
            keep_rows(states, k, rest, of_rows, one)
        if options is None:
            loss, misfits = log1p_for(running, ratio), where_less(ratio, UNLIKELY, zero, math.nan)
        else:
            loss = loss_of_masses(states, k, rest, ratio, of_rows, zero, running, *options)
            misfits = (loss + (rest + of_rows[2])) * 0.0
        store(states, LOSS + k, loss)
        if k + lanes > count:
            misfits = keep_first(misfits, count - k)
        odd += misfits
    return not any_nan(odd)


@outlined
def finish_plain(states, running, sums, first, count, scaled_by, keeps):
    """`finish_hard` of rows without masses and z-loss, none of whose targets is so unlikely that its exp says nothing.

    If one is, nothing is returned but that. If ``keeps`` is None, the table keeps losses alone.
    """
    return finish_rows(states, running, sums, first, count, scaled_by, None, keeps is not None)


@outlined
def finish_hard(states, running, sums, first, count, scale, z_loss, scaled_by, soft):
    """The losses of a group of rows, and FITS: 0 where loss or total is not finite; whether all fit.

    As `finish_states` and `mark_fitting`. Mass is on the target alone unless ``soft`` is not None. Distances are those
    from NEAR.
    """
    if finish_rows(states, running, sums, first, count, scaled_by, (soft, scale, z_loss), True):
        return True
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, LANES):
        odd = (load(states, LOSS + k) + load(states, TOTAL + k)) * 0.0
        store(states, FITS + k, where_zero(keep_first(odd, min(LANES, count - k)), zero + 1.0, zero))
    return False


@inline
def look_at_hard_rows(states, running, sums, first, count, classes, options, masses, scaled_by, keeps):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit.

    A mass is 1 (see `without_offset`) or a class weight: without smoothing, nothing is kept from a target. If ``keeps``
    is None, nothing but losses is wanted, and no row has a weight.
    """
    has_weight, z_loss = masses[4], options.z_loss
    if has_weight:
        weigh_by_class(states, TARGET_MASS, running, first, classes, count, masses[3])
    elif z_loss == 0.0 and finish_plain(states, running, sums, first, count, scaled_by, keeps):
        return True
    return finish_hard(states, running, sums, first, count, scale_of(options), z_loss, scaled_by, None)
