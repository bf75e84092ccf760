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
SMALLEST_RUN_BYTES = 1 << 19  # a run of rows takes some tens of microseconds of Python, once the cache has been swept
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


def cut_runs(rows: int, row_bytes: int, n_threads: int | None) -> list[tuple[int, int]]:
    """The [start, stop) of runs of rows, for work on whose results it does not tell where rows are cut."""
    if rows * row_bytes <= inline_bytes(in_columns=False):
        return [(0, rows)]
    return shares(rows, SMALLEST_RUN_BYTES // max(1, row_bytes), LARGEST_BLOCK_BYTES // max(1, row_bytes), n_threads)


def shares(count: int, least: int, most: int, n_threads: int | None) -> list[tuple[int, int]]:
    """The [start, stop) of runs of so many things, from the ``least`` to the ``most`` of them at a time.

    Each is a thread's share of what is left: few calls do most of it, and small ones at the end let all threads end
    together, however late a thread has been woken.
    """
    number, runs, start = number_of(n_threads), [], 0
    while start < count:
        stop = min(start + max(1, min(max((count - start) // number, least), most)), count)
        runs.append((start, stop))
        start = stop
    return runs


def number_of(n_threads: int | None) -> int:
    """How many threads a call uses that was given this ``n_threads``."""
    return get_num_threads() if n_threads is None else checked_num_threads(n_threads)


def for_each(tasks: Sequence[tuple[Any, ...]], work: Callable[..., object], n_threads: int | None) -> None:
    """Call ``work(*task)`` once for every task, from up to ``n_threads`` threads, and return when all is done.

    Blocks of rows are such tasks, (start, stop). The first exception, Ctrl-C included, stops the others after their
    current task and is raised here, when they have ended: nobody works on anything any more.
    """
    if len(tasks) == 1 and n_threads is None:
        work(*tasks[0])
        return
    number = number_of(n_threads)
    if len(tasks) <= 1 or number == 1:
        for task in tasks:
            work(*task)
        return
    remaining = deque(tasks)

    def take_tasks() -> None:
        while True:
            try:
                task = remaining.popleft()
            except IndexError:
                return
            work(*task)

    work_together(take_tasks, remaining.clear, min(number, len(tasks)) - 1)
