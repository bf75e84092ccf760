"""Arrays as kernels see them: a matrix of rows; see columns.py for rows side by side.

Nothing is copied but blocks of rows that a kernel cannot read as they lie in memory.
"""

import copy
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.silence import cast
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.copying import EDGE, boxes, copy_rows
from fastce.cpu.rooms import Room
from fastce.cpu.threads import INLINE_BYTES, LARGEST_BLOCK_BYTES, cut_rows, cut_runs, for_each

STRETCH = 128  # rows of a block at least, where they are copied from adjacent rows; twice as many short ones
LARGEST_STEP = 2  # elements from one to the next of a line that is copied a vector at a time
PAST_CACHE_BYTES = 1 << 23


def goes_past_cache(out: Array, source: Array | None = None) -> bool:
    """Whether a result is written past the cache, which it would only sweep; not over its source, which is in there."""
    return out.nbytes > PAST_CACHE_BYTES and (source is None or not np.may_share_memory(out, source))


class Rows:
    """An array seen as a matrix: one or more axes make the classes of a row, all the others together the rows.

    Attributes
    ----------
    lead : tuple of int
        The shape without the class axes.
    rows, classes : int
        The shape of the matrix.
    dtype : numpy.dtype
        What a kernel gets: see `kernel_dtype`, or the ``dtype`` asked for.
    """

    def __init__(self, array: Array, axis: int | tuple[int, ...] = -1, dtype: np.dtype[Any] | None = None) -> None:
        self.dtype: np.dtype[Any] = kernel_dtype(array.dtype) if dtype is None else dtype
        axes = (axis % array.ndim,) if isinstance(axis, int) else axis
        kept = tuple([k for k in range(array.ndim) if k not in axes])
        self.view: Array = array.transpose(kept + axes)
        self.lead: tuple[int, ...] = self.view.shape[: len(kept)]
        self.rows: int = math.prod(self.lead)
        self.classes: int = math.prod(self.view.shape[len(kept) :])

    def in_dtype(self, dtype: np.dtype[Any]) -> "Rows":
        """The same rows, for a kernel that takes another dtype."""
        rows = copy.copy(self)
        for of_dtype in ("matrix", "memory", "_lines"):
            rows.__dict__.pop(of_dtype, None)
        rows.dtype = dtype
        return rows

    @functools.cached_property
    def matrix(self) -> Array | None:
        """The rows as a kernel can read them where they are; None if they must be copied block by block."""
        view = self.view
        if view.dtype != self.dtype or not view.flags.aligned:
            return None
        if view.shape != (self.rows, self.classes):
            try:
                view = view.reshape(self.rows, self.classes, copy=False)
            except ValueError:
                return None
        if view.strides[-1] != view.itemsize and self.classes > 1:
            return None
        return storage_view(view) if view.strides[-1] == view.itemsize else None

    @property
    def is_across(self) -> bool:
        """Whether it must be copied, and neighbours in memory are of different rows, more than a few."""
        rows = [abs(step) for step, n in zip(self.view.strides[: len(self.lead)], self.lead, strict=True) if n >= EDGE]
        classes = [abs(step) for step in self.view.strides[len(self.lead) :]]
        return self.matrix is None and bool(rows and classes) and 0 < min(rows) < min(classes)

    @property
    def row_bytes(self) -> int:
        """What a kernel reads of a row."""
        return int(self.classes * self.dtype.itemsize)

    @property
    def _by_row(self) -> Array:
        """The view; with an axis for the only row of one that has none."""
        return self.view if self.lead else self.view[None]

    def _place(self, rows: slice | Array) -> Any:
        """The index of these rows in that view."""
        if len(self.lead) <= 1:
            return rows
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(numbers, self.lead)

    def block(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` as a kernel can read them; copies are those of `_room`."""
        if self.matrix is not None:
            return self.matrix if stop - start == self.rows else self.matrix[start:stop]
        block = self._room(stop - start)
        self.copy_into(slice(start, stop), block)
        return storage_view(block)

    @functools.cached_property
    def _lines(self) -> Array | None:
        """The rows where they are, a step apart that a kernel copies fast; None if it can read them, or must not."""
        size = self.view.itemsize
        if self.matrix is not None or self.view.dtype != self.dtype or not self.view.flags.aligned:
            return None
        try:
            lines = self.view.reshape(self.rows, self.classes, copy=False)
        except ValueError:
            return None
        step = lines.strides[self.classes > 1]
        has_elements = not any(stride % size for stride in lines.strides)
        return storage_view(lines) if has_elements and abs(step) <= LARGEST_STEP * size else None

    @property
    def lies_in_lines(self) -> bool:
        """Whether `lines` are where the rows lie, and no kernel can read these there."""
        return self._lines is not None

    def lines(self, start: int, stop: int) -> Array:
        """These rows for a kernel that copies lines of any strides into the cache: where they are, or as `block`."""
        if self._lines is None:
            return self.block(start, stop)
        lines = self._lines[start:stop]
        return lines.T if self.classes == 1 else lines

    def copy(self, rows: slice | Array) -> Array:
        """A fresh matrix of these rows."""
        if isinstance(rows, slice):
            block = np.empty((rows.stop - rows.start, self.classes), self.dtype)
            self.copy_into(rows, block)
            return block
        picked = self._by_row[self._place(rows)].reshape(rows.size, self.classes)
        return np.array(picked, dtype=self.dtype, order="C", copy=True)

    def elements(self, rows: Array, classes: Array) -> Array:
        """An element of each of these rows, the one of its class here, as a kernel computes with it."""
        place = self._place(rows)
        picked = self._by_row[(*place, classes) if isinstance(place, tuple) else (place, classes)]
        return cast(picked, compute_dtype(self.dtype))

    def copy_into(self, rows: slice, block: Array) -> None:
        """Copy these rows into a matrix of any strides."""
        for of_view, of_block in self.parts(rows, block):
            copy_rows(of_view, of_block)

    @functools.cached_property
    def _merged(self) -> Array:
        """The view with axes of rows made one where they lie in memory as one."""
        view, k = self.view, 0
        for _ in self.lead[1:]:
            size, stride = view.shape[k + 1], view.strides[k + 1]
            if view.strides[k] == size * stride:
                view = view.reshape(*view.shape[:k], view.shape[k] * size, *view.shape[k + 2 :], copy=False)
            else:
                k += 1
        return view

    def parts(self, rows: slice, block: Array) -> Iterator[tuple[Array, Array]]:
        """The parts of the view that make these rows, each with its part of a block of them."""
        at, merged, number = 0, self._merged, len(self.lead)
        number -= self.view.ndim - merged.ndim
        for place, count in boxes(merged.shape[:number], rows.start, rows.stop):
            of_view = merged[(*place, ...)]  # a view, even of no dimensions
            yield of_view, block[at : at + count].reshape(of_view.shape)
            at += count

    def room(self, start: int, stop: int) -> Array:
        """Where a kernel can write these rows: in place, or a block for `put_back`."""
        if self.matrix is not None:
            return self.block(start, stop)
        return storage_view(self._room(stop - start))

    def _room(self, rows: int) -> Array:
        """Room for so many rows, until this thread wants room for others; single rows, which may be long, stay."""
        if rows == 1:
            return np.empty((1, self.classes), self.dtype)
        memory: Room = self.__dict__.setdefault("memory", Room())  # at once, whichever thread is first
        return (memory.lines if self.classes > NARROW else memory.of)((rows, self.classes), self.dtype)

    def room_for(self, source: "Rows", block: Array, start: int, stop: int) -> Array:
        """As `room`, for results of this block of another: in its place if both are copies, to stay in the cache."""
        is_copy = source.matrix is None and self.matrix is None and source.dtype == self.dtype
        return block if is_copy else self.room(start, stop)

    def put_back(self, start: int, stop: int, block: Array) -> None:
        """Store a block from `room`, unless it was written in place."""
        if self.matrix is None:
            self.put(slice(start, stop), block)

    def put(self, rows: slice | Array, block: Array) -> None:
        """Store these rows."""
        if isinstance(rows, slice):
            matrix = block.view(self.dtype).reshape(rows.stop - rows.start, self.classes)  # it may be merged to one row
            for of_view, of_block in self.parts(rows, matrix):
                copy_rows(of_block, of_view, past_cache=goes_past_cache(self.view))
            return
        view, place = self._by_row, self._place(rows)
        view[place] = block.view(self.dtype).reshape(view[place].shape)


def write_rows(rows: Rows, written: Rows, work: Callable[[slice, Array, Array], None], n_threads: int | None) -> None:
    """work(here, block, room) for blocks of rows: what it writes into the room becomes those rows of ``written``."""

    def of_block(start: int, stop: int) -> None:
        block = rows.block(start, stop)
        room = written.room_for(rows, block, start, stop)
        work(slice(start, stop), block, room)
        written.put_back(start, stop, room)

    for_each(cut_for(rows, written, n_threads=n_threads), of_block, n_threads)


def cut_as_read(*arrays: Rows, n_threads: int | None) -> list[tuple[int, int]]:
    """The [start, stop) of blocks of rows, for work on whose results it does not tell where rows are cut.

    These are `cut_runs` where kernels read and write all of the arrays in place, `cut_rows` where there are copies.
    """
    rows, row_bytes = arrays[0].rows, arrays[0].row_bytes
    if all(array.matrix is not None for array in arrays):
        return cut_runs(rows, row_bytes, n_threads)
    return cut_rows(rows, row_bytes)


def cut_for(*arrays: Rows, n_threads: int | None) -> list[tuple[int, int]]:
    """The same; where rows are adjacent and must be copied, so many that stretches of memory are read."""
    rows, row_bytes = arrays[0].rows, arrays[0].row_bytes
    blocks = cut_as_read(*arrays, n_threads=n_threads)
    of_small, of_large = (size // max(row_bytes, 1) for size in (INLINE_BYTES, LARGEST_BLOCK_BYTES))
    size = min(max(STRETCH, min(2 * STRETCH, of_small)), of_large)
    if len(blocks) == 1 or not any(array.is_across for array in arrays):
        return blocks
    size = max(size, blocks[0][1] // STRETCH * STRETCH)  # what is left of a stretch would be read on its own
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
