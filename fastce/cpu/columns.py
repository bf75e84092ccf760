"""Arrays as the kernels see them that take a row in each lane: as cubes of (outer, classes, rows)."""

import functools
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, memory_order
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.lines import WIDTH
from fastce.cpu._kernels.states import GROUP, LANES
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.copying import copy_rows, group_of
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.rooms import Room
from fastce.cpu.threads import BLOCK_BYTES, BLOCKS, LARGEST_BLOCK_BYTES, inline_bytes, number_of, shares

SIDE_BY_SIDE = 512  # rows of a block at least, to read stretches of memory; twice as many are read in 7/8 of the time
SOME_LANES = 4 * LANES  # rows that are worth to be side by side, where they lie in groups of a few
FEW_BLOCKS = 8  # are left, so that there is work for as many threads
LARGEST_BYTES_IN_PLACE = 1 << 27  # of a block that is not copied; a fortieth of a second on one slow core
SIDE_BY_SIDE_BYTES = 4096  # of a row; so many longer ones are too much for a cache, where they are to be read twice
OUTERS, OUTERS_BYTES = 16, 1 << 22  # of what is nearest in an array that is written by copies: a line of the cache
LARGEST_RUN = 1 << 17  # rows, whose losses are summed while they are in the cache
LARGEST_NUMBER = 1 << 24  # class numbers below are exact in float32


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

    def to_read(self, place: Place) -> tuple[Array, Array]:
        """A part, and where it can be read more than once: the same."""
        block = self.block(place)
        return block, block

    def room(self, place: Place) -> Array:
        """Where a kernel can write this part."""
        return self.block(place)

    def put_back(self, place: Place, block: Array) -> None:
        """Store what was written there: it is there already."""


class CopiedColumns:
    """The same of an array that no kernel can read where it is, or only once: copied block by block.

    ``source`` is the array as a cube whose rows are two elements apart, or go backwards: a kernel copies it a few
    classes at a time, and meanwhile computes.
    """

    def __init__(self, rows: Rows, shape: tuple[int, ...], narrow: bool = True, source: Array | None = None) -> None:
        self.rows = rows
        self.shape = shape
        self.narrow = narrow
        self.source = source
        self._memory = Room()

    def to_read(self, place: Place) -> tuple[Array, Array]:
        """A part, and room for the copy that a kernel makes of it; or a copy, twice."""
        if self.source is not None:
            return self.source[place.outer, :, place.rows], self.room(place)
        block = self.block(place)
        return block, block

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
        return storage_view(self._memory.lines((outer, self.rows.classes, rows), self.rows.dtype))

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
    if len(axes) != 1 or array.ndim < 3 or array.flags.c_contiguous:
        return None
    order = memory_order(array)
    rows = [k for k in order if k not in axes]
    if rows == sorted(rows):
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
    before, classes, after = around(array.shape, axis)
    shape = shape_of_cube(array.shape, axis)
    cube = as_cube(array, (before, classes, after), dtype)
    if cube is not None:
        if shape[2] > 1 and cube.strides[2] == array.itemsize and classes < LARGEST_NUMBER:
            return Columns(storage_view(cube), narrow=False)
        if classes == 1 or (classes <= NARROW and cube.strides[1] == array.itemsize):
            return Columns(storage_view(cube), narrow=True)
    if classes > NARROW and array.strides[axis] == array.itemsize:
        return None  # the classes are adjacent: no look at the rows
    rows = layout(array, axis, dtype)
    in_groups = classes > 1 and rows.rows >= SOME_LANES and array.dtype == dtype and group_of(rows.view) is not None
    if classes <= NARROW:
        return CopiedColumns(rows, shape, narrow=not in_groups)
    if not (rows.is_across or in_groups) or classes >= LARGEST_NUMBER:
        return None
    source = None
    if cube is not None and abs(cube.strides[2]) in (array.itemsize, 2 * array.itemsize):
        source = storage_view(cube)
    return CopiedColumns(rows, shape, narrow=False, source=source)


def around(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """The shape with all axes before this one made one, and all after it."""
    return math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])


def shape_of_cube(shape: tuple[int, ...], axis: int) -> tuple[int, int, int]:
    """(outer, classes, rows) of an array with this class axis."""
    before, classes, after = around(shape, axis)
    return (1, classes, before) if after == 1 else (before, classes, after)


def columns_to_write(
    out: Array, axis: int, like: Columns | CopiedColumns, dtype: np.dtype[Any]
) -> Columns | CopiedColumns:
    """``out`` as a cube for results of another, by way of copies if need be: it must not choose the kernel."""
    return columns_of(out, axis, dtype) or CopiedColumns(Rows(out, axis, dtype), like.shape, narrow=False)


