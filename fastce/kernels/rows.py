"""What every row kernel is made of: prepared blocks, maxima, the reference, sums of exponentials.

The state of a row is a reference and a sum, and the whole package is its algebra:

    (m1, s1) + (m2, s2) = (m, s1 exp(m1 - m) + s2 exp(m2 - m)),   m = max(m1, m2);   identity (-inf, 0)

Here the reference of a row is ``offset + exponent * ln(2) / scale``. Nearly always the offset is 0 and the reference
a power of two, which exp divides by for nothing (vector.py). It need not be the maximum, only near enough for every
exp to stay in range: a guess from the row's first elements serves, and the rare row that outgrows it starts again
from its true maximum. A row beyond 2**20 in size is moved by its maximum first, which is exact where it matters.
"""

import math
from typing import Any

from numba import types

from fastce.kernels.jit import by_type, inline, outlined, real_of
from fastce.kernels.memory import BLOCK, lanes_of, load, load_first, prefetch, store
from fastce.kernels.simd import add_wide, fma, maximum, maximum_of_lanes, sum_wide, where_zero, zeros_wide
from fastce.kernels.vector import (
    LN2,
    LN2_LOW,
    LOG2E,
    exp,
    exp_parts,
    largest_exponent,
    not_too_large,
    overflow_bound,
    scaling,
    tanh,
)

SPARE = 60.0  # see `reference_near`
AHEAD = 1024  # elements; farther than the hardware looks, which stops at the end of a page
ROOT_HALF = math.sqrt(0.5)


def to_real(row: Any, value: float) -> Any:
    """A float64 in the dtype that the row is computed in."""


@by_type(to_real)
def _to_real(row: types.CPointer, value: Any) -> Any:
    real = real_of(row.dtype)
    return lambda row, value: real(value)


@inline
def capping(row, logit_scale, softcap):
    """(scale / cap, cap) for `prepared`, zeros without a cap, and the scaling that is left for exp."""
    if softcap > 0:
        return to_real(row, logit_scale / softcap), to_real(row, softcap), scaling(row, 1.0, 1.0)
    return to_real(row, 0.0), to_real(row, 0.0), scaling(row, logit_scale, 1.0)


@outlined
def fill_prepared(row, start, stop, ratio, cap, offset, room):
    lanes = lanes_of(row)
    for i in range(start, stop, lanes):
        x = load(row, i) if i + lanes <= stop else load_first(row, i, stop - i, offset)
        if cap > 0:
            x = tanh(x * ratio) * cap
        store(room, i - start, x - offset)


def prepared(row: Any, start: int, stop: int, ratio: Any, cap: Any, offset: Any, room: Any) -> Any:
    """The block as numbers that exp can take, and the index of its first element there.

    The row itself where it will do; else cap(x) - offset in ``room``, cap(x) = cap * tanh(ratio * x): converted from
    half precision, capped, recentred.
    """


@by_type(prepared)
def _prepared(row: types.CPointer, start: Any, stop: Any, ratio: Any, cap: Any, offset: Any, room: Any) -> Any:
    always = not isinstance(row.dtype, types.Float)

    def in_room(row, start, stop, ratio, cap, offset, room):
        fill_prepared(row, start, stop, ratio, cap, offset, room)
        return room, 0

    def in_place_or_room(row, start, stop, ratio, cap, offset, room):
        if cap == 0 and offset == 0:
            return row, start
        fill_prepared(row, start, stop, ratio, cap, offset, room)
        return room, 0

    return in_room if always else in_place_or_room


@inline
def block_maximum(block, start, stop):
    """The largest element, NaN if there is one. Two chains of maxima, for one would wait for itself."""
    lanes = lanes_of(block)
    best = load_first(block, start, 0, to_real(block, -math.inf))
    next_best = best
    whole = stop - (stop - start) % (2 * lanes)
    for i in range(start, whole, 2 * lanes):
        prefetch(block, i + AHEAD)
        prefetch(block, i + lanes + AHEAD)
        best, next_best = maximum(best, load(block, i)), maximum(next_best, load(block, i + lanes))
    for i in range(whole, stop, lanes):
        best = maximum(best, load_first(block, i, stop - i, to_real(block, -math.inf)))
    return maximum_of_lanes(maximum(best, next_best))


