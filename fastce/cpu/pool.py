"""Threads that help with a call, and the promise that none of them does anything for it once the call has ended.

Python runs signal handlers in the main thread, and raises there what they raise (KeyboardInterrupt, a time limit): on
entry to a function of Python, on a jump backwards, and after a call, never between an exception and the C function that
its ``finally`` calls first. So each ``finally`` of `work_together` is one call of a C function, and the last of them
waits without an ear for signals, which nothing in Python's own library does: a lock that helpers share while they work,
and that the caller takes for good. However many exceptions come, all three are called, in this order.

Where there are few CPUs, Linux often wakes a helper on that of the caller, where one of the two waits for the other
until a call of a few megabytes is done. So helpers are kept away from the CPU that the caller is on.
"""

import ctypes
import os
from collections.abc import Callable
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from threading import get_native_id
from typing import Any

from fastce.apart import start_thread

MOST_THREADS = 256
FEW_CPUS = 8  # where there are more, it is rare that a thread is woken on one that is busy


def _c_functions() -> list[Any] | None:
    try:
        keeping_gil, library = ctypes.PyDLL(None), ctypes.CDLL(None)
        return [
            keeping_gil.pthread_rwlock_init,
            keeping_gil.pthread_rwlock_tryrdlock,
            keeping_gil.pthread_rwlock_unlock,
            library.pthread_rwlock_wrlock,
            keeping_gil.fegetenv,
            keeping_gil.fesetenv,
            getattr(keeping_gil, "sched_getcpu", None),
        ]
    except (AttributeError, OSError, TypeError):  # no POSIX: nobody helps
        return None


_c = _c_functions()
if _c is not None:
    _new_gate, _enter, _leave, _close, _get_mode, _set_mode, _current_cpu = _c
_Memory = ctypes.c_long * 32  # for a lock of POSIX or a floating-point mode of C; the largest known takes 200 bytes

Helpers = list[Callable[[], None]]  # of a call: whoever pops one is it


class _Pool:
    """Threads that wait for requests; started when all others are at work, and never ended."""

    def __init__(self) -> None:
        self.requests: SimpleQueue[Helpers] = SimpleQueue()
        self.threads = 0  # not counted are those of a count that a handler's exception, or another thread, cut short
        self.at_work: list[None] = []
        self.calls: list[Helpers] = []  # of those whose helpers may not all be at work
        self.numbers: list[int] = []  # of the threads, as Linux counts them
        self.kept_away: tuple[Any, ...] = ()

    def ask(self, helpers: Helpers) -> None:
        """Let threads call the helpers, as many as there are or can be started."""
        self.calls = [*filter(None, self.calls), helpers]
        wanted = len(self.at_work) + sum(map(len, self.calls))
        while self.threads < min(wanted, MOST_THREADS) and start_thread(self._serve):
            self.threads += 1
        self._keep_away()
        for _ in range(min(self.threads, len(helpers))):
            self.requests.put(helpers)

    def _keep_away(self) -> None:
        """Let threads that wait be woken on any CPU but that of the caller."""
        if _current_cpu is None or self.at_work or not hasattr(os, "sched_setaffinity"):
            return
        usable, here, numbers = os.sched_getaffinity(0), _current_cpu(), tuple(self.numbers)
        if self.kept_away == (usable, here, numbers) or not 1 < len(usable) <= FEW_CPUS:
            return
        self.kept_away = usable, here, numbers
        for number in numbers:
            with suppress(OSError):  # a thread that has ended, or a system that does not let us
                os.sched_setaffinity(number, usable - {here})

    def _serve(self) -> None:
        self.numbers.append(get_native_id())
        while True:
            helpers = self.requests.get()
            try:
                helper = helpers.pop()
            except IndexError:  # too late
                continue
            helper()
            del helper  # and with it the arrays of its call


_pool = _Pool()


def work_together(task: Callable[[], None], stop: Callable[[], object], helpers: int) -> None:
    """Call ``task()`` here and in up to so many other threads, with the floating-point mode and errstate of this one.

    Returns or raises when all have ended that have begun; those that have not will not. ``stop()`` makes every task
    return soon and do nothing more. It is called when a task has ended; it must be a function written in C.
    """
    if _c is None:
        return task()
    gate, mode, pool = _Memory(), _Memory(), _pool
    _new_gate(gate, None)
    _get_mode(mode)
    errors: list[BaseException] = []

    def help_out() -> None:
        if _enter(gate):
            return  # the call has ended
        pool.at_work.append(None)
        try:
            _set_mode(mode)  # a thread keeps for ever that of the one which has started it
            task()
        except BaseException as error:
            errors.append(error)
            stop()
        finally:
            pool.at_work.pop()  # before the caller can ask again
            _leave(gate)

    asked: Helpers = [partial(copy_context().run, help_out) for _ in range(helpers)]
    try:
        try:
            pool.ask(asked)
            task()
        finally:
            stop()
    finally:
        _close(gate)
        asked.clear()  # what is still in the queue holds no arrays
    if errors:
        raise errors.pop(0)


def _forget_threads() -> None:
    """After a fork: they have stayed in the parent."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_threads)
