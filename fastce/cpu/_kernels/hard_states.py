"""How rows end that have all their mass on a target, which hard.py has left out of their sums."""

from fastce.cpu._kernels.column_targets import weigh_by_class
from fastce.cpu._kernels.lines import EXPS, HELD, HIGHEST, REFERENCE, X_CHOSEN, put_exps, whole_sum
from fastce.cpu._kernels.states import (
    DISTANCES,
    EXP_TARGET,
    EXPONENT,
    FITS,
    LANES,
    NEAR,
    REST,
    REST_MASS,
    TARGET_MASS,
    TOP,
    X_TARGET,
    keep_finished,
    of_others_and_target,
)
from fastce.cpu._kernels.targets import scale_of
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.lanes import any_nan, store_real
from fastce.cpu._vectors.logarithm import log_times_power
from fastce.cpu._vectors.memory import keep_first, lanes_of, load, load_first, store
from fastce.cpu._vectors.simd import fma, where_equal, where_less, where_zero


@outlined
def put_hard_rows(states, running, sums, lanes, first, count, scaled_by):
    """What is known of a group of rows, into the table of states; the target's exp as well."""
    put_exps(states, running, sums, lanes, X_CHOSEN, first, count, scaled_by)
    for k in range(0, count, lanes):
        store_real(states, X_TARGET + k, load(running, X_CHOSEN + first + k))
        store_real(states, EXPONENT + k, load(running, REFERENCE + first + k))
    for k in range(0, count, LANES):
        store(states, REST + k, whole_sum(sums, lanes, EXPS, first + k))


@inline
def weigh_hard_targets(states, running, first, classes, count, masses, keep):
    """The mass of each row's target."""
    for k in range(0, count, LANES):
        store(states, TARGET_MASS + k, load_first(states, 0, 0, keep))
    if masses[4]:
        weigh_by_class(states, running, first, classes, count, masses[3])


@outlined
def finish_hard(states, count, scale, z_loss, soft, row):
    """As `finish_states` and `mark_fitting`; whether all fit. Mass is on the target alone unless ``soft`` is not None.

    Distances are those from NEAR then.
    """
    zero = load_first(states, 0, 0, 0.0)
    all_fit = True
    for k in range(0, count, LANES):
        exponent, rest, x = load(states, EXPONENT + k), load(states, REST + k), load(states, X_TARGET + k)
        exp_target = load(states, EXP_TARGET + k)
        near = x if soft is None else load(states, NEAR + k)
        of_others, of_target = of_others_and_target(x, near, rest, exp_target, exponent, scale, zero, row)
        mass = load(states, TARGET_MASS + k)
        loss = where_zero(mass, zero, mass * of_target)
        if soft is not None:
            loss += load(states, REST_MASS + k) * of_others - load(states, DISTANCES + k) * scale
        total, lse = rest + exp_target, zero
        if z_loss > 0.0:  # of a likely target, from what is exact: its logit
            lse = log_times_power(total, exponent)
            lse = where_less(rest, exp_target, fma(x, scale, of_target), lse)
        loss = keep_finished(states, k, loss, total, exp_target, lse, z_loss)
        odd = keep_first(loss - loss, min(LANES, count - k))
        store(states, FITS + k, where_zero(odd, zero + 1.0, zero))
        all_fit = all_fit and not any_nan(odd)
    return all_fit


@inline
def look_at_hard_rows(states, running, sums, tile, first, count, classes, options, masses, scaled_by):
    """The states of a group of rows of a tile, with all that is known of their losses; whether all fit."""
    put_hard_rows(states, running, sums, lanes_of(tile[0]), first, count, scaled_by)
    weigh_hard_targets(states, running, first, classes, count, masses, options.keep)
    return finish_hard(states, count, scale_of(options), options.z_loss, None, running)


@inline
def put_largest(states, running, sums, group, others, lanes, first, count):
    """The largest x of rows whose largest exp `sum_hard_and_hold` has held back, and the sum of all other terms.

    The latter goes to ``others`` of a table of the group. Where the target is the largest, it is REST.
    """
    for k in range(0, count, lanes):
        store_real(states, TOP + k, load(running, HIGHEST + first + k))
    for k in range(0, count, LANES):
        x, top = load(states, X_TARGET + k), load(states, TOP + k)
        without_both = whole_sum(sums, lanes, HELD, first + k) + load(states, EXP_TARGET + k)
        store(group, others + k, where_equal(x, top, load(states, REST + k), without_both))
