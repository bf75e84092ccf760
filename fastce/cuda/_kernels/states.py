"""What is known of a row, or of a part of one, and the law by which parts merge.

With the elements y of the row (logits, or capped logits), a factor s and the masses q of its target, x = s y:

    top       the largest y, held back: its term, 1, is not in ``rest``
    rest      sum of exp(s (y - top)) over all others, so that lse = s top + log1p(rest); held times 2**spare
    distance  half the sum of q (top - y), which may be too large a number
    mass      sum of q, so that loss = sum of q (lse - x) = mass log1p(rest) + 2 s distance

Nothing cancels: a confident row, whose ``rest`` is far below 1, keeps its digits; and as ``rest`` is held raised, so do
terms that lie below the normal numbers. A thread adds up a few dozen terms in the dtype of the reals; whatever goes
beyond a thread is added in float64, always in the same order.
"""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import LN2, SPARES, Job
from fastce.cuda._kernels.primitives import (
    device,
    exp2,
    fma,
    from_lane,
    largest,
    plus,
    rough_exp2,
    smallest,
    to_real,
)

WARP = 32
HALF_LANES = 8  # elements of half precision in a chunk
MOST_WARPS = 32  # of a block
NOTHING = (-math.inf, 0.0, 0.0, 0.0)  # (top, rest, distance, mass) of no elements


def raised_by(job: Job) -> float:
    """2**spare."""
    return 2.0 ** SPARES[8 if job.is_float64 else 4]


@device
def apart(y, reference, furthest):
    """(d, e) with d + e = y - reference to the last digit [1]; (furthest, 0) from that distance on.

    d alone would be off by half an ulp of the reference's size.

    [1] D. E. Knuth, The Art of Computer Programming 2, 4.2.2, theorem B.
    """
    d = y - reference
    back = d - y
    e = (y - (d - back)) - (reference + back)
    if d <= furthest:
        return furthest, furthest - furthest
    return d, e


@device
def correction_of(t, d, options):
    """c with s d / ln(2) = t + c to twice the digits of t = d * scale; so tiny that 2**(t + c) = 2**t (1 + c ln(2))."""
    return fma(d, options.scale_low, fma(d, options.scale, -t))


@device
def power_of(d, e, options):
    """(2**t, c) with exp(s (d + e)) = 2**t (1 + c ln(2)), for finite d and e far below it."""
    t = d * options.scale
    return exp2(t), fma(e, options.scale, correction_of(t, d, options))


@device
def exp_of(y, reference, options):
    """exp(s (y - reference)) for y up to the reference."""
    d, e = apart(y, reference, options.furthest)
    power, c = power_of(d, e, options)
    return fma(power * c, options.ln2, power)


@device
def raised_power_of(d, e, options):
    """(2**(t + spare), c) with exp(s (d + e)) = 2**t (1 + c ln(2)).

    The sum is rounded, up = t + spare, unless t < -spare / 2; spare - up is exact then, too, and c makes up for it.
    """
    up = plus(d * options.scale, options.spare)
    c = fma(d, options.scale_low, fma(d, options.scale, options.spare - up))
    return rough_exp2(up), fma(e, options.scale, c)


@device
def raised_exp_of(y, reference, options):
    """exp(s (y - reference)) 2**spare for y up to the reference."""
    d, e = apart(y, reference, options.furthest)
    power, c = raised_power_of(d, e, options)
    return fma(power * c, options.ln2, power)


@device
def term_of(y, reference, is_rough, options):
    """(2**t, c) of `power_of`, and the power 0 where it is below the normal numbers.

    Roughly: with the difference rounded once. Elements of half precision have hardly more digits; and half an ulp of
    the reference is nothing beside it in a logsumexp, while a confident row's loss hangs on it.
    """
    if is_rough:
        d = largest(y - reference, options.furthest)
        t = d * options.scale
        c = correction_of(t, d, options)
    else:
        d, e = apart(y, reference, options.furthest)
        t = d * options.scale
        c = fma(e, options.scale, correction_of(t, d, options))
    return rough_exp2(t), c


@device
def with_term(sums, y, reference, is_rough, options):
    """(top, sum of 2**t, sum of 2**t c) with one more element, or with the top if that is less; see `term_of`.

    Terms below the normal numbers are 0; should all be that, `are_faint`, they are added up again by `with_faint_term`.
    """
    top, powers, corrections = sums
    power, c = term_of(smallest(top, y), reference, is_rough, options)
    return largest(top, y), powers + power, fma(power, c, corrections)


@device
def with_half_term(sums, y, reference, options):
    """`with_term` where results are halves, too, so that what it corrects has no digit."""
    top, powers, corrections = sums
    return largest(top, y), powers + rough_exp_of(smallest(top, y) - reference, options), corrections


@device
def are_faint(powers, top, reference, options):
    """Whether terms up to 2**-spare are all that there is beside the top, and some may be of account."""
    return powers < options.lowered and top - reference > options.furthest


