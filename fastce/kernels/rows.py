"""What every row kernel is made of: blocks, maxima, the reference, sums of exponentials.

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
from fastce.kernels.memory import (
    BLOCK,
    keep_first,
    lanes_of,
    load,
    load_first,
    next_step,
    prefetch,
    store,
    store_first,
    store_past_cache,
)
from fastce.kernels.simd import add_products, add_wide, fma, maximum, maximum_of_lanes, sum_wide, where_zero, zeros_wide
from fastce.kernels.vector import (
    LN2,
    LOG2E,
    SPARE,
    exp,
    largest_exponent,
    not_too_large,
    overflow_bound,
    scaling,
    tanh,
)

AHEAD = 1024  # elements; farther than the hardware looks, which stops at the end of a page


def to_real(row: Any, value: float) -> Any:
    """A float64 in the dtype that the row is computed in."""


@by_type(to_real)
def _to_real(row: types.CPointer, value: Any) -> Any:
    real = real_of(row.dtype)
    return lambda row, value: real(value)


@inline
def capping(row, logit_scale, softcap):
    """(scale / cap, cap) for `on_block`, zeros without a cap, and the scaling that is left for exp."""
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


def on_block(function: Any, row: Any, start: int, stop: int, capped_by: Any, offset: Any, room: Any, rest: Any) -> Any:
    """function(block, first, start, stop, rest), where element ``start`` of the row is element ``first`` of the block.

    The block holds numbers that exp can take: it is the row itself where that will do, else cap(x) - offset in
    ``room``, cap(x) = cap * tanh(ratio * x). For half precision these two have different types, so that the function
    is compiled for both.
    """


@by_type(on_block)
def _on_block(
    function: Any, row: types.CPointer, start: Any, stop: Any, capped_by: Any, offset: Any, room: Any, rest: Any
) -> Any:
    def for_either(function, row, start, stop, capped_by, offset, room, rest):
        block, first = row, start
        if capped_by[1] != 0 or offset != 0:
            fill_prepared(row, start, stop, capped_by[0], capped_by[1], offset, room)
            block, first = room, 0
        return function(block, first, start, stop, rest)

    def for_each_type(function, row, start, stop, capped_by, offset, room, rest):
        if capped_by[1] != 0 or offset != 0:
            fill_prepared(row, start, stop, capped_by[0], capped_by[1], offset, room)
            return function(room, 0, start, stop, rest)
        return function(row, start, start, stop, rest)

    return for_either if row == room else for_each_type


@inline
def block_maximum(block, first, start, stop, _):
    """The largest element, NaN if there is one."""
    lanes = lanes_of(block)
    lowest = to_real(block, -math.inf)
    best = load_first(block, first, 0, lowest)
    end = first + stop - start
    fours_end = end - (end - first) % (4 * lanes)
    for i in range(first, fours_end, 4 * lanes):
        a = maximum(load(block, i), load(block, i + lanes))
        b = maximum(load(block, i + 2 * lanes), load(block, i + 3 * lanes))
        for k in range(4):
            prefetch(block, i + k * lanes + AHEAD)
        best = maximum(best, maximum(a, b))
    for i in range(fours_end, end, lanes):
        best = maximum(best, load_first(block, i, end - i, lowest))
    return maximum_of_lanes(best)


@outlined
def row_maximum(row, classes, capped_by, room):
    """The largest element of the capped row as float64 (NaN if there is one), and the start of its block."""
    best, best_start = -math.inf, 0
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        here = float(on_block(block_maximum, row, start, stop, capped_by, to_real(row, 0.0), room, ()))
        if here > best or math.isnan(here):
            best, best_start = here, start
            if math.isnan(here):
                break
    return best, best_start


@outlined
def guessed_maximum(row, classes, capped_by, room):
    """The largest of the first elements, as float64."""
    stop = min(classes, 4 * lanes_of(row))
    return float(on_block(block_maximum, row, 0, stop, capped_by, to_real(row, 0.0), room, ()))


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
def exp_of_pair(x, y, exponent, scaled_by):
    """exp(scale x) / 2**exponent + exp(scale y) / 2**exponent."""
    return exp(not_too_large(x, exponent, scaled_by), exponent, scaled_by) + exp(
        not_too_large(y, exponent, scaled_by), exponent, scaled_by
    )


@inline
def block_sums(block, start, stop, exponent, near, scaled_by):
    """The sums of exp(scale x) / 2**exponent and of x - near over the block, as float64.

    Four vectors are added in pairs in the row's dtype, their sum in float64 (compensated, for float64): the error stays
    that of a single exp at any length, even beside a term that dominates.
    """
    lanes = lanes_of(block)
    exps, distances = zeros_wide(), zeros_wide()
    fours_end = stop - (stop - start) % (4 * lanes)
    for i in range(start, fours_end, 4 * lanes):
        x, y, z, w = load(block, i), load(block, i + lanes), load(block, i + 2 * lanes), load(block, i + 3 * lanes)
        for k in range(4):
            prefetch(block, i + k * lanes + AHEAD)
        exps = add_wide(exps, exp_of_pair(x, y, exponent, scaled_by) + exp_of_pair(z, w, exponent, scaled_by))
        distances = add_wide(distances, ((x - near) + (y - near)) + ((z - near) + (w - near)))
    for i in range(fours_end, stop, lanes):
        x = not_too_large(load_first(block, i, stop - i, to_real(block, -math.inf)), exponent, scaled_by)
        exps = add_wide(exps, exp(x, exponent, scaled_by))
        distances = add_wide(distances, load_first(block, i, stop - i, near) - near)
    return sum_wide(exps), sum_wide(distances)


@inline
def masses_at(dense, c, count):
    """q = w (keep * t + spread) of ``count`` classes from c on: the dense part of the target distribution."""
    keep, spread, probabilities, has_probabilities, weight, has_weight = dense
    nothing = to_real(weight, 0.0)
    q = load_first(weight, 0, 0, spread)
    if has_probabilities:
        q = fma(load_first(probabilities, c, count, nothing), keep, spread)
    if has_weight:
        q = q * load_first(weight, c, count, nothing)
    return q


@inline
def weighted_block_sums(block, start, stop, to_class, dense, exponent, near, scaled_by):
    """The sums of exp(scale x) / 2**exponent, of q (x - near) and of q over the block; 0 * inf counts as 0.

    Products are added in float64: the reference may be far from where the mass is.
    """
    lanes = lanes_of(block)
    exps, distances, mass = zeros_wide(), zeros_wide(), zeros_wide()
    for i in range(start, stop, lanes):
        prefetch(block, i + AHEAD)
        prefetch(dense[2], i + to_class + AHEAD)
        count = min(lanes, stop - i)
        x = load_first(block, i, count, to_real(block, -math.inf))
        q = keep_first(masses_at(dense, i + to_class, count), count)
        exps = add_wide(exps, exp(not_too_large(x, exponent, scaled_by), exponent, scaled_by))
        distances = add_products(distances, q, where_zero(q, near, x), near)
        mass = add_wide(mass, q)
    return sum_wide(exps), sum_wide(distances), sum_wide(mass)


@inline
def any_block_sums(block, first, start, stop, rest):
    """The same for any targets; without weights and probabilities q is 1 for all here."""
    dense, exponent, near, scaled_by = rest
    end = first + stop - start
    if dense[3] or dense[5]:
        return weighted_block_sums(block, first, end, start - first, dense, exponent, near, scaled_by)
    exps, distances = block_sums(block, first, end, exponent, near, scaled_by)
    return exps, distances, float(stop - start)


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
def row_sums(row, classes, left_out, capped_by, offset, exponent, near, scaled_by, room, dense):
    """The row's sums of exp, of q (x - near) and of q, without the class that is left out (-1: none).

    Left out, because next to a dominating target the others would vanish: s / e_y keeps them (losses near 0).
    """
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
        exps_here, distances_here, mass_here = on_block(
            any_block_sums, row, start, stop, capped_by, offset, room, (dense, exponent, near, scaled_by)
        )
        exps = add_compensated(exps, exps_here)
        distances = add_compensated(distances, distances_here)
        mass += mass_here
        start = stop
    return exps[0] + exps[1], distances[0] + distances[1], mass


@inline
def row_state(row, classes, left_out, largest, capped_by, scaled_by, room, dense):
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
                row, classes, left_out, capped_by, to_real(row, offset), to_real(row, exponent), near, scaled_by, room,
                dense,
            )  # fmt: skip
            if sums[0] < overflow_bound(row):
                break
        if attempt == 0:
            largest, _ = row_maximum(row, classes, capped_by, room)
    return offset, exponent, near, sums


@inline
def no_masses(row):
    """The `dense` part of a row without targets."""
    zero = to_real(row, 0.0)
    return zero, zero, row, False, row, False


@inline
def copy_stretch(source, to_source, out, start, stop, past_cache):
    """out[i] = source[i + to_source] from start to stop: whole vectors at multiples of their size in ``out``."""
    i = start
    while i < stop:
        whole, count = next_step(out, i, stop, True)
        if count > 0:
            x = load_first(source, i + to_source, count, to_real(source, 0.0))
            store_first(out, i, x, count)
            i += count
            continue
        for _ in range(whole):
            x = load(source, i + to_source)
            if past_cache:
                store_past_cache(out, i, x)
            else:
                store(out, i, x)
            i += lanes_of(out)
