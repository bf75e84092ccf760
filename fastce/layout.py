"""Arrays as kernels see them: a matrix of rows, or rows side by side with their classes apart.

Nothing is copied but blocks of rows that a kernel cannot read as they lie in memory.
"""

import copy
import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastce._kernels.columns import NARROW
from fastce._kernels.jit import storage_view
from fastce._kernels.states import GROUP, LANES
from fastce.arguments import Array, kernel_dtype, memory_order
from fastce.copying import EDGE, boxes, copy_rows
from fastce.rooms import Room
from fastce.threads import BLOCK_BYTES, BLOCKS, INLINE_BYTES, LARGEST_BLOCK_BYTES, cut_rows

STRETCH = 128  # rows of a block at least, where they are copied from adjacent rows; twice as many short ones
PAD = 16  # elements between the lines of a copy, which would push each other out of the cache at powers of two
SIDE_BY_SIDE = 512  # rows of a block at least, to read stretches of memory
SIDE_BY_SIDE_BYTES = 4096  # of a row; so many longer ones are too much for a cache, where they are to be read twice
LARGEST_NUMBER = 1 << 24  # class numbers below are exact in float32
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
        for of_dtype in ("matrix", "memory"):
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

    def _place(self, rows: slice | Array) -> Any:
        """The index of these rows in the view."""
        if len(self.lead) == 1:
            return rows
        numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        return np.unravel_index(numbers, self.lead) if self.lead else ...

    def block(self, start: int, stop: int) -> Array:
        """Rows ``start`` to ``stop`` as a kernel can read them; copies are those of `_room`."""
        if self.matrix is not None:
            return self.matrix if stop - start == self.rows else self.matrix[start:stop]
        block = self._room(stop - start)
        self.copy_into(slice(start, stop), block)
        return storage_view(block)

    def copy(self, rows: slice | Array) -> Array:
        """A fresh matrix of these rows."""
        if isinstance(rows, slice):
            block = np.empty((rows.stop - rows.start, self.classes), self.dtype)
            self.copy_into(rows, block)
            return block
        picked = self.view[self._place(rows)].reshape(rows.size, self.classes)
        return np.array(picked, dtype=self.dtype, order="C", copy=True)

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
        gap = PAD if self.classes > NARROW else 0
        memory: Room = self.__dict__.setdefault("memory", Room())  # at once, whichever thread is first
        return memory.of((rows, self.classes + gap), self.dtype)[:, : self.classes]

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
        place = self._place(rows)
        self.view[place] = block.view(self.dtype).reshape(self.view[place].shape)


def cut_for(*arrays: Rows) -> list[tuple[int, int]]:
    """As `cut_rows`; where rows are adjacent and must be copied, so many that stretches of memory are read.

    For results that are no sums over a block: these may depend on where it is cut.
    """
    rows, row_bytes = arrays[0].rows, arrays[0].row_bytes
    blocks = cut_rows(rows, row_bytes)
    of_small, of_large = (size // max(row_bytes, 1) for size in (INLINE_BYTES, LARGEST_BLOCK_BYTES))
    size = min(max(STRETCH, min(2 * STRETCH, of_small)), of_large)
    if len(blocks) == 1 or blocks[0][1] >= size or not any(array.is_across for array in arrays):
        return blocks
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]


class Place(NamedTuple):
    """A block of a cube; in the flat order of rows it goes from start to stop."""

    outer: slice
    rows: slice
    start: int
    stop: int
    shape: tuple[int, int]


class Columns:
    """An array as (outer, classes, rows), for the kernels that take a row in each lane.

    Row i is row i % rows of outer i // rows. Either the rows are adjacent or the classes are: then it is ``narrow``.
    """

    def __init__(self, cube: Array, narrow: bool) -> None:
        self.cube = cube
        self.narrow = narrow
        self.shape: tuple[int, ...] = cube.shape

    def block(self, place: Place) -> Array:
        """The part of the cube that `cut_columns` names."""
        return self.cube[place.outer, :, place.rows]

    def room(self, place: Place) -> Array:
        """Where a kernel can write this part."""
        return self.block(place)

    def put_back(self, place: Place, block: Array) -> None:
        """Store what was written there: it is there already."""


