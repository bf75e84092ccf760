"""Numba's simulator with threads that take turns: each runs until it meets the others of its block.

The simulator's own scheduler starts a thread of Python for each of a block's and looks at them again and again while
they run, it exchanges the globals of a module at each call of a device function, it puts two objects around each array
that is read, and it looks through the whole stack for each array in shared memory: together most of the time of a test.
What kernels compute is the same. Threads are greenlets here: to switch between these takes a tenth of the time.
"""

import collections
import contextlib
import sys
from types import SimpleNamespace

import numpy as np
from greenlet import getcurrent, greenlet
from numba import cuda
from numba.cuda.errors import normalize_kernel_dimensions
from numba.cuda.simulator import kernel, kernelapi
from numba.cuda.simulator.cudadrv.devicearray import FakeCUDAArray

from fastce.cuda._kernels import simulated

WARP = 32
KERNELS = "fastce.cuda._kernels."


def take_turns():
    """From now on, in this process; before any kernel is imported, for device functions to be Python's own."""
    kernel.FakeCUDAKernel.__call__, simulated.meet_warp = call, meet_warp
    simulated.device = lambda function: function
    kernelapi.FakeCUDAShared.array = shared_array
    kernelapi.threading = simulated.threading = SimpleNamespace(current_thread=getcurrent)


# ------------------------------------------------------------------------------------------------- threads
class Thread(greenlet):
    """One thread of a block."""

    def __init__(self, manager, block, place):
        super().__init__()
        self._manager = manager
        self.blockIdx, self.threadIdx = block, kernel.Dim3(*place)
        x, y, _ = manager._block_dim
        self.thread_id = place[0] + x * (place[1] + y * place[2])

    def run(self, work, args):
        np.seterr(all="ignore")  # a GPU does not warn; each greenlet has settings of its own
        try:
            work(*args)
        except Exception as error:
            error.add_note(f"in thread {self.threadIdx} of block {self.blockIdx}")
            raise
        self._manager.leave()

    def syncthreads(self):
        self._manager.meet(self, "block")


def meet_warp():
    """For `fastce.cuda._kernels.simulated`."""
    thread = getcurrent()
    thread._manager.meet(thread, thread.thread_id // WARP)


class Turns(kernel.BlockManager):
    """Runs the threads of a block; those that meet others wait until all of these are there."""

    def run(self, grid_point, *args):
        block, places = kernel.Dim3(*grid_point), list(np.ndindex(*self._block_dim))
        self.size = self.alive = len(places)
        self.ready, self.parked = collections.deque(), collections.defaultdict(list)
        for place in places:
            Thread(self, block, place).switch(self._f, args)
            self.go_on()
        if self.alive:
            raise RuntimeError("threads wait for others that have left")

    def go_on(self):
        """Run those that have met all whom they waited for."""
        while self.ready:
            self.ready.popleft().switch()

    def meet(self, thread, group):
        """Wait for all threads of the block that are still there, or of one of its warps; the last one goes on."""
        parked = self.parked[group]
        parked.append(thread)
        if len(parked) == (self.alive if group == "block" else min(WARP, self.size - WARP * group)):
            self.ready.extend(self.parked.pop(group)[:-1])
        else:
            thread.parent.switch()

    def leave(self):
        self.alive -= 1
        if self.alive and len(self.parked["block"]) == self.alive:
            self.ready.extend(self.parked.pop("block"))


# ----------------------------------------------------------------------------------------------- functions
def call(self, *args):
    """A device function is one of Python's; the arrays of a kernel are NumPy's own."""
    if self._device:
        return self.fn(*args)
    grid, block = normalize_kernel_dimensions(self.grid_dim, self.block_dim)
    of_simulator = kernelapi.FakeCUDAModule(grid, block, self.dynshared_size)
    args = plain(args)
    with cuda_of_simulator(self.fn, of_simulator):
        for place in np.ndindex(*grid):
            Turns(self.fn, grid, block, debug=False).run(place, *args)


def plain(argument):
    """Without what the simulator puts around arrays."""
    if isinstance(argument, tuple):
        parts = map(plain, argument)
        return type(argument)(*parts) if hasattr(argument, "_fields") else tuple(parts)
    return argument._ary if isinstance(argument, FakeCUDAArray) else argument


@contextlib.contextmanager
def cuda_of_simulator(function, of_simulator):
    """While a kernel runs, ``cuda`` is the simulator's in all modules of kernels, and in its own."""
    spaces = [vars(module) for name, module in list(sys.modules.items()) if name.startswith(KERNELS)]
    spaces = [space for space in [*spaces, function.__globals__] if space.get("cuda") is cuda]
    for space in spaces:
        space["cuda"] = of_simulator
    try:
        yield
    finally:
        for space in spaces:
            space["cuda"] = cuda


def shared_array(self, shape, dtype, alignment=None):
    """One array for all threads, for each line that asks for one."""
    caller = sys._getframe(1)
    place = caller.f_code, caller.f_lineno
    if place not in self._allocations:
        self._allocations[place] = np.empty(shape, dtype)
    return self._allocations[place]
