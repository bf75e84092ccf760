"""Work that has a thread of its own: with an ample stack, out of reach of signal handlers, and not cut by a fork.

Kernels keep tables of up to 200 KiB on the stack, and compilers want more; some programs and systems give their threads
128 KiB. Python runs signal handlers in the main thread only, between any two of its instructions. An import or a
compilation there could be left half-way by what a handler raises, or be met half-way by a handler that calls fastce
itself: in a thread of its own it goes on while the main thread waits, and others wait for it.
"""

import atexit
import ctypes
import gc
import logging  # noqa: F401  (while a fork waits for an import, this one must not ask to be told of forks)
import os
import threading
from _thread import allocate_lock, start_new_thread
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from contextvars import copy_context
from typing import Any, TypeVar

T = TypeVar("T")

STACK = 1 << 23  # bytes, of threads that are started here
SMALL_STACK = 1 << 19  # less is not enough

_starting = threading.RLock()  # reentrant: a handler may start a thread while another is being started
_loading = threading.RLock()
_not_cut_by_forks: list[Any] = [_loading]


def start_thread(function: Callable[..., None], *args: Any) -> bool:
    """Start a thread with an ample stack, which the exit of the interpreter does not wait for; False if there is none.

    Not by way of `threading.Thread`: its locks would never be free for a handler that has interrupted its start.
    """
    with _starting:  # the size is one for the whole process
        before = threading.stack_size()
        try:
            threading.stack_size(STACK)
            start_new_thread(function, args)
        except RuntimeError as error:
            if "new thread" not in str(error):  # what a handler has raised
                raise
            return False
        finally:
            threading.stack_size(before)
    return True


def apart(function: Callable[[], T], lock: AbstractContextManager[Any] | None = None) -> T:
    """Call it in a thread of its own, while it holds the lock; in this thread if no other can be started."""
    lock = lock or nullcontext()
    done = allocate_lock()
    done.acquire()
    results: list[T] = []
    errors: list[BaseException] = []
    in_context = copy_context().run

    def run() -> None:
        with lock:
            try:
                results.append(in_context(function))
            except BaseException as error:
                errors.append(error)
            finally:
                done.release()  # before the lock: a fork that waits for it finds all done

    if not start_thread(run):
        with lock:
            return function()
    done.acquire()
    if errors:
        raise errors.pop()
    return results.pop()


def load(function: Callable[[], T]) -> T:
    """Call what imports or compiles: apart, one at a time. A fork waits until it has ended.

    It makes a million objects, most of which stay: looking for garbage among them was a tenth of the time.
    """
    if here.is_loading:
        return function()

    def alone() -> T:
        here.is_loading = True
        collects = gc.isenabled()
        gc.disable()
        try:
            return function()
        finally:
            here.is_loading = False
            if collects:
                gc.enable()

    return apart(alone, _loading)


class _OfThisThread(threading.local):
    """What is known of the thread that asks."""

    def __init__(self) -> None:
        self.is_loading: bool = False
        self.has_small_stack: bool = 0 < _stack_size() < SMALL_STACK


def _stack_size() -> int:
    """Bytes of this thread's stack, 0 if unknown. That of the main thread grows: what it has now says little."""
    if threading.get_ident() == threading.main_thread().ident:
        return 0
    try:
        library = ctypes.CDLL(None)
        attributes, size = (ctypes.c_long * 32)(), ctypes.c_size_t()
        if library.pthread_getattr_np(ctypes.c_void_p(threading.get_ident()), attributes):
            return 0
        library.pthread_attr_getstacksize(attributes, ctypes.byref(size))
        library.pthread_attr_destroy(attributes)
        return size.value
    except (AttributeError, OSError, TypeError):  # not Linux
        return 0


here: _OfThisThread = _OfThisThread()


def not_cut_by_forks(*locks: Any) -> None:
    """Let forks wait for these locks too, which are taken after `load`'s, in this order."""
    _not_cut_by_forks.extend(locks)


def _before_fork() -> None:
    for lock in (*_not_cut_by_forks, _starting):
        lock.acquire()


def _after_fork_in_parent() -> None:
    for lock in (_starting, *reversed(_not_cut_by_forks)):
        with suppress(RuntimeError):  # not taken: an exception while it was waited for
            lock.release()


def _after_fork_in_child() -> None:
    for lock in (_starting, *reversed(_not_cut_by_forks)):
        try:
            lock.release()
        except RuntimeError:  # held by a thread that is not here
            lock._at_fork_reinit()


def _at_exit() -> None:
    """A compiler must not run while the process that it runs in is taken down."""
    _loading.acquire()
    here.is_loading = True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
