"""Statistics of a row from one read of it: logsumexp, maximum and where, entropy, the target's probability and rank.

With m the largest logit, taken out of the row's sum S = e_m + rest,

    H = -sum_c p_c log p_c = log1p(rest / e_m) + sum_c p_c (m - x_c)
    -log p_y = log1p(rest / e_m) if x_y = m,  else log S - (x_y - reference)

No term is negative, so nothing cancels: entropies and log probabilities near 0 keep their digits, however confident
the row is. m is not known while the row is read. So every lane holds its largest element back, and adds the smaller
one of that and the next: exp(min(top, x)), top = max(top, x). In the end the lanes' largest are added, all but m.
"""

import math
from typing import Any, NamedTuple

from numba import types

from fastce.cpu._kernels.blocks import BLOCK, guessed_maximum, on_block, scratch_block, wide_scratch_block
from fastce.cpu._kernels.ranks import first_index, maximum_and_rank, rank_in_block
from fastce.cpu._kernels.rows import reference_near
from fastce.cpu._kernels.states import LANES, above
from fastce.cpu._kernels.tops import is_coarse, row_sum_in_float64
from fastce.cpu._vectors.compiler import inline, kernel, matrix, structure, vector
from fastce.cpu._vectors.exponential import LN2, SPARE, add_exp, exp, exp_in_float64, scaling
from fastce.cpu._vectors.lanes import lesser_and_top
from fastce.cpu._vectors.logarithm import log_times_power
from fastce.cpu._vectors.memory import (
    element,
    elements_ahead,
    lanes_of,
    load,
    load_first,
    prefetch,
    row_pointer,
    to_real,
)
from fastce.cpu._vectors.simd import fma, maximum_of_lanes, where_less
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide

TOO_FAR = 36.0  # a maximum so far above the reference asks for a new one: 2**52, and the reference is 2**-60
CANCELLED = 2.0  # how many times larger than the entropy two terms of it may be that nearly cancel


class Statistics(NamedTuple):
    """Where the results go, one per row; an empty array for what is not asked for."""

    logsumexp: Any  # float64
    argmax: Any  # int64
    max: Any  # float64
    entropy: Any  # float64
    target_log_prob: Any  # float64
    target_rank: Any  # int64


@inline
def add_lesser(lesser, sums, reference, with_entropy):
    """The sums of e and of e d with one more vector that is not held back: e is its exp, d how far it is from near.

    A NaN goes into e. -inf becomes a number whose exp is exactly 0 as well, for 0 * inf would be NaN.
    """
    exponent, near, lowest, scaled_by = reference
    exps, products = sums
    if not with_entropy:
        return add_exp(exps, lesser, exponent, scaled_by), products
    lesser = where_less(lesser, lowest, lowest, lesser)
    e = exp(lesser, exponent, scaled_by)
    return exps + e, fma(e, lesser - near, products)


@inline
def add_wide_sums(state, sums, with_entropy):
    """The state's sums, in float64, with those of a chunk."""
    top, chunk_of_top, exps, products = state
    if with_entropy:
        products = add_wide(products, sums[1])
    return top, chunk_of_top, add_wide(exps, sums[0]), products


@inline
def add_block(block, first, row_start, row_stop, rest):
    """The state (top, the chunk it is from, sums of e and of e d) of all lanes, with this block added.

    A chunk is as many vectors as a vector has lanes. They are added in the row's dtype, their sum in float64.
    """
    state, reference, with_entropy = rest
    lanes = lanes_of(block)
    chunk = lanes * lanes
    start, stop, number = first, first + row_stop - row_start, row_start // chunk
    zero = load_first(block, start, 0, to_real(block, 0.0))
    while start < stop:
        top, chunk_of_top, exps, products = state
        before, sums = top, (zero, zero)
        if start + chunk <= stop:
            for i in range(start, start + chunk, lanes):
                prefetch(block, i + elements_ahead(block))
                lesser, top = lesser_and_top(load(block, i), top)
                sums = add_lesser(lesser, sums, reference, with_entropy)
        else:
            for i in range(start, stop, lanes):
                lesser, top = lesser_and_top(load_first(block, i, stop - i, to_real(block, -math.inf)), top)
                sums = add_lesser(lesser, sums, reference, with_entropy)
        chunk_of_top = where_less(before, top, to_real(block, -number), chunk_of_top)
        state = add_wide_sums((top, chunk_of_top, exps, products), sums, with_entropy)
        number += 1
        start += chunk
    return state


@inline
def row_pass(row, classes, y, capped_by, offset, reference, room, with_entropy, with_rank):
    """(m - offset, start of its chunk, rest, sum of e d without m, how often m occurs, rank of y).

    The first occurrence of m is in the chunk that the first lane to hold m has it from.
    """
    zero = to_real(row, 0.0)
    x_y = to_real(row, element(row, y) if with_rank else 0.0)
    rank, chunk = 0, lanes_of(row) * lanes_of(row)
    lowest = load_first(row, 0, 0, to_real(row, -math.inf))
    state = (lowest, lowest, zeros_wide(), zeros_wide())
    for start in range(0, classes, BLOCK):
        stop = min(start + BLOCK, classes)
        state = on_block(add_block, row, start, stop, capped_by, offset, room, (state, reference, with_entropy))
        if with_rank:
            rank += rank_in_block(row, start, stop, y, x_y)
    top, chunk_of_top = state[0], state[1]
    m = maximum_of_lanes(top)
    at = int(-maximum_of_lanes(where_less(top, m, lowest, chunk_of_top))) * chunk
    times = sum_wide(add_wide(zeros_wide(), where_less(top, m, zero, to_real(row, 1.0))))
    nothing = load_first(row, 0, 0, zero)
    last = add_lesser(where_less(top, m, top, lowest), (nothing, nothing), reference, with_entropy)
    state = add_wide_sums(state, last, with_entropy)
    return float(m), at, sum_wide(state[2]), sum_wide(state[3]), times, rank


