"""Statistics of rows of any strides from one read of them: by a thread, a part of a warp, or a block.

Long rows of adjacent classes are read in chunks of 16 bytes.

With m the largest logit of a row, rest the sum of exp(x_c - m) of all others, and spread of exp(x_c - m) (m - x_c),

    logsumexp = m + log1p(rest),   entropy = log1p(rest) + spread / (1 + rest),   log p_y = -(log1p(rest) + (m - x_y))

No term is negative, so nothing cancels. Two states (m, rest, spread) merge: with d = m1 - m2 >= 0 and e = exp(-d),

    rest = rest1 + e (1 + rest2),   spread = spread1 + e (spread2 + d (1 + rest2))

rest and spread are held raised, as in `states`. The rank of the target is counted in the same read.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import IS_BAD
from fastce.cuda._kernels.lone_rows import first_of_row
from fastce.cuda._kernels.primitives import (
    device,
    fma,
    kernel,
    lanes_of,
    largest,
    load_chunk,
    load_part,
    load_real,
    reals_of,
    smallest,
    to_real,
)
from fastce.cuda._kernels.states import MOST_WARPS, apart, raised_power_of, reference_of
from fastce.cuda._kernels.statistics_ends import (
    NO_CLASS,
    NOTHING,
    OF_KNOWN,
    OF_STATE,
    THREADS,
    class_of_row,
    conclude,
    known_of_group,
    merged,
)

BLOCK = 16  # elements that are added up in the dtype of the reals


class Asked(NamedTuple):
    """What a kernel is compiled for: whether exponentials are summed up, and the spread with them."""

    is_float64: bool
    sums: bool
    entropy: bool
    in_chunks: bool  # whether adjacent classes are read 16 bytes at a time


@functools.cache
def pushed_by(asked: Asked):
    """(top, rest, spread) with one more element."""
    with_sums, with_entropy = asked.sums, asked.entropy

    @device
    def pushed(top, rest, spread, y, options):
        low, high = smallest(top, y), largest(top, y)
        if with_sums:
            d, e = apart(low, reference_of(high, options.zero), options.furthest)
            power, c = raised_power_of(d, e, options)
            term, is_above = fma(power * c, options.ln2, power), y > top
            others = fma(rest, options.lowered, options.one)  # exponentials that are moved if the top is
            if with_entropy:
                spread = term * fma(spread, options.lowered, -d * others) if is_above else fma(term, -d, spread)
            rest = others * term if is_above else rest + term
        return high, rest, spread

    return pushed


@functools.cache
def taken_by(asked: Asked):
    """What a thread knows, with element x of class c: sums, (largest, its class) and how many are before the target."""
    pushed = pushed_by(asked)

    @device
    def taken(sums, best, before, x, c, x_y, y, options):
        if x > best[0] or (x != x and best[0] == best[0]):
            best = x, np.int64(c)
        if x > x_y or (x == x_y and 0 <= c < y):
            before += 1
        return pushed(sums[0], sums[1], sums[2], x, options), best, before

    return taken


@device
def chunk_of_row(logits, k, before, first, classes):
    """Chunk k of a row whose class 0 is element ``first``, ``before`` elements into chunk 0; -inf where it has none."""
    lanes, at = lanes_of(logits), first - before + k * lanes_of(logits)
    if at >= first and at + lanes <= first + classes:
        return load_chunk(logits, at)
    return load_part(logits, at, first, first + classes)


@functools.cache
def known_by(asked: Asked):
    """What a thread knows of its elements of a row: their state, and the rest as in `taken_by`."""
    taken, with_sums = taken_by(asked), asked.sums

    @device
    def grown(state, sums, like, options):
        if with_sums:
            state = merged(state, (np.float64(sums[0]), np.float64(sums[1]), np.float64(sums[2])), like, options)
        return state

    @device
    def of_elements(logits, first, step, classes, phase, x_y, y, options):
        lanes, lowest = cuda.blockDim.x, to_real(logits, -math.inf)
        state, best, before = NOTHING, (lowest, np.int64(classes)), 0
        for begin in range(cuda.threadIdx.x, classes, lanes * BLOCK):
            sums = lowest, options.zero, options.zero
            for c in range(begin, min(begin + lanes * BLOCK, classes), lanes):
                sums, best, before = taken(sums, best, before, load_real(logits, first + c * step), c, x_y, y, options)
            state = grown(state, sums, logits, options)
        return state, best, before

    @device
    def of_chunks(logits, first, step, classes, phase, x_y, y, options):
        """The next chunk is on its way while one is looked at."""
        lanes, size, lowest = cuda.blockDim.x, lanes_of(logits), to_real(logits, -math.inf)
        state, best, before = NOTHING, (lowest, np.int64(classes)), 0
        gap, k = (phase + first) & (size - 1), np.int64(cuda.threadIdx.x)
        chunks = (gap + classes + size - 1) // size
        chunk = chunk_of_row(logits, k, gap, first, classes)
        while k < chunks:
            sums, end = (lowest, options.zero, options.zero), min(k + lanes * (BLOCK // size), chunks)
            while k < end:
                following, reals = chunk_of_row(logits, k + lanes, gap, first, classes), reals_of(logits, chunk)
                for lane in range(lanes_of(logits)):
                    c = k * size - gap + lane
                    sums, best, before = taken(sums, best, before, reals[lane], c, x_y, y, options)
                chunk, k = following, k + lanes
            state = grown(state, sums, logits, options)
        return state, best, before

    return of_chunks if asked.in_chunks else of_elements


@functools.cache
def statistics_kernel(asked: Asked):
    """The kernel for all that is asked for; of parts of rows, what is known goes to ``found``, for `parts_kernel`."""
    known_of, with_sums = known_by(asked), asked.sums

    @kernel(THREADS, 2)
    def statistics(
        logits, rows, classes, inner, cube, phase, parts, of_part, found, targets, ignore_index, top_k, options, report,
        results,
    ):  # fmt: skip
        if report[IS_BAD] > 0.0:
            return
        board = cuda.shared.array((OF_STATE, MOST_WARPS), np.float64)
        i, begin, y = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y, np.int64(0), np.int64(NO_CLASS)
        if parts > 1:
            i, begin = np.int64(cuda.blockIdx.x) // parts, np.int64(cuda.blockIdx.x) % parts * of_part
        first = first_of_row(i, inner, cube)
        if i < rows:
            y = class_of_row(i, targets, ignore_index)
        x_y = load_real(logits, first + y * cube.class_step) if y != NO_CLASS else options.zero
        length = min(classes - begin, of_part) if i < rows else 0
        own_y = min(y - begin, length)  # the target as classes of this part are counted: behind all if it comes later
        state, best, before = known_of(
            logits, first + begin * cube.class_step, cube.class_step, length, phase, x_y, own_y, options
        )
        place = np.float64(begin + best[1])
        known = known_of_group(state, np.float64(best[0]), place, np.float64(before), with_sums, board, logits, options)
        if cuda.threadIdx.x == 0 and i < rows:
            if parts > 1:
                at = np.int64(cuda.blockIdx.x) * OF_KNOWN
                for k in range(OF_KNOWN):
                    found[at + k] = known[k]
            else:
                conclude(results, i, known, np.float64(x_y), y, top_k, with_sums, options)

    return statistics


@kernel(THREADS, 4)
def best_points(logits, rows, inner, cube, targets, report, best):
    """The point of each row of a sparse matrix that has the largest logit, the first of equal ones.

    NO_CLASS of a row without any, and where a logit is NaN: nothing can be ranked there.
    """
    if report[IS_BAD] > 0.0:
        return
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        first, chosen = first_of_row(i, inner, cube), np.int64(NO_CLASS)
        largest_x = load_real(logits, first)  # of the right dtype
        for k in range(np.int64(targets.first_points[i]), np.int64(targets.first_points[i + 1])):
            c = np.int64(targets.classes[k])
            if load_real(targets.masses, k) != 0.0:
                x = load_real(logits, first + c * cube.class_step)
                if x != x:
                    chosen = np.int64(NO_CLASS)
                    break
                if chosen == NO_CLASS or x > largest_x:
                    chosen, largest_x = c, x
        best[i] = chosen
