"""How very long rows are cut in pieces, and the law by which the states of the pieces merge."""

import itertools
import math
from collections.abc import Iterator

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import checked_num_threads
from fastce.arguments.silence import silently
from fastce.cpu._kernels.blocks import BLOCK
from fastce.cpu._kernels.states import GROUP
from fastce.cpu._vectors.exponential import LN2, SPARE
from fastce.cpu.threads import get_num_threads

PIECE = 1 << 20  # elements; a row of more than three times as many is cut: a tenth of a millisecond must not matter
MOST_PIECES = GROUP // 2  # of a row with one class axis: their states are columns of one table
PIECES_PER_THREAD = 4  # that are under way between two times that all threads wait for each other
PIECES_READ_ONCE = 32  # the same where nothing is written, and so nothing read again


def is_long(classes: int) -> bool:
    """Whether a row of so many classes is cut."""
    return classes > 3 * PIECE


def pieces(shape: tuple[int, ...], axes: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """The places of the pieces that an array is cut into along these axes, which make the classes of its rows."""
    whole = [slice(None)] * len(shape)
    classes = math.prod(shape[k] for k in axes)
    if not is_long(classes):
        yield tuple(whole)
        return
    number = min(-(-classes // PIECE), MOST_PIECES)
    room, steps = -(-classes // (number * BLOCK)) * BLOCK, []
    for k in reversed(axes):
        steps.append(min(shape[k], max(room, 1)))
        room //= steps[-1]
    cuts = [range(0, shape[k], step) for k, step in zip(reversed(axes), steps, strict=True)]
    for starts in itertools.product(*cuts):
        piece = list(whole)
        for k, start, step in zip(reversed(axes), starts, steps, strict=True):
            piece[k] = slice(start, min(start + step, shape[k]))
        yield tuple(piece)


def groups(rows: int, parts: int, n_threads: int | None, *, read_once: bool = False) -> Iterator[range]:
    """Rows that are under way together: few, to find in the cache what is read again; enough for all threads."""
    number = get_num_threads() if n_threads is None else checked_num_threads(n_threads)
    at_a_time = max(1, (PIECES_READ_ONCE if read_once else PIECES_PER_THREAD) * number // parts)
    for first in range(0, rows, at_a_time):
        yield range(first, min(first + at_a_time, rows))


def leader_of(offsets: Array, exponents: Array, scale: float) -> tuple[int, float]:
    """The piece with the highest reference, and what that is near; NaN is higher than all."""
    heights = offsets + (exponents + SPARE) * (LN2 / scale)
    k = int(heights.argmax())
    return k, float(heights[k])


def odd_ones(offsets: Array, height: float, leader: int) -> list[int]:
    """The pieces to be summed again, relative to the leader's reference.

    Powers of two merge exactly. Offsets would not, and those of masked pieces are -inf; but in a row that has NaN or
    +inf somewhere, or nothing but -inf, nothing is left to be summed.
    """
    return [int(k) for k in np.flatnonzero(offsets != offsets[leader])] if math.isfinite(height) else []


def merged_sum(rests: Array, exponents: Array, exponent: float) -> float:
    """The sum relative to 2**exponent, from sums relative to powers of two that are no higher."""
    return rounded_sum(silently(np.ldexp, rests, (exponents - exponent).astype(np.int64)))


def rounded_sum(terms: Array) -> float:
    """The sum, rounded once; what is not finite is as usual."""
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):  # too large on the way, or infinities of both signs
        return float(silently(np.add.reduce, terms))
