"""The classes that a row's target names: one class index, or the points of a row of a sparse matrix."""

import functools
from typing import Any, NamedTuple

import numpy as np

from fastce.cuda._kernels.jobs import CLASS_INDICES, NO_TARGETS, SPARSE, Job
from fastce.cuda._kernels.primitives import device, load_real, to_real
from fastce.cuda._kernels.search import first_not_below


class Points(NamedTuple):
    """The points of a row: a class index and its mass; or, of a sparse matrix, the numbers of the first and the end."""

    first: Any
    end: Any
    mass: Any


@device
def times_class_weight(mass, c, like, targets):
    """A mass of class c, times the weight of the class if there are weights."""
    return mass * to_real(like, load_real(targets.class_weight, c)) if targets.class_weight.size > 0 else mass


@device
def no_points(options):
    """The points of a row that does not count."""
    return Points(np.int64(0), np.int64(0), options.zero)


@device
def _no_points(i, like, targets, options):
    return no_points(options)


@device
def _class_index(i, like, targets, options):
    c = np.int64(targets.classes[i])
    return Points(c, c, times_class_weight(options.keep, c, like, targets))


@device
def _plain_class_index(i, like, targets, options):
    c = np.int64(targets.classes[i])
    return Points(c, c, to_real(like, 1.0))


@device
def _points_of_sparse_row(i, like, targets, options):
    return Points(np.int64(targets.first_points[i]), np.int64(targets.first_points[i + 1]), options.zero)


@functools.cache
def points_by(job: Job):
    """The points of row i."""
    if job.is_plain:
        return _plain_class_index
    return {NO_TARGETS: _no_points, CLASS_INDICES: _class_index, SPARSE: _points_of_sparse_row}[job.points]


@device
def _mass_of_sparse_point(k, like, targets, options):
    mass = options.keep * to_real(like, load_real(targets.masses, k))
    return times_class_weight(mass, targets.classes[k], like, targets)


@functools.cache
def mass_at_by(job: Job):
    """The mass of the row's points at class c."""

    @device
    def none(c, points, like, targets, options):
        return options.zero

    @device
    def of_index(c, points, like, targets, options):
        return points.mass if c == points.first else options.zero

    @device
    def of_sparse(c, points, like, targets, options):
        k = first_not_below(c, targets.classes, points.first, points.end)
        if k < points.end and targets.classes[k] == c:
            return _mass_of_sparse_point(k, like, targets, options)
        return options.zero

    return {NO_TARGETS: none, CLASS_INDICES: of_index, SPARSE: of_sparse}[job.points]


@functools.cache
def distances_by(job: Job, element):
    """(half the distance, mass) of the row's points that fall to this thread; ``element`` is how a class's y is found.

    Only points of classes ``begin`` to ``end`` count: those of the part of the row whose top is the reference. Against
    the top of another part, distances would be of either sign and cancel.
    """
    is_index = job.points == CLASS_INDICES
    is_sparse = job.points == SPARSE

    @device
    def of_point(mass, reference, y):
        """Half of mass * (reference - y) in float64, which holds such products of float32."""
        return np.float64(mass) * (0.5 * np.float64(reference) - 0.5 * np.float64(y))

    @device
    def distances(source, first, step, points, begin, end, reference, lane, lanes, targets, like, options):
        distance, total = np.float64(0.0), np.float64(0.0)
        if is_index and lane == 0 and points.mass != 0.0 and begin <= points.first < end:
            y = element(source, first + points.first * step, options)
            distance += of_point(points.mass, reference, y)
            total += points.mass
        if is_sparse:
            for k in range(points.first + lane, points.end, lanes):
                mass = _mass_of_sparse_point(k, like, targets, options)
                c = np.int64(targets.classes[k])
                if mass != 0.0 and begin <= c < end:
                    y = element(source, first + c * step, options)
                    distance += of_point(mass, reference, y)
                    total += mass
        return distance, total

    return distances
