"""Memory on a GPU as kernels take it: elements of one dtype that follow each other."""

from typing import Any

import numpy as np

from fastce.cuda import driver


class Flat:
    """An address, a number of elements and their dtype. ``owner`` is what keeps the memory, of a library."""

    __slots__ = ("dtype", "library", "owner", "pointer", "size")

    def __init__(self, pointer: int, size: int, dtype: np.dtype[Any], owner: Any, library: Any) -> None:
        self.pointer = pointer if size else 0
        self.size = size
        self.dtype = dtype
        self.owner = owner
        self.library = library

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
