"""Where elements of arrays lie that are gone through together: see `fastce.cuda.broadcasting`."""

import functools

import numpy as np

from fastce.cuda._kernels.primitives import device


@functools.cache
def place_by(axes: int):
    """Where element k is, in the order of these axes."""

    @device
    def place_of(k, shape, steps):
        place, k = steps[0], np.int64(k)
        for axis in range(axes - 1, 0, -1):
            place += (k % shape[axis]) * steps[axis + 1]
            k //= shape[axis]
        return place + k * steps[1]

    return place_of
