"""What the Hessians of rows in lanes are made of, where rows end, and those of few classes from exps that are kept.

The formulas are boosting_columns.py's: h = a e (1 - e / (v a M)), but for the row's largest class, whose 1 - p is the
sum of all others / S. Where the exps of hard.py are kept, a Hessian needs none of its own; the target's, which hard.py
leaves out, is computed once for each row.
"""

import math

from fastce.cpu._kernels.kept_gradients import first_term, four_at, put_columns, put_rows
from fastce.cpu._kernels.lines import CHOSEN, HELD, HIGHEST, LARGEST_OTHER, LINE, REFERENCE, SHARE, X_CHOSEN, whole_sum
from fastce.cpu._kernels.states import (
    EXP_TARGET,
    EXPONENT,
    FITS,
    GROUP,
    LANES,
    REST,
    REST_MASS,
    TARGET_MASS,
    TOP,
    TOTAL,
    UPSTREAM,
    X_TARGET,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import exp, scaling, with_factor_1
from fastce.cpu._vectors.lanes import any_nan, store_real, store_rounded
from fastce.cpu._vectors.memory import elements, keep_first, lanes_of, load, load_first, store, to_real
from fastce.cpu._vectors.rooms import float64_room, real_room
from fastce.cpu._vectors.simd import copysign, where_equal, where_less, where_zero

# of a tile: the Hessian of the largest class, 1 / (v a M), exp of the target, which is not among those that are kept
AT_LARGEST, TO_P, OF_TARGET = 0 * LINE, 1 * LINE, 2 * LINE
WIDEST = 2.0**60  # v a M beyond, or its inverse, is for other kernels

new_group = float64_room(GROUP)  # a number of each row
new_lines = real_room(3 * LINE)


@inline
def keep_others(states, group, count):
    """What REST is while the largest class is held back: the sum of all others."""
    for k in range(0, count, LANES):
        store(group, k, load(states, REST + k))


@inline
def masses_at(states, k):
    """v a M of one vector of rows."""
    return load(states, UPSTREAM + k) * (load(states, REST_MASS + k) + load(states, TARGET_MASS + k))


@inline
def if_too_wide(states, mass, count):
    """NaN where this mass of a row is for another kernel, else 0."""
    zero = load_first(states, 0, 0, 0.0)
    size = copysign(mass, zero + 1.0)
    odd = where_less(size, 1.0 / WIDEST, math.nan, where_less(size, WIDEST, zero, math.nan))
    return keep_first(where_zero(mass, zero, odd), count)


@outlined
def mark_too_wide(states, count):
    """FITS becomes 0 where the mass of a row is for another kernel."""
    zero = load_first(states, 0, 0, 0.0)
    for k in range(0, count, LANES):
        odd = if_too_wide(states, masses_at(states, k), count - k)
        store(states, FITS + k, where_zero(odd, load(states, FITS + k), zero))


@inline
def none_too_wide(states, odd, count):
    """Whether all of these rows are for this kernel: ``odd`` is NaN else. FITS becomes 0 of those that are not."""
    if any_nan(odd):
        mark_too_wide(states, count)
        return False
    return True


@inline
def put_ends(lines, states, at, k, mass, of_largest, to_p, count):
    """The ends of one vector of rows for `write_hessians` and `put_kept_hessians`; NaN where the mass is too wide."""
    store_rounded(lines, AT_LARGEST + at, of_largest)
    store_rounded(lines, TO_P + at, to_p)
    return if_too_wide(states, mass, count - k)


@outlined
def finish_hessians(lines, states, group, first, count, scale, factor):
    """The largest class's Hessian, and what makes p of a gradient's first term; FITS becomes 0 where neither fits."""
    odd, one, scaled_by = load_first(states, 0, 0, 0.0), load_first(states, 0, 0, 1.0), scaling(states, scale, 1.0)
    for k in range(0, count, LANES):
        mass, total = masses_at(states, k), load(states, TOTAL + k)
        largest, others = exp(load(states, TOP + k), load(states, EXPONENT + k), scaled_by), load(group, k)
        of_largest = mass * factor * (largest / total) * (others / total)
        odd += put_ends(lines, states, first + k, k, mass, of_largest, one / where_zero(mass, one, mass), count)
    return none_too_wide(states, odd, count)


@outlined
def finish_hard_hessians(lines, states, running, sums, group, first, count, factor, scaled_by):
    """The same of rows with all mass on their targets, from what `sum_hard_and_hold` has held back.

    The largest exp is the target's or the one held back. One division does for 1 / total and 1 / (v a M): both are far
    from the ends of float64.
    """
    odd, one, lanes = load_first(states, 0, 0, 0.0), load_first(states, 0, 0, 1.0), lanes_of(running)
    scaled_by = with_factor_1(scaled_by)
    for start in range(0, count, lanes):
        exponent = load(running, REFERENCE + first + start)
        store(lines, OF_TARGET + first + start, exp(load(running, X_CHOSEN + first + start), exponent, scaled_by))
        store_real(states, TOP + start, load(running, HIGHEST + first + start))
        store_real(group, start, load(running, LARGEST_OTHER + first + start))
        for k in range(start, start + lanes, LANES):
            x, top, rest = load(states, X_TARGET + k), load(states, TOP + k), load(states, REST + k)
            total, of_target = load(states, TOTAL + k), load(states, EXP_TARGET + k)
            largest = where_equal(x, top, of_target, load(group, k))
            others = where_equal(x, top, rest, whole_sum(sums, lanes, HELD, first + k) + of_target)
            mass = masses_at(states, k)
            some = where_zero(mass, one, mass)
            inverse = one / (some * total)
            share = some * inverse
            of_largest = (largest * share) * (others * share) * (mass * factor)
            odd += put_ends(lines, states, first + k, k, mass, of_largest, inverse * total, count)
    return none_too_wide(states, odd, count)


@inline
def parts_of_hessian(running, k, constants):
    """What the Hessians of one vector of rows are made of, from exps times the share."""
    lines, factor, lowest = constants
    linear = to_real(running, factor)
    of_largest = load(running, HIGHEST + k), load(lines, AT_LARGEST + k)
    return (linear, load(lines, TO_P + k) * linear, to_real(running, lowest)), of_largest


@inline
def hessian_of(x, of_p, parts):
    """The Hessian of one class of one vector of rows from its gradient's first term."""
    (linear, quadratic, smallest), (largest, at_largest) = parts
    hessian = where_equal(x, largest, at_largest, of_p * (linear - of_p * quadratic))
    return where_less(hessian, smallest, smallest, hessian)


@inline
def parts_of_kept(running, k, constants):
    """The same from exps that are kept."""
    of_exp = load(running, SHARE + k), load(running, REFERENCE + k)
    of_target = load(running, CHOSEN + k), load(constants[0], OF_TARGET + k)
    return of_exp, of_target, parts_of_hessian(running, k, constants)


@inline
def hessian_at(tile, kept, at, number, parts):
    """That of one class of one vector of rows."""
    of_exp, (target, of_target), of_hessian = parts
    x = elements(tile, at, lanes_of(tile), to_real(tile, 0.0))
    e = where_equal(target, number, of_target, load(kept, at))
    return hessian_of(x, first_term(tile, x, e, of_exp), of_hessian)


@inline
def hessians_at(tile_and_kept, c, k, width, rest):
    """`hessian_at` of four classes."""
    return four_at(hessian_at, tile_and_kept, c, k, width, rest)


@outlined
def put_kept_hessian_rows(running, numbers, tile, kept, width, count, hessian, outer, first, constants):
    put_rows(hessians_at, parts_of_kept, running, numbers, tile, kept, width, count, hessian, outer, first, constants)


@outlined
def put_kept_hessian_columns(running, numbers, tile, kept, width, count, hessian, outer, first, past_cache, constants):
    put_columns(
        hessian_at, parts_of_kept, running, numbers, tile, kept, width, count, hessian, outer, first, past_cache,
        constants,
    )  # fmt: skip


@inline
def put_kept_hessians(exps, width, count, hessian, is_narrow, outer, first, past_cache, constants):
    """The Hessians of rows that all fit; their classes are adjacent, or the rows are."""
    if is_narrow:
        put_kept_hessian_rows(*exps, width, count, hessian, outer, first, constants)
    else:
        put_kept_hessian_columns(*exps, width, count, hessian, outer, first, past_cache, constants)
