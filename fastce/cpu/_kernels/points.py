"""The points of a sparse matrix, rows of compressed classes: checked, and spread out for kernels of few classes."""

import math

import numpy as np
from numba import types

from fastce.cpu._vectors.compiler import kernel, matrix, vector
from fastce.cpu._vectors.memory import row_pointer, set_element

_integers, _floats = vector(types.int64), vector(types.float64)


ODD, WIDE = 0, 1  # places in `found`


@kernel(lambda storage: (_integers, _integers, _floats, types.int64, types.float64, types.float64, _integers))
def check_points(first_points, classes, masses, n_classes, least, most, found):
    """``found[ODD]`` becomes 1 unless all is as it should be, ``found[WIDE]`` if a mass is not 0, nor within bounds.

    Within bounds: what float32 holds with all its digits, from ``least`` to ``most``.

    As it should be: rows follow each other within what is stored, the classes of each are there and rise, and masses
    are finite and not negative.
    """
    size = min(classes.shape[0], masses.shape[0])
    odd, wide = 0, 0
    for i in range(first_points.shape[0] - 1):
        first, end = first_points[i], first_points[i + 1]
        if first < 0 or end < first or end > size:
            odd = 1
            break
        before = -1
        for k in range(first, end):
            c, mass = classes[k], masses[k]
            if c <= before or c >= n_classes or not 0.0 <= mass < math.inf:
                odd = 1
            if mass != 0.0 and not (least <= mass <= most and float(np.float32(mass)) == mass):
                wide = 1
            before = c
    if odd:
        found[ODD] = 1
    if wide:
        found[WIDE] = 1


@kernel(lambda storage: (_integers, _integers, _floats, matrix(storage)))
def spread_points(first_points, classes, masses, out):
    """out[c, i] = the mass of class c in row i, 0 where there is no point."""
    n_classes, rows = out.shape
    place, apart = row_pointer(out, 0), out.strides[0] // out.itemsize
    for c in range(n_classes):
        for i in range(rows):
            set_element(place, c * apart + i, 0.0)
    for i in range(rows):
        for k in range(first_points[i], first_points[i + 1]):
            set_element(place, classes[k] * apart + i, masses[k])
