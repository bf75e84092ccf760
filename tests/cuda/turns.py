"""Numba's simulator with threads that take turns: each runs until it meets the others of its block.

The simulator's own scheduler looks at all threads again and again while they run, which takes most of the time of a
test; what kernels compute is the same. On one core, because only one of them runs at a time.
"""

import collections
import os
import threading

import numpy as np
from numba.cuda.simulator import kernel


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
        self._manager.failure = self._manager.failure or self.exception
        self._manager.give_turn()

    def syncthreads(self):
        self._manager.waiting.append(self)
        self._manager.give_turn()
        self.turn.acquire()
        if self._manager.failure:
            raise RuntimeError("another thread of the block has failed")


class Turns(kernel.BlockManager):
    """Runs the threads of a block; those that have met the others wait for their next turn behind all others."""

    def give_turn(self):
        (self.waiting.popleft().turn if self.waiting else self.over).release()

    def run(self, grid_point, *args):
        self.over, self.failure = _closed(), None
        points = np.ndindex(*self._block_dim)
        threads = [_Thread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
        self.waiting = collections.deque(threads)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        for thread in threads:
            thread.start()
        os.sched_setaffinity(0, cores)
        self.give_turn()
        self.over.acquire()
        if self.failure:
            raise self.failure[0].with_traceback(self.failure[1])
