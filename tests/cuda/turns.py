"""Numba's simulator with threads that take turns: each runs until it meets the others of its block.

The simulator's own scheduler starts all threads of every block anew and looks at them again and again while they run,
it exchanges the globals of a module at each call of a device function, and it looks through the whole stack for each
array in shared memory: together most of the time of a test. What kernels compute is the same.
"""

import collections
import contextlib
import math
import os
import sys
import threading

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi

from fastce.cuda.kernels import simulated

WARP = 32
KERNELS = "fastce.cuda.kernels."
IDLE = []  # threads of Python that belong to no block


def take_turns():
    """From now on, in this process."""
    kernel.BlockManager, simulated.meet_warp = Turns, meet_warp
    kernel.swapped_cuda_module = with_cuda_of_simulator
    kernel.FakeCUDAKernel.__call__ = call
    kernelapi.FakeCUDAShared.array = shared_array


# ------------------------------------------------------------------------------------------------- threads
def _closed():
    lock = threading.Lock()
    lock.acquire()
    return lock


class _Thread(kernel.BlockThread):
    """A thread of one block, and then of another."""

    def __init__(self):
        threading.Thread.__init__(self, daemon=True)
        self.turn = _closed()
        self.start()

    def enter(self, manager, block, place):
        self._manager, self.blockIdx, self.threadIdx = manager, kernel.Dim3(*block), kernel.Dim3(*place)
        x, y, _ = manager._block_dim
        self.thread_id = place[0] + x * (place[1] + y * place[2])

    def run(self):
        np.seterr(all="ignore")  # a GPU does not warn
        while True:
            self.turn.acquire()
            manager = self._manager
            if not manager.failure:
                try:
                    manager.work()
                except Exception as error:
                    error.add_note(f"in thread {self.threadIdx} of block {self.blockIdx}")
                    manager.failure = manager.failure or error
            manager.leave()

    def syncthreads(self):
        self.meet("block")

    def meet(self, group):
        """Wait for all threads of the block that are still there, or of one of its warps."""
        manager = self._manager
        if manager.arrive(self, group):
            self.turn.acquire()
        if manager.failure:
            raise RuntimeError("another thread of the block has failed")


def meet_warp():
    """For `fastce.cuda.kernels.simulated`."""
    thread = threading.current_thread()
    thread.meet(thread.thread_id // WARP)


@contextlib.contextmanager
def on_one_core():
    """New threads stay on one core, because only one of them runs at a time."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def threads_for(count):
    """So many threads that are idle; they come back to IDLE when their block has ended."""
    if len(IDLE) < count:
        with on_one_core():
            IDLE.extend(_Thread() for _ in range(count - len(IDLE)))
    taken = IDLE[:count]
    del IDLE[:count]
    return taken


class Turns(kernel.BlockManager):
    """Runs the threads of a block; those that meet others wait until all of these are there."""

    def arrive(self, thread, group):
        """Whether the thread must wait for others, and then for its turn; the last one goes on."""
        parked = self.parked[group]
        parked.append(thread)
        is_last = len(parked) == (self.alive if group == "block" else min(WARP, self.size - WARP * group))
        if is_last:
            self.ready.extend(self.parked.pop(group)[:-1])
        else:
            self.give_turn()
        return not is_last

    def leave(self):
        self.alive -= 1
        if self.alive and len(self.parked["block"]) == self.alive:
            self.ready.extend(self.parked.pop("block"))
        self.give_turn()

    def give_turn(self):
        if not self.ready and self.alive:  # nobody can go on
            self.failure = self.failure or RuntimeError("threads wait for others that have left")
        if self.failure:
            self.ready.extend(thread for group in self.parked.values() for thread in group)
            self.parked.clear()
        (self.ready.popleft().turn if self.ready else self.over).release()

    def run(self, grid_point, *args):
        self.over, self.failure, self.parked = _closed(), None, collections.defaultdict(list)
        self.work = lambda: self._f(*args)
        self.size = self.alive = math.prod(self._block_dim)
        threads = threads_for(self.size)
        for thread, point in zip(threads, np.ndindex(*self._block_dim), strict=True):
            thread.enter(self, grid_point, point)
        self.ready = collections.deque(threads)
        self.ready.popleft().turn.release()
        self.over.acquire()
        IDLE.extend(threads)
        if self.failure:
            raise self.failure


# ----------------------------------------------------------------------------------------------- functions
@contextlib.contextmanager
def with_cuda_of_simulator(function, simulated_cuda):
    """While a kernel runs, ``cuda`` is the simulator's in all modules of kernels, and in its own."""
    spaces = [vars(module) for name, module in list(sys.modules.items()) if name.startswith(KERNELS)]
    spaces = [space for space in [*spaces, function.__globals__] if space.get("cuda") is cuda]
    for space in spaces:
        space["cuda"] = simulated_cuda
    try:
        yield
    finally:
        for space in spaces:
            space["cuda"] = cuda


def call(self, *args):
    """A device function is one of Python's."""
    return self.fn(*args) if self._device else launch(self, *args)


launch = kernel.FakeCUDAKernel.__call__


def shared_array(self, shape, dtype, alignment=None):
    """One array for all threads, for each line that asks for one."""
    caller = sys._getframe(1)
    place = caller.f_code, caller.f_lineno
    if place not in self._allocations:
        self._allocations[place] = np.empty(shape, dtype)
    return self._allocations[place]
