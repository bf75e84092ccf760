"""Sums in float64, always in the same order, whichever block comes last and ends them."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import SHARE, TOTAL_LOSS, TOTAL_OF_SCALE, TOTAL_OF_SHARES
from fastce.cuda._kernels.primitives import count_both_ways, device, from_lane, kernel, store_real
from fastce.cuda._kernels.states import MOST_WARPS, WARP

THREADS = 256
PER_BLOCK = 1 << 14  # numbers that a block adds up
PER_GROUP = 1 << 10  # losses, a power of two, which the block adds up that brings the last of them


class Tally(NamedTuple):
    """How blocks meet to add up losses: those of a group first, then the sums of all groups.

    The arrays are empty if nobody asks for the sum.
    """

    sums: Any  # of each group; then of their shares
    tickets: Any  # how many groups have been added up, and how many losses of each have come
    bits: int  # of the number of a loss in its group: shifts are quicker than divisions


class ScaleTally(NamedTuple):
    """The same where derivatives by the scale are added up, too; ``sums`` has theirs after those of shares."""

    sums: Any
    tickets: Any
    bits: int
    slopes: Any  # that come with each loss
    results: Any  # where the loss of each row goes as well, if somebody asks for it


@device
def thread_of_block():
    """The number of a thread in its block."""
    return np.uint32(cuda.threadIdx.y * cuda.blockDim.x + cuda.threadIdx.x)


@device
def sum_of_warp(value):
    """The sum of a number of each thread of a warp, known to all of them."""
    step = 1
    while step < WARP:
        value += from_lane(value, step)
        step *= 2
    return value


@device
def sum_of_block(value, board):
    """The sum of a number of each thread, known to all; blocks are made of whole warps."""
    value = sum_of_warp(value)
    thread, warp = thread_of_block(), np.uint32(1)
    if thread % np.uint32(WARP) == 0:
        board[thread // np.uint32(WARP)] = value
    cuda.syncthreads()
    total = board[0]
    while warp < np.uint32(cuda.blockDim.x * cuda.blockDim.y) // np.uint32(WARP):
        total += board[warp]
        warp = np.uint32(warp + np.uint32(1))
    cuda.syncthreads()
    return total


@kernel(THREADS, 4)
def sum_up(values, count, per_block, totals, at):
    """totals[at + b] becomes the sum of the numbers of block b."""
    board = cuda.shared.array(MOST_WARPS, np.float64)
    first = np.int64(cuda.blockIdx.x) * per_block
    total = 0.0
    for k in range(first + cuda.threadIdx.x, min(first + per_block, count), cuda.blockDim.x):
        total += values[k]
    total = sum_of_block(total, board)
    if cuda.threadIdx.x == 0:
        totals[at + cuda.blockIdx.x] = total


# --- by the block that comes last ------------------------------------------------------------------------------------


@device
def are_last(tickets, at, items, all_items):
    """Whether these are the last of all items to come. One thread asks; what was written before others came is known.

    Without items nothing comes.
    """
    if items == 0:
        return False
    return count_both_ways(tickets, at, items) + items == all_items


@device
def known_to_block(flag):
    """What the first thread has put into the flag, to all threads."""
    cuda.syncthreads()
    return flag[0] != 0


@device
def comes_last(tickets, at, items, all_items, flag):
    """Whether this block brings the last of all items. What the others wrote before they came is known to it then.

    All threads take part, after a barrier or a first thread that wrote all itself; what that says of the items counts.
    """
    if thread_of_block() == 0:
        flag[0] = are_last(tickets, at, items, all_items)
    return known_to_block(flag)


@device
def group_of(first, count, bits):
    """(number, first loss, end) of the group of a loss."""
    group = first >> bits
    return group, group << bits, min(group + 1 << bits, count)


@device
def sum_between(values, first, end, board):
    """The sum of numbers first to end, by all threads of a block."""
    total = 0.0
    for k in range(first + thread_of_block(), end, cuda.blockDim.x * cuda.blockDim.y):
        total += values[k]
    return sum_of_block(total, board)


@device
def store_beside(tally, i, result):
    """Store the loss of row i where somebody asks for it beside the sum of all."""
    if tally.results.size > 0:
        store_real(tally.results, i, result)


@device
def sums_of(losses, first, end, shares, share, board):
    """The sum of losses first to end, and that of their shares if it is not finite.

    A loss that is not finite has its share at ``shares`` after it, or ``shares`` is 0; others have ``share`` of them.
    """
    begin, step = first + thread_of_block(), cuda.blockDim.x * cuda.blockDim.y
    total, of_shares = sum_between(losses, first, end, board), 0.0
    if not math.isfinite(total):
        for k in range(begin, end, step):
            has_share = shares > 0 and not math.isfinite(losses[k])
            of_shares += losses[shares + k] if has_share else share * losses[k]
        of_shares = sum_of_block(of_shares, board)
    return total, of_shares


@functools.cache
def add_up_losses_by(by_scale: bool):
    """How losses are added up; with ``by_scale`` also what is beside them in a `ScaleTally`."""

    @device
    def add_up(thread, losses, first, items, count, report, tally, board, flag):
        """Count the losses first to first + items as come; who brings the last of a group adds it up, and of all, all.

        ``count`` losses are waited for; their shares may stand after them. All threads of a block take part, as for
        `comes_last`; what thread 0 says of ``first`` and ``items`` counts, and a block brings losses of one group, or
        none.
        """
        sums, tickets, bits, slope = tally.sums, tally.tickets, tally.bits, 0.0
        if thread == 0:  # nobody else needs to know the group, as long as it is not complete
            group, begin, end = group_of(first, count, bits)
            flag[0] = are_last(tickets, 1 + group, items, end - begin)
        if not known_to_block(flag):
            return
        groups, (group, begin, end) = (count - 1 >> bits) + 1, group_of(first, count, bits)
        total, of_shares = sums_of(losses, begin, end, count if losses.size > count else 0, report[SHARE], board)
        if by_scale:
            slope = sum_between(tally.slopes, begin, end, board)
        if groups > 1:
            of_slopes = groups + groups
            if thread == 0:
                sums[group], sums[groups + group] = total, of_shares
                if by_scale:
                    sums[of_slopes + group] = slope
            if not comes_last(tickets, 0, 1, groups, flag):
                return
            total, of_shares = sums_of(sums, 0, groups, groups, report[SHARE], board)
            if by_scale:
                slope = sum_between(sums, of_slopes, of_slopes + groups, board)
        if thread == 0:
            report[TOTAL_LOSS], report[TOTAL_OF_SHARES] = total, of_shares
            if by_scale:
                report[TOTAL_OF_SCALE] += slope  # to that of the launches before

    return add_up


@device
def put_on(board, thread, result, share):
    """Tell the block the result of this thread, and its share; see `add_up_board_by`."""
    board[0, thread], board[1, thread] = result, share


@functools.cache
def add_up_board_by(by_scale: bool):
    """How the results that threads of each block have put on its board are added up: by the first warp.

    With ``by_scale`` there are the derivatives of these, too, in a third row.
    """
    add_up_losses = add_up_losses_by(by_scale)

    @device
    def add_up_board(board, thread, threads, sums, report, tally, flag):
        """After a barrier; the others have little to do here.

        Results that are not finite have shares there, others `SHARE` of them.
        """
        block, blocks = np.uint32(cuda.blockIdx.x), np.uint32(cuda.gridDim.x)
        if thread < WARP:
            total, of_shares, slope = 0.0, 0.0, 0.0
            for k in range(0, threads, WARP):
                total += board[0, k + thread]
            total = sum_of_warp(total)
            if not math.isfinite(total):
                for k in range(0, threads, WARP):
                    result = board[0, k + thread]
                    of_shares += report[SHARE] * result if math.isfinite(result) else board[1, k + thread]
                of_shares = sum_of_warp(of_shares)
            if by_scale:
                for k in range(0, threads, WARP):
                    slope += board[2, k + thread]
                slope = sum_of_warp(slope)
            if thread == 0:
                sums[block], sums[blocks + block] = total, of_shares
                if by_scale:
                    tally.slopes[block] = slope
        add_up_losses(thread, sums, np.int64(block), 1, np.int64(blocks), report, tally, board[0], flag)

    return add_up_board


add_up_losses = add_up_losses_by(False)


@kernel(THREADS, 4)
def add_up_all(losses, count, report, tally):
    """The sum of losses of earlier launches, and of their shares: a block takes those of a group."""
    board = cuda.shared.array(MOST_WARPS, np.float64)
    flag = cuda.shared.array(1, np.int32)
    first = np.int64(cuda.blockIdx.x) << tally.bits
    items = min(np.int64(1) << tally.bits, count - first)
    add_up_losses(cuda.threadIdx.x, losses, first, items, count, report, tally, board, flag)
