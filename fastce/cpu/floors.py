"""The floors that times are quoted against: reading, copying, writing or scaling the same bytes, and nothing else."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.floors import copy_elements, read_elements, scale_elements, write_elements
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.layout import goes_past_cache
from fastce.cpu.threads import cut_rows, for_each


class Move(NamedTuple):
    """One way of moving a C-contiguous array: what is done to its elements from ``start`` to ``stop``."""

    work: Callable[[int, int], None]
    elements: int
    nbytes: int


def reading(array: Array) -> Move:
    """Read every byte once."""
    dtype, words = _words(array)
    kernel = read_elements.compiled(dtype)
    return Move(lambda start, stop: kernel(words[start:stop], np.empty(1)), words.size, array.nbytes)


def copying(array: Array, out: Array) -> Move:
    """Copy; past the cache if the array is large."""
    (dtype, words), (_, target) = _words(array), _words(out)
    kernel, past_cache = copy_elements.compiled(dtype), goes_past_cache(out)
    return Move(
        lambda start, stop: kernel(words[start:stop], target[start:stop], past_cache), words.size, 2 * array.nbytes
    )


def writing(out: Array) -> Move:
    """Write zeros; past the cache if the array is large."""
    dtype, words = _words(out)
    kernel, past_cache = write_elements.compiled(dtype), goes_past_cache(out)
    return Move(lambda start, stop: kernel(words[start:stop], 0.0, past_cache), words.size, out.nbytes)


def scaling(array: Array, factor: float) -> Move:
    """Multiply by a number, in place."""
    flat = array.reshape(-1, copy=False)
    kernel, view = scale_elements.compiled(flat.dtype), storage_view(flat)
    return Move(lambda start, stop: kernel(view[start:stop], factor), flat.size, 2 * array.nbytes)


def run(*moves: Move, n_threads: int | None = None) -> None:
    """Make these moves side by side, a block of each at a time."""
    parts = max(move.elements for move in moves)
    blocks = cut_rows(parts, sum(move.nbytes for move in moves) // max(1, parts))

    def work(start: int, stop: int) -> None:
        for move in moves:
            move.work(start * move.elements // parts, stop * move.elements // parts)

    for_each(blocks, work, n_threads)


def _words(array: Array) -> tuple[np.dtype[Any], Array]:
    """The memory of an array as floats for a kernel: bytes that are only moved need no other dtype."""
    flat = array.reshape(-1, copy=False)
    if flat.dtype.name not in ("float32", "float64") and flat.nbytes % 4 == 0:
        flat = flat.view(np.float64 if flat.itemsize == 8 else np.float32)
    return flat.dtype, storage_view(flat)
