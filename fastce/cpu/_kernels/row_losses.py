"""The losses of rows: what a look at the logits of a few rows says, and what follows from it.

The heaviest point y is left out of the row's sum S = s + e_y, so that -log p_y = log1p(s / e_y) keeps its digits when
p_y is close to 1. Every other lse - x_c is log S - (x_c - reference), two small numbers; the difference of lse and x_c
themselves would lose what the row has in common.
"""

import math

from fastce.cpu._kernels.blocks import capping, guessed_maximum, row_maximum
from fastce.cpu._kernels.rows import add_compensated, is_left_out, row_state
from fastce.cpu._kernels.states import (
    DISTANCES,
    EXPONENT,
    FITS,
    KEPT,
    LANES,
    LOSS,
    NEAR,
    OFFSET,
    PRODUCTS,
    REST,
    REST_MASS,
    TARGET,
    TARGET_MASS,
    TOP,
    TOTAL,
    X_TARGET,
    Z_MASS,
    above,
    finish_states,
    has_fitting_mass,
    is_outweighed,
    no_row,
)
from fastce.cpu._kernels.sunken import has_sunk
from fastce.cpu._kernels.targets import (
    capped_element,
    dense_mass,
    dense_part,
    heaviest_point,
    likeliest_class,
    mass_of_point,
    scale_of,
    send_for_target,
    targets_of_row,
    weight_of_row,
)
from fastce.cpu._kernels.tops import products_of_tops, sum_but_target, sum_of_tops
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import SPARE, exp_in_float64, keeps_exps
from fastce.cpu._vectors.logarithm import log_times_power
from fastce.cpu._vectors.memory import elements_ahead, from_element, lanes_of, row_pointer, sends_beside_stores, to_real

MUCH_LESS = 2.0**-60  # a sum beside its target's exp: from there on `sunken.shows` may ask for its largest logit
LARGEST_PRODUCT = 2.0**200  # of anything in float64
LARGEST_Z_MASS = 2.0**22  # in float32, whose other factors extremes.py allows up to 2**100


@outlined
def distances_in_float64(row, classes, left_out, reference, options, targets):
    """The sum of q (x - reference), one by one: for rows whose differences overflow float32."""
    total = 0.0
    for c in range(classes):
        mass = dense_mass(targets, options, c) if targets.has_probabilities or targets.has_class_weight else 1.0
        if c != left_out and mass != 0.0:
            total += mass * (capped_element(row, c, options) - reference)
    return total


@outlined
def largest_other(row, classes, c, room):
    """The largest logit but that of class c."""
    uncapped = to_real(row, 0.0), to_real(row, 0.0)
    before = row_maximum(row, c, uncapped, room)
    return max(before, row_maximum(from_element(row, c + 1), classes - c - 1, uncapped, room))


