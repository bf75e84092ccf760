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
def finish_kept(states, running, count):
    """SHARE, the factor, and AT_CHOSEN, the target's gradient, for `put_kept`; whether all factors will do.

    REFERENCE becomes that of the exp times the factor's power of two, as in `finish_hard_gradients`.
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
    return not any_nan(misfits)


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
def gradient_at(tile, kept, at, number, rest):
    """That of one class of one vector of rows."""
    factor, lowest, target, of_target = rest
    x = elements(tile, at, lanes_of(tile), to_real(tile, 0.0))
    gradient = where_less(x, lowest, to_real(tile, 0.0), load(kept, at) * factor)
    return where_equal(target, number, of_target, gradient)


@inline
def gradients_at(tile_and_kept, c, k, width, rest):
    """Those of four classes of one vector of rows, from class c on."""
    (tile, kept), (rest, numbers), at = tile_and_kept, rest, c * width + k
    return (
        gradient_at(tile, kept, at, number_at(numbers, c), rest),
        gradient_at(tile, kept, at + width, number_at(numbers, c + 1), rest),
        gradient_at(tile, kept, at + 2 * width, number_at(numbers, c + 2), rest),
        gradient_at(tile, kept, at + 3 * width, number_at(numbers, c + 3), rest),
    )


@outlined
def put_kept(running, numbers, tile, kept, width, count, scaled_by, gradient, outer, first):
    """The gradients of rows that all fit."""
    rows, row_stride, classes = row_pointer(gradient, outer), row_stride_of(gradient), gradient.shape[1]
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        exponent = load(running, REFERENCE + k)
        lowest = least_argument(exponent, exponent, scaled_by)
        factor, target, of_target = load(running, SHARE + k), load(running, CHOSEN + k), load(running, AT_CHOSEN + k)
        rest = (factor, lowest, target, of_target), numbers
        here, place = min(lanes, count - k), (first + k) * row_stride
        put_lanes(gradients_at, (tile, kept), k, width, here, classes, rows, place, row_stride, rest)


@inline
def gradient_of_rows(running, tile, kept, c, k, width, number):
    """The gradients of one class of one vector of rows, which may begin anywhere."""
    factor, lowest = load(running, SHARE + k), load(running, REFERENCE + k)
    rest = factor, lowest, load(running, CHOSEN + k), load(running, AT_CHOSEN + k)
    return gradient_at(tile, kept, c * width + k, number, rest)


@outlined
def put_kept_columns(running, numbers, tile, kept, width, count, scaled_by, gradient, outer, first, past_cache):
    """`put_kept` where rows are adjacent: class by class, as far as they lie side by side.

    Vectors are written at multiples of their size if all classes of a row allow that.
    """
    rows, stride, classes = row_pointer(gradient, outer), gradient.strides[1] // gradient.itemsize, gradient.shape[1]
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        exponent = load(running, REFERENCE + k)
        store(running, REFERENCE + k, least_argument(exponent, exponent, scaled_by))
    aligned = stride % lanes == 0
    before = min(elements_to_boundary(rows, first), count) if aligned else 0
    end = count - (count - before) % lanes
    for c in range(classes):
        number, to = number_at(numbers, c), first + c * stride
        if before > 0:
            store_first(rows, to, gradient_of_rows(running, tile, kept, c, 0, width, number), before)
        if past_cache and aligned:
            for k in range(before, end, lanes):
                store_whole(rows, to + k, gradient_of_rows(running, tile, kept, c, k, width, number), True)
        else:
            for k in range(before, end, lanes):
                store_whole(rows, to + k, gradient_of_rows(running, tile, kept, c, k, width, number), False)
        if end < count:
            store_first(rows, to + end, gradient_of_rows(running, tile, kept, c, end, width, number), count - end)
