"""Blocks of rows on a pool of threads.

Kernels run without the GIL, so plain threads are enough; the caller works too, and waits for nobody but those that
have begun. What Numba's own threading layers do to a process (killed after a fork, aborted by two threads at once)
cannot happen here. Blocks are cut by shape alone and written to their own places, so the number of threads changes
no bit of any result.
"""

import contextvars
import itertools
import operator
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastce.words import shown

BLOCK_BYTES = 1 << 20  # a block is worth the few microseconds that it costs, and still fits a second-level cache
LARGEST_BLOCK_BYTES = 1 << 25  # Ctrl-C is heard between blocks
INLINE_BYTES = 1 << 21  # less is not worth waking a thread, which can take a tenth of a millisecond
BLOCKS = 64

_MOST_THREADS = 256
_of_this_thread = threading.local()
_of_all_threads: int | None = None
_pool: ThreadPoolExecutor | None = None
_pool_lock = threading.Lock()


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
    limits = [cpus, _cgroup_cpus(), _MOST_THREADS]
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
    here: int | None = getattr(_of_this_thread, "n", None)
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
    before = getattr(_of_this_thread, "n", None)
    _of_this_thread.n = checked_num_threads(n, "n")
    try:
        yield
    finally:
        _of_this_thread.n = before


def checked_num_threads(n: object, name: str = "n_threads") -> int:
    """``n`` as a number of threads."""
    try:
        number = None if isinstance(n, bool) else operator.index(n)  # type: ignore[arg-type]
    except Exception:  # whatever the type of the value raises
        number = None
    if number is None:
        raise TypeError(f"{name} must be an integer of at least 1, got {shown(n)}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number


def cut_rows(rows: int, row_bytes: int) -> list[tuple[int, int]]:
    """The [start, stop) of every block: a megabyte each, or a 64th of the rows if that is more, within bounds."""
    if rows * row_bytes <= INLINE_BYTES:
        return [(0, rows)]
    row_bytes = max(1, row_bytes)
    size = max(1, min(max(BLOCK_BYTES // row_bytes, rows // BLOCKS), LARGEST_BLOCK_BYTES // row_bytes))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


def for_each(blocks: list[tuple[int, int]], work: Callable[[int, int], None], n_threads: int | None) -> None:
    """Call ``work(start, stop)`` once for every block, from up to ``n_threads`` threads, and return when all is done.

    The first exception, Ctrl-C included, stops the others after their current block and is raised here.
    """
    if len(blocks) == 1 and n_threads is None:
        work(*blocks[0])
        return
    number = get_num_threads() if n_threads is None else checked_num_threads(n_threads)
    if len(blocks) == 1 or number == 1:
        for start, stop in blocks:
            work(start, stop)
        return
    turn = itertools.count()
    stopped = threading.Event()

    def take_turns() -> None:
        try:
            while not stopped.is_set() and (k := next(turn)) < len(blocks):
                work(*blocks[k])
        except BaseException:
            stopped.set()
            raise

    helpers = _start(take_turns, min(number, len(blocks)) - 1)
    try:
        take_turns()
    finally:
        stopped.set()
        _wait_for(helpers)
    for helper in helpers:
        if not helper.cancelled():
            helper.result()


def in_turn(tasks: Sequence[tuple[Any, ...]], work: Callable[..., None], n_threads: int | None) -> None:
    """Call ``work(*task)`` for all of them, as `for_each` does for blocks."""

    def of_block(first: int, last: int) -> None:
        for task in tasks[first:last]:
            work(*task)

    if tasks:
        for_each([(k, k + 1) for k in range(len(tasks))], of_block, n_threads)


def _start(task: Callable[[], None], count: int) -> list[Future[None]]:
    try:
        pool = _get_pool()
        return [pool.submit(contextvars.copy_context().run, task) for _ in range(count)]  # NumPy's errstate lives there
    except RuntimeError:  # the interpreter is shutting down: the caller does it all
        return []


def _wait_for(helpers: list[Future[None]]) -> None:
    """Until every helper that has begun has ended, Ctrl-C or not: they write into the caller's arrays."""
    interrupt: KeyboardInterrupt | None = None
    for helper in helpers:
        if helper.cancel():
            continue
        while not helper.done():
            try:
                helper.exception()
            except KeyboardInterrupt as error:
                interrupt = error
    if interrupt is not None:
        raise interrupt


def _get_pool() -> ThreadPoolExecutor:
    global _pool
    if _pool is None:
        with _pool_lock:
            if _pool is None:
                _pool = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="fastce")
    return _pool


def _forget_pool_after_fork() -> None:
    """The threads stayed in the parent."""
    global _pool, _pool_lock
    _pool = None
    _pool_lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool_after_fork)
