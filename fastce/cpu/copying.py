"""Blocks of rows copied between arrays that lie differently in memory, by kernels where NumPy would be slow.

Where one side has its rows adjacent and the other its classes, an element at a time would touch a line of the cache
each; a step along a line, or going backwards, keeps NumPy to single elements. What no kernel reads or writes where it
is (another dtype, swapped bytes, odd addresses) goes through NumPy, in stretches as they lie, and through tiles that
stay in the cache.
"""

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype
from fastce.cpu._kernels.transposition import copy_lines, read_across, write_across
from fastce.cpu._vectors.compiler import storage_view

TILE = 1 << 15  # elements of a tile, about
LINE = 16  # elements of a line of the cache at least: stretches are not shorter
SMALLEST = 256  # elements of a matrix that is worth a kernel
LONG_LINE = 64  # elements
GROUPS: dict[int, np.dtype[Any]] = {8: np.dtype(np.float64), 16: np.dtype(np.complex128)}  # by bytes
EDGE = 8  # rows and classes of what is transposed, at least: a square's


def is_across(matrices: Array) -> bool:
    """Whether neighbours in memory are of different rows, the last axis but one."""
    return 0 < abs(matrices.strides[-2]) < abs(matrices.strides[-1]) and min(matrices.shape[-2:]) > 1


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


def copy_rows(source: Array, target: Array, *, past_cache: bool | None = None) -> None:
    """target[...] = source, of one shape whose last axis is the class axis.

    None for a target that is a block, in the cache, of what is read from memory. Else the source is, and lines of the
    target are written whole: past the cache, if that is of use, or not.
    """
    if source.ndim < 2 or source.size < SMALLEST or not _is_of_kernels(target.dtype) or _is_for_numpy(source, target):
        target[...] = source
        return
    grouped = _in_groups(source, target)
    if grouped is not None:
        copy_rows(*grouped, past_cache=past_cache)
        return
    source, target = (source[None], target[None]) if source.ndim == 2 else _with_matrices_last(source, target)
    across = is_across(source)
    if across == is_across(target):
        _copy_along(*((source.mT, target.mT) if across else (source, target)))
        return
    for of_source, of_target in _parts(source, target, 3):
        _transpose(of_source, of_target, past_cache)


def group_of(array: Array) -> np.dtype[Any] | None:
    """What the elements along the last axis but one are moved as, bit by bit, if they are few and adjacent; or None."""
    if array.ndim < 2 or array.shape[-2] == 1 or array.strides[-2] != array.itemsize:
        return None
    return GROUPS.get(array.shape[-2] * array.itemsize)


def _in_groups(source: Array, target: Array) -> tuple[Array, Array] | None:
    """Both with what is a group in both as one element, without its axis; None if there are none."""
    group = group_of(source)
    if group is None or source.ndim < 3 or group_of(target) is not group or source.dtype != target.dtype:
        return None
    of_source, of_target = (array.swapaxes(-2, -1).view(group)[..., 0] for array in (source, target))
    return (of_source, of_target) if of_source.flags.aligned and of_target.flags.aligned else None


@functools.cache
def _is_of_kernels(dtype: np.dtype[Any]) -> bool:
    """Whether kernels know its elements, in whatever order their bytes are."""
    return kernel_dtype(dtype).name == dtype.name


def _parts(source: Array, target: Array, dimensions: int) -> Iterator[tuple[Array, Array]]:
    """The parts of both that have so many dimensions."""
    if source.ndim <= dimensions:
        missing = (None,) * (dimensions - source.ndim)
        yield source[missing], target[missing]
        return
    for of_source, of_target in zip(source, target, strict=True):
        yield from _parts(of_source, of_target, dimensions)


def _is_for_numpy(source: Array, target: Array) -> bool:
    """Whether lines are one number each, or both plain and so long that NumPy, which compiles nothing, is as fast."""
    steps = source.strides[-1], target.strides[-1]
    return 0 in steps or (steps == (source.itemsize, target.itemsize) and source.shape[-1] >= LONG_LINE)


def _spread(array: Array) -> int:
    """How far apart the classes are; an array with classes far apart says which of its axes makes the rows."""
    return abs(array.strides[-1])


