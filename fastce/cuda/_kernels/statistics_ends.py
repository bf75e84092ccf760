"""How the statistics of a row end: what its threads, or its parts, know is put together, and stored.

Of rows so long and so few that a block for each would leave most of a GPU idle, each part has a block; what it knows,
as `Known`, goes to global memory, from where a second kernel takes it.
"""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.groups import first_of_group, is_before, sum_of_group
from fastce.cuda._kernels.jobs import IS_BAD
from fastce.cuda._kernels.lone_rows import first_of_row
from fastce.cuda._kernels.primitives import device, from_lane, kernel, largest, load_real, smallest
from fastce.cuda._kernels.states import MOST_WARPS, WARP, raised_term_of, reference_of

THREADS = 256
NO_CLASS = -1  # of a row without a target
OF_STATE = 3
NOTHING = (-math.inf, 0.0, 0.0)  # the state of no elements


class Statistics(NamedTuple):
    """Where the results go, one for each row; an empty array for what is not asked for."""

    logsumexp: Any
    rest: Any  # float64: the sum of exp(x - max) of all elements but the largest
    argmax: Any  # int64
    max: Any
    entropy: Any
    target_log_prob: Any
    target_rank: Any  # int64
    in_top_k: Any  # bool


class Known(NamedTuple):
    """What is known of a row, or of a part of one; in float64."""

    top: Any
    rest: Any
    spread: Any
    best: Any  # the largest logit, NaN if there is one
    place: Any  # its class
    before: Any  # how many classes come before the target


OF_KNOWN = len(Known._fields)


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
    if results.rest.size > 0:
        results.rest[i] = rest if is_defined else 0.0
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


@device
def known_of_group(state, best, place, before, with_sums, board, like, options):
    """What the threads of a group know together, known to the first of them."""
    best, place = first_of_group(best, place, board)
    if with_sums:
        state = merged_of_group(state, board, like, options)
    return Known(state[0], state[1], state[2], best, place, sum_of_group(before, board))


@device
def conclude(results, i, known, x_y, y, top_k, with_sums, options):
    """Store the results of row i."""
    rank = np.int64(-1) if y == NO_CLASS or known.best != known.best else np.int64(known.before)
    if with_sums:
        store_sums(results, i, known, x_y, y, options)
    place = 0.0 if known.best == -math.inf else known.place  # 0 if all are -inf
    store_ranks(results, i, known.best, place, rank, top_k)


@functools.cache
def parts_kernel(with_sums: bool):
    """The kernel that puts the parts of rows together: a warp takes a row."""

    @kernel(THREADS, 2)
    def parts_of_statistics(
        logits, rows, inner, cube, parts, found, targets, ignore_index, top_k, options, report, results
    ):
        if report[IS_BAD] > 0.0:
            return
        board = cuda.shared.array((OF_STATE, MOST_WARPS), np.float64)
        i = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
        state, best, place, before = NOTHING, -math.inf, math.inf, 0.0
        for part in range(cuda.threadIdx.x, parts if i < rows else 0, cuda.blockDim.x):
            first = (i * parts + part) * OF_KNOWN
            if with_sums:
                other = found[first], found[first + 1], found[first + 2]
                state = merged(state, other, logits, options)
            if is_before(found[first + 3], found[first + 4], best, place):
                best, place = found[first + 3], found[first + 4]
            before += found[first + 5]
        known = known_of_group(state, best, place, before, with_sums, board, logits, options)
        if cuda.threadIdx.x == 0 and i < rows:
            y, x_y = class_of_row(i, targets, ignore_index), options.zero
            if y != NO_CLASS:
                x_y = load_real(logits, first_of_row(i, inner, cube) + y * cube.class_step)
            conclude(results, i, known, np.float64(x_y), y, top_k, with_sums, options)

    return parts_of_statistics
