"""Blocks of rows copied between arrays that lie differently in memory, by kernels where NumPy would be slow.

Where one side has its rows adjacent and the other its classes, an element at a time would touch a line of the cache
each; a step along a line, or going backwards, keeps NumPy to single elements. What no kernel reads or writes where it
is (another dtype, swapped bytes, odd addresses) goes through NumPy, in stretches as they lie, and through tiles that
stay in the cache.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastce.arguments import Array, kernel_dtype
from fastce.kernels.jit import storage_view
from fastce.kernels.transposition import copy_lines, read_across, write_across

TILE = 1 << 15  # elements of a tile, about
LINE = 16  # elements of a line of the cache at least: stretches are not shorter
SMALLEST = 256  # elements of a matrix that is worth a kernel
EDGE = 8  # rows and classes of what is transposed, at least: a square's


def is_across(matrix: Array) -> bool:
    """Whether neighbours in memory are of different rows, the first axis."""
    return 0 < abs(matrix.strides[0]) < abs(matrix.strides[1]) and min(matrix.shape) > 1


def boxes(lead: tuple[int, ...], start: int, stop: int) -> Iterator[tuple[tuple[Any, ...], int]]:
    """Places in an array of this shape that make its flat elements ``start`` to ``stop``, each with its size."""
    if len(lead) < 2:
        yield (slice(start, stop),) * len(lead), stop - start
        return
    inner = math.prod(lead[1:])
    while start < stop:
        first, before = divmod(start, inner)
        if before == 0 and stop - start >= inner:
            last = stop // inner
            yield (slice(first, last),), (last - first) * inner
            start = last * inner
        else:
            end = min(stop, (first + 1) * inner)
            for place, size in boxes(lead[1:], before, end - first * inner):
                yield (first, *place), size
            start = end


def copy_rows(source: Array, target: Array, *, past_cache: bool = False) -> None:
    """target[...] = source, of one shape whose last axis is the class axis; past the cache if that is of use."""
    for place in _matrices(source if _spread(source) >= _spread(target) else target):
        copy_matrix(source[place], target[place], past_cache=past_cache)


def _spread(array: Array) -> int:
    """How far apart the classes are; an array with classes far apart says how it is cut into matrices."""
    return abs(array.strides[-1]) if array.ndim else 0


def _matrices(array: Array) -> Iterator[tuple[Any, ...]]:
    """The places of matrices, each of the classes and one axis of rows: the innermost in memory, if it is not short."""
    rows = [k for k in range(array.ndim - 1) if array.strides[k] != 0 and array.shape[k] >= EDGE]
    nearer = [k for k in rows if abs(array.strides[k]) < _spread(array)]
    if nearer:
        chosen = min(nearer, key=lambda k: abs(array.strides[k]))
    else:
        chosen = max(rows, key=lambda k: array.shape[k], default=-1)
    if chosen < 0 or _spread(array) <= array.itemsize or array.shape[chosen] * array.shape[-1] < SMALLEST:
        yield (...,)
        return
    others = [1 if k == chosen else n for k, n in enumerate(array.shape[:-1])]
    for place in np.ndindex(*others):
        yield tuple(slice(None) if k == chosen else i for k, i in enumerate(place))


def copy_matrix(source: Array, target: Array, *, past_cache: bool = False) -> None:
    """target[...] = source."""
    if source.ndim != 2 or source.size < SMALLEST or kernel_dtype(target.dtype).name != target.dtype.name:
        target[...] = source
    elif is_across(source) == is_across(target):
        _copy_along(*((source.T, target.T) if is_across(target) else (source, target)))
    elif min(source.shape) < EDGE:
        target[...] = source
    elif is_across(source):
        if _has_elements_of(target, source) and target.strides[1] == target.itemsize:
            read_across.compiled(source.dtype)(storage_view(source.T), storage_view(target))
        else:
            _copy_by_tiles(source, target)
    elif _has_elements_of(target, source) and target.strides[0] == source.strides[1] == source.itemsize:
        write_across.compiled(source.dtype)(storage_view(source), storage_view(target.T), past_cache)
    else:
        _copy_by_tiles(source, target)


def _has_elements_of(target: Array, source: Array) -> bool:
    """Whether both are of one native dtype, at addresses and distances of whole elements."""
    if target.dtype != source.dtype or not source.dtype.isnative:
        return False
    steps = (*source.strides, *target.strides)
    return bool(source.flags.aligned and target.flags.aligned and not any(n % source.itemsize for n in steps))


def _copy_along(source: Array, target: Array) -> None:
    """The same of matrices whose neighbours are of one line."""
    is_plain = source.strides[1] in (0, source.itemsize) or target.strides[1] != target.itemsize
    if is_plain or not _has_elements_of(target, source):
        target[...] = source
    else:
        copy_lines.compiled(source.dtype)(storage_view(source), storage_view(target))


def _copy_by_tiles(source: Array, target: Array) -> None:
    """The same where NumPy must convert, or place, what a kernel has transposed or is to transpose."""
    dtype, at_once = target.dtype.newbyteorder("="), max(LINE, TILE // len(source))
    for first in range(0, source.shape[1], at_once):
        classes = slice(first, first + at_once)
        of_target = target[:, classes]
        read = source[:, classes].astype(dtype, order="K")
        written = np.empty_like(of_target, dtype, order="K")
        copy_matrix(read, written)
        of_target[...] = written
