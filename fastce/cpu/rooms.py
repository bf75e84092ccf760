"""Memory for blocks of rows that are copied, and for products, kept from call to call.

New memory is in no cache, and the system maps it page by page, which takes longer than to copy into it. Lines of a
block are written a few elements at a time, each line in pages of its own: of those of 4 KiB more than a processor
remembers, and to look one up takes longer than to transpose what goes there. Blocks that are not small lie in huge
pages, where the system has them.
"""

import math
import threading
from collections import deque
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array

LINE_BYTES = 64  # of the cache
LARGEST_KEPT = 1 << 23  # bytes
HUGE_PAGE = 1 << 21  # bytes; for arrays of two of them, and larger, NumPy asks the system for such pages
SMALL = 1 << 18  # bytes, of too few pages to matter
_kept: deque[Array] = deque(maxlen=16)  # what no call has; threads, and a signal handler's call, take from it at once


class Room:
    """Memory for blocks, one in each thread: its next block replaces its last."""

    def __init__(self) -> None:
        self._of_threads: dict[int, Array] = {}

    def of(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A block of this shape, at the start of what the thread has."""
        thread, size = threading.get_ident(), math.prod(shape) * dtype.itemsize
        memory = self._of_threads.get(thread)
        if memory is None or memory.size < size:
            memory = self._of_threads[thread] = _memory(size)
        return memory[:size].view(dtype).reshape(shape)

    def lines(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """The same with an odd number of lines of the cache from line to line: they keep out of each other's places."""
        of_cache = LINE_BYTES // dtype.itemsize
        apart = (-(-shape[-1] // of_cache) | 1) * of_cache
        return self.of((*shape[:-1], apart), dtype)[..., : shape[-1]]

    def __del__(self) -> None:
        _kept.extend(memory for memory in self._of_threads.values() if memory.size <= LARGEST_KEPT)


def _memory(size: int) -> Array:
    """So many bytes at least: what was last given back, if it is as much."""
    try:
        last = _kept.pop()
    except IndexError:
        last = None
    if last is not None and last.size >= size:
        return last
    boundary = LINE_BYTES if size < SMALL else HUGE_PAGE
    memory = np.empty((-(-size // boundary) + 1) * boundary, np.uint8)
    first = -memory.ctypes.data % boundary
    return memory[first : first + memory.size - boundary]
