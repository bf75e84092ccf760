"""The share of the cores that a task may take: Dask limits neither our threads nor those of BLAS."""

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import ThreadpoolController

from fastce.arguments.numbers import checked_num_threads
from fastce.cpu.threads import threads

_lock = threading.Lock()
_running: list[int] = []  # the shares of the tasks that run in this process
_before: list[int] = []  # how many threads each library of BLAS had before


@contextmanager
def share(n_threads: int | None, *, multiplies: bool = True) -> Iterator[None]:
    """Compute with so many threads, one by default, in our own work and in that of BLAS.

    BLAS has one limit for the whole process: the least of all tasks that run, and what it was once none does.

    Parameters
    ----------
    n_threads : int, optional
        At least 1.
    multiplies : bool, default: True
        Whether BLAS is called at all; to limit it takes as long as a small task.
    """
    number = checked_num_threads(1 if n_threads is None else n_threads)
    if not multiplies:
        with threads(number):
            yield
        return
    with _lock:
        if not _running:
            _before[:] = [library.get_num_threads() for library in _libraries()]
        _running.append(number)
        _limit_blas()
    try:
        with threads(number):
            yield
    finally:
        with _lock:
            _running.remove(number)
            _limit_blas()


def _limit_blas() -> None:
    numbers = [min(_running)] * len(_before) if _running else _before
    pairs = zip(_libraries(), numbers, strict=True)
    changes = [(library, number) for library, number in pairs if library.get_num_threads() != number]
    for_all = [change for change in changes if _has_one_limit(change[0])]
    _set([change for change in changes if change not in for_all])
    if for_all:  # while the thread lives that set this, threadpoolctl lets no other thread do so
        thread = threading.Thread(target=_set, args=(for_all,))
        thread.start()
        thread.join()


def _has_one_limit(library: Any) -> bool:
    """Whether its limit is that of all threads, not of each."""
    return bool(library.internal_api == "openblas" and library.threading_layer != "openmp")


def _set(changes: list[tuple[Any, int]]) -> None:
    for library, number in changes:
        library.set_num_threads(number)


@functools.cache
def _libraries() -> list[Any]:
    """What is loaded now: NumPy's is, and looking for others takes as long as a small task."""
    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
