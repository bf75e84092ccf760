"""Rows of few classes with hard targets: what most calls are, and what their row ends need not know.

Without smoothing, probabilities and caps, a row is its target and the sum of all other terms. The target is left out
while these are added, and one reference is as good for all rows whose largest logit is not far from it: no pass looks
for their own. Where one is, all rows of the tile get theirs (`columns.references_near`) and are added up again.
"""

import math

from fastce.cpu._kernels.columns import (
    ABREAST,
    NARROW,
    SUMMED_AT_A_TIME,
    bring,
    classes_at_a_time,
    find_largest,
    references_near,
    send_for_next,
)
from fastce.cpu._kernels.copied_tiles import bring_all, bring_first, brought, carry, coming_beside
from fastce.cpu._kernels.lines import (
    CHOSEN,
    EXPS,
    HELD,
    HIGHEST,
    LARGEST_OTHER,
    REFERENCE,
    X_CHOSEN,
    load_sum,
    store_sum,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import LOG2E, exp, with_factor_1
from fastce.cpu._vectors.lanes import any_nan, lesser_and_top
from fastce.cpu._vectors.memory import (
    element,
    elements,
    lanes_of,
    load,
    load_first,
    set_element,
    store,
    to_real,
)
from fastce.cpu._vectors.rooms import real_room
from fastce.cpu._vectors.simd import copysign, where_equal, where_less
from fastce.cpu._vectors.wide import add_wide

# How many powers of two the largest logit of a row is above its reference. Its own is 60 below, give or take a half, as
# much as is needed to keep what small terms come to (sunken.py); exp is finite up to 127.
LEAST, MOST = 59.0, 118.0
COMMON = -84.0  # the reference for all rows whose largest logit is between -17 and 23


_new_numbers = real_room(NARROW)


@inline
def counted(tile, classes):
    """The numbers of classes, as lanes are compared with them: read from memory, which costs nothing there."""
    numbers = _new_numbers(tile)
    for c in range(min(classes, NARROW)):
        set_element(numbers, c, c)
    return numbers


@inline
def number_at(numbers, c):
    return to_real(numbers, element(numbers, c))


@inline
def are_hard(classes, cap, masses):
    """Whether all mass is on targets, of classes that `counted` has counted."""
    return classes <= NARROW and not (cap[1] > 0 or masses[1] > 0 or masses[2])


@inline
def term(x, at, number, target, exponent, scaled_by, found, kept, keeps):
    """(exp of one class, 0 where it is the target; that with each lane's largest held back), and what is ``found``.

    That is, of the classes so far: the largest logit, the target's, and the largest exp but the target's.
    """
    top, of_target, largest = found
    _, top = lesser_and_top(x, top)
    of_target = where_equal(target, number, x, of_target)
    e = exp(where_equal(target, number, to_real(kept, -math.inf), x), exponent, scaled_by)
    if keeps:
        store(kept, at, e)
    lesser, largest = lesser_and_top(e, largest)
    return e, lesser, (top, of_target, largest)


@inline
def two_terms(place, at, stride, count, numbers, c, target, exponent, scaled_by, found, kept, keeps):
    """The sums of the terms of classes c and c + 1, which are at ``at`` and a stride behind."""
    nothing, next_one = to_real(place, 0.0), at + stride
    x, y = elements(place, at, count, nothing), elements(place, next_one, count, nothing)
    number, next_number = number_at(numbers, c), number_at(numbers, c + 1)
    a, lesser_a, found = term(x, at, number, target, exponent, scaled_by, found, kept, keeps)
    b, lesser_b, found = term(y, next_one, next_number, target, exponent, scaled_by, found, kept, keeps)
    return a + b, lesser_a + lesser_b, found


@inline
def add_others(running, sums, tile, k, first, stop, count, scaled_by, coming, rest, keeps, holds):
    """Add exp of these classes to one vector of rows, but for targets; the largest logit so far, the target's too.

    Exps are kept, and the same sums without the largest exp, if so wished. Meanwhile, memory is asked for as much of
    what is ``coming``.
    """
    place, start, stride, _ = tile
    numbers, kept = rest
    lanes, c = lanes_of(place), first
    exponent, target = load(running, REFERENCE + k), load(running, CHOSEN + k)
    zero, lowest = load_first(place, 0, 0, to_real(place, 0.0)), load_first(place, 0, 0, to_real(place, -math.inf))
    found = lowest, load_first(place, 0, 0, to_real(place, math.nan)), zero
    if first > 0:
        found = load(running, HIGHEST + k), load(running, X_CHOSEN + k), load(running, LARGEST_OTHER + k)
    exps, at = load_sum(sums, lanes, EXPS, k, first), start + k + first * stride
    held = load_sum(sums, lanes, HELD, k, first)
    for _ in range((stop - first) // ABREAST):
        carry(tile, coming, c, ABREAST)
        ab, lesser_ab, found = two_terms(
            place, at, stride, count, numbers, c, target, exponent, scaled_by, found, kept, keeps
        )
        cd, lesser_cd, found = two_terms(
            place, at + 2 * stride, stride, count, numbers, c + 2, target, exponent, scaled_by, found, kept, keeps
        )
        exps, held = add_wide(exps, ab + cd), add_wide(held, lesser_ab + lesser_cd)
        at, c = at + ABREAST * stride, c + ABREAST
    if c < stop:
        carry(tile, coming, c, stop - c)
    if stop - c >= 2:
        ab, lesser, found = two_terms(
            place, at, stride, count, numbers, c, target, exponent, scaled_by, found, kept, keeps
        )
        exps, held = add_wide(exps, ab), add_wide(held, lesser)
        at, c = at + 2 * stride, c + 2
    if c < stop:
        x = elements(place, at, count, to_real(place, 0.0))
        a, lesser, found = term(x, at, number_at(numbers, c), target, exponent, scaled_by, found, kept, keeps)
        exps, held = add_wide(exps, a), add_wide(held, lesser)
    store_sum(sums, lanes, EXPS, k, exps)
    store(running, HIGHEST + k, found[0])
    store(running, X_CHOSEN + k, found[1])
    if holds:
        store_sum(sums, lanes, HELD, k, held)
        store(running, LARGEST_OTHER + k, found[2])


@inline
def add_all_of_copy(running, sums, tile, classes, count, scaled_by, coming, rest, keeps, holds):
    """`add_all_others` of a tile that holds all rows: nothing but what is ``coming`` is asked for."""
    rows, next_one, row_stride, line = coming
    lanes = lanes_of(tile[0])
    for k in range(0, count, lanes):
        ahead = rows, next_one + k * row_stride, line, -1
        add_others(running, sums, tile, k, 0, classes, lanes, scaled_by, ahead, rest, keeps, holds)


@inline
def add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, keeps, holds):
    """`sum_hard`, where it is known when a kernel is compiled what is wished, and whether the tile is a full copy."""
    if source is None:
        add_all_of_copy(running, sums, tile, classes, count, scaled_by, coming, rest, keeps, holds)
        return
    _, _, _, brought_step = source
    if tile[3] == 0 and brought_step == 0:
        add_all_of_copy(running, sums, tile, classes, count, scaled_by, coming, rest, keeps, holds)
        return
    rows, next_one, row_stride, line = coming
    lanes = lanes_of(tile[0])
    step = classes_at_a_time(tile, classes, SUMMED_AT_A_TIME)
    whole = count if tile[3] == 0 else count - count % lanes
    for first in range(0, classes, step):
        stop = min(first + step, classes)
        bring(tile, source, first, stop, count)
        for k in range(0, whole, lanes):
            send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            if tile[3] == 0:
                bring_first(tile, source, k, classes, count, False)
            ahead = coming_beside(tile, source, (rows, next_one + k * row_stride, line, -1), k, count)
            add_others(running, sums, tile, k, first, stop, lanes, scaled_by, ahead, rest, keeps, holds)
        for k in range(whole, count, lanes):
            send_for_next(tile, source, k, first, classes, SUMMED_AT_A_TIME)
            ahead = rows, next_one, 0, -1
            add_others(running, sums, tile, k, first, stop, count - k, scaled_by, ahead, rest, keeps, holds)


@outlined
def sum_hard(running, sums, tile, source, classes, count, scaled_by, coming, rest, _):
    """EXPS, HIGHEST and X_CHOSEN of the rows of a tile, which holds all of them then; see `narrow.tile_and_source`.

    The source is None if the tile is known to hold them, when a kernel is compiled.
    """
    scaled_by = with_factor_1(scaled_by)
    add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, False, False)


