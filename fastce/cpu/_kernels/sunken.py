"""Rows whose loss is so small that it has lost digits which their weight would show: they are left to extremes.py.

Beside a row's largest, exp reaches down to 2**-1082 (float32: 2**-186), see `rows.reference_near`, and log1p(s / e_y)
of float64 has all its digits down to 2**-1022. That is enough for a loss as it is, but not for one that is multiplied
by a weight or by masses above 1.
"""

import math

from fastce.cpu._kernels.states import (
    FITS,
    LANES,
    LOSS,
    REST,
    TARGET_MASS,
    TOP,
    X_TARGET,
    mark_fitting_masses,
    mark_outweighed,
    mass_of_row,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import LOG2E
from fastce.cpu._vectors.lanes import any_nan
from fastce.cpu._vectors.memory import keep_first, load, load_first
from fastce.cpu._vectors.simd import where_less, where_zero


@inline
def surely_large(is_float64):
    """A loss that no mass within range lets `is_small` call small."""
    return 2.0**-780 if is_float64 else 2.0**-100


@inline
def is_small(states, k, classes, is_float64):
    """Whether a loss, not weighted yet, is below 2**-1022, or less than 2**53 (2**24) times what exp may have lost."""
    mass = mass_of_row(states, k)
    least = (classes + 128.0) * (2.0**-1029 if is_float64 else 2.0**-162)
    return abs(states[LOSS + k]) < least * max(1.0, mass) and mass > 0.0


@inline
def raised_by(states, k, classes, weight):
    """What a weight, its masses and the number of classes make of what a row's sum has lost, at most."""
    return classes * max(1.0, mass_of_row(states, k)) * abs(weight)


@outlined
def shows(states, k, classes, weight, scale, is_float64):
    """Whether a small loss has lost what its weight would raise to half of the smallest number or more."""
    if not is_small(states, k, classes, is_float64):
        return False
    raised = raised_by(states, k, classes, weight)
    gap = (states[X_TARGET + k] - states[TOP + k]) * scale * LOG2E
    return gap < math.log2(raised) + 1075.0 if is_float64 else raised > 2.0**36 and gap < math.log2(raised) + 150.0


@inline
def has_sunk(states, k, classes, weight, scale, is_float64):
    """Whether a row is to be left to extremes.py; TOP is the largest logit but the target, less the offset."""
    may_be_small = abs(states[LOSS + k]) < surely_large(is_float64)
    return may_be_small and shows(states, k, classes, weight, scale, is_float64)


@outlined
def mark_sunken(states, count, classes, first, weight, has_weight, is_float64):
    """FITS becomes 0 where a row may have sunk, which only its second largest logit can tell; whether none has."""
    zero, bound = load_first(states, 0, 0, 0.0), surely_large(is_float64)
    none_is_small = True
    for k in range(0, count, LANES):
        small = where_less(load(states, LOSS + k), bound, math.nan, zero)
        small = keep_first(where_zero(load(states, TARGET_MASS + k), zero, small), min(LANES, count - k))
        none_is_small = none_is_small and not any_nan(small)
    if none_is_small:
        return True
    all_fit = True
    for k in range(count):
        if is_small(states, k, classes, is_float64):
            raised = raised_by(states, k, classes, weight[first + k] if has_weight else 1.0)
            has_digits_to_lose = is_float64 and states[REST + k] > 0.0 and raised > classes
            if has_digits_to_lose or raised > (2.0**7 if is_float64 else 2.0**36):
                states[FITS + k] = 0.0
                all_fit = False
    return all_fit


@inline
def mark_by_weights(states, count, first, classes, masses, row_weights, is_wide):
    """Whether the weights of all of these rows let them fit; FITS becomes 0 where they do not."""
    row_weight, has_row_weight = row_weights
    if has_row_weight or masses[2] or masses[4]:
        return mark_sunken(states, count, classes, first, row_weight, has_row_weight, is_wide)
    return True


@inline
def mark_by_masses(states, count, first, classes, masses, row_weights, is_wide):
    """The same, and whether their masses do."""
    all_fit = True
    if masses[2]:
        all_fit = mark_fitting_masses(states, count, is_wide)
    elif masses[1] > 0 and (masses[4] or classes == 2):
        all_fit = mark_outweighed(states, count)
    return mark_by_weights(states, count, first, classes, masses, row_weights, is_wide) and all_fit
