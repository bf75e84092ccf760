"""Where gradients go, a block at a time: into an array, a memmap or a file, or to a function of the caller's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy import ma

from fastce.arguments.arrays import Array, kernel_dtype
from fastce.arguments.libraries import read as as_numpy
from fastce.arguments.out import PARTLY_REPLACES, SHARES_MEMORY, check_receiver, overlap, same_memory
from fastce.arguments.out import Receiver as Place
from fastce.arguments.words import shown
from fastce.streaming.sources import NpyFile, files_of, has_slices, is_path


class Receiver(Protocol):
    """What takes the gradient of a matrix in parts; ``shape`` is (None, None) where any will do."""

    shape: tuple[int | None, int | None]

    def room(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> Array:
        """Where these elements can be written."""

    def put(self, rows: slice, columns: slice, part: Array) -> None:
        """They are written."""

    def given(self) -> Any:
        """What the caller gets in the end."""


class _Array:
    """An array in memory, or a map of a file."""

    def __init__(self, given: Any, array: Array) -> None:
        self.out = given
        self.array: Array = np.asarray(array)
        self.shape: tuple[int | None, int | None] = array.shape

    def room(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> Array:
        return self.array[rows, columns]

    def put(self, rows: slice, columns: slice, part: Array) -> None:
        pass

    def given(self) -> Any:
        return self.out


class _Copied:
    """What is given parts in memory of their own."""

    def room(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> Array:
        return np.empty((rows.stop - rows.start, columns.stop - columns.start), dtype)


class _Sliced(_Copied):
    """Whatever has slices that can be assigned: arrays of Zarr and HDF5, say."""

    def __init__(self, array: Any) -> None:
        self.array = array
        self.shape: tuple[int | None, int | None] = tuple(array.shape)

    def put(self, rows: slice, columns: slice, part: Array) -> None:
        self.array[rows, columns] = part

    def given(self) -> Any:
        return self.array


class _Function(_Copied):
    """A function of the caller's: out(rows, columns, gradient)."""

    shape: tuple[int | None, int | None] = (None, None)

    def __init__(self, function: Any) -> None:
        self.function = function

    def put(self, rows: slice, columns: slice, part: Array) -> None:
        self.function(rows, columns, part)

    def given(self) -> Any:
        return None


class _File:
    """A .npy file, of which only what is being written is mapped."""

    def __init__(self, path: Any, shape: tuple[int, int], dtype: np.dtype[Any]) -> None:
        self.path = path
        self.shape: tuple[int | None, int | None] = shape
        self.file = NpyFile.new(path, shape, dtype)

    def room(self, rows: slice, columns: slice, dtype: np.dtype[Any]) -> Array:
        return self.file.write(rows, columns)

    def put(self, rows: slice, columns: slice, part: Array) -> None:
        pass

    def given(self) -> Any:
        return self.path


def receiver_of(
    out: Any, shape: tuple[int | None, int | None], dtype: np.dtype[Any], logits: Any, others: Sequence[Any]
) -> Receiver:
    """What takes a gradient of this shape and dtype; numbers of a shape that are None are not known yet.

    It may replace the logits, where it is an array, but none of the other arguments.
    """
    rows, classes = shape
    if is_path(out):
        if rows is None or classes is None:
            raise ValueError("out must be an array or a function where the number of blocks is not known, got a path")
        if any(_is_same_file(file, out) for value in (logits, *others) for file in files_of(value)):
            raise ValueError(f"out must be another file than logits, targets and weights are in, got {str(out)!r}")
        return _File(out, (rows, classes), kernel_dtype(dtype))
    if has_slices(out):
        array = as_numpy(out, "out")
        _check(array, shape, kernel_dtype(dtype))
        if not isinstance(array, np.ndarray):
            return _Sliced(out)
        if isinstance(logits, np.ndarray) and out is not logits and not same_memory(array, logits):
            check_overlap(array, logits)
        for other in others:
            if isinstance(other, np.ndarray) and overlap(array, other):
                raise ValueError(SHARES_MEMORY)
        return _Array(out, array)
    if callable(out):
        return _Function(out)
    raise TypeError(
        f"out must be an array, a memmap, the path of a .npy file or a function(rows, columns, gradient), "
        f"got {shown(out)}"
    )


def room_for(block: Array, out: Receiver, rows: slice, columns: slice, dtype: np.dtype[Any]) -> Array:
    """Where the gradient of a block is written: over the block itself, or over none of it."""
    room = out.room(rows, columns, dtype)
    if isinstance(out, _Array) and not same_memory(room, block):
        check_overlap(out.array, block)
    return room


def check_overlap(out: Array, block: Array) -> None:
    """Refuse an ``out`` that overlaps logits which it does not replace."""
    if overlap(out, block):
        raise ValueError(PARTLY_REPLACES)


def _is_same_file(file: Path, out: Any) -> bool:
    return Path(out).exists() and file.exists() and Path(out).samefile(file)


def _check(out: Any, shape: tuple[int | None, int | None], dtype: np.dtype[Any]) -> None:
    given = tuple(out.shape)
    if len(given) != 2 or any(n is not None and n != m for n, m in zip(shape, given, strict=True)):
        raise ValueError(f"out has shape {given}, expected {shape}")
    if isinstance(out, ma.MaskedArray):
        raise TypeError("out must not be a masked array")
    if isinstance(out, np.ndarray):
        check_receiver(Place(given, out.dtype, out.strides, out.itemsize, out.flags.writeable), given, dtype)
    elif np.dtype(out.dtype) != dtype:
        raise ValueError(f"out has dtype {out.dtype}, expected {dtype}")