@device
def with_faint_term(sums, y, reference, options):
    """`with_term`, raised: (top, sum of 2**(t + spare), sum of 2**(t + spare) c)."""
    top, powers, corrections = sums
    d, e = apart(smallest(top, y), reference, options.furthest)
    power, c = raised_power_of(d, e, options)
    return largest(top, y), powers + power, fma(power, c, corrections)


@device
def added(total, lost, some):
    """(total + some, lost and what this sum has lost by its rounding): exact, but where the total is the smaller [1].

    Terms of equal elements would all be rounded the same way. A total that is the smaller at least doubles.

    [1] T. J. Dekker, "A floating-point technique for extending the available precision", Numer. Math. 18, 1971.
    """
    whole = total + some
    return whole, lost + (some - (whole - total))


@device
def rest_of(powers, lost, corrections):
    """What sums of a thread come to, in float64."""
    return (np.float64(powers) + np.float64(lost)) + np.float64(corrections) * LN2


@device
def half_distance(mass, reference, y, like):
    """Half of mass * (reference - y), which may be too large a number."""
    half = to_real(like, 0.5)
    return mass * (half * reference - half * y)


@device
def rough_exp_of(distance, options):
    """exp(s distance) within 1 eps, absolutely."""
    return rough_exp2(distance * options.scale)


@device
def reference_of(top, zero):
    """What a row's elements are compared with: the largest, or 0 if all are -inf."""
    return zero if top == -math.inf else top


@device
def pushed(top, rest, y, options):
    """(top, rest) of a thread that has met one more element."""
    low, high = smallest(top, y), largest(top, y)
    term = raised_exp_of(low, reference_of(high, options.zero), options)
    return high, fma(rest, options.lowered, options.one) * term if y > top else rest + term


@device
def moved(distance, mass, top, reference):
    """Halves of distances to another reference, that is not lower than the top that they are of."""
    return distance if mass == 0.0 else distance + mass * (0.5 * reference - 0.5 * reference_of(top, 0.0))


@device
def raised_term_of(low, reference, like, options):
    """(d, exp(s (low - reference)) 2**spare) of two numbers of float64, d their difference, as far as it goes."""
    difference, more = apart(low, reference, np.float64(options.furthest))
    d = to_real(like, difference)
    power, c = raised_power_of(d, to_real(like, (difference - np.float64(d)) + more), options)
    return difference, np.float64(fma(power * c, options.ln2, power))


@device
def merged(one, other, like, options):
    """The states (top, rest, distance, mass) of two parts together; in float64."""
    high, low = largest(one[0], other[0]), smallest(one[0], other[0])
    reference = reference_of(high, 0.0)
    _, term = raised_term_of(low, reference, like, options)
    of_high, of_low = (one[1], other[1]) if one[0] >= other[0] else (other[1], one[1])
    distance = moved(one[2], one[3], one[0], reference) + moved(other[2], other[3], other[0], reference)
    return high, of_high + (1.0 + of_low * np.float64(options.lowered)) * term, distance, one[3] + other[3]


@device
def with_block(whole, top, rest, like, options):
    """The (top, rest) of a row in float64 and that of a few more elements together."""
    block = (np.float64(top), np.float64(rest), 0.0, 0.0)
    both = merged((whole[0], whole[1], 0.0, 0.0), block, like, options)
    return both[0], both[1]


# --- over the threads of a row: ``lanes`` of them, a part of a warp, or all threads of the block ----------------------


@device
def largest_of_row(value, lanes, tops):
    """The largest value of all lanes."""
    step = 1
    while step < min(lanes, WARP):
        value = largest(value, from_lane(value, step))
        step *= 2
    if lanes > WARP:
        if cuda.threadIdx.x % WARP == 0:
            tops[0, cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()
        warp = 0
        while warp < lanes // WARP:
            value = largest(value, tops[0, warp])
            warp += 1
    return value


@device
def sums_of_row(top, rest, distance, mass, reference, has_masses, lanes, tops, sums, options):
    """(rest, distance, mass) of the row from those of its lanes, all with the same reference, and their own tops.

    The first 32 lanes know them, which are all lanes of a short row. Without masses, the last two are left as they are.
    """
    step = 1
    while step < min(lanes, WARP):
        other = from_lane(top, step)
        term = np.float64(raised_exp_of(smallest(top, other), reference, options))
        top = largest(top, other)
        rest += from_lane(rest, step) + term
        if has_masses:
            distance += from_lane(distance, step)
            mass += from_lane(mass, step)
        step *= 2
    if lanes > WARP:
        if cuda.threadIdx.x % WARP == 0:
            warp = cuda.threadIdx.x // WARP
            tops[1, warp] = top
            sums[0, warp], sums[1, warp], sums[2, warp] = rest, distance, mass
        cuda.syncthreads()
        if cuda.threadIdx.x < WARP:
            warp = 1
            while warp < lanes // WARP:
                rest += sums[0, warp] + np.float64(raised_exp_of(smallest(top, tops[1, warp]), reference, options))
                top = largest(top, tops[1, warp])
                if has_masses:
                    distance += sums[1, warp]
                    mass += sums[2, warp]
                warp += 1
    return rest, distance, mass
