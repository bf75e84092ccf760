"""How rows end that have all their mass on a target, which hard.py has left out of their sums.

A vector of rows goes from its sums to its losses at once, in registers as far as they reach. Most calls have neither
class weights nor a z-loss: what is weighed is left out of a loop of their own.
"""

from fastce.cpu._kernels.column_targets import weigh_by_class
from fastce.cpu._kernels.lines import EXPS, MASS_SUM, REFERENCE, X_CHOSEN, put_exps, whole_sum
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
    X_TARGET,
    Z_MASS,
    of_others_and_target,
)
from fastce.cpu._kernels.targets import scale_of
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import with_factor_1
from fastce.cpu._vectors.lanes import any_nan, store_real
from fastce.cpu._vectors.logarithm import log_times_power
from fastce.cpu._vectors.memory import keep_first, lanes_of, load, load_first, store
from fastce.cpu._vectors.simd import fma, where_less, where_zero


@inline
def put_hard_rows(states, running, sums, lanes, first, k, scaled_by):
    """What is known of a vector of rows, into the table of states; its targets' exps into MASS_SUM."""
    put_exps(running, sums, lanes, X_CHOSEN, first + k, scaled_by)
    store_real(states, X_TARGET + k, load(running, X_CHOSEN + first + k))
    store_real(states, EXPONENT + k, load(running, REFERENCE + first + k))


@inline
def weighed(states, k, of_others, of_target, scale, soft):
    """The loss of its masses; where one is 0, it is 0 beside an infinity, too."""
    zero, mass = load_first(states, 0, 0, 0.0), load(states, TARGET_MASS + k)
    loss = where_zero(mass, zero, mass * of_target)
    if soft is not None:
        loss += load(states, REST_MASS + k) * of_others - load(states, DISTANCES + k) * scale
    return loss


@inline
def with_z_loss(states, k, loss, of_target, scale, z_loss):
    """The loss and z lse^2; Z_MASS becomes 2 z lse. Of a likely target lse is what is exact: its logit, and more."""
    rest, exp_target = load(states, REST + k), load(states, EXP_TARGET + k)
    lse = log_times_power(rest + exp_target, load(states, EXPONENT + k))
    lse = where_less(rest, exp_target, fma(load(states, X_TARGET + k), scale, of_target), lse)
    store(states, Z_MASS + k, lse * (2.0 * z_loss))
    return loss + lse * lse * z_loss


@inline
def finish_rows(states, running, sums, first, count, scale, z_loss, scaled_by, soft, is_plain):
    """`finish_hard`, where it is known when a kernel is compiled whether rows have masses, or a z-loss."""
    lanes, scaled_by = lanes_of(running), with_factor_1(scaled_by)
    zero, one = load_first(states, 0, 0, 0.0), load_first(states, 0, 0, 1.0)
    odd = zero
    for start in range(0, count, lanes):
        put_hard_rows(states, running, sums, lanes, first, start, scaled_by)
        for k in range(start, start + lanes, LANES):
            rest = whole_sum(sums, lanes, EXPS, first + k)
            exp_target = whole_sum(sums, lanes, MASS_SUM, first + k)
            exponent, x = load(states, EXPONENT + k), load(states, X_TARGET + k)
            near = x if soft is None else load(states, NEAR + k)
            of_others, loss = of_others_and_target(x, near, rest, exp_target, exponent, scale, zero, running)
            total = rest + exp_target
            store(states, REST + k, rest)
            store(states, EXP_TARGET + k, exp_target)
            store(states, TOTAL + k, total)
            store(states, FITS + k, one)
            if not is_plain:
                of_target = loss
                loss = weighed(states, k, of_others, of_target, scale, soft)
                if z_loss > 0.0:
                    loss = with_z_loss(states, k, loss, of_target, scale, z_loss)
            store(states, LOSS + k, loss)
            difference = (loss + total) - (loss + total)
            if k + LANES > count:
                difference = keep_first(difference, count - k)
            odd += difference
    return not any_nan(odd)


@outlined
def finish_hard(states, running, sums, first, count, scale, z_loss, scaled_by, soft, has_weight):
    """The losses of a group of rows, and FITS: 0 where loss or total is not finite; whether all fit.

    As `finish_states` and `mark_fitting`. Mass is on the target alone unless ``soft`` is not None, and 1 unless it
    ``has_weight``. Distances are those from NEAR.
    """
    if soft is None and not (has_weight or z_loss > 0.0):
        all_fit = finish_rows(states, running, sums, first, count, scale, 0.0, scaled_by, soft, True)
    else:
        all_fit = finish_rows(states, running, sums, first, count, scale, z_loss, scaled_by, soft, False)
    if all_fit:
        return True
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, LANES):
        ends = load(states, LOSS + k) + load(states, TOTAL + k)
        odd = keep_first(ends - ends, min(LANES, count - k))
        store(states, FITS + k, where_zero(odd, zero + 1.0, zero))
    return False


@inline
def look_at_hard_rows(states, running, sums, first, count, classes, options, masses, scaled_by):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit.

    A mass is 1 (see `without_offset`) or a class weight: without smoothing, nothing is kept from a target.
    """
    has_weight = masses[4]
    if has_weight:
        weigh_by_class(states, TARGET_MASS, running, first, classes, count, masses[3])
    scale, z_loss = scale_of(options), options.z_loss
    return finish_hard(states, running, sums, first, count, scale, z_loss, scaled_by, None, has_weight)
