"""The floors that times are quoted against: reading, copying, writing or scaling the same bytes, and nothing else."""

from typing import Any

import numpy as np

from fastce.arguments import PAST_CACHE_BYTES, Array
from fastce.kernels.floors import copy_elements, read_elements, scale_elements, write_elements
from fastce.kernels.jit import storage_view
from fastce.threads import cut_rows, for_each


def read(array: Array, *, n_threads: int | None = None) -> None:
    """Read every byte of a C-contiguous array once."""
    dtype, words = _words(array)
    kernel = read_elements.compiled(dtype)
    for_each(
        cut_rows(words.size, words.itemsize), lambda start, stop: kernel(words[start:stop], np.empty(1)), n_threads
    )


def copy(array: Array, out: Array, *, n_threads: int | None = None) -> None:
    """Copy a C-contiguous array; past the cache if it is large."""
    (dtype, words), (_, target) = _words(array), _words(out)
    kernel = copy_elements.compiled(dtype)
    past_cache = out.nbytes > PAST_CACHE_BYTES
    for_each(
        cut_rows(words.size, words.itemsize),
        lambda start, stop: kernel(words[start:stop], target[start:stop], past_cache),
        n_threads,
    )


def write(out: Array, *, n_threads: int | None = None) -> None:
    """Write zeros over a C-contiguous array; past the cache if it is large."""
    dtype, words = _words(out)
    kernel = write_elements.compiled(dtype)
    past_cache = out.nbytes > PAST_CACHE_BYTES
    for_each(
        cut_rows(words.size, words.itemsize), lambda start, stop: kernel(words[start:stop], 0.0, past_cache), n_threads
    )


def scale_in_place(array: Array, factor: float, *, n_threads: int | None = None) -> None:
    """Multiply a C-contiguous array by a number, in place."""
    flat = array.reshape(-1, copy=False)
    view = storage_view(flat)
    kernel = scale_elements.compiled(flat.dtype)
    for_each(cut_rows(flat.size, flat.itemsize), lambda start, stop: kernel(view[start:stop], factor), n_threads)


def _words(array: Array) -> tuple[np.dtype[Any], Array]:
    """The memory of an array as floats for a kernel: bytes that are only moved need no other dtype."""
    flat = array.reshape(-1, copy=False)
    if flat.dtype.name not in ("float32", "float64") and flat.nbytes % 4 == 0:
        flat = flat.view(np.float64 if flat.itemsize == 8 else np.float32)
    return flat.dtype, storage_view(flat)
