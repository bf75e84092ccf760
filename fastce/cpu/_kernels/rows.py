"""What every row kernel is made of: the reference of a row and its sums of exponentials.

The state of a row is a reference and a sum, and the whole package is its algebra:

    (m1, s1) + (m2, s2) = (m, s1 exp(m1 - m) + s2 exp(m2 - m)),   m = max(m1, m2);   identity (-inf, 0)

Here the reference of a row is ``offset + exponent * ln(2) / scale``. Nearly always the offset is 0 and the reference
a power of two, which exp divides by for nothing (exponential.py). It need not be the maximum, only near enough for
every exp to stay in range: a guess from the row's first elements serves, and the rare row that outgrows it starts again
from its true maximum. A row whose power of two would be too large for exp is moved by an element first. That is always
an element of the row itself, not one that has been computed: where numbers are far apart, x - offset is exact for the
x near it, and at most 0 if it is the maximum. Elements so far below that the difference overflows have exp 0.
"""

import math

from fastce.cpu._kernels.blocks import BLOCK, on_block, row_maximum
from fastce.cpu._kernels.states import FIELDS, GROUP, LANES, new_states
from fastce.cpu._kernels.stretch_sums import add_stretch, add_vector
from fastce.cpu._kernels.targets import masses_at
from fastce.cpu._vectors.compiler import inline
from fastce.cpu._vectors.exponential import (
    LN2,
    LOG2E,
    SPARE,
    exp,
    headroom,
    largest_exponent,
)
from fastce.cpu._vectors.lanes import lesser_and_top, where_lane
from fastce.cpu._vectors.memory import (
    elements_ahead,
    from_element,
    keep_first,
    lanes_of,
    load_first,
    prefetch,
    to_real,
)
from fastce.cpu._vectors.simd import largest_lane, where_zero
from fastce.cpu._vectors.wide import add_products, add_wide, sum_wide, zeros_wide


@inline
def cleared_states():
    """A table of states with ordinary numbers in its first columns: rows end as many at a time as a vector has lanes.

    A stack is full of addresses, which as float64 are subnormal: where lanes without a row had such, the end of a
    single row took 4,500 cycles instead of 900.
    """
    states = new_states()
    for field in range(0, FIELDS * GROUP, GROUP):
        for k in range(2 * LANES):
            states[field + k] = 1.0
    return states


@inline
def reference_near(row, largest, scale):
    """(offset, exponent) of a reference near this element; the offset tells when it is not finite.

    The offset is a number of the row's dtype: what is taken from the elements must be what is added to the result.

    The exponent lies SPARE below the element's: exp then reaches as far below the row's maximum as results can be
    written at all, subnormal ones included, and there is room enough above.
    """
    power = largest * (scale * LOG2E)
    if abs(power) <= largest_exponent(row):
        return 0.0, math.floor(power + 0.5) - SPARE
    return float(to_real(row, largest)), -SPARE


@inline
def add_weighted(block, start, stop, to_class, but, sums, mass, dense, exponent, near, scaled_by):
    """`add_stretch`, for q (x - near), and q itself; without class ``but``. 0 * inf counts as 0.

    Products are added in float64: the reference may be far from where the mass is.
    """
    exps, distances, products, tops = sums
    lanes = lanes_of(block)
    lowest, nothing = to_real(block, -math.inf), to_real(block, 0.0)
    for i in range(start, stop, lanes):
        prefetch(block, i + elements_ahead(block))
        prefetch(dense[2], i + to_class + elements_ahead(dense[2]))
        count = min(lanes, stop - i)
        x = where_lane(load_first(block, i, count, lowest), but - to_class - i, lowest)
        q = keep_first(masses_at(dense, i + to_class, count), count)
        q = where_lane(q, but - to_class - i, nothing)
        lesser, tops = lesser_and_top(x, tops)
        exps = add_wide(exps, exp(lesser, exponent, scaled_by))
        distances = add_products(distances, q, where_zero(q, near, x), near)
        mass = add_wide(mass, q)
    return (exps, distances, products, tops), mass


