"""Device arrays as the arrays of a library that multiplies matrices: CuPy, or in Numba's simulator NumPy."""

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
from numba import config

from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.layout import contiguous
from fastce.cuda.libraries import Library
from fastce.cuda.run import numbers_of

HALVES = {"float16": 2, "bfloat16": 14}  # as cuBLAS knows them: CUDA_R_16F, CUDA_R_16BF
CUDA_R_32F = 0
CUBLAS_COMPUTE_32F = 68  # tensor cores multiply halves, and add up in float32
CUBLAS_GEMM_DEFAULT = -1


def array_module() -> Any:
    """CuPy; NumPy in the simulator."""
    if config.ENABLE_CUDASIM:
        return np
    try:
        import cupy
    except ImportError:
        raise ImportError(
            "losses from features on a GPU multiply matrices with CuPy: pip install cupy-cuda12x or cupy-cuda13x, by "
            "the version of CUDA that the driver supports"
        ) from None
    return cupy


def has_array_module() -> bool:
    """Whether `array_module` is there: a loss of a matrix does without."""
    try:
        array_module()
    except ImportError:
        return False
    return True


@contextlib.contextmanager
def working_in(library: Library) -> Iterator[None]:
    """CuPy, if it is there, works on the GPU of a library, and in its current stream."""
    if not has_array_module() or array_module() is np:
        yield
        return
    streams, pointer = array_module().cuda, library.stream_pointer
    stream = streams.ExternalStream(pointer, library.device) if pointer else streams.Stream.null
    with streams.Device(library.device), stream:
        yield


def finish(library: Library) -> None:
    """Wait until the GPU has done what it was told in the current stream."""
    if array_module() is not np:
        with working_in(library):
            array_module().cuda.get_current_stream().synchronize()


# --- views -----------------------------------------------------------------------------------------------------------


def seen(array: DeviceArray) -> Any:
    """The same memory as an array of `array_module()`; bfloat16 as its bits."""
    if hasattr(array.given, "_ary"):  # of the simulator
        return array.given._ary.view(array.flat_dtype)
    cupy = array_module()
    first, end = array.extent()
    memory = cupy.cuda.UnownedMemory(first, end - first, array.given, array.device)
    place = cupy.cuda.MemoryPointer(memory, array.pointer - first)
    strides = tuple(stride * array.itemsize for stride in array.strides)
    return cupy.ndarray(array.shape, array.flat_dtype, place, strides)


def seen_flat(flat: Any) -> Any:
    """As `seen`, of an array of Numba."""
    return flat._ary if hasattr(flat, "_ary") else array_module().asarray(flat)


def rows_between(array: DeviceArray, start: int, stop: int) -> DeviceArray:
    """These rows of an array, where they are."""
    given = array.given[start:stop] if hasattr(array.given, "_ary") else array.given
    pointer = array.pointer + start * array.strides[0] * array.itemsize
    return dataclasses.replace(array, given=given, shape=(stop - start, *array.shape[1:]), pointer=pointer)


def reshaped(array: DeviceArray, shape: tuple[int, ...], strides: tuple[int, ...]) -> DeviceArray:
    """The same elements in another shape, which these strides have in memory."""
    given = type(array.given)(array.given._ary.reshape(shape)) if hasattr(array.given, "_ary") else array.given
    return dataclasses.replace(array, given=given, shape=shape, strides=strides)


