"""The library that an array on a GPU comes from: its streams, and new arrays of it. None is imported by this module."""

import contextlib
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numba import config, cuda

from fastce.arguments.libraries import is_torch
from fastce.arguments.places import UNKNOWN_DEVICE, device_of
from fastce.cuda import driver

_LEGACY_STREAM = 1  # how DLPack, and the driver, call the default stream, whose pointer is 0


@contextlib.contextmanager
def memory_errors(what: str) -> Iterator[None]:
    """Any library's way to say that a GPU is full, as a MemoryError that names what was to be put there."""
    try:
        yield
    except Exception as error:
        # by name: PyTorch's and CuPy's classes are theirs, Numba's and the driver's errors hold the driver's constant
        names = {base.__name__ for base in type(error).__mro__}
        if names.isdisjoint({"OutOfMemoryError", "MemoryError"}) and "CUDA_ERROR_OUT_OF_MEMORY" not in str(error):
            raise
        raise MemoryError(f"the GPU has not enough free memory for {what}") from error


@dataclass(frozen=True)
class Library:
    """A library's arrays on one GPU, and the stream that it works in now."""

    device: int

    name: ClassVar[str]

    @property
    def stream_pointer(self) -> int:
        """The driver's handle of the current stream; 0 is the default stream."""
        raise NotImplementedError

    @property
    def consumer(self) -> int:
        """The current stream as arrays of other libraries are asked to be ready in it."""
        return self.stream_pointer or _LEGACY_STREAM

    def on_device(self) -> Any:
        """A context in which this GPU is the one that kernels are launched on."""
        return contextlib.nullcontext() if config.ENABLE_CUDASIM else driver.working_on(self.device)

    def owns(self, value: Any) -> bool:
        """Whether this is an array of this library, on this GPU, in the order of the current stream."""
        raise NotImplementedError

    def new(self, shape: tuple[int, ...], dtype_name: str) -> tuple[Any, int]:
        """A new array of the library, of anything, in C order, and its address."""
        size = math.prod(shape) * (2 if dtype_name == "bfloat16" else np.dtype(dtype_name).itemsize)
        with memory_errors(f"an array of shape {shape} and dtype {dtype_name} ({size} bytes)"):
            return self._new(shape, dtype_name)

    def _new(self, shape: tuple[int, ...], dtype_name: str) -> tuple[Any, int]:
        raise NotImplementedError


class Torch(Library):
    """PyTorch."""

    name = "torch"

    @property
    def stream_pointer(self) -> int:
        return int(sys.modules["torch"].cuda.current_stream(self.device).cuda_stream)

    def hand_over(self, stream_pointer: int) -> None:
        """Let another library's stream wait for all that PyTorch's current one has been told."""
        cuda = sys.modules["torch"].cuda
        if stream_pointer != self.stream_pointer:
            reader = cuda.default_stream(self.device)
            if stream_pointer:
                reader = cuda.ExternalStream(stream_pointer, device=self.device)
            reader.wait_stream(cuda.current_stream(self.device))

    def owns(self, value: Any) -> bool:
        return is_torch(value)

    def _new(self, shape: tuple[int, ...], dtype_name: str) -> tuple[Any, int]:
        torch = sys.modules["torch"]
        tensor = torch.empty(shape, dtype=getattr(torch, dtype_name), device=f"cuda:{self.device}")
        return tensor, int(tensor.data_ptr())


class CuPy(Library):
    """CuPy."""

    name = "cupy"

    @property
    def stream_pointer(self) -> int:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device):
            return int(cupy.cuda.get_current_stream().ptr)

    def owns(self, value: Any) -> bool:
        return is_cupy(value)

    def _new(self, shape: tuple[int, ...], dtype_name: str) -> tuple[Any, int]:
        cupy = sys.modules["cupy"]
        with cupy.cuda.Device(self.device):
            array = cupy.empty(shape, numpy_dtype(dtype_name))
        return array, int(array.data.ptr)


@dataclass(frozen=True)
class Numba(Library):
    """Numba, and its simulator; also what libraries without an own class here, as JAX, are given arrays of."""

    bound_stream: Any = 0  # of the caller's array: Numba has no current one

    name = "numba"

    @property
    def stream_pointer(self) -> int:
        return _handle(self.bound_stream)

    def owns(self, value: Any) -> bool:
        return is_numba(value) and _handle(value.stream) == self.stream_pointer

    def _new(self, shape: tuple[int, ...], dtype_name: str) -> tuple[Any, int]:
        with cuda.gpus[self.device]:  # Numba's own, which allocates there
            array = cuda.device_array(shape, numpy_dtype(dtype_name), stream=self.bound_stream)
        return array, array._ary.ctypes.data if hasattr(array, "_ary") else array.device_ctypes_pointer.value or 0


def _handle(stream: Any) -> int:
    """The driver's handle of a stream of Numba, which calls the default one 0."""
    return int(getattr(stream, "handle", 0) or 0)


def is_cupy(value: Any) -> bool:
    """Whether this is a CuPy array."""
    return "cupy" in sys.modules and isinstance(value, sys.modules["cupy"].ndarray)


def is_numba(value: Any) -> bool:
    """Whether this is an array of Numba or of its simulator."""
    return bool(getattr(value, "__cuda_ndarray__", False))


def has_known_stream(value: Any) -> bool:
    """Whether an array's memory, once given back, is not used again before kernels have come to its stream's end."""
    return is_torch(value) or is_cupy(value) or is_numba(value)


def library_of(value: Any, device: int | None = None) -> Library:
    """The library of an array on a GPU, on the array's GPU unless another is named."""
    on = device_of(value) if device is None else device
    if on is None or on == UNKNOWN_DEVICE:
        raise ValueError(f"an array of type {type(value).__name__} does not say which GPU it is on")
    if is_torch(value):
        return Torch(on)
    if is_cupy(value):
        return CuPy(on)
    return Numba(on, value.stream) if is_numba(value) else Numba(on)


def numpy_dtype(name: str) -> np.dtype[Any]:
    """NumPy's dtype of this name; bfloat16 is that of ml_dtypes."""
    if name == "bfloat16":
        try:
            import ml_dtypes  # noqa: F401  (gives NumPy the dtype)
        except ImportError:
            raise ImportError("arrays of bfloat16 that are not PyTorch's need the package ml_dtypes") from None
    return np.dtype(name)
