"""Blocks of rows copied between arrays that lie differently in memory.

Where one side has its rows adjacent and the other its classes, an element at a time would touch a line of the cache
each: stretches are read as they lie, into a tile that stays in the cache, and transposed there.
"""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastce.arguments import Array
from fastce.kernels.jit import storage_view
from fastce.kernels.transposition import transpose

TILE = 1 << 15  # elements of a tile, about
LINE = 16  # elements of a line of the cache at least: stretches are not shorter
SMALLEST = 256  # elements of a matrix that is worth a tile
PAD = 16  # elements between the lines of a tile, which would push each other out at powers of two


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


def copy_rows(source: Array, target: Array) -> None:
    """target[...] = source, of one shape whose last axis is the class axis."""
    for place in _matrices(source if _spread(source) >= _spread(target) else target):
        copy_matrix(source[place], target[place])


def _spread(array: Array) -> int:
    """How far apart the classes are; an array with classes far apart says how it is cut into matrices."""
    return abs(array.strides[-1])


def _matrices(array: Array) -> Iterator[tuple[Any, ...]]:
    """The places of matrices, each of one axis of rows, the innermost in memory, and the classes."""
    rows = [k for k in range(array.ndim - 1) if array.strides[k] != 0 and array.shape[k] > 1]
    innermost = min(rows, key=lambda k: abs(array.strides[k]), default=None)
    if innermost is None or abs(array.strides[innermost]) >= _spread(array):
        yield (...,)
        return
    if array.shape[innermost] < LINE or array.shape[innermost] * array.shape[-1] < SMALLEST:
        yield (...,)
        return
    others = [1 if k == innermost else n for k, n in enumerate(array.shape[:-1])]
    for place in np.ndindex(*others):
        yield tuple(slice(None) if k == innermost else i for k, i in enumerate(place))


def copy_matrix(source: Array, target: Array) -> None:
    """target[...] = source, by way of tiles where one is across and the other is not."""
    if source.ndim != 2 or is_across(source) == is_across(target):
        target[...] = source
    elif is_across(target):
        _copy_across(source.T, target.T)
    else:
        _copy_across(source, target)


def _copy_across(source: Array, target: Array) -> None:
    """The same of a source with its first axis adjacent and a target with its second."""
    rows, columns = target.shape
    at_once = max(LINE, TILE // rows)
    tile = np.empty((at_once, rows + PAD), target.dtype.newbyteorder("="))[:, :rows]
    ready = _is_ready(target)
    room = None if ready else np.empty((rows, at_once), tile.dtype)
    kernel = transpose.compiled(tile.dtype)
    for first in range(0, columns, at_once):
        stop = min(first + at_once, columns)
        here = tile[: stop - first]
        here[...] = source[:, first:stop].T
        turned = target[:, first:stop] if room is None else room[:, : stop - first]
        kernel(storage_view(here), storage_view(turned))
        if room is not None:
            target[:, first:stop] = turned


def _is_ready(matrix: Array) -> bool:
    """Whether a kernel can write it where it is."""
    return bool(matrix.dtype.isnative and matrix.flags.aligned and matrix.strides[1] == matrix.itemsize)
