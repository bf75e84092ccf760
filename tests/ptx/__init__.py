"""A small interpreter of PTX, so that CUDA kernels run, with every access checked, where there is no GPU."""

from .machine import launch, load
from .memory import Memory, MemoryFault, Pointer
from .syntax import PtxError

__all__ = ["Memory", "MemoryFault", "Pointer", "PtxError", "launch", "load"]
