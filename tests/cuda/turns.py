"""Numba's simulator with threads that take turns: each runs until it meets the others of its block.

The simulator's own scheduler starts all threads of every block anew and looks at them again and again while they run,
it exchanges the globals of a module at each call of a device function, and it looks through the whole stack for each
array in shared memory: together most of the time of a test. What kernels compute is the same.
"""

import collections
import contextlib
import os
import sys
import threading

import numpy as np
from numba import cuda
from numba.cuda.simulator import kernel, kernelapi

from fastce.cuda._kernels import simulated

WARP = 32
KERNELS = "fastce.cuda._kernels."
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
    """One thread of a block after the other, and of one block after the other."""

    def __init__(self):
        threading.Thread.__init__(self, daemon=True)
        self.turn = _closed()
        self.start()

    def run(self):
        np.seterr(all="ignore")  # a GPU does not warn
        while True:
            self.turn.acquire()
            manager = self._manager
            while manager.places:
                self.enter(manager, manager.places.popleft())
                if not manager.failure:
                    self.work(manager)
                manager.leave()
            IDLE.append(self)
            manager.give_turn()

    def enter(self, manager, place):
        self.blockIdx, self.threadIdx = manager.grid_point, kernel.Dim3(*place)
        x, y, _ = manager._block_dim
        self.thread_id = place[0] + x * (place[1] + y * place[2])

    def work(self, manager):
        try:
            manager.work()
        except Exception as error:
            error.add_note(f"in thread {self.threadIdx} of block {self.blockIdx}")
            manager.failure = manager.failure or error

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
    """For `fastce.cuda._kernels.simulated`."""
    thread = threading.current_thread()
    thread.meet(thread.thread_id // WARP)


def idle_thread():
    """A new one stays on one core, because only one of them runs at a time."""
    if IDLE:
        return IDLE.pop()
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        return _Thread()
    finally:
        os.sched_setaffinity(0, cores)


class Turns(kernel.BlockManager):
    """Runs the threads of a block; those that meet others wait until all of these are there."""

    def run(self, grid_point, *args):
        self.grid_point, self.work = kernel.Dim3(*grid_point), lambda: self._f(*args)
        self.places = collections.deque(np.ndindex(*self._block_dim))  # of threads that have not begun
        self.size = self.alive = len(self.places)
        self.ready, self.parked = collections.deque(), collections.defaultdict(list)
        self.over, self.failure = _closed(), None
        self.give_turn()
        self.over.acquire()
        if self.failure:
            raise self.failure

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

    def give_turn(self):
        if self.alive and not self.ready and not self.places:  # nobody can go on
            self.failure = self.failure or RuntimeError("threads wait for others that have left")
        if self.failure:
            self.ready.extend(thread for group in self.parked.values() for thread in group)
            self.parked.clear()
        if self.ready:
            self.ready.popleft().turn.release()
        elif self.places:
            thread = idle_thread()
            thread._manager = self
            thread.turn.release()
        else:
            self.over.release()


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