def _with_matrices_last(source: Array, target: Array) -> tuple[Array, Array]:
    """Both with the axis that makes matrices together with the classes as the last but one.

    Where the classes are nearest on neither side, those that are make the matrices.
    """
    last = source.ndim - 1
    of_source, of_target = _nearest(source), _nearest(target)
    if of_source != of_target and last not in (of_source, of_target):
        others = sorted({*range(last + 1)} - {of_source, of_target}, key=source.shape.__getitem__)
        return source.transpose(*others, of_target, of_source), target.transpose(*others, of_target, of_source)
    rows = _axis_of_rows(source if _spread(source) >= _spread(target) else target)
    others = sorted({*range(last)} - {rows}, key=source.shape.__getitem__)
    return source.transpose(*others, rows, last), target.transpose(*others, rows, last)


def _nearest(array: Array) -> int:
    """The axis of what is nearest in memory, if that is not short."""
    axes = [k for k in range(array.ndim) if array.strides[k] != 0 and array.shape[k] >= EDGE]
    return min(axes, key=lambda k: abs(array.strides[k]), default=array.ndim - 1)


def _axis_of_rows(array: Array) -> int:
    """That nearest in memory, if it is not short; else, where the classes are nearer, the longest."""
    rows = [k for k in range(array.ndim - 1) if array.strides[k] != 0] or [*range(array.ndim - 1)]
    nearer = [k for k in rows if abs(array.strides[k]) < _spread(array) and array.shape[k] >= EDGE]
    return min(nearer, key=lambda k: abs(array.strides[k])) if nearer else max(rows, key=lambda k: array.shape[k])


def _transpose(source: Array, target: Array, past_cache: bool | None) -> None:
    """target[...] = source, of several matrices of which one side has its rows adjacent and the other its classes."""
    if min(source.shape[1:]) < EDGE:
        target[...] = source
        return
    if is_across(source):  # rows are to classes what classes are to rows
        source, target = source.mT, target.mT
    is_dense = target.strides[1] == target.itemsize
    if not is_dense or not _has_elements_of(target, source):
        _copy_by_tiles(source, target)
    elif past_cache is not None and source.strides[2] == source.itemsize:
        write_across.compiled(source.dtype)(storage_view(source), storage_view(target.mT), past_cache)
    else:
        read_across.compiled(source.dtype)(storage_view(source), storage_view(target.mT))


def _has_elements_of(target: Array, source: Array) -> bool:
    """Whether both are of one native dtype, at addresses and distances of whole elements."""
    if target.dtype != source.dtype or not source.dtype.isnative:
        return False
    steps = [step % source.itemsize for step in (*source.strides, *target.strides)]
    return bool(source.flags.aligned and target.flags.aligned and not any(steps))


def _copy_along(source: Array, target: Array) -> None:
    """target[...] = source, line by line of the last axis, in the order of memory where lines have steps."""
    if _is_for_numpy(source, target) or not _has_elements_of(target, source):
        target[...] = source
        return
    if target.strides[-1] < 0:
        source, target = source[..., ::-1], target[..., ::-1]
    far = target if _spread(target) > _spread(source) else source
    distances = [-abs(step) if n > 1 else -math.inf for step, n in zip(far.strides, far.shape, strict=True)]
    by_length = sorted(range(source.ndim - 1), key=source.shape.__getitem__)
    order = by_length[:-3] + sorted(by_length[-3:], key=distances.__getitem__)
    source, target = (array.transpose(*order, source.ndim - 1) for array in (source, target))
    kernel = copy_lines.compiled(source.dtype)
    for of_source, of_target in _parts(storage_view(source), storage_view(target), 4):
        kernel(of_source, of_target)


def _copy_by_tiles(source: Array, target: Array) -> None:
    """The same where NumPy must convert, or place, what a kernel has transposed or is to transpose."""
    dtype, at_once = target.dtype.newbyteorder("="), max(LINE, TILE // source.shape[1])
    for of_source, of_target in zip(source, target, strict=True):
        for first in range(0, source.shape[2], at_once):
            part = of_target[:, first : first + at_once]
            read = of_source[:, first : first + at_once].astype(dtype, order="K")
            written = np.empty_like(part, dtype, order="K")
            copy_rows(read, written)
            part[...] = written