@inline
def look_at_row(row, classes, options, targets, left_out, at_least, states, k, room, wide_room, kept):
    """Write the sums of a row without one class, and the logit and mass of that class (-1: none), to the states.

    The reference is not lower than one near ``at_least``, for a piece of a row that has seen larger elements. ``kept``
    is (room for exps, whether all are kept, whether PRODUCTS are summed instead), the former if a gradient needs no
    more, the latter if a class is left out and masses do not vary, without a cap, whose slopes would count too.
    """
    ratio, cap, scaled_by = capping(row, options.logit_scale, options.softcap)
    dense = dense_part(row, targets, options, 1.0)
    varies = dense[3] or dense[5]
    is_plain = not varies and not options.softcap > 0.0
    with_products = kept[2] and is_plain and left_out >= 0
    is_kept = keeps_exps(row) and kept[1] and is_plain and not with_products
    largest = max(guessed_maximum(row, classes, (ratio, cap), room), at_least)
    x_target, mass = -math.inf, 0.0
    if left_out >= 0:
        x_target = capped_element(row, left_out, options)
        largest = max(largest, x_target)
        mass = dense_mass(targets, options, left_out)
    kept = kept[0], is_kept, keeps_exps(row), with_products, x_target
    offset, exponent, near, (rest, distances, rest_mass, products), tops, top = row_state(
        row, classes, left_out, largest, (ratio, cap), scaled_by, room, dense, kept
    )
    scale = scale_of(options)
    states[PRODUCTS + k] = math.nan
    if with_products:
        states[PRODUCTS + k] = products + products_of_tops(tops, x_target - offset, exponent, scale, wide_room)
    is_in_sums = left_out >= 0 and not is_left_out(dense, (ratio, cap), offset)
    if is_in_sums:
        exp_target = exp_in_float64(x_target, exponent, scale)
        rest = sum_but_target(rest, tops, x_target, exp_target, exponent, scale, wide_room)
        if rest < exp_target * MUCH_LESS:
            top = largest_other(row, classes, left_out, room)
    else:
        rest += sum_of_tops(tops, math.nan, exponent, scale, wide_room)
    if not math.isfinite(distances) and (varies or options.spread > 0.0):  # NaN: infinite ones of both signs
        distances = distances_in_float64(row, classes, left_out, offset + near, options, targets)
    elif is_in_sums:
        distances -= x_target - near
    if math.isnan(x_target):  # not in the sum, which would have shown it
        offset = math.nan
    states[OFFSET + k] = offset
    states[EXPONENT + k] = exponent
    states[NEAR + k] = near
    states[REST + k] = rest if math.isfinite(offset) else math.nan
    states[DISTANCES + k] = 0.0
    states[REST_MASS + k] = rest_mass if varies else rest_mass * options.spread
    if varies or options.spread > 0.0:
        states[DISTANCES + k] = distances if varies else distances * options.spread
    states[X_TARGET + k] = x_target - offset
    states[TOP + k] = top
    states[TARGET_MASS + k] = mass
    states[TARGET + k] = left_out
    states[KEPT + k] = 1.0 if is_kept else 0.0


@inline
def sends_for_targets(row, classes, is_written):
    """Whether the targets' logits are asked for two rows ahead.

    On a Xeon not those of short rows whose gradients are not written in between: soon the row itself is asked for, and
    a line of the page after next before it makes the caches fetch less of what comes first: a loss of 700 to 1,500
    classes takes a tenth longer, one of 4,096 to 8,192 a twentieth less.
    """
    return is_written or sends_beside_stores() or classes > 3 * elements_ahead(row)


@inline
def look_at_rows(logits, first, count, options, targets, states, room, wide_room, kept):
    """The states of ``count`` rows from ``first`` on; rows of weight 0 are not looked at.

    ``kept`` is room for their exps, how many elements it has for each row (0 if they are not to be kept), and whether
    PRODUCTS are wanted: those of rows of a single point.
    """
    rows, classes = logits.shape
    for k in range(count):
        i = first + k
        if sends_for_targets(row_pointer(logits, i), classes, kept[1] > 0):
            send_for_target(logits, targets, min(i + 2, rows - 1))
        if weight_of_row(targets, i) == 0.0:
            no_row(states, k)
            continue
        of_row = targets_of_row(targets, i)
        left_out, mass = heaviest_point(of_row, options)
        look_at_row(
            row_pointer(logits, i), classes, options, of_row, left_out, -math.inf, states, k, room, wide_room,
            (from_element(kept[0], k * kept[1]), kept[1] > 0, kept[2] and of_row.end_point - of_row.first_point == 1),
        )  # fmt: skip
        states[TARGET_MASS + k] += mass


@outlined
def add_points(row, options, targets, scale, states, k):
    """The other points of a sparse row, one by one."""
    loss, mass = (states[LOSS + k], 0.0), (states[REST_MASS + k], 0.0)
    log_total = log_times_power(states[TOTAL + k], -SPARE)
    for point in range(targets.first_point, targets.end_point):
        c = targets.classes[point]
        q = mass_of_point(targets, options, point)
        if c != states[TARGET + k] and q != 0.0:
            x = capped_element(row, c, options) - states[OFFSET + k]
            loss = add_compensated(loss, q * (log_total + above(states[EXPONENT + k] + SPARE, scale, x)))
            mass = add_compensated(mass, q)
    states[LOSS + k] = loss[0] + loss[1]
    states[REST_MASS + k] = mass[0] + mass[1]


