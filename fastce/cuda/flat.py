"""Memory on a GPU as kernels take it: elements of one dtype that follow each other."""

from typing import Any

import numpy as np
from numba import config

from fastce.cuda import driver

_PLAIN_DTYPES = "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64"
FLAT_DTYPES = {name: np.dtype(name) for name in _PLAIN_DTYPES.split()}
FLAT_DTYPES["bfloat16"] = np.dtype(np.uint16)  # NumPy, and so Numba, has no bfloat16: kernels take its bits


class Flat:
    """An address, a number of elements and their dtype. ``owner`` is what keeps the memory, of a library."""

    __slots__ = ("dtype", "library", "owner", "pointer", "size")

    def __init__(self, pointer: int, size: int, dtype: np.dtype[Any], owner: Any, library: Any) -> None:
        self.pointer: int = pointer if size else 0
        self.size: int = size
        self.dtype: np.dtype[Any] = dtype
        self.owner: Any = owner
        self.library: Any = library

    def __getitem__(self, of: slice) -> "Flat":
        """Some of the elements."""
        start, stop, _ = of.indices(self.size)
        pointer = self.pointer + start * self.dtype.itemsize
        return Flat(pointer, max(stop - start, 0), self.dtype, self.owner, self.library)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """For CuPy, which works in the same stream."""
        return {
            "shape": (self.size,),
            "typestr": self.dtype.str,
            "data": (self.pointer, False),
            "strides": None,
            "version": 3,
        }

    def copy_to_host(self) -> np.ndarray[Any, Any]:
        """The elements, once the device has come to them."""
        numbers = np.empty(self.size, self.dtype)
        with self.library.on_device():
            driver.copy_to_host(self.pointer, numbers, self.library.stream_pointer)
        return numbers

    def copy_to_device(self, numbers: np.ndarray[Any, Any]) -> None:
        """Take over the elements of a contiguous array."""
        with self.library.on_device():
            driver.copy_to_device(self.pointer, numbers, self.library.stream_pointer)


def nothing(dtype_name: str) -> Any:
    """No elements of this dtype, as kernels take them, which need no memory."""
    dtype = FLAT_DTYPES[dtype_name]
    return np.empty(0, dtype) if config.ENABLE_CUDASIM else Flat(0, 0, dtype, None, None)


def elements_of(memory: Any, start: int, count: int, dtype_name: str) -> Any:
    """So many elements of this dtype, from a byte of some memory on, as kernels take them."""
    dtype = FLAT_DTYPES[dtype_name]
    if hasattr(memory.given, "_ary"):  # of the simulator
        return type(memory.given)(memory.given._ary[start : start + count * dtype.itemsize].view(dtype))
    return Flat(memory.pointer + start, count, dtype, memory.given, memory.library)
