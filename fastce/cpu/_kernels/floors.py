"""What the machine needs merely to read, copy, write or scale memory: the floors that every time is quoted against.

Moving bytes knows no rows: the kernels take stretches of flat memory. They align their vectors and write past the
cache, and what they read they ask for ahead of time, as the other kernels do.
"""

from numba import types

from fastce.cpu._vectors.compiler import kernel, vector
from fastce.cpu._vectors.memory import (
    elements_ahead,
    elements_to_boundary,
    finish_stores,
    lanes_of,
    load,
    load_first,
    pointer,
    prefetch,
    store,
    store_first,
    store_whole,
    to_real,
)
from fastce.cpu._vectors.simd import maximum_of_lanes
from fastce.cpu._vectors.stretches import copy_stretch, next_step


@kernel(lambda storage: (vector(storage), vector(types.float64)))
def read_elements(source, result):
    """One number that depends on all elements: whole vectors into four sums, nothing else."""
    x, size = pointer(source), source.shape[0]
    lanes = lanes_of(x)
    a = load_first(x, 0, min(size, elements_to_boundary(x, 0)), to_real(x, 0.0))
    b = load_first(x, 0, 0, to_real(x, 0.0))
    c, d = b, b
    start = min(size, elements_to_boundary(x, 0))
    whole = size - (size - start) % (4 * lanes)
    for j in range(start, whole, 4 * lanes):
        for k in range(4):
            prefetch(x, j + k * lanes + elements_ahead(x))
        a += load(x, j)
        b += load(x, j + lanes)
        c += load(x, j + 2 * lanes)
        d += load(x, j + 3 * lanes)
    for j in range(whole, size, lanes):
        a += load_first(x, j, min(lanes, size - j), to_real(x, 0.0))
    result[0] = maximum_of_lanes((a + b) + (c + d))


@kernel(lambda storage: (vector(storage), vector(storage), types.boolean))
def copy_elements(source, target, past_cache):
    """target = source."""
    copy_stretch(pointer(source), 0, pointer(target), 0, source.shape[0], past_cache)
    finish_stores()


@kernel(lambda storage: (vector(storage), types.float64, types.boolean))
def write_elements(target, value, past_cache):
    """target = value."""
    out, size = pointer(target), target.shape[0]
    lanes = lanes_of(out)
    x = load_first(out, 0, 0, to_real(out, value))
    j = 0
    while j < size:
        whole, count = next_step(out, j, size, True)
        if count > 0:
            store_first(out, j, x, count)
            j += count
            continue
        for _ in range(whole):
            store_whole(out, j, x, past_cache)
            j += lanes
    finish_stores()


@kernel(lambda storage: (vector(storage), types.float64))
def scale_elements(target, factor):
    """target *= factor."""
    x, size = pointer(target), target.shape[0]
    lanes = lanes_of(x)
    by = to_real(x, factor)
    j = 0
    while j < size:
        whole, count = next_step(x, j, size, True)
        if count > 0:
            store_first(x, j, load_first(x, j, count, by) * by, count)
            j += count
            continue
        for _ in range(whole):
            store(x, j, load(x, j) * by)
            j += lanes
