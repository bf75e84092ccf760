"""Arrays on a GPU, of any library, as kernels see them: a pointer, a shape, strides in elements and a dtype's name."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.libraries import is_torch
from fastce.arguments.out import PARTLY_REPLACES, SHARES_MEMORY, Receiver, check_receiver
from fastce.arguments.places import HOST_TYPES, UNKNOWN_DEVICE, device_of
from fastce.arguments.words import of_autograd
from fastce.cuda import driver
from fastce.cuda.flat import FLAT_DTYPES, Flat
from fastce.cuda.libraries import CuPy, Library, Torch, has_known_stream, is_numba, library_of

_READ_ONLY_LIBRARIES = ("jax", "jaxlib")  # their arrays never change, though DLPack does not say so


@dataclass(frozen=True, eq=False)
class DeviceArray:
    """An array on a GPU: what the caller gave, and where and how its elements lie."""

    given: Any
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # in elements
    dtype_name: str  # "float32", "bfloat16", ...
    pointer: int  # to element (0, ..., 0)
    is_writable: bool
    library: Library

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    @property
    def flat_dtype(self) -> np.dtype[Any]:
        """The dtype of `flat`: uint16 for bfloat16."""
        return FLAT_DTYPES[self.dtype_name]

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.flat_dtype.itemsize

    @property
    def device(self) -> int:
        """The id of the GPU."""
        return self.library.device

    @property
    def origin(self) -> int:
        """The index of element (0, ..., 0) in `flat`; not 0 if a stride is negative."""
        return self._span()[0]

    @property
    def flat_size(self) -> int:
        """The number of elements from the first to the last in memory, those between them included."""
        return self._span()[1]

    def _span(self) -> tuple[int, int]:
        """(how many elements lie before element (0, ..., 0), how many there are from the first to the last)."""
        before = after = 0
        for stride, length in zip(self.strides, self.shape, strict=True):
            if length == 0:
                return 0, 0
            reach = stride * (length - 1)
            before, after = (before - reach, after) if reach < 0 else (before, after + reach)
        return before, before + 1 + after

    def flat(self) -> Any:
        """The memory from the first to the last element, as kernels take it.

        Element (i, j, ...) is at ``origin + i * strides[0] + j * strides[1] + ...``.
        """
        if hasattr(self.given, "_ary"):  # of the simulator
            return type(self.given)(_flat_on_host(self.given._ary, self.flat_size).view(self.flat_dtype))
        before, size = self._span()
        return Flat(self.pointer - before * self.itemsize, size, self.flat_dtype, self.given, self.library)

    def extent(self) -> tuple[int, int]:
        """The addresses of the first byte and after the last; all bytes between them count as the array's."""
        before, size = self._span()
        first = self.pointer - before * self.itemsize
        return first, first + size * self.itemsize

    def is_same_memory(self, other: "DeviceArray") -> bool:
        """Whether element for element both are the same."""
        return (
            self.pointer == other.pointer
            and self.shape == other.shape
            and self._steps() == other._steps()
            and self.dtype_name == other.dtype_name
        )

    def overlaps(self, other: "DeviceArray") -> bool:
        """Whether the extents have bytes in common, by which interleaved columns overlap too."""
        (start, stop), (other_start, other_stop) = self.extent(), other.extent()
        return max(start, other_start) < min(stop, other_stop)

    def _steps(self) -> list[tuple[int, int]]:
        """Stride and length of each axis along which there is a step to make."""
        return [(s, n) for s, n in zip(self.strides, self.shape, strict=True) if n > 1]


def _flat_on_host(array: Array, flat_size: int) -> Array:
    """The memory of a simulated array from its first to its last element, without a copy."""
    if flat_size == 0:
        return np.empty(0, array.dtype)
    # The element that comes first in memory is the last one along every axis of negative stride.
    steps = (slice(None, None, -1 if stride < 0 else 1) for stride in array.strides)
    corner: Array = array[(Ellipsis, *steps)]  # type: ignore[arg-type]  # the first one keeps it an array
    return np.lib.stride_tricks.as_strided(corner, (flat_size,), (array.itemsize,))


