"""Negative log likelihood: of each row the entry of its target, and a gradient that is 0 but there.

With m_i = w_y v_i, loss_i = -m_i x_{i y} and d loss_i / d x_{i y} = -m_i. No rounding but those of float64's products.
"""

import math
from typing import Any, NamedTuple

from numba import types

from fastce.cpu._kernels.states import LANES
from fastce.cpu._vectors.compiler import inline, kernel, outlined, structure, vector
from fastce.cpu._vectors.memory import (
    element,
    finish_stores,
    from_element,
    lanes_of,
    pointer,
    row_pointer,
    set_element,
)
from fastce.cpu._vectors.rooms import float64_room, storage_room
from fastce.cpu._vectors.stretches import copy_stretch

TINY = 2.0**-1022  # below, numbers have fewer digits
AT_A_TIME = 512  # rows
TOGETHER, FEW = 2048, 16  # elements of rows that are put together; the most classes of such, beyond memset is faster

_new_masses, _new_places, _new_rows = float64_room(AT_A_TIME), storage_room(AT_A_TIME), storage_room(TOGETHER)


class LikelihoodTargets(NamedTuple):
    """The targets of rows in flat order; rows of a class that is not there, or is ignored, are absent."""

    classes: Any  # int64 (rows,)
    ignored: Any  # negative if there is no such class
    class_weight: Any  # float64 (classes,), or (0,)
    row_weight: Any  # float64 (rows,), or (0,)


@inline
def look_up(targets, first, rows, classes, places, masses):
    """The class and mass of rows from here on, class 0 and mass 0 if one is absent; whether all masses are 1.

    Every index is read once, without branches: another thread may change it, and a CPU would guess them wrong. Masses
    that are all 1 are not put down.
    """
    given, ignored = from_element(pointer(targets.classes), first), targets.ignored
    absent = 0
    for r in range(rows):
        y = given[r]
        is_absent = (types.uint64(y) >= types.uint64(classes)) | (y == ignored)  # without its sign, a negative is large
        places[r] = -1 if is_absent else y
        absent += 1 if is_absent else 0
    has_class_weight, has_row_weight = targets.class_weight.shape[0] > 0, targets.row_weight.shape[0] > 0
    if absent == 0 and not (has_class_weight or has_row_weight):
        return True
    for r in range(rows):
        masses[r] = 0.0 if places[r] < 0 else 1.0
        places[r] = max(places[r], 0)
    if has_class_weight:
        for r in range(rows):
            masses[r] = 0.0 if masses[r] == 0.0 else targets.class_weight[places[r]]
    if has_row_weight:
        row_weight = from_element(pointer(targets.row_weight), first)
        for r in range(rows):
            masses[r] = 0.0 if masses[r] == 0.0 else masses[r] * row_weight[r]
    return False


@inline
def loses_digits(product, x):
    """Whether a product with this number is none that float64 has all digits of."""
    return math.isfinite(x) and x != 0.0 and not TINY <= abs(product) < math.inf


@outlined
def fill_zeros(place, step, stride, rows, classes):
    """Zeros for all classes of these rows, ``step`` apart, and the classes ``stride``."""
    if stride == 1 and step == classes:
        for k in range(rows * classes):
            set_element(place, k, 0.0)
    elif step == 1:
        for c in range(classes):
            for r in range(rows):
                set_element(place, c * stride + r, 0.0)
    else:
        for r in range(rows):
            for c in range(classes):
                set_element(place, r * step + c * stride, 0.0)


@inline
def put_losses(places, masses, log_probs, rows, losses, are_ones):
    """losses[i] = -m_i x_{i y}; whether some have lost digits or are infinite beside finite numbers."""
    place, step, stride = log_probs
    is_odd = False
    for r in range(rows):
        x = element(place, places[r] * stride + r * step)
        mass = 1.0 if are_ones else masses[r]
        loss = mass * -x + 0.0
        losses[r] = 0.0 if mass == 0.0 else loss
        if not are_ones and lanes_of(place) == LANES:  # float32 has no numbers so large or small
            is_odd = is_odd or (mass != 0.0 and mass != 1.0 and loses_digits(loss, x))
    return is_odd


@inline
def put_slopes(places, masses, gradient, rows, upstream, one_for_all, are_ones):
    """-m_i upstream_i at the target of each row."""
    (place, step, stride), above = gradient, upstream[0]
    for r in range(rows):
        if not one_for_all:
            above = upstream[r]
        mass = 1.0 if are_ones else masses[r]
        set_element(place, places[r] * stride + r * step, 0.0 if mass == 0.0 else mass * -above + 0.0)


@inline
def put_gradients(places, masses, gradient, rows, classes, upstream, one_for_all, are_ones):
    """The gradients of these rows, where it is known when a kernel is compiled what is looked up."""
    fill_zeros(*gradient, rows, classes)
    if are_ones and one_for_all:
        put_slopes(places, masses, gradient, rows, upstream, True, True)
    elif one_for_all:
        put_slopes(places, masses, gradient, rows, upstream, True, False)
    elif are_ones:
        put_slopes(places, masses, gradient, rows, upstream, False, True)
    else:
        put_slopes(places, masses, gradient, rows, upstream, False, False)


def _types(storage):
    cube, floats = types.Array(storage, 3, "A"), vector(types.float64)
    targets = structure(LikelihoodTargets, vector(types.int64), types.int64, floats, floats)
    return cube, targets, floats, floats, cube, vector(types.int64), types.boolean


@kernel(_types)
def likelihood_rows(log_probs, targets, upstream, losses, gradient, found, past_cache):
    """losses[i] = -m_i x_{i y}, and the gradient if there is room for one: -m_i upstream_i at the target.

    ``found[0]`` becomes 1 if some loss would lose digits or be infinite beside finite numbers. The gradient may take
    the place of the log probabilities. Rows of few classes that follow each other are put together in the cache.
    """
    outer, classes, rows = log_probs.shape
    stride, step = log_probs.strides[1] // log_probs.itemsize, log_probs.strides[2] // log_probs.itemsize
    apart, along = gradient.strides[1] // gradient.itemsize, gradient.strides[2] // gradient.itemsize
    one_for_all, is_odd = upstream.shape[0] == 1, False
    masses, places, together = _new_masses(), _new_places(targets.classes), _new_rows(gradient)
    follow = apart == 1 and along == classes and classes <= FEW
    at_a_time = min(AT_A_TIME, TOGETHER // classes) if follow and gradient.shape[1] > 0 else AT_A_TIME
    for o in range(outer):
        source, room = row_pointer(log_probs, o), row_pointer(gradient, o)
        for start in range(0, rows, at_a_time):
            count, first = min(at_a_time, rows - start), o * rows + start
            of_losses, here = from_element(pointer(losses), first), (from_element(source, start * step), step, stride)
            are_ones = look_up(targets, first, count, classes, places, masses)
            if are_ones:
                put_losses(places, masses, here, count, of_losses, True)
            else:
                is_odd = put_losses(places, masses, here, count, of_losses, False) or is_odd
            if gradient.shape[1] > 0:
                above = from_element(pointer(upstream), 0 if one_for_all else first)
                there = (together, classes, 1) if follow else (from_element(room, start * along), along, apart)
                put_gradients(places, masses, there, count, classes, above, one_for_all, are_ones)
                if follow:
                    at = start * classes
                    copy_stretch(together, -at, room, at, at + count * classes, past_cache)
    if is_odd:
        found[0] = 1
    if past_cache:
        finish_stores()
