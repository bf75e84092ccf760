"""Where logits are read from, a block at a time: arrays, memmaps, .npy files, and whatever has slices."""

import math
import mmap
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from fastce.arguments.arrays import Array, plain_array, real_array
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.words import shown

T = TypeVar("T")


class Source(Protocol):
    """A matrix of logits, or of probabilities, in parts."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    chunks: tuple[int, int]  # the parts that it is best read in multiples of
    is_mapped: bool  # reading copies nothing

    def read(self, rows: slice, columns: slice) -> Array:
        """Some rows and columns."""


class ArraySource:
    """An array in memory, or a map of a file: parts are views."""

    is_mapped = True

    def __init__(self, array: Array) -> None:
        self.array = array
        self.shape: tuple[int, int] = array.shape
        self.dtype: np.dtype[Any] = array.dtype
        row, column = (abs(step) for step in array.strides)
        self.chunks: tuple[int, int] = (array.shape[0], 1) if row < column else (1, array.shape[1])

    def read(self, rows: slice, columns: slice) -> Array:
        """See `Source`."""
        return self.array[rows, columns]


class SlicedSource:
    """Whatever has a shape, a dtype and slices, as arrays of Zarr and HDF5. Parts are read when they are asked for."""

    is_mapped = False

    def __init__(self, array: Any, name: str) -> None:
        self.array = array
        self.name = name
        rows, columns = array.shape
        self.shape: tuple[int, int] = (int(rows), int(columns))
        self.dtype: np.dtype[Any] = real_array(self.read(slice(0, 0), slice(0, 0)), name).dtype
        chunks = getattr(array, "chunks", None)
        is_pair = isinstance(chunks, tuple) and len(chunks) == 2 and all(isinstance(n, int) for n in chunks)
        self.chunks: tuple[int, int] = chunks if is_pair and chunks is not None else (1, self.shape[1])

    def read(self, rows: slice, columns: slice) -> Array:
        """See `Source`."""
        return plain_array(as_numpy(self.array[rows, columns], self.name), self.name)


_HEADERS = {  # the third has names of fields in UTF-8, which numbers have not
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
    (3, 0): np.lib.format.read_array_header_2_0,
}


class NpyFile:
    """A file that `numpy.save` has written: a part of it is mapped for as long as that is in use, never all of it."""

    is_mapped = True

    def __init__(self, path: Any, name: str) -> None:
        self.path: Path = Path(path)
        try:
            with self.path.open("rb") as file:
                version = np.lib.format.read_magic(file)
                shape, is_fortran, dtype = _HEADERS[version](file)
                self.start: int = file.tell()
                size = os.fstat(file.fileno()).st_size
        except (ValueError, KeyError) as error:
            raise ValueError(f"{name} must be a .npy file or an opened array, got {str(path)!r}") from error
        if len(shape) != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {shape} in {self.path}")
        if size < self.start + math.prod(shape) * dtype.itemsize:
            raise ValueError(f"{name} must be a whole .npy file, but {str(path)!r} ends before its last number")
        self.shape: tuple[int, int] = shape
        self.dtype: np.dtype[Any] = dtype
        self.is_fortran: bool = is_fortran
        self.chunks: tuple[int, int] = (shape[0], 1) if is_fortran else (1, shape[1])

    def read(self, rows: slice, columns: slice) -> Array:
        """See `Source`."""
        with self.path.open("rb") as file:
            return self._mapped(file.fileno(), rows, columns, mmap.ACCESS_READ)

    def write(self, rows: slice, columns: slice) -> Array:
        """These elements, to be written to."""
        with self.path.open("r+b") as file:
            return self._mapped(file.fileno(), rows, columns, mmap.ACCESS_WRITE)

    def _mapped(self, file: int, rows: slice, columns: slice, access: int) -> Array:
        """A map of the lines in which they lie, whose pages are sent for at once."""
        lines, within = (columns, rows) if self.is_fortran else (rows, columns)
        length = self.shape[0] if self.is_fortran else self.shape[1]
        count = lines.stop - lines.start
        if count * length == 0:
            return np.empty((rows.stop - rows.start, columns.stop - columns.start), self.dtype)
        first = self.start + lines.start * length * self.dtype.itemsize
        before = first % mmap.ALLOCATIONGRANULARITY
        size = before + count * length * self.dtype.itemsize
        memory = mmap.mmap(file, size, access=access, offset=first - before)
        if hasattr(mmap, "MADV_WILLNEED"):
            memory.madvise(mmap.MADV_WILLNEED)
        part = np.frombuffer(memory, self.dtype, count * length, before).reshape(count, length)[:, within]
        return part.T if self.is_fortran else part

    @classmethod
    def new(cls, path: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> "NpyFile":
        """A file for so many numbers, all 0; a file that was there is unlinked, for something may have it mapped."""
        if Path(path).is_file():
            Path(path).resolve().unlink()
        with Path(path).open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_2_0(file, header)
            file.truncate(file.tell() + shape[0] * shape[1] * dtype.itemsize)
        made = cls(path, "out")
        made.dtype = dtype  # the file says V2 of bfloat16, as those of numpy.save do
        return made


def files_of(value: Any) -> list[Path]:
    """The file that this names, or that it is a map of."""
    if is_path(value):
        return [Path(value)]
    while value is not None:
        name = getattr(value, "filename", None) if isinstance(value, np.memmap) else None
        if name is not None:
            return [Path(name)]
        value = getattr(value, "base", None)
    return []


def is_path(value: Any) -> bool:
    """Whether this names a file."""
    return isinstance(value, (str, os.PathLike))


def has_slices(value: Any) -> bool:
    """Whether this is an array of some kind, not blocks that come one after the other."""
    return hasattr(value, "shape") and hasattr(value, "dtype") and hasattr(value, "__getitem__")


def source_of(value: Any, name: str) -> Source:
    """A matrix that is somewhere; a path is that of a .npy file."""
    if is_path(value):
        source: Source = NpyFile(value, name)
        real_array(np.empty(0, source.dtype), name)
        return source
    array = as_numpy(value, name) if has_slices(value) and not isinstance(value, np.ndarray) else value
    if isinstance(array, np.ndarray):
        plain = real_array(array, name)
        if plain.ndim == 2:
            return ArraySource(plain)
    elif has_slices(array) and len(array.shape) == 2:
        return SlicedSource(array, name)
    raise ValueError(f"{name} must have two dimensions, rows and classes, got {shown(value)}")


def cuts(source: Source, memory_budget: int, copies: int) -> tuple[list[slice], list[slice]]:
    """(rows, columns) of the tiles that it is read in, of which ``copies`` are in memory at a time.

    All classes of some rows if that can be, for such rows are read once. Where the parts that the source is kept in
    are too long for that (or a single row is), some classes of as many rows as such a part has.
    """
    (rows, classes), (of_rows, of_columns) = source.shape, source.chunks
    elements = max(1, memory_budget // (copies * max(source.dtype.itemsize, 1)))
    high = elements // max(classes, 1)
    if high >= min(of_rows, rows):
        return cut(rows, high - high % of_rows if high > of_rows else max(high, 1)), [slice(0, classes)]
    high = min(rows, max(of_rows, 1)) if of_rows > 1 else min(rows, LEAST_ROWS)
    wide = max(1, elements // max(high, 1))
    return cut(rows, high), cut(classes, wide - wide % of_columns if wide > of_columns else wide)


LEAST_ROWS = 256  # of which some classes are read at a time, where single rows are too long


def cut(length: int, size: int) -> list[slice]:
    """Slices of this size, the last one of what is left."""
    return [slice(start, min(start + size, length)) for start in range(0, length, max(size, 1))]


def ahead(calls: Iterable[Callable[[], T]], is_ahead: bool) -> Iterator[T]:
    """What these calls return, in their order; a thread makes the next one while the caller computes."""
    if not is_ahead:
        for call in calls:
            yield call()
        return
    waiting = iter(calls)
    with ThreadPoolExecutor(1, "fastce reads") as pool:
        pending = deque(pool.submit(call) for call in islice(waiting, 1))
        while pending:
            result = pending.popleft().result()
            pending.extend(pool.submit(call) for call in islice(waiting, 1))
            yield result


def is_read_ahead(source: Source, read_ahead: bool | None) -> bool:
    """Whether a thread reads the next part of it; of maps the pages are sent for without one."""
    return not source.is_mapped if read_ahead is None else bool(read_ahead)


def number_of(items: Any) -> int:
    """How many blocks there are, 0 if that is not known."""
    return len(items) if hasattr(items, "__len__") else 0


def check_read_again(items: Any, reader: str) -> None:
    """Refuse what gives its blocks once, where that is not enough."""
    if isinstance(items, Iterator):
        raise ValueError(
            f"{reader} blocks of classes twice: give a sequence, or a function that gives a new iterator, got an "
            "iterator"
        )


def iterable(items: Any) -> Iterable[Any]:
    """What gives the blocks: an iterable, or a function that gives one."""
    if callable(items) and not isinstance(items, Iterable):
        items = items()
    if not isinstance(items, Iterable):
        raise TypeError(f"logits must be an array, a path or an iterable of blocks, got {type(items).__name__}")
    return items