@outlined
def sum_hard_and_keep(running, sums, tile, source, classes, count, scaled_by, coming, rest, keeps):
    """The same, and the exps if they are kept for gradients."""
    scaled_by = with_factor_1(scaled_by)
    if keeps:
        add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, True, False)
    else:
        add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, False, False)


@outlined
def sum_hard_and_hold(running, sums, tile, source, classes, count, scaled_by, coming, rest, keeps):
    """The same, and the sums without the largest exp: HELD and LARGEST_OTHER."""
    scaled_by = with_factor_1(scaled_by)
    if keeps:
        add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, True, True)
    else:
        add_all_others(running, sums, tile, source, classes, count, scaled_by, coming, rest, False, True)


@outlined
def are_near(running, count, scale):
    """Whether the reference for all rows is not too far from the largest logit of any of these."""
    middle, reach = to_real(running, 0.5 * (MOST + LEAST)), to_real(running, 0.5 * (MOST - LEAST))
    zero = load_first(running, 0, 0, to_real(running, 0.0))
    farthest = zero
    for k in range(0, count, lanes_of(running)):
        power = load(running, HIGHEST + k) * to_real(running, scale * LOG2E)
        distance = copysign((power - to_real(running, COMMON)) - middle, zero)
        farthest = where_less(farthest, distance, distance, farthest)
    return not any_nan(where_less(farthest, reach, zero, to_real(running, math.nan)))


@inline
def set_common_references(running, count):
    """One reference for all rows."""
    common = load_first(running, 0, 0, to_real(running, COMMON))
    for k in range(0, count, lanes_of(running)):
        store(running, REFERENCE + k, common)


@outlined
def set_own_references(running, tile, source, classes, count, scale):
    """The reference of every row of a tile."""
    find_largest(running, tile, source, classes, count, None)
    for k in range(0, count, lanes_of(tile[0])):
        exponent, _ = references_near(tile[0], load(running, HIGHEST + k), scale)
        store(running, REFERENCE + k, exponent)


@inline
def sum_from_references(
    summed, running, sums, tile, source, classes, count, scale, scaled_by, coming, rest, keeps, in_common
):
    """`sum_hard`, or that and more, from references that are near; whether one for all rows is.

    That is tried first if the tile before had it ``in_common``: rows that it is too far from are seldom alone. The rest
    is the numbers of classes, and where exps are kept for gradients if they are.
    """
    if in_common:
        set_common_references(running, count)
        summed(running, sums, tile, source, classes, count, scaled_by, coming, rest, keeps)
        if are_near(running, count, scale):
            return True
    if source is None:
        again = None
    else:
        if not in_common:
            bring_all(tile, source, classes, count)
        again = brought(tile, source)
    set_own_references(running, tile, again, classes, count, scale)
    summed(running, sums, tile, again, classes, count, scaled_by, coming, rest, keeps)
    return are_near(running, count, scale)
