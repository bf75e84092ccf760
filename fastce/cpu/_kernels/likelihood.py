"""Negative log likelihood: of each row the entry of its target, and a gradient that is 0 but there.

With m_i = w_y v_i, loss_i = -m_i x_{i y} and d loss_i / d x_{i y} = -m_i. No rounding but those of float64's products.
"""

import math
from typing import Any, NamedTuple

from numba import types

from fastce.cpu._kernels.states import LANES
from fastce.cpu._vectors.compiler import inline, kernel, outlined, structure, vector
from fastce.cpu._vectors.memory import element, from_element, lanes_of, pointer, row_pointer, set_element
from fastce.cpu._vectors.rooms import float64_room

TINY = 2.0**-1022  # below, numbers have fewer digits
AT_A_TIME = 512  # rows

_new_masses = float64_room(AT_A_TIME)


class LikelihoodTargets(NamedTuple):
    """The targets of rows in flat order; rows of a class that is not there, or is ignored, are absent."""

    classes: Any  # int64 (rows,)
    ignored: Any  # negative if there is no such class
    class_weight: Any  # float64 (classes,), or (0,)
    row_weight: Any  # float64 (rows,), or (0,)


@inline
def entries_of(targets, first):
    """What `entry_of` needs to know of rows from here on, as pointers and numbers: see `targets.RowTargets`."""
    has_class_weight, has_row_weight = targets.class_weight.shape[0] > 0, targets.row_weight.shape[0] > 0
    row_weight = from_element(pointer(targets.row_weight), first if has_row_weight else 0)
    weights = pointer(targets.class_weight), has_class_weight, row_weight, has_row_weight
    return from_element(pointer(targets.classes), first), targets.ignored, weights


@inline
def entry_of(entries, i, classes, are_weighted):
    """(class, mass) of row i; class 0 and mass 0 if it is absent, without a branch that a CPU would guess wrong."""
    of_rows, ignored, (class_weight, has_class_weight, row_weight, has_row_weight) = entries
    y = of_rows[i]
    is_absent = (types.uint64(y) >= types.uint64(classes)) | (y == ignored)  # without its sign, a negative is large
    y = 0 if is_absent else y
    mass = 1.0
    if are_weighted:
        mass = class_weight[y] if has_class_weight else 1.0
        mass = mass * row_weight[i] if has_row_weight else mass
    return y, 0.0 if is_absent else mass


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
def put_losses(entries, log_probs, rows, classes, losses, masses, are_weighted):
    """losses[i] = -m_i x_{i y}, and m_i; whether some have lost digits or are infinite beside finite numbers."""
    place, step, stride = log_probs
    is_odd = False
    for r in range(rows):
        y, mass = entry_of(entries, r, classes, are_weighted)
        x = element(place, y * stride + r * step)
        loss = (mass * -x if are_weighted else -x) + 0.0
        masses[r] = mass
        losses[r] = 0.0 if mass == 0.0 else loss
        if are_weighted and lanes_of(place) == LANES:  # float32 has no numbers so large or small
            is_odd = is_odd or (mass != 0.0 and loses_digits(loss, x))
    return is_odd


@inline
def put_slopes(entries, gradient, rows, classes, upstream, one_for_all, masses):
    """-m_i upstream_i at the target of each row."""
    place, step, stride = gradient
    for r in range(rows):
        y, _ = entry_of(entries, r, classes, False)
        above = upstream[0] if one_for_all else upstream[r]
        masses[r] = 0.0 if masses[r] == 0.0 else masses[r] * -above + 0.0
        set_element(place, y * stride + r * step, masses[r])


def _types(storage):
    cube, floats = types.Array(storage, 3, "A"), vector(types.float64)
    targets = structure(LikelihoodTargets, vector(types.int64), types.int64, floats, floats)
    return cube, targets, floats, floats, cube, vector(types.int64)


@kernel(_types)
def likelihood_rows(log_probs, targets, upstream, losses, gradient, found):
    """losses[i] = -m_i x_{i y}, and the gradient if there is room for one: -m_i upstream_i at the target.

    ``found[0]`` becomes 1 if some loss would lose digits or be infinite beside finite numbers. The gradient may take
    the place of the log probabilities.
    """
    outer, classes, rows = log_probs.shape
    stride, step = log_probs.strides[1] // log_probs.itemsize, log_probs.strides[2] // log_probs.itemsize
    apart, along = gradient.strides[1] // gradient.itemsize, gradient.strides[2] // gradient.itemsize
    one_for_all, are_weighted = upstream.shape[0] == 1, targets.class_weight.shape[0] + targets.row_weight.shape[0] > 0
    masses = _new_masses()
    is_odd = False
    for o in range(outer):
        source, room = row_pointer(log_probs, o), row_pointer(gradient, o)
        for start in range(0, rows, AT_A_TIME):
            count, first = min(AT_A_TIME, rows - start), o * rows + start
            entries, of_losses = entries_of(targets, first), from_element(pointer(losses), first)
            here = from_element(source, start * step), step, stride
            if are_weighted:
                is_odd = put_losses(entries, here, count, classes, of_losses, masses, True) or is_odd
            else:
                put_losses(entries, here, count, classes, of_losses, masses, False)
            if gradient.shape[1] > 0:
                from_above = from_element(pointer(upstream), 0 if one_for_all else first)
                there = from_element(room, start * along), along, apart
                fill_zeros(*there, count, classes)
                if one_for_all:
                    put_slopes(entries, there, count, classes, from_above, True, masses)
                else:
                    put_slopes(entries, there, count, classes, from_above, False, masses)
    if is_odd:
        found[0] = 1
