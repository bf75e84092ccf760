"""Blocks of rows on a pool of threads.

Kernels run without the GIL, so plain threads are enough; the caller works too, and waits for nobody but those that
have begun (pool.py). What Numba's own threading layers do to a process (killed after a fork, aborted by two threads at
once) cannot happen here. Blocks are cut by shape alone and written to their own places, so the number of threads
changes no bit of any result.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from fastce.arguments.numbers import checked_num_threads
from fastce.cpu.pool import MOST_THREADS, work_together

BLOCK_BYTES = 1 << 20  # a block is worth the few microseconds that it costs, and still fits a second-level cache
LARGEST_BLOCK_BYTES = 1 << 25  # Ctrl-C is heard between blocks
INLINE_BYTES = 1 << 21  # less is not worth waking a thread, which can take a tenth of a millisecond
BLOCKS = 64

_of_this_thread: ContextVar[int | None] = ContextVar("fastce.threads", default=None)
_of_all_threads: int | None = None


def _cgroup_cpus() -> float:
    """The CPU quota of this container, infinite without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return float(quota) / float(period)
    except (OSError, ValueError):
        return float("inf")


def _default_num_threads() -> int:
    """As many as the process may use: affinity, cgroup quota, and the two variables that people set."""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [cpus, _cgroup_cpus(), MOST_THREADS]
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        first = os.environ.get(name, "").split(",")[0].strip()
        if first.isdigit():
            limits.append(int(first))
    return max(1, int(min(limits)))


def get_num_threads() -> int:
    """Return the number of threads that calls from this thread use.

    Examples
    --------
    >>> import fastce
    >>> with fastce.threads(1):
    ...     fastce.get_num_threads()
    1
    """
    global _of_all_threads
    here = _of_this_thread.get()
    if here is not None:
        return here
    if _of_all_threads is None:
        _of_all_threads = _default_num_threads()
    return _of_all_threads


def set_num_threads(n: int) -> None:
    """Set the number of threads that calls use from now on, in every thread of the process.

    Parameters
    ----------
    n : int
        At least 1. The default respects CPU affinity, cgroup quotas, ``NUMBA_NUM_THREADS`` and ``OMP_NUM_THREADS``.

    See Also
    --------
    threads : The same for a block of code.

    Examples
    --------
    >>> import fastce
    >>> before = fastce.get_num_threads()
    >>> fastce.set_num_threads(1)
    >>> fastce.get_num_threads()
    1
    >>> fastce.set_num_threads(before)
    """
    global _of_all_threads
    _of_all_threads = checked_num_threads(n, "n")


@contextmanager
def threads(n: int) -> Iterator[None]:
    """Use ``n`` threads for the calls that this thread makes inside the ``with`` block.

    Parameters
    ----------
    n : int
        At least 1.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> with fastce.threads(2):
    ...     float(fastce.logsumexp(np.zeros(8)))
    2.0794415416798357
    """
    before = _of_this_thread.get()
    _of_this_thread.set(checked_num_threads(n, "n"))
    try:
        yield
    finally:
        _of_this_thread.set(before)


def inline_bytes(*, in_columns: bool) -> int:
    """The largest call that is one block, for one thread; of few classes it is less, whose short rows cost more."""
    return INLINE_BYTES // 4 if in_columns else INLINE_BYTES


def cut_rows(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """The [start, stop) of every block: a megabyte each, or a 64th of the rows if that is more, within bounds."""
    if rows * row_bytes <= inline_bytes(in_columns=False):
        return [(0, rows)]
    row_bytes = max(1, row_bytes)
    size = max(1, min(max(BLOCK_BYTES // row_bytes, rows // BLOCKS), LARGEST_BLOCK_BYTES // row_bytes))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def for_each(blocks: list[tuple[int, int]], work: Callable[[int, int], None], n_threads: int | None) -> None:
    """Call ``work(start, stop)`` once for every block, from up to ``n_threads`` threads, and return when all is done.

    The first exception, Ctrl-C included, stops the others after their current block and is raised here, when they have
    ended: nobody works on a block any more.
    """
    if len(blocks) == 1 and n_threads is None:
        work(*blocks[0])
        return
    number = get_num_threads() if n_threads is None else checked_num_threads(n_threads)
    if len(blocks) == 1 or number == 1:
        for start, stop in blocks:
            work(start, stop)
        return
    remaining = deque(blocks)

    def take_blocks() -> None:
        while True:
            try:
                start, stop = remaining.popleft()
            except IndexError:
                return
            work(start, stop)

    work_together(take_blocks, remaining.clear, min(number, len(blocks)) - 1)


def in_turn(tasks: Sequence[tuple[Any, ...]], work: Callable[..., None], n_threads: int | None) -> None:
    """Call ``work(*task)`` for all of them, as `for_each` does for blocks."""
    if len(tasks) == 1 and n_threads is None:
        work(*tasks[0])
        return

    def of_block(first: int, last: int) -> None:
        for task in tasks[first:last]:
            work(*task)

    if tasks:
        for_each([(k, k + 1) for k in range(len(tasks))], of_block, n_threads)
