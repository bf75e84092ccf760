"""What the machine needs merely to read, copy or scale the logits: the floors that every time is quoted against."""

from numba import types

from fastce.kernels.jit import kernel, matrix, vector
from fastce.kernels.memory import (
    finish_stores,
    lanes_of,
    load,
    load_first,
    next_step,
    row_pointer,
    store,
    store_first,
    store_past_cache,
)
from fastce.kernels.rows import to_real
from fastce.kernels.simd import maximum_of_lanes


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def read_rows(logits, results):
    """One number of each row that depends on all of its elements: whole vectors into four sums, nothing else."""
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        row = row_pointer(logits, i)
        lanes = lanes_of(row)
        zero = load_first(row, 0, 0, to_real(row, 0.0))
        a, b, c, d = zero, zero, zero, zero
        whole = classes - classes % (4 * lanes)
        for j in range(0, whole, 4 * lanes):
            a += load(row, j)
            b += load(row, j + lanes)
            c += load(row, j + 2 * lanes)
            d += load(row, j + 3 * lanes)
        for j in range(whole, classes, lanes):
            a += load_first(row, j, min(lanes, classes - j), to_real(row, 0.0))
        results[i] = maximum_of_lanes((a + b) + (c + d))


@kernel(lambda storage: (matrix(storage), matrix(storage)))
def copy_rows(logits, out):
    """out = logits, written past the cache."""
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        row, out_row = row_pointer(logits, i), row_pointer(out, i)
        lanes = lanes_of(row)
        j = 0
        while j < classes:
            whole, count = next_step(out_row, j, classes, True)
            if count > 0:
                store_first(out_row, j, load_first(row, j, count, to_real(row, 0.0)), count)
                j += count
                continue
            for _ in range(whole):
                store_past_cache(out_row, j, load(row, j))
                j += lanes
    finish_stores()


@kernel(lambda storage: (matrix(storage), types.float64))
def scale_rows(logits, factor):
    """logits *= factor, in place."""
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        row = row_pointer(logits, i)
        lanes = lanes_of(row)
        by = to_real(row, factor)
        for j in range(0, classes - classes % lanes, lanes):
            store(row, j, load(row, j) * by)
        last = classes - classes % lanes
        if last < classes:
            store_first(row, last, load_first(row, last, classes - last, by) * by, classes - last)