def of_numbers(values: Any, library: Library) -> DeviceArray:
    """As kernels see an array of `array_module()`, float32 or float64; the memory is the same."""
    strides = tuple(stride // values.itemsize for stride in values.strides)
    if array_module() is np:
        simulated = type(empty(library, (0,), "float32").given)
        given, pointer = simulated(values), values.ctypes.data
    else:
        given, pointer = values, values.data.ptr
    return DeviceArray(given, values.shape, strides, values.dtype.name, pointer, True, library)


def on_device(values: Any, library: Library) -> DeviceArray:
    """A new array of a library, from one of `array_module()` or of NumPy."""
    result = empty(library, values.shape, str(values.dtype))
    seen(result)[...] = array_module().asarray(values)
    return result


def host_numbers(array: DeviceArray) -> Any:
    """The elements as an array of NumPy in the same shape, once the device has come to them: of small arrays."""
    if array.size == 0:
        return np.empty(array.shape, array.flat_dtype)
    flat = contiguous(array, "float32" if array.dtype_name == "bfloat16" else None)
    return numbers_of(flat).reshape(array.shape)


def as_reals(array: DeviceArray, dtype: np.dtype[Any], numbers: Any = None) -> Any:
    """The rows of floats of any width, or only those of these numbers; a view if nothing is to be converted."""
    x = seen(array)
    return _wide(x if numbers is None else x[numbers]).astype(dtype, copy=False)


def _wide(x: Any) -> Any:
    """Floats of any width, of which bfloat16 is given as its bits: the upper half of a float32."""
    if x.dtype != np.uint16:
        return x
    x = x.astype(np.uint32)
    x <<= 16
    return x.view(np.float32)


def as_halves(array: DeviceArray) -> Any:
    """The rows of halves as `multiply` takes them; None if it does not, or if they are no halves."""
    step, next_element = array.strides
    rows, width = array.shape
    lie_alike = (next_element == 1 or width == 1) and (step >= width or rows == 1)
    return seen(array) if array.dtype_name in HALVES and lie_alike else None


# --- products --------------------------------------------------------------------------------------------------------


def multiply(a: Any, b: Any, out: Any, *, adds: bool = False) -> None:
    """out = a @ b, or out += a @ b; see `gemm_arguments` for the strides that they may have.

    Halves (bfloat16 as its bits) are both of one dtype, and their products are added up in float32, which out has.
    """
    if array_module() is np:
        product = _wide(a).astype(out.dtype, copy=False) @ _wide(b).astype(out.dtype, copy=False)
        out[...] = product + out if adds else product
        return
    if out.size == 0:
        return
    if a.shape[1] == 0:
        if not adds:
            out.fill(0.0)  # whatever is there, NaN too
        return
    from cupy_backends.cuda.libs import cublas

    (of_b, of_a), sizes, (b_step, a_step, out_step) = gemm_arguments(a, b, out)
    one, scale = np.ones(1, out.dtype), np.full(1, float(adds), out.dtype)
    head = array_module().cuda.Device().cublas_handle, of_b, of_a, *sizes, one.ctypes.data
    if a.dtype.itemsize == 2:
        kind = HALVES["bfloat16" if a.dtype == np.uint16 else "float16"]
        cublas.gemmEx(
            *head, b.data.ptr, kind, b_step, a.data.ptr, kind, a_step, scale.ctypes.data, out.data.ptr, CUDA_R_32F,
            out_step, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT,
        )  # fmt: skip
    else:
        gemm = cublas.sgemm if a.dtype == np.float32 else cublas.dgemm
        gemm(*head, b.data.ptr, b_step, a.data.ptr, a_step, scale.ctypes.data, out.data.ptr, out_step)


def gemm_arguments(a: Any, b: Any, out: Any) -> tuple[tuple[int, int], tuple[int, int, int], tuple[int, int, int]]:
    """What BLAS is told, for which columns are what rows are here: it computes out.T = b.T @ a.T.

    Elements are adjacent along one axis of a and of b, and along the last of out; nothing is copied.

    Returns
    -------
    (transposed b, transposed a), (columns and rows of out, columns of a), steps from row to row of b, a and out
    """
    (of_a, a_step), (of_b, b_step) = _operand(a), _operand(b)
    return (of_b, of_a), (b.shape[1], a.shape[0], a.shape[1]), (b_step, a_step, _operand(out)[1])


def _operand(x: Any) -> tuple[int, int]:
    """(whether x.T lies in memory as a matrix of rows, the step from row to row)."""
    is_transposed = x.shape[1] > 1 and x.strides[1] != x.itemsize
    if is_transposed:
        x = x.T
    step = x.strides[0] // x.itemsize if x.shape[0] > 1 else x.shape[1]
    return int(is_transposed), step
