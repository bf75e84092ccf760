"""What boosters ask for beside gradients: Hessians that are not too small, class indices that are floats."""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.checks import mark
from fastce.cuda._kernels.jobs import BAD_TARGET
from fastce.cuda._kernels.places import place_by
from fastce.cuda._kernels.primitives import device, kernel, load_real, store_real

THREADS = 256
MOST = 2.0**62  # of class indices


@functools.cache
def bounded_by(axes: int, of_sizes: bool):
    """Elements, or factor times their sizes, where they are not below a bound; else that. NaN stays."""
    place_of = place_by(axes)

    @device
    def taken(value, factor):
        return factor * abs(value) if of_sizes else value

    @kernel(THREADS, 4)
    def bounded(source, into, steps, into_steps, shape, count, factor, least):
        for k in range(cuda.grid(1), count, cuda.gridsize(1)):
            value = taken(load_real(source, place_of(k, shape, steps)), factor)
            store_real(into, place_of(k, shape, into_steps), least if value < least else value)

    return bounded


@kernel(THREADS, 4)
def whole_numbers(values, whole, report):
    """Class indices that are floats become integers; the first one that is none is marked."""
    count = values.size
    for i in range(cuda.grid(1), count, cuda.gridsize(1)):
        value = values[i]
        if not abs(value) < math.inf or value != math.floor(value):
            mark(report, BAD_TARGET, i, count)
        else:
            whole[i] = np.int64(min(max(value, -MOST), MOST))  # what is beyond is refused later on
