"""A device that is none: code that launches kernels of numba-cuda on arrays of Numba runs with the interpreter.

    with Device() as device:
        x = device.array(numpy_array)
        result = function_that_launches_kernels(x).copy_to_host()
        assert device.launches[0].report.sectors_read == ...

Where the interpreter puts an array, it is as far from a multiple of 256 bytes as the NumPy array is.
"""

import contextlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar
from unittest import mock

import numpy as np

from .machine import launch
from .memory import Memory, extent
from .numba_kernels import kept_ptx_of, kind_of_dtype
from .report import Report


class Array:
    """What Numba's device arrays are to those that launch kernels; the memory is that of a NumPy array."""

    __cuda_ndarray__ = True
    stream = 0

    def __init__(self, array: Any) -> None:
        self._ary = array

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ary, name)

    def __getitem__(self, key: Any) -> Any:
        return type(self)(self._ary[key])

    def copy_to_host(self, stream: Any = 0) -> Any:
        return self._ary.copy()

    def copy_to_device(self, array: Any, stream: Any = 0) -> None:
        self._ary[...] = array

    @property
    def _numba_type_(self) -> Any:
        from numba.cuda import types

        return types.Array(kind_of_dtype(self.dtype), self.ndim, "C" if self._ary.flags.c_contiguous else "A")


@dataclass
class Launched:
    """One launch of a kernel: the Python function, its launch bounds, its PTX, the grid, and what it did."""

    kernel: Callable
    bounds: tuple | None
    grid: Any
    block: Any
    text: str
    report: Report


class Device:
    """As a context: the device of numba-cuda. ``options`` are those of ``launch``; ``cc`` is the compute capability."""

    id: ClassVar[int] = 0

    def __init__(self, *, cc: tuple[int, int] = (9, 0), multiprocessors: int = 4, **options: Any) -> None:
        self.multiprocessors, self.compute_capability, self.options = multiprocessors, cc, options
        self.launches: list[Launched] = []

    @staticmethod
    def array(array: Any) -> Array:
        """The array itself, wherever it lies and whatever its strides are."""
        return Array(np.asarray(array))

    @staticmethod
    def new(shape: Any, dtype: Any = np.float64, **_: Any) -> Array:
        """An array of whatever was there before: NaN, or -1."""
        array = aligned(shape, dtype)
        array.reshape(-1).view(np.uint8)[:] = 255
        return Array(array)

    def __enter__(self) -> "Device":
        from numba import cuda

        from fastce.cuda import driver, launching, run

        self.patches = contextlib.ExitStack()
        for owner, name, stand_in in (
            (cuda, "device_array", self.new),
            (cuda, "gpus", [contextlib.nullcontext()]),
            (driver, "working_on", lambda device: contextlib.nullcontext()),
            (run, "blocks_at_once", lambda *_: 2 * self.multiprocessors),
            (launching, "start", self.run),
        ):
            self.patches.enter_context(mock.patch.object(owner, name, stand_in))
        return self

    def __exit__(self, *error: Any) -> None:
        self.patches.close()

    def run(self, library: Any, kernel: Any, grid: int, block: tuple, args: tuple) -> None:
        from fastce.cuda.launching import form_of, struct_of

        memory = Memory()
        for array in sorted(arrays_in(args), key=lambda array: -array.nbytes):  # views come after what they are of
            if not memory.holds(array):
                memory.put(array, extent(array)[0] % 256 // array.itemsize)
        form, values = form_of(tuple(as_flat(arg, memory) for arg in args))
        text = kept_ptx_of(kernel, form, self.compute_capability)
        packed = struct_of(form).pack(*values)
        report = launch(text, None, grid, block, (packed,), memory=memory, **self.options)
        self.launches.append(Launched(kernel.py_func, kernel.bounds, grid, block, text, report))


def aligned(shape: Any, dtype: Any = np.float64, offset: int = 0) -> Any:
    """A new array of NumPy whose first element lies ``offset`` elements after a multiple of 256 bytes."""
    dtype = np.dtype(dtype)
    size = math.prod(shape if isinstance(shape, tuple) else (shape,)) * dtype.itemsize
    memory = np.zeros(size + 512 + offset * dtype.itemsize, np.uint8)
    start = -memory.ctypes.data % 256 + offset * dtype.itemsize
    return memory[start : start + size].view(dtype).reshape(shape)


def arrays_in(args: Any) -> list:
    if isinstance(args, Array):
        return [args._ary]
    return [array for arg in args for array in arrays_in(arg)] if isinstance(args, tuple) else []


def as_flat(arg: Any, memory: Memory) -> Any:
    """What kernels of fastce are told of an array: where it is in this memory, and its size."""
    from fastce.cuda.flat import Flat

    if isinstance(arg, Array):
        return Flat(memory.address(arg._ary), arg.size, arg.dtype, arg, None)
    if not isinstance(arg, tuple):
        return arg
    parts = [as_flat(part, memory) for part in arg]
    return type(arg)(*parts) if hasattr(arg, "_fields") else tuple(parts)