# --- arrays of the caller --------------------------------------------------------------------------------------------


def device_array(value: Any, name: str, reader: Library | None = None) -> DeviceArray:
    """See an array on a GPU as kernels do, ready to be read in the reader's stream; nothing is copied.

    Parameters
    ----------
    value : array on a GPU
        Of Numba, PyTorch, CuPy, or of any library with DLPack or the CUDA array interface.
    name : str
        What it is called in error messages.
    reader : Library, optional
        In whose stream kernels read it; by default its own library's. What another library, or Numba in another
        stream, has still to write into it is waited for there.

    Returns
    -------
    DeviceArray
        Keeps `value` alive.

    Raises
    ------
    TypeError
        If this is no dense array of real numbers on a GPU, or a PyTorch tensor that requires grad.
    """
    if (device := device_of(value)) is None:
        raise TypeError(f"{name} must be an array on a GPU, got {type(value).__name__}")
    library = library_of(value, _where(value, device))
    reader = library if reader is None else reader
    if is_numba(value) and reader.name == library.name and reader.owns(value):
        return _of_numba(value, name, library)
    if is_torch(value):
        return _of_torch(value, name, library, reader)
    in_order = isinstance(library, CuPy) and reader == library
    with reader.on_device():
        view = _strided_view(value, -1 if in_order else reader.consumer)
        strides = _contiguous(view.shape) if view.strides is None else tuple(view.strides)
        dtype_name = _dtype_name(value, view, name)
    is_writable = not view.readonly and type(value).__module__.split(".")[0] not in _READ_ONLY_LIBRARIES
    return DeviceArray(value, tuple(view.shape), strides, dtype_name, int(view.ptr), is_writable, library)


def library_holding(value: Any) -> Library:
    """The library of an array on a GPU, whatever else is to be said of it."""
    return library_of(value, _where(value, cast(int, device_of(value))))


def _dtype_name(value: Any, view: Any, name: str) -> str:
    """From the array itself if possible: a view has a dtype for bfloat16 only where ml_dtypes is installed."""
    own_name = str(getattr(value, "dtype", None)).removeprefix("torch.")
    return own_name if own_name in FLAT_DTYPES else _checked_dtype(view.dtype, name)


def _checked_dtype(dtype: Any, name: str) -> str:
    """The name of a dtype of any library."""
    dtype_name = str(dtype).removeprefix("torch.")
    if dtype_name in FLAT_DTYPES:
        return dtype_name
    if getattr(dtype, "byteorder", "=") == ">":
        raise TypeError(f"{name} has dtype {dtype}, which is byte-swapped: convert it to the byte order of the GPU")
    raise TypeError(f"{name} must hold real numbers, got dtype {dtype_name}")


def _of_torch(tensor: Any, name: str, library: Library, reader: Library) -> DeviceArray:
    """Read from the tensor itself, not through DLPack, which in some versions lacks unsigned integers."""
    _refuse_unlike_its_memory(tensor, name)
    assert isinstance(library, Torch)
    if reader != library:
        library.hand_over(reader.stream_pointer)
    dtype_name, shape = _checked_dtype(tensor.dtype, name), tuple(tensor.shape)
    return DeviceArray(tensor, shape, tuple(tensor.stride()), dtype_name, int(tensor.data_ptr()), True, library)


def _refuse_unlike_its_memory(tensor: Any, name: str) -> None:
    """PyTorch's tensors that are more, or less, than their elements in memory."""
    _checked_dtype(tensor.dtype, name)
    if str(tensor.layout) != "torch.strided":
        raise TypeError(f"{name} must be a dense tensor, got layout {tensor.layout}")
    if tensor.requires_grad:
        raise of_autograd(name)
    if tensor.is_neg():  # its elements are the negative of what is in memory; DLPack passes that over
        raise TypeError(f"{name} is a lazily negated view: give {name}.resolve_neg()")


