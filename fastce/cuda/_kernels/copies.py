"""Copies from strides to strides, and of one number."""

import functools

from numba import cuda

from fastce.cuda._kernels.primitives import device, kernel, load_real, store_real

THREADS = 256
AXES = 6  # of an array at most


@device
def strided_place(k, shape, strides):
    """Where item k, in C order, of a strided array is."""
    place = 0
    for axis in range(AXES - 1, -1, -1):
        place += (k % shape[axis]) * strides[axis]
        k //= shape[axis]
    return place


@functools.cache
def copy_kernel(from_float: bool, to_float: bool):
    """Copy from strides to strides, and from one dtype to another; floats may be of 16 bits."""

    @kernel(THREADS, 4)
    def copy(source, origin, strides, into, into_origin, into_strides, shape, count):
        for k in range(cuda.grid(1), count, cuda.gridsize(1)):
            here = origin + strided_place(k, shape, strides)
            there = into_origin + strided_place(k, shape, into_strides)
            if to_float:
                store_real(into, there, load_real(source, here) if from_float else source[here])
            else:
                into[there] = source[here]

    return copy


@kernel(THREADS, 4)
def fill(into, number):
    """Fill an array with a number."""
    for k in range(cuda.grid(1), into.size, cuda.gridsize(1)):
        into[k] = number
