"""The points of a sparse matrix where its owner has them: checked, and spread out for kernels of few classes.

Nothing is copied. Rows may name their classes in any order, and one more than once: masses are added where they belong.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure, vector
from fastce.cpu._vectors.memory import element, from_element, pointer, row_pointer, set_element
from fastce.cpu._vectors.rooms import float64_room

MOST_CLASSES = 64  # that masses are spread out for
ODD, WIDE = 0, 1  # places in `found`

new_totals = float64_room(MOST_CLASSES)


class Points(NamedTuple):
    """Compressed sparse rows. All integers are of one size, and all masses: the arrays of the others are empty."""

    first_points: Any  # int64 (rows + 1,)
    short_first_points: Any  # int32
    classes: Any  # int64 (points,)
    short_classes: Any  # int32
    masses: Any  # float64 (points,)
    short_masses: Any  # float32


class Part(NamedTuple):
    """Rows and points that are looked at together; the points of these rows may be others."""

    first_row: int
    end_row: int
    first_point: int
    end_point: int


_long, _short = vector(types.int64), vector(types.int32)
points_type = structure(Points, _long, _short, _long, _short, vector(types.float64), vector(types.float32))
_part = structure(Part, *(types.int64 for _ in Part._fields))


@inline
def odd_rows(first_points, part, size):
    """How many rows do not end where the next one begins, within so many points."""
    odd, place = 0, pointer(first_points)
    for i in range(part.first_row, min(part.end_row, first_points.shape[0] - 1)):
        first, end = place[i], place[i + 1]
        odd += 1 if (first < 0) | (end < first) | (end > size) else 0
    return odd


@inline
def odd_classes(classes, part, n_classes):
    """How many classes are not there."""
    odd, place = 0, pointer(classes)
    for k in range(part.first_point, min(part.end_point, classes.shape[0])):
        c = place[k]
        odd += 1 if (c < 0) | (c >= n_classes) else 0
    return odd


@inline
def odd_and_wide_masses(masses, part, least, most):
    """How many masses are negative or not finite; how many are not 0, nor within bounds, nor what float32 holds."""
    odd, wide, place = 0, 0, pointer(masses)
    for k in range(part.first_point, min(part.end_point, masses.shape[0])):
        mass = float(place[k])
        odd += 0 if (mass >= 0.0) & (mass < math.inf) else 1
        is_within = (mass >= least) & (mass <= most) & (float(np.float32(mass)) == mass)
        wide += 0 if (mass == 0.0) | is_within else 1
    return odd, wide


@inline
def falling_classes(first_points, classes, part):
    """How many classes are not larger than that before them in their row, where rows are not odd."""
    falling, of_row, place = 0, pointer(first_points), pointer(classes)
    for i in range(part.first_row, min(part.end_row, first_points.shape[0] - 1)):
        for k in range(of_row[i] + 1, of_row[i + 1]):
            falling += 1 if place[k] <= place[k - 1] else 0
    return falling


@kernel(lambda storage: (points_type, _part, types.int64, types.float64, types.float64, vector(types.int64)))
def check_points(points, part, n_classes, least, most, found):
    """``found[ODD]`` becomes 1 unless all is as it should be, ``found[WIDE]`` if a mass is not 0, nor within bounds.

    Within bounds: what float32 holds with all its digits, from ``least`` to ``most``.

    As it should be: rows follow each other within what is stored, their classes are there, and masses are finite and
    not negative.
    """
    size = max(points.masses.shape[0], points.short_masses.shape[0])
    of_long = odd_and_wide_masses(points.masses, part, least, most)
    of_short = odd_and_wide_masses(points.short_masses, part, least, most)
    odd = odd_rows(points.first_points, part, size) + odd_rows(points.short_first_points, part, size)
    odd += odd_classes(points.classes, part, n_classes) + odd_classes(points.short_classes, part, n_classes)
    if odd + of_long[0] + of_short[0] > 0:
        found[ODD] = 1
    if of_long[1] + of_short[1] > 0:
        found[WIDE] = 1


@kernel(lambda storage: (points_type, _part, vector(types.int64)))
def check_order(points, part, found):
    """``found[ODD]`` becomes 1 unless the classes of every row rise, of long integers that are not odd otherwise."""
    if falling_classes(points.first_points, points.classes, part) > 0:
        found[ODD] = 1


@outlined
def add_up(of_point, of_mass, first, end, n_classes, place, apart):
    """The masses of one row, whose classes are ``apart``, where one class has several points: summed in float64."""
    totals = new_totals()
    for c in range(n_classes):
        totals[c] = 0.0
    for k in range(first, end):
        c = of_point[k]
        if 0 <= c < n_classes:
            totals[c] += of_mass[k]
    for c in range(n_classes):
        set_element(place, c * apart, totals[c])


@inline
def put_masses(first_points, classes, masses, first_row, out):
    """out[c, i], which is 0, becomes the mass of a class; what has changed since it was checked may be anywhere."""
    n_classes, rows = min(out.shape[0], MOST_CLASSES), out.shape[1]
    place, apart = row_pointer(out, 0), out.strides[0] // out.itemsize
    of_row, of_point, of_mass = pointer(first_points), pointer(classes), pointer(masses)
    size = min(classes.shape[0], masses.shape[0])
    if size == 0:
        return
    end = max(of_row[first_row], 0)
    for i in range(rows):
        first = end
        end = max(min(of_row[first_row + i + 1], size), first)
        has_several = False
        for k in range(first, end):
            c = of_point[k]
            if 0 <= c < n_classes:
                at = c * apart + i
                has_several = has_several or element(place, at) != 0.0
                set_element(place, at, of_mass[k])
        if has_several:
            add_up(of_point, of_mass, first, end, n_classes, from_element(place, i), apart)


@kernel(lambda storage: (points_type, types.int64, matrix(storage)))
def spread_points(points, first_row, out):
    """out[c, i] = the mass of class c in row first_row + i, 0 where there is no point."""
    n_classes, rows = out.shape
    place, apart = row_pointer(out, 0), out.strides[0] // out.itemsize
    for c in range(n_classes):
        for i in range(rows):
            set_element(place, c * apart + i, 0.0)
    put_masses(points.first_points, points.classes, points.masses, first_row, out)
    put_masses(points.first_points, points.classes, points.short_masses, first_row, out)
    put_masses(points.short_first_points, points.short_classes, points.masses, first_row, out)
    put_masses(points.short_first_points, points.short_classes, points.short_masses, first_row, out)
