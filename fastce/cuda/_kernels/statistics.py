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
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.groups import first_of_group, sum_of_group
from fastce.cuda._kernels.jobs import IS_BAD
from fastce.cuda._kernels.lone_rows import first_of_row
from fastce.cuda._kernels.primitives import (
    device,
    fma,
    from_lane,
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
from fastce.cuda._kernels.states import (
    MOST_WARPS,
    WARP,
    apart,
    raised_power_of,
    raised_term_of,
    reference_of,
)

THREADS = 256
BLOCK = 16  # elements that are added up in the dtype of the reals
NO_CLASS = -1  # of a row without a target
OF_STATE = 3


class Asked(NamedTuple):
    """What a kernel is compiled for: whether exponentials are summed up, and the spread with them."""

    is_float64: bool
    sums: bool
    entropy: bool
    in_chunks: bool  # whether adjacent classes are read 16 bytes at a time


class Statistics(NamedTuple):
    """Where the results go, one for each row; an empty array for what is not asked for."""

    logsumexp: Any
    argmax: Any  # int64
    max: Any
    entropy: Any
    target_log_prob: Any
    target_rank: Any  # int64
    in_top_k: Any  # bool


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


@device
def merged(one, other, like, options):
    """The states (top, rest, spread) of two parts together; in float64."""
    high, low, lowered = largest(one[0], other[0]), smallest(one[0], other[0]), np.float64(options.lowered)
    difference, term = raised_term_of(low, reference_of(high, 0.0), like, options)
    of_high, of_low = (one, other) if one[0] >= other[0] else (other, one)
    others = 1.0 + of_low[1] * lowered
    return high, of_high[1] + others * term, of_high[2] + term * (of_low[2] * lowered - difference * others)


@device
def merged_of_group(state, board, like, options):
    """The state of the row, known to its first thread."""
    lanes, step = cuda.blockDim.x, 1
    while step < min(lanes, WARP):
        other = from_lane(state[0], step), from_lane(state[1], step), from_lane(state[2], step)
        state = merged(state, other, like, options)
        step *= 2
    if lanes > WARP:
        if cuda.threadIdx.x % WARP == 0:
            warp = cuda.threadIdx.x // WARP
            board[0, warp], board[1, warp], board[2, warp] = state
        cuda.syncthreads()
        if cuda.threadIdx.x == 0:
            for warp in range(1, lanes // WARP):
                state = merged(state, (board[0, warp], board[1, warp], board[2, warp]), like, options)
        cuda.syncthreads()
    return state


@device
def class_of_row(i, classes_of_rows, ignore_index):
    """The target of row i, if it has one."""
    if classes_of_rows.size == 0 or np.int64(classes_of_rows[i]) == ignore_index:
        return np.int64(NO_CLASS)
    return np.int64(classes_of_rows[i])


@device
def store_sums(results, i, state, x_y, y, options):
    """What follows from the sums of a row; nan where it has no probabilities."""
    top, rest, spread = state[0], state[1] * np.float64(options.lowered), state[2] * np.float64(options.lowered)
    is_defined, tail = not math.isinf(top), math.log1p(rest)
    if results.logsumexp.size > 0:
        results.logsumexp[i] = top + tail if is_defined else top
    if results.entropy.size > 0:
        results.entropy[i] = tail + spread / (1.0 + rest) if is_defined else math.nan
    if results.target_log_prob.size > 0:
        results.target_log_prob[i] = 0.0 - (tail + (top - x_y)) if is_defined and y != NO_CLASS else math.nan


@device
def store_ranks(results, i, top, place, rank, top_k):
    """The largest logit, where it is, and the rank of the target, -1 where nothing can be ranked."""
    if results.max.size > 0:
        results.max[i] = top
    if results.argmax.size > 0:
        results.argmax[i] = np.int64(place)
    if results.target_rank.size > 0:
        results.target_rank[i] = rank
    if results.in_top_k.size > 0:
        results.in_top_k[i] = 0 <= rank < top_k


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
        state, best, before = (-math.inf, 0.0, 0.0), (lowest, np.int64(classes)), 0
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
        state, best, before = (-math.inf, 0.0, 0.0), (lowest, np.int64(classes)), 0
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
    """The kernel for all that is asked for."""
    known_of, with_sums = known_by(asked), asked.sums

    @kernel(THREADS, 2)
    def statistics(logits, rows, classes, inner, cube, phase, targets, ignore_index, top_k, options, report, results):
        if report[IS_BAD] > 0.0:
            return
        board = cuda.shared.array((OF_STATE, MOST_WARPS), np.float64)
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
        first, y = first_of_row(i, inner, cube), np.int64(NO_CLASS)
        if i < rows:
            y = class_of_row(i, targets, ignore_index)
        x_y = load_real(logits, first + y * cube.class_step) if y != NO_CLASS else options.zero
        end = classes if i < rows else 0
        state, best, before = known_of(logits, first, cube.class_step, end, phase, x_y, y, options)
        largest_of_row, where = first_of_group(np.float64(best[0]), np.float64(best[1]), board)
        if with_sums:
            state = merged_of_group(state, board, logits, options)
        rank = np.int64(sum_of_group(np.float64(before), board))
        if cuda.threadIdx.x == 0 and i < rows:
            if y == NO_CLASS or largest_of_row != largest_of_row:
                rank = np.int64(-1)
            if with_sums:
                store_sums(results, i, state, np.float64(x_y), y, options)
            is_found = where < classes  # else all are -inf
            store_ranks(results, i, largest_of_row, where if is_found else 0.0, rank, top_k)

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