class CopiedColumns:
    """The same of an array that no kernel can read where it is: copied block by block."""

    def __init__(self, rows: Rows, shape: tuple[int, ...], narrow: bool = True) -> None:
        self.rows = rows
        self.shape = shape
        self.narrow = narrow
        self._memory = Room()

    def block(self, place: Place) -> Array:
        """A copy of this part."""
        if self.narrow:
            return self._as_cube(self.rows.block(place.start, place.stop), place)
        room = self.room(place)
        for of_view, of_room in self._parts(place, room):
            copy_rows(of_view, of_room)
        return room

    def room(self, place: Place) -> Array:
        """Where a kernel can write this part."""
        if self.narrow:
            return self._as_cube(self.rows.room(place.start, place.stop), place)
        outer, rows = place.shape
        return storage_view(self._memory.of((outer, self.rows.classes, rows + PAD), self.rows.dtype)[:, :, :rows])

    def put_back(self, place: Place, block: Array) -> None:
        """Store what was written into `room`."""
        if self.narrow:
            self.rows.put_back(place.start, place.stop, block.transpose(0, 2, 1).reshape(-1, self.rows.classes))
            return
        past_cache = goes_past_cache(self.rows.view)
        for of_view, of_block in self._parts(place, block):
            copy_rows(of_block, of_view, past_cache=past_cache)

    def _parts(self, place: Place, block: Array) -> Iterator[tuple[Array, Array]]:
        """The parts of the view that make this one, each with its part of a block that has rows adjacent.

        Whole outers go together: they may be what is nearest in memory.
        """
        matrices, count = block.view(self.rows.dtype).mT, place.shape[1]
        if count == self.shape[2] and self.rows.lead[:1] == self.shape[:1]:
            of_view = self.rows.view[place.outer]
            yield of_view, matrices.reshape(of_view.shape)
            return
        for k, matrix in enumerate(matrices):
            start = place.start + k * count
            yield from self.rows.parts(slice(start, start + count), matrix)

    def _as_cube(self, block: Array, place: Place) -> Array:
        return block.reshape(*place.shape, self.rows.classes).transpose(0, 2, 1)


def reading_order(array: Array, axes: tuple[int, ...], out: Array | None = None) -> tuple[int, ...] | None:
    """The order of the axes in which rows of several axes are best read; None for that of the array.

    It is that of memory, or of the memory of ``out`` where classes are few: their blocks are so long that stretches of
    either are read. Where the rows nearest in memory are too few for the lanes of a vector, their classes go last, and
    lines of both are read; which of these follow each other is then as good for ``out`` as it can be.
    """
    order = memory_order(array)
    rows = [k for k in order if k not in axes]
    if len(axes) > 1 or rows == sorted(rows):
        return None
    of_out = order if out is None else memory_order(out)
    if array.shape[axes[0]] <= NARROW:
        order = of_out
    nearest = order[order.index(axes[0]) + 1 :]
    if not nearest or math.prod(array.shape[k] for k in nearest) >= LANES:
        return order
    return (*(k for k in of_out if k not in axes and k not in nearest), *nearest, *axes)


def columns_of(
    array: Array, axis: int, dtype: np.dtype[Any], layout: type[Rows] = Rows
) -> Columns | CopiedColumns | None:
    """The array as a cube, if a kernel can read it where it is, its classes are few, or its rows nearer; else None."""
    before, classes, after = math.prod(array.shape[:axis]), array.shape[axis], math.prod(array.shape[axis + 1 :])
    shape = (1, classes, before) if after == 1 else (before, classes, after)
    cube = _cube_of(array, (before, classes, after), dtype)
    if cube is not None:
        if shape[2] > 1 and cube.strides[2] == array.itemsize and classes < LARGEST_NUMBER:
            return Columns(storage_view(cube), narrow=False)
        if classes == 1 or (classes <= NARROW and cube.strides[1] == array.itemsize):
            return Columns(storage_view(cube), narrow=True)
    if classes > NARROW and array.strides[axis] == array.itemsize:
        return None  # the classes are adjacent: no look at the rows
    rows = layout(array, axis, dtype)
    if classes <= NARROW:
        return CopiedColumns(rows, shape)
    return CopiedColumns(rows, shape, narrow=False) if rows.is_across and classes < LARGEST_NUMBER else None


def columns_to_write(
    out: Array, axis: int, like: Columns | CopiedColumns, dtype: np.dtype[Any]
) -> Columns | CopiedColumns:
    """``out`` as a cube for results of another, by way of copies if need be: it must not choose the kernel."""
    return columns_of(out, axis, dtype) or CopiedColumns(Rows(out, axis, dtype), like.shape, narrow=False)


def _cube_of(array: Array, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array | None:
    if array.dtype != dtype or not array.flags.aligned:
        return None
    try:
        cube = array.reshape(shape, copy=False)
    except ValueError:
        return None
    return cube.transpose(2, 1, 0) if shape[2] == 1 else cube


def cut_columns(shape: tuple[int, ...], itemsize: int) -> list[Place]:
    """Blocks of a megabyte or so, cut by shape alone: several outers, or whole groups of rows of one."""
    outer, classes, rows = shape
    if outer * rows * classes * itemsize <= INLINE_BYTES // 4:  # short rows cost more
        return [Place(slice(0, outer), slice(0, rows), 0, outer * rows, (outer, rows))]
    wanted = max(BLOCK_BYTES // (classes * itemsize), outer * rows // BLOCKS, 1)
    at_once = max(1, wanted // rows)
    stretch = max(GROUP, min(SIDE_BY_SIDE, LARGEST_BLOCK_BYTES // (classes * itemsize) // GROUP * GROUP))
    step = rows if rows <= wanted else max(stretch, wanted // GROUP * GROUP)
    places = []
    for first in range(0, outer, at_once):
        last = min(first + at_once, outer)
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            flat = first * rows + start
            shape = (last - first, stop - start)
            places.append(Place(slice(first, last), slice(start, stop), flat, flat + shape[0] * shape[1], shape))
    return places