@inline
def add_block(block, first, start, stop, rest):
    """The row's sums, and its mass, with those of a block; without weights and probabilities q is 1 for all here."""
    left_out, sums, mass, dense, exponent, near, scaled_by, kept = rest
    lanes = lanes_of(block)
    shift = first - start
    if dense[3] or dense[5]:
        return add_weighted(block, first, stop + shift, -shift, left_out, sums, mass, dense, exponent, near, scaled_by)
    of_block = from_element(kept[0], -shift), kept[1], kept[2], kept[3], kept[4]
    odd_vector = left_out - left_out % lanes if left_out >= 0 else stop
    i = start
    while i < stop:
        end = odd_vector if i <= odd_vector < stop else stop
        whole_end = end - (end - i) % lanes
        if i < whole_end:
            sums = add_stretch(
                block, i + shift, whole_end + shift, sums, dense[6], exponent, near, scaled_by, of_block
            )  # fmt: skip
            i = whole_end
        if i < stop:
            count = min(lanes, stop - i)
            sums = add_vector(block, i + shift, count, left_out - i, sums, exponent, near, scaled_by, of_block)
            i += lanes
    return sums, mass


@inline
def add_compensated(total, x):
    """(sum, what its roundings lost) with x added (Knuth's two-sum)."""
    new = total[0] + x
    x_part = new - total[0]
    lost = (total[0] - (new - x_part)) + (x - x_part)
    return new, total[1] + (lost if math.isfinite(new) else 0.0)


@inline
def is_left_out(dense, capped_by, offset):
    """Whether the sums of a row are without its target; else `sum_but_target` takes it off, which is faster.

    A number that has been prepared for exp need not be what the target's logit comes to in float64.
    """
    return dense[3] or dense[5] or capped_by[1] != 0 or offset != 0


@inline
def row_sums(row, classes, left_out, capped_by, offset, exponent, near, scaled_by, room, dense, kept):
    """The row's sums of exp, of q (x - near), of q, and its tops, without the class that `is_left_out` (-1: none).

    Before the tops, the sum of exp (x - x_target), if ``kept`` asks for it; see `row_state`.

    Left out, because next to a dominating target the others would vanish: s / e_y keeps them (losses near 0). q is
    without it in any case.
    """
    sums = (zeros_wide(), zeros_wide(), zeros_wide(), load_first(row, 0, 0, to_real(row, -math.inf)))
    mass = zeros_wide()
    varies = dense[3] or dense[5]
    but = left_out if is_left_out(dense, capped_by, offset) else -1
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        rest = (but, sums, mass, dense, exponent, near, scaled_by, kept)
        sums, mass = on_block(add_block, row, start, stop, capped_by, offset, room, rest)
    total_mass = sum_wide(mass) if varies else float(classes - (1 if left_out >= 0 else 0))
    return sum_wide(sums[0]), sum_wide(sums[1]), total_mass, sum_wide(sums[2]), sums[3]


@inline
def row_state(row, classes, left_out, largest, capped_by, scaled_by, room, dense, kept):
    """(offset, exponent, near, sums, tops, the largest of these) of a row whose largest element may be guessed.

    The offset is NaN or infinite if the row's maximum is; the sums mean nothing then. The tops are less the offset, and
    not in the sum. Of a row that has outgrown the guess the maximum is looked up: there may be NaN, and what is added
    to an offset would round. ``kept`` is (room for the exps, whether they are kept there, whether they may be, whether
    exp (x - x_target) is summed, which is not for rows of `add_weighted`, x_target); the last sum is that.
    """
    scale = float(scaled_by[0])
    sums, top = (1.0, 0.0, 0.0, 0.0), 0.0
    tops = load_first(row, 0, 0, to_real(row, -math.inf))
    for attempt in range(2):
        offset, exponent = reference_near(row, largest, scale)
        near = to_real(row, (exponent + SPARE) * LN2 / scale)
        if math.isfinite(offset):
            exps, distances, mass, products, tops = row_sums(
                row, classes, left_out, capped_by, to_real(row, offset), to_real(row, exponent), near, scaled_by, room,
                dense, (*kept[:4], to_real(row, kept[4] - offset)),
            )  # fmt: skip
            sums = (exps, distances, mass, products)
            top = float(largest_lane(tops))
            if top * (scale * LOG2E) - exponent < headroom(row):
                break
        if attempt == 0:
            largest = row_maximum(row, classes, capped_by, room)
    return offset, exponent, near, sums, tops, top