@inline
def has_lost_digits(row, scale, states, k):
    """Whether a row of probabilities needs the class that most of the mass is on left out.

    Its loss is little beside its mass; or, in float64, it is the difference of two large numbers. Masses of both signs
    do not hide that: where one class has nearly all of p, a loss of few digits is one of nearly all mass on that class.
    """
    loss, distances = abs(states[LOSS + k]), abs(states[DISTANCES + k] * scale)
    is_float64 = lanes_of(row) == LANES
    return states[TARGET + k] < 0 and (loss < 0.5 * abs(states[REST_MASS + k]) or (is_float64 and distances > loss))


@outlined
def look_again(row, classes, options, targets, scale, states, k, room, wide_room):
    """A row of probabilities whose loss has lost digits: once more, without the class that most of the mass is on."""
    left_out = likeliest_class(targets, options, classes)
    look_at_row(row, classes, options, targets, left_out, -math.inf, states, k, room, wide_room, (room, False, False))
    finish_states(states, k, k + 1, scale, options.z_loss)


@inline
def is_extreme(row, scale, states, k):
    """Whether products of this row's numbers may overflow: extremes.py is for those.

    A row that has no softmax, or whose target has probability 0, is what it is. With options within the range of
    extremes.py, only masses and the z-loss of float32 rows can be too much for their dtype; states are float64.
    """
    offset, loss = states[OFFSET + k], states[LOSS + k]
    if not math.isfinite(offset) or math.isnan(states[TOTAL + k]):
        return False
    if not has_fitting_mass(states, k, lanes_of(row) == LANES):
        return True
    if lanes_of(row) != LANES:
        return abs(states[Z_MASS + k]) > LARGEST_Z_MASS
    if not abs(offset * scale) < LARGEST_PRODUCT:
        return True
    masked = states[TARGET + k] >= 0 and states[X_TARGET + k] == -math.inf
    return not abs(loss) < LARGEST_PRODUCT and not (masked and loss == math.inf)


@inline
def must_be_left(row, classes, options, targets, weight, states, k):
    """Whether a finished row is left to extremes.py: it is extreme, or has lost digits that no other sum has."""
    is_smoothed = (targets.has_class_weight or classes == 2) and options.spread > 0.0 and not targets.has_probabilities
    scale = scale_of(options)
    return (
        is_extreme(row, scale, states, k)
        or (is_smoothed and is_outweighed(states, k))
        or has_sunk(states, k, classes, weight, scale, lanes_of(row) == LANES)
    )


@inline
def find_states(logits, first, count, options, targets, states, room, wide_room, kept):
    """Everything that is known of ``count`` rows from ``first`` on; their losses are not weighted yet.

    FITS is 0 for those that must be left to extremes.py. For ``kept``, see `look_at_rows`.
    """
    classes = logits.shape[1]
    scale = scale_of(options)
    look_at_rows(logits, first, count, options, targets, states, room, wide_room, kept)
    finish_states(states, 0, count, scale, options.z_loss)
    for k in range(count):
        states[FITS + k] = 1.0
        weight = weight_of_row(targets, first + k)
        if weight == 0.0:
            states[LOSS + k] = 0.0
            continue
        row, of_row = row_pointer(logits, first + k), targets_of_row(targets, first + k)
        if of_row.end_point - of_row.first_point > 1:
            add_points(row, options, of_row, scale, states, k)
        if of_row.has_probabilities and has_lost_digits(row, scale, states, k):
            look_again(row, classes, options, of_row, scale, states, k, room, wide_room)
        if must_be_left(row, classes, options, of_row, weight, states, k):
            states[FITS + k] = 0.0
