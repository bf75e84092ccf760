"""Numba's simulator with threads that take turns: each runs until it has to wait for others of its block or warp.

The simulator's own scheduler looks at all threads again and again while they run, which takes most of the time of a
test; what kernels compute is the same. On one core, because only one thread runs at a time. Threads that wait for each
other for ever are an error.
"""

import collections
import os
import threading

import numpy as np
from numba.cuda.simulator import kernel

WARP = 32


def _closed():
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Thread(kernel.BlockThread):
    def __init__(self, *args):
        super().__init__(*args)
        self.turn = _closed()

    def run(self):
        self.turn.acquire()
        if not self._manager.failure:
            with np.errstate(all="ignore"):  # a GPU does not warn
                super().run()
        self._manager.ended(self.exception)

    def syncthreads(self):
        self._manager.wait(self, self._manager.block)


class _Group:
    """Threads that wait for each other: the block, or a warp as `fastce.cuda.simulated` asks for it."""

    def __init__(self, manager, count):
        self.manager, self.count, self.waiting = manager, count, []

    def wait(self, patience):
        self.manager.wait(threading.current_thread(), self)


class Turns(kernel.BlockManager):
    """Runs the threads of a block."""

    def wait(self, thread, group):
        group.waiting.append(thread)
        self.wake(group)
        self.give_turn()
        thread.turn.acquire()
        if self.failure:
            raise RuntimeError("another thread of the block has failed")

    def wake(self, group):
        if self.failure or len(group.waiting) >= group.count:
            self.ready.extend(group.waiting)
            group.waiting.clear()

    def ended(self, exception):
        self.failure = self.failure or exception
        self.alive -= 1
        self.block.count -= 1
        self.wake(self.block)
        self.give_turn()

    def give_turn(self):
        if not self.ready and self.alive:
            self.failure = self.failure or (RuntimeError("threads wait for each other for ever"), None)
            for group in (self.block, *self.warps):
                self.wake(group)
        (self.ready.popleft().turn if self.ready else self.over).release()

    def run(self, grid_point, *args):
        points = list(np.ndindex(*self._block_dim))
        self.over, self.failure, self.alive = _closed(), None, len(points)
        self.block = _Group(self, len(points))
        self.warps = [_Group(self, min(WARP, len(points) - first)) for first in range(0, len(points), WARP)]
        for warp, group in enumerate(self.warps):
            setattr(self, f"fastce_barrier{warp}", group)
        threads = [_Thread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
        self.ready = collections.deque(threads)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        for thread in threads:
            thread.start()
        os.sched_setaffinity(0, cores)
        self.give_turn()
        self.over.acquire()
        if self.failure:
            raise self.failure[0].with_traceback(self.failure[1])
