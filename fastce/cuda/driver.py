"""What is asked of the CUDA driver: kernels loaded and launched, memory filled and read, streams waited for.

Numba's own launch types and prepares each argument anew, which takes longer than a small kernel runs; contexts, streams
and functions are plain handles here, each asked for once.
"""

import contextlib
import ctypes
import functools
from typing import Any

from numba import config

if not config.ENABLE_CUDASIM:
    from cuda.bindings import driver as api

CAPABILITY = (75, 76)  # attributes of a device: major and minor
MULTIPROCESSORS = 16
SHARED_SIZE = 1  # attribute of a function: bytes of shared memory of a block
LARGE = 1 << 14  # of these
CARVEOUT = 9  # attribute of a function: how much of the memory of a multiprocessor is to be shared memory, in percent


def _done(answer: tuple[Any, ...]) -> Any:
    """What a function of the driver returns, or its error."""
    status, *values = answer
    if status != 0:
        raise RuntimeError(f"the CUDA driver says {getattr(status, 'name', status)}")
    return values[0] if values else None


@functools.cache
def _context(device: int) -> int:
    """The context of a GPU that all libraries share, kept for as long as the process lasts."""
    _done(api.cuInit(0))
    return int(_done(api.cuDevicePrimaryCtxRetain(device)))


@contextlib.contextmanager
def _pushed(context: int) -> Any:
    _done(api.cuCtxPushCurrent(context))
    try:
        yield
    finally:
        _done(api.cuCtxPopCurrent())


_AS_IT_IS = contextlib.nullcontext()


def working_on(device: int) -> Any:
    """A context in which this GPU is the one that the driver is asked about."""
    context = _context(device)
    return _AS_IT_IS if int(_done(api.cuCtxGetCurrent())) == context else _pushed(context)


@functools.cache
def attribute(which: int, device: int) -> int:
    """A number that is known of a GPU."""
    _context(device)
    return int(_done(api.cuDeviceGetAttribute(api.CUdevice_attribute(which), device)))


def capability(device: int) -> tuple[int, int]:
    """The compute capability of a GPU."""
    major, minor = (attribute(which, device) for which in CAPABILITY)
    return major, minor


# --- on the GPU that is worked on ------------------------------------------------------------------------------------


def load(code: bytes, name: str) -> int:
    """The handle of a kernel of this name, in a cubin.

    Blocks of one with much shared memory find as much of it on a multiprocessor as there can be.
    """
    module = _done(api.cuModuleLoadData(code))
    function = int(_done(api.cuModuleGetFunction(module, name.encode())))
    if int(_done(api.cuFuncGetAttribute(api.CUfunction_attribute(SHARED_SIZE), function))) >= LARGE:
        _done(api.cuFuncSetAttribute(function, api.CUfunction_attribute(CARVEOUT), 100))
    return function


def launch(function: int, grid: int, block: tuple[int, int], stream: int, params: Any) -> None:
    """Launch a kernel whose only parameter is this buffer of ctypes; the driver copies it."""
    address = ctypes.c_void_p(ctypes.addressof(params))
    _done(
        api.cuLaunchKernel(function, grid, 1, 1, block[0], block[1], 1, 0, stream, ctypes.addressof(address), 0)
    )  # fmt: skip


def fill_with_zeros(pointer: int, size: int, stream: int) -> None:
    """So many bytes."""
    _done(api.cuMemsetD8Async(pointer, 0, size, stream))


def copy_to_host(pointer: int, numbers: Any, stream: int) -> None:
    """Fill an array of NumPy, which is waited for."""
    if numbers.nbytes:
        _done(api.cuMemcpyDtoHAsync(numbers.ctypes.data, pointer, numbers.nbytes, stream))
        wait(stream)


def copy_to_device(pointer: int, numbers: Any, stream: int) -> None:
    """Copy a contiguous array of NumPy, whose memory may be used again afterwards."""
    if numbers.nbytes:
        _done(api.cuMemcpyHtoDAsync(pointer, numbers.ctypes.data, numbers.nbytes, stream))


def wait(stream: int) -> None:
    """Wait until the GPU has done what it was told in a stream."""
    _done(api.cuStreamSynchronize(stream))


def blocks_of_multiprocessor(function: int, threads: int) -> int:
    """How many blocks of this kernel run at once on a multiprocessor."""
    return int(_done(api.cuOccupancyMaxActiveBlocksPerMultiprocessor(function, threads, 0)))
