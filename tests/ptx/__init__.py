"""A small interpreter of PTX, so that CUDA kernels run, with every access checked, where there is no GPU.

    def add(x, y):  # a kernel for numba-cuda
        i = cuda.grid(1)
        if i < x.size:
            y[i] += x[i]

    report = ptx.run(add, 4, 128, x, y)  # grid, block and arguments; y has changed
    assert report.sectors_read == (x.nbytes + y.nbytes) // 32

``machine`` launches and shares the time between blocks, ``block`` runs the threads of one, ``program`` decodes;
the instructions are in ``moves``, ``integers``, ``floats``, ``convert``, ``access``, ``copies``, ``atomics`` and
``warps``.
"""

from .machine import launch, load
from .memory import Memory, MemoryFault, Pointer
from .numba_kernels import compile_kernel, run
from .syntax import PtxError

__all__ = ["Memory", "MemoryFault", "Pointer", "PtxError", "compile_kernel", "launch", "load", "run"]
