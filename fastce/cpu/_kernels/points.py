"""The points of a sparse matrix where its owner has them: checked, and spread out for kernels of few classes.

Nothing is copied. Rows may name their classes in any order, and one more than once: masses are added where they belong.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, matrix, outlined, structure, vector
from fastce.cpu._vectors.memory import (
    element,
    from_element,
    lanes_of,
    load_first,
    pointer,
    row_pointer,
    set_element,
    store,
    store_first,
    to_real,
)
from fastce.cpu._vectors.pairs import are_ends_of_ones, are_ends_of_pairs, load_ones, load_pairs
from fastce.cpu._vectors.rooms import float64_room
from fastce.cpu._vectors.simd import where_equal

MOST_CLASSES = 64  # that masses are spread out for
ODD, WIDE = 0, 1  # places in `found`
LARGEST_SHORT = 2**31 - 1

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
def has_odd_rows(first_points, part, size):
    """Whether some row does not end where the next one begins, within so many points."""
    odd, place = False, pointer(first_points)
    for i in range(part.first_row, min(part.end_row, first_points.shape[0] - 1)):
        first, end = place[i], place[i + 1]
        odd = odd | (first < 0) | (end < first) | (end > size)
    return odd


@inline
def has_odd_classes(classes, part, n_classes):
    """Whether some class is not there."""
    odd, place = False, pointer(classes)
    for k in range(part.first_point, min(part.end_point, classes.shape[0])):
        c = place[k]
        odd = odd | (c < 0) | (c >= n_classes)
    return odd


@inline
def has_odd_masses(masses, part):
    """Whether some mass is negative or not finite."""
    odd, place = False, pointer(masses)
    for k in range(part.first_point, min(part.end_point, masses.shape[0])):
        odd = odd | (not 0.0 <= place[k] < math.inf)
    return odd


@inline
def has_wide_masses(masses, part, least, most):
    """Whether some mass is not 0, nor within bounds, nor what float32 holds."""
    wide, place = False, pointer(masses)
    for k in range(part.first_point, min(part.end_point, masses.shape[0])):
        mass = place[k]
        is_within = (mass >= least) & (mass <= most) & (np.float32(mass) == mass)
        wide = wide | ((mass != 0) & (not is_within))
    return wide


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
    short_size, short_classes = np.int32(min(size, LARGEST_SHORT)), np.int32(min(n_classes, LARGEST_SHORT))
    short_least, short_most = np.float32(least), np.float32(most)
    odd = has_odd_rows(points.first_points, part, size) | has_odd_classes(points.classes, part, n_classes)
    odd = odd | has_odd_rows(points.short_first_points, part, short_size)
    odd = odd | has_odd_classes(points.short_classes, part, short_classes)
    wide = has_wide_masses(points.masses, part, least, most)
    wide = wide | has_wide_masses(points.short_masses, part, short_least, short_most)
    if wide:  # odd masses are
        found[WIDE] = 1
        odd = odd | has_odd_masses(points.masses, part) | has_odd_masses(points.short_masses, part)
    if odd:
        found[ODD] = 1


@kernel(lambda storage: (points_type, _part, vector(types.int64)))
def check_order(points, part, found):
    """``found[ODD]`` becomes 1 unless the classes of every row rise, of long integers that are not odd otherwise."""
    if falling_classes(points.first_points, points.classes, part) > 0:
        found[ODD] = 1


@inline
def count_points(rows, classes, n_classes, ends):
    """ends[i + 2] += 1 for every point of row i; whether some row or class is not there."""
    odd, of_row, of_class, n_rows = False, pointer(rows), pointer(classes), ends.shape[0] - 2
    for k in range(min(rows.shape[0], classes.shape[0])):
        row, c = of_row[k], of_class[k]
        if (0 <= row < n_rows) and (0 <= c < n_classes):
            ends[row + 2] += 1
        else:
            odd = True
    return odd


@inline
def place_points(rows, classes, masses, n_classes, ends, placed_classes, placed_masses):
    """Put every point behind those of its row that came before, ends[i + 1] being where that is."""
    of_row, of_class, of_mass, n_rows = pointer(rows), pointer(classes), pointer(masses), ends.shape[0] - 2
    for k in range(min(rows.shape[0], min(classes.shape[0], masses.shape[0]))):
        row, c = of_row[k], of_class[k]
        if (0 <= row < n_rows) and (0 <= c < n_classes):
            place = ends[row + 1]
            if 0 <= place < min(placed_classes.shape[0], placed_masses.shape[0]):
                placed_classes[place], placed_masses[place] = c, of_mass[k]
                ends[row + 1] = place + 1


_sorted = _short, _short, vector(types.float64), vector(types.float32)


@kernel(lambda storage: (points_type, types.int64, *_sorted, _long))
def sort_by_row(points, n_classes, ends, classes, masses, short_masses, found):
    """Points in any order, whose first points are the rows of all, as compressed rows: ends[i] will be row i's first.

    A counting sort: ``ends`` are zeros, two more than rows. ``found[ODD]`` becomes 1 if some row or class is not there.
    Where these change meanwhile, points may be lost, or be where they should not.
    """
    rows, short_rows, short_classes = points.first_points, points.short_first_points, points.short_classes
    odd = count_points(rows, points.classes, n_classes, ends)
    if odd | count_points(short_rows, short_classes, n_classes, ends):
        found[ODD] = 1
    for i in range(1, ends.shape[0]):
        ends[i] += ends[i - 1]
    place_points(rows, points.classes, points.masses, n_classes, ends, classes, masses)
    place_points(rows, points.classes, points.short_masses, n_classes, ends, classes, short_masses)
    place_points(short_rows, short_classes, points.masses, n_classes, ends, classes, masses)
    place_points(short_rows, short_classes, points.short_masses, n_classes, ends, classes, short_masses)


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
def put_rows(of_row, of_point, of_mass, first_row, size, n_classes, place, start, count, apart):
    """out[c, i], which is 0, becomes the mass of a class in ``count`` rows from i = ``start`` on."""
    end = max(of_row[first_row + start], 0)
    for i in range(start, start + count):
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


@inline
def put_rows_of_ones(of_point, of_mass, point, n_classes, place, start, apart):
    """The same of a vector of rows that have one point each; the first is ``point``."""
    given, mass = load_ones(place, of_point, point)[0], load_ones(place, of_mass, point)[0]
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    for c in range(n_classes):
        store(place, c * apart + start, where_equal(given, to_real(place, c), mass, zero))


@inline
def put_rows_of_pairs(of_point, of_mass, point, n_classes, place, start, apart):
    """The same of a vector of rows that have two points each; the first is ``point``."""
    class_a, class_b = load_pairs(place, of_point, point)
    mass_a, mass_b = load_pairs(place, of_mass, point)
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    for c in range(n_classes):
        number = to_real(place, c)
        mass = where_equal(class_a, number, mass_a, zero) + where_equal(class_b, number, mass_b, zero)
        store(place, c * apart + start, mass)


@inline
def put_zeros(place, start, count, n_classes, apart):
    """out[c, i] = 0 in ``count`` rows from i = ``start`` on."""
    zero = load_first(place, 0, 0, to_real(place, 0.0))
    for c in range(n_classes):
        for i in range(start, start + count, lanes_of(place)):
            store_first(place, c * apart + i, zero, min(lanes_of(place), start + count - i))


@inline
def put_masses(first_points, classes, masses, first_row, n_classes, rows, place, apart):
    """`put_points` of arrays of these sizes, if they are those that are not empty."""
    of_row, of_point, of_mass = pointer(first_points), pointer(classes), pointer(masses)
    size, lanes = min(classes.shape[0], masses.shape[0]), lanes_of(place)
    if size == 0:
        return
    for i in range(0, rows, lanes):
        count, point = min(lanes, rows - i), of_row[first_row + i]
        most = (size - point) // lanes if count == lanes and point >= 0 else 0  # points of each row that there may be
        if most >= 1 and are_ends_of_ones(place, of_row, first_row + i):
            put_rows_of_ones(of_point, of_mass, point, n_classes, place, i, apart)
        elif most >= 2 and are_ends_of_pairs(place, of_row, first_row + i):
            put_rows_of_pairs(of_point, of_mass, point, n_classes, place, i, apart)
        else:
            put_zeros(place, i, count, n_classes, apart)
            put_rows(of_row, of_point, of_mass, first_row, size, n_classes, place, i, count, apart)


@outlined
def put_points(points, first_row, n_classes, rows, place, apart):
    """place[c * apart + i] = the mass of class c in row first_row + i, 0 where there is no point.

    What has changed since it was checked may be anywhere.
    """
    if points.classes.shape[0] + points.short_classes.shape[0] == 0:
        put_zeros(place, 0, rows, n_classes, apart)
    put_masses(points.first_points, points.classes, points.masses, first_row, n_classes, rows, place, apart)
    put_masses(points.first_points, points.classes, points.short_masses, first_row, n_classes, rows, place, apart)
    short_rows, short_classes = points.short_first_points, points.short_classes
    put_masses(short_rows, short_classes, points.masses, first_row, n_classes, rows, place, apart)
    put_masses(short_rows, short_classes, points.short_masses, first_row, n_classes, rows, place, apart)


@kernel(lambda storage: (points_type, types.int64, matrix(storage)))
def spread_points(points, first_row, out):
    """out[c, i] = the mass of class c in row first_row + i, of up to 64 classes."""
    n_classes = min(out.shape[0], MOST_CLASSES)
    put_points(points, first_row, n_classes, out.shape[1], row_pointer(out, 0), out.strides[0] // out.itemsize)