@outlined
def row_maximum(row, classes, ratio, cap, room):
    """The largest element of the capped row as float64 (NaN if there is one), and the start of its block."""
    best, best_start = -math.inf, 0
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        block, first = prepared(row, start, stop, ratio, cap, to_real(row, 0.0), room)
        here = float(block_maximum(block, first, first + stop - start))
        if here > best or math.isnan(here):
            best, best_start = here, start
            if math.isnan(here):
                break
    return best, best_start


@outlined
def guessed_maximum(row, classes, ratio, cap, room):
    """The largest of the first elements, as float64."""
    stop = min(classes, 4 * lanes_of(row))
    block, first = prepared(row, 0, stop, ratio, cap, to_real(row, 0.0), room)
    return float(block_maximum(block, first, first + stop))


@inline
def reference_near(row, largest, scale):
    """(offset, exponent) of a reference near this element; the offset tells when it is not finite.

    The exponent lies SPARE below the element's: exp then reaches as far below the row's maximum as results can be
    written at all, subnormal ones included, and there is room enough above.
    """
    power = largest * (scale * LOG2E)
    if abs(power) <= largest_exponent(row):
        return 0.0, math.floor(power + 0.5) - SPARE
    return largest, -SPARE


@inline
def block_sums(block, start, stop, exponent, near, scaled_by):
    """The sums of exp(scale x) / 2**exponent and of x - near over the block, as float64.

    As many vectors as a vector has lanes are added in the row's dtype, their sum in float64 (compensated, for float64):
    the error stays that of a single exp at any length.
    """
    lanes = lanes_of(block)
    exps, distances = zeros_wide(), zeros_wide()
    zero = load_first(block, start, 0, to_real(block, 0.0))
    chunk = lanes * lanes
    chunks_end = stop - (stop - start) % chunk
    for first in range(start, chunks_end, chunk):
        exp_of_chunk, distance_of_chunk = zero, zero
        for k in range(lanes):
            prefetch(block, first + k * lanes + AHEAD)
            x = load(block, first + k * lanes)
            a, power = exp_parts(not_too_large(x, exponent, scaled_by), exponent, scaled_by)
            exp_of_chunk = fma(a, power, exp_of_chunk)
            distance_of_chunk += x - near
        exps = add_wide(exps, exp_of_chunk)
        distances = add_wide(distances, distance_of_chunk)
    for i in range(chunks_end, stop, lanes):
        x = not_too_large(load_first(block, i, stop - i, to_real(block, -math.inf)), exponent, scaled_by)
        exps = add_wide(exps, exp(x, exponent, scaled_by))
        distances = add_wide(distances, load_first(block, i, stop - i, near) - near)
    return sum_wide(exps), sum_wide(distances)


@outlined
def weighted_sums(block, start, stop, masses, near):
    """The sums of q (x - near) and of the masses q, one mass per element of the block; 0 * inf counts as 0."""
    lanes = lanes_of(block)
    zero = to_real(block, 0.0)
    distances, total = zeros_wide(), zeros_wide()
    for i in range(start, stop, lanes):
        q = load_first(masses, i - start, stop - i, zero)
        product = q * (load_first(block, i, stop - i, near) - near)
        distances = add_wide(distances, where_zero(q, zero, product))
        total = add_wide(total, q)
    return sum_wide(distances), sum_wide(total)


@outlined
def fill_masses(start, stop, dense, masses):
    """masses[c - start] = w_c (keep * t_c + spread): the dense part of the target distribution."""
    keep, spread, probabilities, has_probabilities, weight, has_weight = dense
    lanes = lanes_of(masses)
    for i in range(start, stop, lanes):
        q = load_first(masses, 0, 0, spread)
        if has_probabilities:
            q = fma(load_first(probabilities, i, stop - i, to_real(masses, 0.0)), keep, spread)
        if has_weight:
            q = q * load_first(weight, i, stop - i, to_real(masses, 0.0))
        store(masses, i - start, q)


