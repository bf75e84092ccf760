"""Gradients of rows of few classes from the exps that their sums have kept, written where rows lie.

    gradient_c = upstream mass e_c / total

One factor a row will do where it is a normal float32 and at most 1: then nothing is lost below what e_c has lost.
"""

import math

from fastce.cpu._kernels.hard import number_at
from fastce.cpu._kernels.lines import AT_CHOSEN, CHOSEN, SHARE
from fastce.cpu._kernels.narrow import TILE, put_lanes, row_stride_of
from fastce.cpu._kernels.states import EXP_TARGET, LANES, REST, TARGET_MASS, TOTAL, UPSTREAM, Z_MASS
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.lanes import any_nan, store_rounded
from fastce.cpu._vectors.memory import lanes_of, load, load_first, row_pointer
from fastce.cpu._vectors.rooms import real_room
from fastce.cpu._vectors.simd import copysign, where_equal, where_less, where_zero

SMALLEST = 2.0**-126

new_kept = real_room(TILE)


@outlined
def finish_kept(states, running, count):
    """SHARE, the factor, and AT_CHOSEN, the target's gradient, for `put_kept`; whether all factors will do."""
    zero, one = load_first(states, 0, 0, 0.0), load_first(states, 0, 0, 1.0)
    will_do = True
    for k in range(0, count, LANES):
        above, total = load(states, UPSTREAM + k), load(states, TOTAL + k)
        of_others, mass = load(states, Z_MASS + k), load(states, TARGET_MASS + k)
        factor = above * (of_others + mass) / total
        size = copysign(factor, one)
        odd = where_less(size, SMALLEST, math.nan, where_less(one, size, math.nan, zero))
        will_do = will_do and not any_nan(where_zero(factor, zero, odd))
        of_target = load(states, EXP_TARGET + k) * of_others - mass * load(states, REST + k)
        store_rounded(running, SHARE + k, factor)
        store_rounded(running, AT_CHOSEN + k, of_target / total * above)
    return will_do


@inline
def gradients_at(kept, c, k, width, rest):
    """Those of four classes of one vector of rows, from class c on."""
    factor, target, of_target, numbers = rest
    at = c * width + k
    return (
        where_equal(target, number_at(numbers, c), of_target, load(kept, at) * factor),
        where_equal(target, number_at(numbers, c + 1), of_target, load(kept, at + width) * factor),
        where_equal(target, number_at(numbers, c + 2), of_target, load(kept, at + 2 * width) * factor),
        where_equal(target, number_at(numbers, c + 3), of_target, load(kept, at + 3 * width) * factor),
    )


@outlined
def put_kept(running, numbers, kept, width, count, gradient, outer, first):
    """The gradients of rows that all fit."""
    rows, row_stride, classes = row_pointer(gradient, outer), row_stride_of(gradient), gradient.shape[1]
    lanes = lanes_of(rows)
    for k in range(0, count, lanes):
        rest = load(running, SHARE + k), load(running, CHOSEN + k), load(running, AT_CHOSEN + k), numbers
        here, place = min(lanes, count - k), (first + k) * row_stride
        put_lanes(gradients_at, kept, k, width, here, classes, rows, place, row_stride, rest)
