"""Numba's simulator with threads that take turns: each runs until it meets the others of its block.

The simulator's own scheduler looks at all threads again and again while they run, which takes most of the time of a
test; what kernels compute is the same. On one core, because only one of them runs at a time.
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
        self._manager.failure = self._manager.failure or self.exception
        self._manager.leave()

    def syncthreads(self):
        self.meet("block")

    def meet(self, group):
        """Wait for all threads of the block that are still there, or of one of its warps."""
        self._manager.arrive(self, group)
        self.turn.acquire()
        if self._manager.failure:
            raise RuntimeError("another thread of the block has failed")


def meet_warp():
    """For `fastce.cuda.kernels.simulated`."""
    thread = threading.current_thread()
    thread.meet(thread.thread_id // WARP)


class Turns(kernel.BlockManager):
    """Runs the threads of a block; those that meet others wait until all of these are there."""

    def arrive(self, thread, group):
        self.parked[group].append(thread)
        expected = self.alive if group == "block" else min(WARP, self.size - WARP * group)
        if len(self.parked[group]) == expected:
            self.ready.extend(self.parked.pop(group))
        self.give_turn()

    def leave(self):
        self.alive -= 1
        if self.alive and len(self.parked["block"]) == self.alive:
            self.ready.extend(self.parked.pop("block"))
        self.give_turn()

    def give_turn(self):
        if not self.ready and self.alive:  # nobody can go on
            self.failure = self.failure or (RuntimeError("threads wait for others that have left"), None)
        if self.failure:
            self.ready.extend(thread for group in self.parked.values() for thread in group)
            self.parked.clear()
        (self.ready.popleft().turn if self.ready else self.over).release()

    def run(self, grid_point, *args):
        self.over, self.failure, self.parked = _closed(), None, collections.defaultdict(list)
        points = np.ndindex(*self._block_dim)
        threads = [_Thread(lambda: self._f(*args), self, grid_point, point, self._debug) for point in points]
        self.ready, self.size, self.alive = collections.deque(threads), len(threads), len(threads)
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(cores)})
        for thread in threads:
            thread.start()
        os.sched_setaffinity(0, cores)
        self.ready.popleft().turn.release()
        self.over.acquire()
        if self.failure:
            raise self.failure[0].with_traceback(self.failure[1])
