"""What a row's loss is aimed at: points, probabilities, weights, and what label smoothing leaves of them.

Every kind of target is one formula. The target distribution of a row is t' = keep * t + spread, where t is one-hot, a
sparse row or a dense row of probabilities; with the class weights w, the mass of class c is q_c = w_c t'_c. It has a
dense part (spread, weights, probabilities), which is added block by block, and points (the non-zero classes of hard
and sparse targets), which are added one by one.
"""

from typing import Any, NamedTuple

from numba import types

from fastce.cpu._vectors.compiler import inline, matrix, outlined, real_of, structure, vector
from fastce.cpu._vectors.elementary import tanh
from fastce.cpu._vectors.memory import element, load_first, pointer, prefetch, row_pointer, to_real
from fastce.cpu._vectors.simd import fma


class Options(NamedTuple):
    """The scalars of the loss; see the module's formula. ``softcap`` 0 means none."""

    logit_scale: float
    softcap: float
    z_loss: float
    keep: float
    spread: float


class Curvature(NamedTuple):
    """A booster's convention of Hessians: max(factor * Hessian, lowest)."""

    factor: float
    lowest: float


@inline
def scale_of(options):
    """What exp's arguments are multiplied by: the cap, if there is one, comes after logit_scale."""
    return 1.0 if options.softcap > 0.0 else options.logit_scale


@inline
def capped(x, options):
    """One logit, a float64, after softcap (and after logit_scale if there is a cap)."""
    return options.softcap * tanh(x * (options.logit_scale / options.softcap)) if options.softcap > 0.0 else x


@inline
def capped_element(row, c, options):
    """Element c of a row, `capped`."""
    return capped(element(row, c), options)


class Targets(NamedTuple):
    """The points (compressed sparse rows) and the dense parts of the targets; empty arrays where there is none."""

    first_points: Any  # int64 (rows + 1,); empty: one point per row
    classes: Any  # int64 (points,); sorted within a row
    masses: Any  # float64 (points,); empty: all 1
    probabilities: Any  # (rows, classes) in the compute dtype, or (0, 0)
    class_weight: Any  # (classes,) in the compute dtype, or (0,)
    row_weight: Any  # float64 (rows,), or (0,); 0: the row is ignored


options_type = structure(Options, *(types.float64 for _ in Options._fields))


def targets_type(storage):
    """The Numba type of the targets of logits that are stored so."""
    real, integers, floats = real_of(storage), vector(types.int64), vector(types.float64)
    return structure(Targets, integers, integers, floats, matrix(real), vector(real), floats)


class ColumnTargets(NamedTuple):
    """The same of a cube of logits, with one point per row (or none) and rows along the last axis."""

    classes: Any  # int64 (outer, rows), or (0, 0)
    probabilities: Any  # (outer, classes, rows) in the compute dtype, or (0, 0, 0)
    class_weight: Any  # (classes,) in the compute dtype, or (0,)
    row_weight: Any  # float64 (outer, rows), or (0, 0)
    ignored: Any  # float64: the class of rows that are ignored; NaN if there are none, or all have weight 0


def column_targets_type(storage):
    """The Numba type of the targets of a cube of logits that are stored so."""
    real = real_of(storage)
    arrays = matrix(types.int64), types.Array(real, 3, "A"), vector(real), matrix(types.float64)
    return structure(ColumnTargets, *arrays, types.float64)


class RowTargets(NamedTuple):
    """What `Targets` says of one row, as pointers and numbers: reference counts would cost as much as a short row."""

    first_point: Any
    end_point: Any
    classes: Any
    masses: Any
    has_masses: Any
    probabilities: Any
    has_probabilities: Any
    class_weight: Any
    has_class_weight: Any


@inline
def targets_of_row(targets, i):
    """The targets of row i."""
    first_point, end_point = i, i + 1
    if targets.first_points.shape[0] > 0:
        first_point, end_point = targets.first_points[i], targets.first_points[i + 1]
    elif targets.classes.shape[0] == 0:
        first_point, end_point = 0, 0
    return RowTargets(
        first_point,
        end_point,
        pointer(targets.classes),
        pointer(targets.masses),
        targets.masses.shape[0] > 0,
        row_pointer(targets.probabilities, i),
        targets.probabilities.shape[0] > 0,
        pointer(targets.class_weight),
        targets.class_weight.shape[0] > 0,
    )


@inline
def mass_of_point(targets, options, point):
    """q of a point beyond the dense part of its class: w_c * keep * t_c."""
    mass = options.keep
    if targets.has_masses:
        mass *= targets.masses[point]
    if targets.has_class_weight:
        mass *= targets.class_weight[targets.classes[point]]
    return mass


@inline
def dense_mass(targets, options, c):
    """q of class c without the points: w_c * (keep * t_c + spread)."""
    mass = options.spread
    if targets.has_probabilities:
        mass += options.keep * targets.probabilities[c]
    if targets.has_class_weight:
        mass *= targets.class_weight[c]
    return mass


@inline
def dense_part(row, targets, options, factor):
    """What `masses_at` needs to know of this row to give its masses times the factor."""
    return (
        to_real(row, options.keep * factor),
        to_real(row, options.spread * factor),
        targets.probabilities,
        targets.has_probabilities,
        targets.class_weight,
        targets.has_class_weight,
        options.spread > 0.0,
    )


@inline
def no_dense_part(row):
    """The `dense_part` of a row without targets."""
    zero = to_real(row, 0.0)
    return zero, zero, row, False, row, False, False


@inline
def masses_at(dense, c, count):
    """q = w (keep * t + spread) of ``count`` classes from c on: the dense part of the target distribution."""
    keep, spread, probabilities, has_probabilities, weight, has_weight, _ = dense
    nothing = to_real(weight, 0.0)
    q = load_first(weight, 0, 0, spread)
    if has_probabilities:
        q = fma(load_first(probabilities, c, count, nothing), keep, spread)
    if has_weight:
        q = q * load_first(weight, c, count, nothing)
    return q


@inline
def heaviest_point(targets, options):
    """The class of the row's heaviest point, whatever its sign, and its mass; (-1, 0) without points."""
    heaviest, mass_of_heaviest = -1, 0.0
    for point in range(targets.first_point, targets.end_point):
        mass = mass_of_point(targets, options, point)
        if heaviest < 0 or abs(mass) > abs(mass_of_heaviest):
            heaviest, mass_of_heaviest = targets.classes[point], mass
    return heaviest, mass_of_heaviest


@outlined
def likeliest_class(targets, options, classes):
    """The class of the largest mass, whatever its sign."""
    best, largest = 0, -1.0
    for c in range(classes):
        mass = abs(dense_mass(targets, options, c))
        if mass > largest:
            best, largest = c, mass
    return best


@inline
def weight_of_row(targets, i):
    return targets.row_weight[i] if targets.row_weight.shape[0] > 0 else 1.0


@inline
def send_for_target(logits, targets, i):
    """Ask for the first target logit of row i: alone in its cache line and page, it would stall the row."""
    point = targets.first_points[i] if targets.first_points.shape[0] > 0 else i
    if point < targets.classes.shape[0]:
        prefetch(row_pointer(logits, i), targets.classes[point])
