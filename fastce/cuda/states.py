"""What is known of a row, or of a part of one, and the law by which parts merge.

With the elements y of the row (logits, or capped logits), a factor s and the masses q of its target, x = s y:

    top       the largest y, held back: its term, 1, is not in ``rest``
    rest      sum of exp(s (y - top)) over all others, so that lse = s top + log1p(rest)
    distance  sum of q (top - y)
    mass      sum of q, so that loss = sum of q (lse - x) = mass log1p(rest) + s distance

Nothing cancels: a confident row, whose ``rest`` is far below 1, keeps its digits. A thread adds up a few dozen terms in
the dtype of the reals; whatever goes beyond a thread is added in float64, always in the same order.
"""

import math

import numpy as np
from numba import cuda

from fastce.cuda.primitives import device, exp2, fma, from_lane, largest, smallest, to_real

WARP = 32
BOARD = (4, 32)  # of the states that the warps of a block tell each other, in shared memory


@device
def exp_of(distance, options):
    """exp(s distance) for distances up to 0; exactly 0 from ``options.furthest`` on.

    t + c is distance * s / ln(2) to twice the digits, and 2**(t + c) = 2**t (1 + c ln(2)), since c is tiny.
    """
    distance = largest(distance, options.furthest)
    t = distance * options.scale
    c = fma(distance, options.scale_low, fma(distance, options.scale, -t))
    power = exp2(t)
    return fma(power * c, options.ln2, power)


@device
def rough_exp_of(distance, options):
    """The same without c: within 1 eps of it, absolutely."""
    return exp2(largest(distance, options.furthest) * options.scale)


@device
def reference_of(top, zero):
    """What a row's elements are compared with: the largest, or 0 if all are -inf."""
    return zero if top == -math.inf else top


@device
def pushed(top, rest, y, options):
    """(top, rest) of a thread that has met one more element."""
    low, high = smallest(top, y), largest(top, y)
    term = exp_of(low - reference_of(high, options.zero), options)
    return high, (rest + options.one) * term if y > top else rest + term


@device
def moved(distance, mass, step):
    """Distances to a reference that is higher by this step."""
    return distance if mass == 0.0 else distance + mass * step


@device
def merged(one, other, like, options):
    """The states (top, rest, distance, mass) of two parts together; in float64."""
    high, low = largest(one[0], other[0]), smallest(one[0], other[0])
    reference = reference_of(high, 0.0)
    term = np.float64(exp_of(to_real(like, low - reference), options))
    of_high, of_low = (one[1], other[1]) if one[0] >= other[0] else (other[1], one[1])
    distance = moved(one[2], one[3], reference - reference_of(one[0], 0.0))
    distance += moved(other[2], other[3], reference - reference_of(other[0], 0.0))
    return high, of_high + (1.0 + of_low) * term, distance, one[3] + other[3]


@device
def with_block(whole, top, rest, like, options):
    """The (top, rest) of a row in float64 and that of a few more elements together."""
    block = (np.float64(top), np.float64(rest), 0.0, 0.0)
    both = merged((whole[0], whole[1], 0.0, 0.0), block, like, options)
    return both[0], both[1]


# --- over the threads of a row: ``lanes`` of them, a power of two; all threads of the block take part ----------------


@device
def first_warp_of_row(lanes):
    """Where on the board the warps of this thread's row stand, if a row has several: a block may have several rows."""
    return cuda.threadIdx.y * (lanes // WARP)


@device
def largest_of_row(value, like, lanes, board):
    """The largest value of all lanes."""
    distance = 1
    while distance < min(lanes, WARP):
        value = largest(value, from_lane(value, distance))
        distance *= 2
    if lanes > WARP:
        first = first_warp_of_row(lanes)
        if cuda.threadIdx.x % WARP == 0:
            board[0, first + cuda.threadIdx.x // WARP] = value
        cuda.syncthreads()
        for warp in range(first, first + lanes // WARP):
            value = largest(value, to_real(like, board[0, warp]))
        cuda.syncthreads()
    return value


@device
def sums_of_row(top, rest, distance, mass, reference, lanes, board, options):
    """(rest, distance, mass) of the row from those of its lanes, all with the same reference, and their own tops."""
    step = 1
    while step < min(lanes, WARP):
        other = from_lane(top, step)
        term = np.float64(exp_of(smallest(top, other) - reference, options))
        top = largest(top, other)
        rest += from_lane(rest, step) + term
        distance += from_lane(distance, step)
        mass += from_lane(mass, step)
        step *= 2
    if lanes > WARP:
        first = first_warp_of_row(lanes)
        if cuda.threadIdx.x % WARP == 0:
            warp = first + cuda.threadIdx.x // WARP
            board[0, warp], board[1, warp], board[2, warp], board[3, warp] = top, rest, distance, mass
        cuda.syncthreads()
        best, rest, distance, mass = board[0, first], board[1, first], board[2, first], board[3, first]
        for warp in range(first + 1, first + lanes // WARP):
            low = smallest(best, board[0, warp])
            rest += board[1, warp] + np.float64(exp_of(options.zero + low - reference, options))
            best = largest(best, board[0, warp])
            distance += board[2, warp]
            mass += board[3, warp]
        cuda.syncthreads()
    return rest, distance, mass
