"""Gradients of rows of few classes from the exps that their sums have kept, written where rows lie.

    gradient_c = upstream mass e_c / total

One factor a row will do where it is a normal float32 and at most 1: then nothing is lost below what e_c has lost. Where
`exp` would have given 0 had it been computed with the factor, a gradient is 0, too: bits are those of other layouts.
"""

import math

from fastce.cpu._kernels.hard import number_at
from fastce.cpu._kernels.lines import AT_CHOSEN, CHOSEN, REFERENCE, SHARE
from fastce.cpu._kernels.narrow import TILE, put_lanes, row_stride_of
from fastce.cpu._kernels.states import (
    EXP_TARGET,
    EXPONENT,
    FACTOR,
    FACTOR_EXPONENT,
    GROUP,
    LANES,
    REST,
    TARGET_GRADIENT,
    TARGET_MASS,
    TOTAL,
    UPSTREAM,
    Z_MASS,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import least_argument
from fastce.cpu._vectors.lanes import any_nan, split, store_rounded
from fastce.cpu._vectors.memory import (
    elements,
    elements_to_boundary,
    lanes_of,
    load,
    load_first,
    row_pointer,
    store,
    store_first,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.rooms import real_room
from fastce.cpu._vectors.simd import copysign, where_equal, where_less, where_zero

SMALLEST = 2.0**-126

new_kept = real_room(TILE + GROUP)


@inline
def slopes_of(states, k):
    """(factor, the target's gradient) of one vector of rows with all mass on their targets, from one division.

    Totals are far from where quotients would lose digits: all rows here are near their references.
    """
    of_others, mass = load(states, Z_MASS + k), load(states, TARGET_MASS + k)
    of_one = load(states, UPSTREAM + k) / load(states, TOTAL + k)
    of_target = load(states, EXP_TARGET + k) * of_others - mass * load(states, REST + k)
    return of_one * (of_others + mass), of_target * of_one


@outlined
def finish_kept(states, running, count, scaled_by):
    """SHARE, the factor, and AT_CHOSEN, the target's gradient, for `put_kept`; whether all factors will do.

    REFERENCE then becomes the least logit whose exp, times the factor's power of two as in `finish_hard_gradients`, is
    not 0.
    """
    zero, one = load_first(states, 0, 0, 0.0), load_first(states, 0, 0, 1.0)
    misfits = zero
    for k in range(0, count, LANES):
        factor, of_target = slopes_of(states, k)
        size = copysign(factor, one)
        odd = where_less(size, SMALLEST, math.nan, where_less(one, size, math.nan, zero))
        misfits += where_zero(factor, zero, odd)
        _, power, _ = split(size + 2.0**-1000)  # 0 has no power of two
        store_rounded(running, REFERENCE + k, load(states, EXPONENT + k) - power)
        store_rounded(running, SHARE + k, factor)
        store_rounded(running, AT_CHOSEN + k, of_target)
    if any_nan(misfits):
        return False
    for k in range(0, count, lanes_of(running)):
        exponent = load(running, REFERENCE + k)
        store(running, REFERENCE + k, least_argument(exponent, exponent, scaled_by))
    return True


@outlined
def finish_hard_gradients(states, count):
    """The same numbers as `states.finish_gradients` has them, for gradients whose exps are computed once more."""
    one = load_first(states, 0, 0, 1.0)
    for k in range(0, count, LANES):
        factor, of_target = slopes_of(states, k)
        _, power, inverse = split(copysign(factor, one) + 2.0**-1000)
        store(states, FACTOR + k, factor * inverse)
        store(states, FACTOR_EXPONENT + k, load(states, EXPONENT + k) - power)
        store(states, TARGET_GRADIENT + k, of_target)


@inline
def first_term(tile, x, e, of_exp):
    """upstream mass p of one class of one vector of rows, from its logit and exp."""
    factor, lowest = of_exp
    return where_less(x, lowest, to_real(tile, 0.0), e * factor)


@inline
def parts_of_gradient(running, k, _):
    """What the gradients of one vector of rows are made of."""
    of_exp = load(running, SHARE + k), load(running, REFERENCE + k)
    return of_exp, load(running, CHOSEN + k), load(running, AT_CHOSEN + k)


@inline
def gradient_at(tile, kept, at, number, parts):
    """That of one class of one vector of rows."""
    of_exp, target, of_target = parts
    x = elements(tile, at, lanes_of(tile), to_real(tile, 0.0))
    return where_equal(target, number, of_target, first_term(tile, x, load(kept, at), of_exp))


@inline
def four_at(one_at, tile_and_kept, c, k, width, rest):
    """Those of four classes of one vector of rows, from class c on."""
    (tile, kept), (parts, numbers), at = tile_and_kept, rest, c * width + k
    return (
        one_at(tile, kept, at, number_at(numbers, c), parts),
        one_at(tile, kept, at + width, number_at(numbers, c + 1), parts),
        one_at(tile, kept, at + 2 * width, number_at(numbers, c + 2), parts),
        one_at(tile, kept, at + 3 * width, number_at(numbers, c + 3), parts),
    )


@inline
def gradients_at(tile_and_kept, c, k, width, rest):
    """`gradient_at` of four classes."""
    return four_at(gradient_at, tile_and_kept, c, k, width, rest)


@inline
def put_rows(four_of, parts_of, running, numbers, tile, kept, width, count, array, outer, first, constants):
    """What ``four_of`` makes of each four classes of rows that all fit, where classes are adjacent."""
    rows, row_stride, classes = row_pointer(array, outer), row_stride_of(array), array.shape[1]
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        rest = parts_of(running, k, constants), numbers
        here, place = min(lanes, count - k), (first + k) * row_stride
        put_lanes(four_of, (tile, kept), k, width, here, classes, rows, place, row_stride, rest)


@inline
def put_columns(
    one_at, parts_of, running, numbers, tile, kept, width, count, array, outer, first, past_cache, constants
):
    """`put_rows` where rows are adjacent: class by class, as far as they lie side by side.

    Vectors are written at multiples of their size if all classes of a row allow that.
    """
    rows, stride, classes = row_pointer(array, outer), array.strides[1] // array.itemsize, array.shape[1]
    lanes = lanes_of(rows)
    aligned = stride % lanes == 0
    before = min(elements_to_boundary(rows, first), count) if aligned else 0
    end = count - (count - before) % lanes
    for c in range(classes):
        number, to, at = number_at(numbers, c), first + c * stride, c * width
        if before > 0:
            y = one_at(tile, kept, at, number, parts_of(running, 0, constants))
            store_first(rows, to, y, before)
        if past_cache and aligned:
            for k in range(before, end, lanes):
                y = one_at(tile, kept, at + k, number, parts_of(running, k, constants))
                store_whole(rows, to + k, y, True)
        else:
            for k in range(before, end, lanes):
                y = one_at(tile, kept, at + k, number, parts_of(running, k, constants))
                store_whole(rows, to + k, y, False)
        if end < count:
            y = one_at(tile, kept, at + end, number, parts_of(running, end, constants))
            store_first(rows, to + end, y, count - end)


@outlined
def put_kept_rows(running, numbers, tile, kept, width, count, gradient, outer, first):
    put_rows(gradients_at, parts_of_gradient, running, numbers, tile, kept, width, count, gradient, outer, first, ())


@outlined
def put_kept_columns(running, numbers, tile, kept, width, count, gradient, outer, first, past_cache):
    put_columns(
        gradient_at, parts_of_gradient, running, numbers, tile, kept, width, count, gradient, outer, first, past_cache,
        (),
    )  # fmt: skip


@inline
def put_kept(exps, width, count, gradient, is_narrow, outer, first, past_cache):
    """The gradients of rows that all fit; their classes are adjacent, or the rows are."""
    if is_narrow:
        put_kept_rows(*exps, width, count, gradient, outer, first)
    else:
        put_kept_columns(*exps, width, count, gradient, outer, first, past_cache)