@inline
def reference_of(row, exponent, near, scaled_by):
    """What `add_lesser` measures from: 2**exponent, near, and a number whose exp is 0."""
    return to_real(row, exponent), to_real(row, near), to_real(row, (exponent - 1100.0) * LN2), scaled_by


@inline
def pass_from(row, classes, y, offset, exponent, near, with_entropy, with_rank, room):
    """`row_pass` of uncapped logits."""
    zero = to_real(row, 0.0)
    uncapped, real_offset = (zero, zero), to_real(row, offset)
    reference = reference_of(row, exponent, near, scaling(row, 1.0, 1.0))
    if with_entropy:
        return row_pass(row, classes, y, uncapped, real_offset, reference, room, True, with_rank)
    return row_pass(row, classes, y, uncapped, real_offset, reference, room, False, with_rank)


@inline
def log_of_sum(total, exponent, offset, m, rest, e_m):
    """logsumexp; near 0, where one term dominates, from that term."""
    result = offset + log_times_power(total, exponent)
    return m + math.log1p(rest / e_m) if abs(result) < 0.5 and rest < e_m else result


@inline
def statistics_of_row(row, classes, y, with_sums, with_logsumexp, with_entropy, with_rank, room, wide_room):
    """(logsumexp, m, start of its chunk, entropy, log probability and rank of class y; -1: no such class).

    The reference is guessed, and the row done again from m if m is out of exp's range, or if the entropy would be the
    small difference of (m - near) rest and the sum of e d. A row whose largest element is not finite has no
    probabilities; its logsumexp is that element.
    """
    zero = to_real(row, 0.0)
    guess = math.nan
    if with_sums:
        guess = guessed_maximum(row, classes, (zero, zero), room)
        if y >= 0:
            guess = max(guess, element(row, y))
    for _ in range(3):  # from a guess, from m, and from what `maximum_and_rank` says if there is a NaN
        if reference_near(row, guess, 1.0)[0] != 0.0:  # NaN, infinite or very large, or there is nothing to sum up
            m, at, rank = maximum_and_rank(row, classes, y if with_rank else -1, room)
            if not (with_sums and math.isfinite(m)):
                return m, m, at, math.nan, math.nan, -1 if math.isnan(m) else rank
            guess = m
        offset, exponent = reference_near(row, guess, 1.0)
        near = guess - offset
        m, at, rest, products, times, rank = pass_from(
            row, classes, y, offset, exponent, near, with_entropy, with_rank, room
        )
        if TOO_FAR < m - near < math.inf:
            guess = m + offset
            continue
        if math.isnan(rest) or m - near == math.inf:
            guess = math.nan
            continue
        e_m = exp_in_float64(m, exponent, 1.0)
        from_m = (m - near) * rest - products  # sum of e_c (m - x_c)
        rest += (times - 1.0) * e_m
        total = e_m + rest
        log_m = math.log1p(rest / e_m)  # -log p_m
        entropy = log_m + from_m / total
        if not (with_entropy and abs(m - near) * rest > CANCELLED * entropy * total):
            break
        guess = m + offset
    lse = log_of_sum(total, exponent, offset, m + offset, rest, e_m)
    # of up to two vectors, one of which is held back, nothing has been rounded in float32
    is_rounded = lanes_of(row) != LANES and 2 * lanes_of(row) < classes
    if with_logsumexp and is_rounded and is_coarse(lse, log_m, times == lanes_of(row)):
        rest = row_sum_in_float64(row, classes, m + offset, exponent, wide_room)  # the offset is 0
        lse = log_of_sum(e_m + rest, exponent, offset, m + offset, rest, e_m)
    log_prob = 0.0
    if y >= 0:
        x_y = element(row, y) - offset
        log_total = math.log(total * 2.0**-SPARE)
        log_prob = -log_m + 0.0 if x_y == m else -(log_total + above(exponent + SPARE, 1.0, x_y))
    return lse, m + offset, at, entropy, log_prob, rank


def _types(storage):
    floats, integers = vector(types.float64), vector(types.int64)
    results = structure(Statistics, floats, integers, floats, floats, floats, integers)
    return matrix(storage), integers, results


@kernel(_types)
def statistics_rows(logits, targets, results):
    """What is asked for of every row; ``targets`` are class indices, empty if nothing asks for them."""
    rows, classes = logits.shape
    with_rank, with_entropy = results.target_rank.shape[0] > 0, results.entropy.shape[0] > 0
    with_logsumexp = results.logsumexp.shape[0] > 0
    with_sums = with_entropy or with_logsumexp or results.target_log_prob.shape[0] > 0
    wide_room = wide_scratch_block()
    for i in range(rows):
        row = row_pointer(logits, i)
        y = -1
        if targets.shape[0] > 0:
            y = targets[i]
            following = min(i + 2, rows - 1)
            prefetch(row_pointer(logits, following), targets[following])
        lse, m, at, entropy, log_prob, rank = statistics_of_row(
            row, classes, y, with_sums, with_logsumexp, with_entropy, with_rank, scratch_block(row), wide_room
        )
        if with_logsumexp:
            results.logsumexp[i] = lse
        if results.max.shape[0] > 0:
            results.max[i] = m
        if results.argmax.shape[0] > 0:
            results.argmax[i] = first_index(row, at, min(at + BLOCK, classes), m)
        if with_entropy:
            results.entropy[i] = entropy
        if results.target_log_prob.shape[0] > 0:
            results.target_log_prob[i] = log_prob
        if with_rank:
            results.target_rank[i] = rank
