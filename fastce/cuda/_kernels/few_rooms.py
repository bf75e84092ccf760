"""How the rows of few classes of a block stand in shared memory, and how that is filled and emptied in whole chunks.

They are one stretch of memory, and stand there as they are. A thread reads its row in the widest words that rows
consist of; where these are an odd number, the threads of a warp find them in different banks. Rows of an even number of
chunks are one more chunk apart: after as many chunks, one is left out. Where such rows begin between chunks, what a row
has of its last chunk comes after the gap; and only what it has of its first and last one is read in narrower words.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.primitives import (
    device,
    fetch_if,
    get_reals_by,
    held,
    hold,
    load_part,
    put_reals_by,
    store_chunk,
    store_part,
    wait_for_fetched,
)


class Stand(NamedTuple):
    """How the rows of a block stand in shared memory, for which its kernel is compiled."""

    classes: int
    rows: int
    lanes: int  # of a chunk
    before: int  # elements of the first chunk that are of the block before

    @property
    def is_whole(self) -> bool:
        """Whether rows are as long as a number of chunks."""
        return self.classes > 0 and self.classes % self.lanes == 0

    @property
    def narrow(self) -> int:
        """Elements of the widest words that all rows consist of."""
        return math.gcd(self.classes, self.lanes, self.before)

    @property
    def width(self) -> int:
        """Elements that a thread reads at once, from ``head`` to ``tail``."""
        return self.lanes if self.is_whole else self.narrow

    @property
    def head(self) -> int:
        """Classes before the first chunk that is a row's alone."""
        return -self.before % self.lanes if self.is_whole else 0

    @property
    def tail(self) -> int:
        """The first class after the last one."""
        return self.classes - self.before if self.is_whole else self.classes

    @property
    def gap(self) -> int:
        """Chunks of a row, if there is to be one more between rows, else 0."""
        chunks = self.classes // self.lanes
        return chunks if self.is_whole and chunks % 2 == 0 else 0

    @property
    def shift(self) -> int:
        """How much further on elements are from ``tail`` on."""
        return self.lanes if self.gap else 0

    @property
    def chunks(self) -> int:
        """All that the block has to do with."""
        return -(-(self.before + self.rows * self.classes) // self.lanes)

    @property
    def step(self) -> int:
        """From row to row, in elements."""
        return self.classes + self.shift


def place_by(stand: Stand):
    """Where class c is of a row that begins there."""
    tail, shift = stand.tail, stand.shift

    @device
    def shifted(first, c):
        return first + c + (shift if c >= tail else 0)

    @device
    def as_it_is(first, c):
        return first + c

    return shifted if shift and tail < stand.classes else as_it_is


def get_row_by(stand: Stand):
    """Bring the row that begins there into registers."""
    get_wide, get_narrow = get_reals_by(stand.width), get_reals_by(stand.narrow)
    width, narrow, head, tail = stand.width, stand.narrow, stand.head, stand.tail
    classes, shift = stand.classes, stand.shift

    @device
    def get_row(ys, room, like, first):
        for c in range(0, head, narrow):
            reals = get_narrow(room, like, first + c)
            for k in range(narrow):
                ys[c + k] = reals[k]
        for c in range(head, tail, width):
            reals = get_wide(room, like, first + c)
            for k in range(width):
                ys[c + k] = reals[k]
        for c in range(tail, classes, narrow):
            reals = get_narrow(room, like, first + c + shift)
            for k in range(narrow):
                ys[c + k] = reals[k]

    return get_row


def put_row_by(stand: Stand):
    """Put it back."""
    put_wide, put_narrow = put_reals_by(stand.width), put_reals_by(stand.narrow)
    width, narrow, head, tail = stand.width, stand.narrow, stand.head, stand.tail
    classes, shift = stand.classes, stand.shift

    @device
    def put_row(ys, room, like, first):
        for c in range(0, head, narrow):
            put_narrow(room, like, first + c, ys, c)
        for c in range(head, tail, width):
            put_wide(room, like, first + c, ys, c)
        for c in range(tail, classes, narrow):
            put_narrow(room, like, first + c + shift, ys, c)

    return put_row


def slot_by(stand: Stand):
    """Where in shared memory chunk k of the block is."""
    gap = np.uint32(max(stand.gap, 1))

    @device
    def after_gaps(k):
        return np.int32(k + np.int32(np.uint32(k) // gap))

    @device
    def as_it_is(k):
        return k

    return after_gaps if stand.gap else as_it_is


def chunks_by(stand: Stand, take_if, take_part):
    """Take all chunks of a block's first rows, from element ``start`` on; those cut at an end in part.

    Nothing but the number of a thread's last chunk is in doubt where a block has all its rows, in whole chunks.
    """
    slot_of, lanes, before, threads, chunks = slot_by(stand), stand.lanes, stand.before, stand.rows, stand.chunks
    turns, classes = -(-chunks // threads), stand.classes
    is_whole = before == 0 and threads * classes % lanes == 0

    @device
    def take_chunks(thread, room, array, start, rows):
        k, at = np.int32(thread), start - before + np.int64(thread) * lanes
        if is_whole and rows == threads:
            for turn in range(turns):
                mine = np.int32(k + turn * threads)
                take_if(turn < turns - 1 or mine < chunks, room, slot_of(mine), array, at + turn * threads * lanes)
        else:
            end = start + np.int64(rows) * classes
            while at < end:
                if at >= start and at + lanes <= end:
                    take_if(True, room, slot_of(k), array, at)
                else:
                    take_part(room, slot_of(k), array, at, start, end)
                k, at = np.int32(k + threads), at + threads * lanes

    return take_chunks


def fill_by(stand: Stand):
    """Bring elements into shared memory; all loads are begun before one is waited for."""

    @device
    def fetch_part(room, slot, logits, at, start, end):
        hold(room, slot, load_part(logits, at, start, end))

    fetch_chunks = chunks_by(stand, fetch_if, fetch_part)

    @device
    def fill(thread, room, logits, start, rows):
        fetch_chunks(thread, room, logits, start, rows)
        wait_for_fetched()
        cuda.syncthreads()

    return fill


def empty_by(stand: Stand):
    """Store the elements that are in shared memory, after a barrier."""

    @device
    def store_from_if(is_there, room, slot, out, at):
        if is_there:
            store_chunk(out, at, held(room, slot))

    @device
    def store_part_from(room, slot, out, at, start, end):
        store_part(out, at, start, end, held(room, slot))

    return chunks_by(stand, store_from_if, store_part_from)