def as_cube(array: Array, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array | None:
    """The array as (outer, classes, rows) where it lies, of any strides; None if it must be copied for that."""
    if array.dtype != dtype or not array.flags.aligned:
        return None
    try:
        cube = array.reshape(shape, copy=False)
    except ValueError:
        return None
    return cube.transpose(2, 1, 0) if shape[2] == 1 else cube


def cut_columns(
    shape: tuple[int, ...], itemsize: int, *, in_place: bool = False, in_lines: bool = False
) -> list[Place]:
    """Blocks of a megabyte or so, cut by shape alone: several outers, or whole groups of rows of one.

    Those of many classes are larger, so that stretches of memory are read; most where nothing is copied (``in_place``).
    Where outers may be what is nearest in memory (``in_lines``), they make whole lines of the cache.
    """
    outer, classes, rows = shape
    if outer * rows * classes * itemsize <= inline_bytes(in_columns=True):
        return [Place(slice(0, outer), slice(0, rows), 0, outer * rows, (outer, rows))]
    wanted = max(BLOCK_BYTES // (classes * itemsize), outer * rows // BLOCKS, 1)
    at_once = max(1, wanted // rows)
    if in_lines and rows <= wanted and OUTERS * rows * classes * itemsize <= OUTERS_BYTES:
        at_once = max(1, at_once // OUTERS) * OUTERS
    stretch, largest = SIDE_BY_SIDE, LARGEST_BLOCK_BYTES
    if in_place:
        stretch, largest = min(WIDTH, max(SIDE_BY_SIDE, outer * rows // FEW_BLOCKS)), LARGEST_BYTES_IN_PLACE
    stretch = max(1, min(stretch, largest // (classes * itemsize)) // GROUP) * GROUP
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


def starts_of(places: list[Place]) -> tuple[int, ...]:
    """The first row of each."""
    return tuple(place.start for place in places)


@functools.lru_cache(64)
def parts_of(shape: tuple[int, ...], axis: int, itemsize: int) -> tuple[int, ...]:
    """The first row of each of the parts in which losses are summed, by shape alone; of many classes there is one.

    Of few they are the blocks of an array in C order. So sums have the same bits however arrays lie in memory.
    """
    if shape[axis] > NARROW:
        return (0,)
    return starts_of(cut_columns(shape_of_cube(shape, axis), itemsize, in_place=True))


class Run(NamedTuple):
    """Blocks of a cube that follow each other, as one: how many go before, and which of its rows each begins with."""

    place: Place
    before: int
    starts: list[int]


def cut_in_runs(
    cube: Columns | CopiedColumns, itemsize: int, n_threads: int | None, *, in_place: bool, in_runs: bool = True
) -> tuple[list[Run], tuple[int, ...]]:
    """(runs, starts): where the blocks that `cut_columns` makes begin, and in which runs threads are handed these.

    Only those of few classes, where nothing is copied, make runs of several, and none if ``in_runs`` is False; see
    `shares`. Sums belong to `parts_of` the array, wherever it is cut.
    """
    in_lines = not in_place and cube.shape[0] >= OUTERS * number_of(n_threads)
    places = cut_columns(cube.shape, itemsize, in_place=in_place, in_lines=in_lines)
    if len(places) == 1:
        return [Run(places[0], 0, [0])], (0,)
    first, last = places[0], places[-1]
    whole = in_runs and in_place and cube.narrow and (first.outer == last.outer or first.rows == last.rows)
    size = LARGEST_RUN // max(1, first.stop - first.start) if whole else 1
    numbers = shares(len(places), 1, size, n_threads)
    return [_joined(places[start:stop], start) for start, stop in numbers], starts_of(places)


def cut_for_threads(
    cube: Columns | CopiedColumns, itemsize: int, n_threads: int | None, *, in_place: bool, in_runs: bool = True
) -> list[tuple[Place]]:
    """The places of these runs alone, each as a task, for work that sums nothing."""
    runs = cut_in_runs(cube, itemsize, n_threads, in_place=in_place, in_runs=in_runs)[0]
    return [(run.place,) for run in runs]


def _joined(places: list[Place], before: int) -> Run:
    first, last = places[0], places[-1]
    outer, rows = slice(first.outer.start, last.outer.stop), slice(first.rows.start, last.rows.stop)
    shape = outer.stop - outer.start, rows.stop - rows.start
    starts = [place.start - first.start for place in places]
    return Run(Place(outer, rows, first.start, last.stop, shape), before, starts)