@inline
def end_of_block(start, classes, lanes):
    """Where the block around ``start`` ends; between two vectors, where the next one starts.

    After a class that is handled alone, vectors soon lie again where they would have lain without it: a load across
    two cache lines costs two.
    """
    if start % lanes > 0:
        return min(start - start % lanes + lanes, classes)
    return min(start - start % BLOCK + BLOCK, classes)


@inline
def add_compensated(total, x):
    """(sum, what its roundings lost) with x added (Knuth's two-sum)."""
    new = total[0] + x
    x_part = new - total[0]
    lost = (total[0] - (new - x_part)) + (x - x_part)
    return new, total[1] + (lost if math.isfinite(new) else 0.0)


@inline
def row_sums(row, classes, left_out, capped_by, offset, exponent, near, scaled_by, room, dense, masses):
    """The row's sums of exp, of q (x - near) and of q, without the class that is left out (-1: none).

    Left out, because next to a dominating target the others would vanish: s / e_y keeps them (losses near 0).
    Without weights and probabilities q is 1 for all here.
    """
    varies = dense[3] or dense[5]
    lanes = lanes_of(row)
    exps, distances, mass = (0.0, 0.0), (0.0, 0.0), 0.0
    start = 0
    while start < classes:
        if start == left_out:
            start += 1
            continue
        stop = end_of_block(start, classes, lanes)
        if start < left_out < stop:
            stop = left_out
        block, first = prepared(row, start, stop, capped_by[0], capped_by[1], offset, room)
        exps_here, distances_here = block_sums(block, first, first + stop - start, exponent, near, scaled_by)
        mass_here = float(stop - start)
        if varies:
            fill_masses(start, stop, dense, masses)
            distances_here, mass_here = weighted_sums(block, first, first + stop - start, masses, near)
        exps = add_compensated(exps, exps_here)
        distances = add_compensated(distances, distances_here)
        mass += mass_here
        start = stop
    return exps[0] + exps[1], distances[0] + distances[1], mass


@inline
def row_state(row, classes, left_out, largest, capped_by, scaled_by, room, dense, masses):
    """(offset, exponent, near, sums) of a row whose largest element may be guessed.

    The offset is NaN or infinite if the row's maximum is; the sums mean nothing then.
    """
    scale = float(scaled_by[0])
    sums = (1.0, 0.0, 0.0)
    for attempt in range(2):
        offset, exponent = reference_near(row, largest, scale)
        near = to_real(row, (exponent + SPARE) * LN2 / scale)
        if math.isfinite(offset):
            sums = row_sums(
                row, classes, left_out, capped_by, to_real(row, offset), to_real(row, exponent), near, scaled_by,
                room, dense, masses,
            )  # fmt: skip
            if sums[0] < overflow_bound(row):
                break
        if attempt == 0:
            largest, _ = row_maximum(row, classes, capped_by[0], capped_by[1], room)
    return offset, exponent, near, sums


@inline
def log_times_power(total, exponent):
    """log(total * 2**exponent), rounded once where it matters.

    total = f 2**k with sqrt(1/2) <= f < sqrt(2) makes (exponent + k) ln(2) and log(f) unable to cancel; ln(2) has two
    parts, so that the product is exact to twice the precision.
    """
    f, k = math.frexp(total)
    if f < ROOT_HALF:
        f, k = 2.0 * f, k - 1
    power = exponent + k
    high = power * LN2
    return high + (math.log(f) + (fma(power, LN2, -high) + power * LN2_LOW))


@inline
def no_masses(row):
    """The `dense` part of a row without targets."""
    zero = to_real(row, 0.0)
    return zero, zero, row, False, row, False