def _where(value: Any, device: int) -> int:
    """The GPU of an array; of one that does not say it the driver knows."""
    return int(_strided_view(value, -1).device_id) if device == UNKNOWN_DEVICE else device


def _strided_view(value: Any, consumer: int) -> Any:
    from cuda.core.utils import StridedMemoryView  # the simulator runs where this does not

    return StridedMemoryView.from_any_interface(value, stream_ptr=consumer)


def _of_numba(array: Any, name: str, library: Library) -> DeviceArray:
    dtype_name, itemsize, shape = _checked_dtype(array.dtype, name), array.dtype.itemsize, tuple(array.shape)
    if any(stride % itemsize for stride in array.strides):
        raise ValueError(
            f"{name} has strides {tuple(array.strides)}, which are no multiples of {itemsize} bytes: copy it"
        )
    strides = tuple(stride // itemsize for stride in array.strides)
    if hasattr(array, "_ary"):  # of the simulator
        pointer, is_writable = array._ary.ctypes.data, array._ary.flags.writeable
    else:
        pointer, is_writable = array.device_ctypes_pointer.value or 0, True
    return DeviceArray(array, shape, strides, dtype_name, pointer, is_writable, library)


def _contiguous(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))


def wait_for_readers(values: Iterable[Any]) -> None:
    """Wait until kernels have read those of the arguments whose memory their library may use again at once.

    Libraries without a stream that is known here (JAX) do not see that kernels are still to read an array.
    """
    for value in values:
        if type(value) in HOST_TYPES or has_known_stream(value) or hasattr(value, "tocsr"):
            continue
        if device_of(value) is not None:
            library = library_holding(value)
            with library.on_device():
                driver.wait(library.stream_pointer)
            return


# --- new arrays, and out ---------------------------------------------------------------------------------------------


def empty(library: Library, shape: tuple[int, ...], dtype_name: str) -> DeviceArray:
    """A new array of the caller's library, on its GPU and in its current stream."""
    given, pointer = library.new(shape, dtype_name)
    return DeviceArray(given, shape, _contiguous(shape), dtype_name, pointer, True, library)


def zeros(library: Library, shape: tuple[int, ...], dtype_name: str) -> DeviceArray:
    """As `empty`, of zeros."""
    array = empty(library, shape, dtype_name)
    fill_with_zeros(array, array.size * array.itemsize)
    return array


def fill_with_zeros(array: DeviceArray, count: int) -> None:
    """The first bytes of a contiguous array."""
    if hasattr(array.given, "_ary"):  # of the simulator
        array.given._ary.reshape(-1).view(np.uint8)[:count] = 0
    elif count:
        with array.library.on_device():
            driver.fill_with_zeros(array.pointer, count, array.library.stream_pointer)


def checked_out(
    out: Any, shape: tuple[int, ...], dtype_name: str, may_replace: DeviceArray, inputs: list[DeviceArray | None]
) -> DeviceArray:
    """``out``, or a new array. It may be the input that it replaces; it must not overlap any input otherwise.

    Arrays overlap where their extents in memory do: columns of one matrix overlap, though no element is shared.
    """
    if out is None:
        return empty(may_replace.library, shape, dtype_name)
    array = device_array(out, "out", may_replace.library)
    byte_strides = tuple(stride * array.itemsize for stride in array.strides)
    receiver = Receiver(array.shape, array.dtype_name, byte_strides, array.itemsize, array.is_writable)
    check_receiver(receiver, shape, dtype_name)
    if not array.is_same_memory(may_replace) and array.overlaps(may_replace):
        raise ValueError(PARTLY_REPLACES)
    if any(other is not None and array.overlaps(other) for other in inputs):
        raise ValueError(SHARES_MEMORY)
    return array
