"""Sums of gradient * logit of rows: what the derivative of a loss by the scale of its logits is made of.

With G the gradient by the logits x and m the largest of a row,

    sum_c G_c x_c = sum_c G_c (x_c - m) + m sum_c G_c

and sum_c G_c is 0 but for the z-loss: upstream * 2 z lse. So confident rows, and rows with much in common, keep their
digits. A softcap's slopes leave no such sum: m is 0 then. A gradient has just been written, and is in cache, as are the
logits; where it is 0, so is the product. Differences of logits, and sums, are float64.

Of a row that has a target y, with the masses q_c of targets.py and their sum M, exps do without gradients:

    sum_c G_c x_c = upstream (sum_(c != y) ((M + 2 z lse) p_c - q_c) (x_c - x_y) + 2 z lse x_y)

The target's own term is 0 and need not cancel against those of others. Sums of p_c (x_c - x_y) and of q_c (x_c - x_y)
are what a first look at the row can give.
"""

import math

from fastce.cpu._kernels.lines import CHOSEN, DISTANCE_SUM, EXPS, REFERENCE, X_CHOSEN, store_sum, whole_sum
from fastce.cpu._kernels.states import (
    DISTANCES,
    LANES,
    NEAR,
    OFFSET,
    PRODUCTS,
    REST_MASS,
    TARGET_MASS,
    TOP,
    TOTAL,
    UPSTREAM,
    X_TARGET,
    Z_MASS,
)
from fastce.cpu._vectors.compiler import inline, outlined
from fastce.cpu._vectors.exponential import exp, with_factor_1
from fastce.cpu._vectors.lanes import lesser_and_top, store_real
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, store_first, to_real
from fastce.cpu._vectors.simd import where_equal, where_zero
from fastce.cpu._vectors.wide import add_products, sum_wide, zeros_wide


@outlined
def sum_of_products(row, slope, classes, near):
    """The sum of slope * (x - near) of a row."""
    lanes = lanes_of(row)
    near, nothing = load_first(row, 0, 0, to_real(row, near)), to_real(row, 0.0)
    whole = classes - classes % lanes
    total = zeros_wide()
    for i in range(0, whole, lanes):
        q = load(slope, i)
        total = add_products(total, q, where_zero(q, near, load(row, i)), near)
    if whole < classes:
        q = load_first(slope, whole, classes - whole, nothing)
        x = load_first(row, whole, classes - whole, nothing)
        total = add_products(total, q, where_zero(q, near, x), near)
    return sum_wide(total)


@inline
def taken_off(options, states, k):
    """What is taken off the logits of a row: the largest, its target's too; nothing beside a cap."""
    return 0.0 if options.softcap > 0.0 else states[OFFSET + k] + max(states[TOP + k], states[X_TARGET + k])


@inline
def common_part(near, states, k):
    """That times the sum of all slopes of the row, but for those of a cap."""
    return near * (states[UPSTREAM + k] * states[Z_MASS + k])


@inline
def product_of_look(states, k):
    """The sum of gradient * logit of a row, from what the look at its logits has summed; NaN if that is not enough."""
    x_target, z_mass = states[X_TARGET + k], states[Z_MASS + k]
    of_exps = (states[REST_MASS + k] + states[TARGET_MASS + k] + z_mass) * (states[PRODUCTS + k] / states[TOTAL + k])
    of_masses = states[DISTANCES + k] - states[REST_MASS + k] * (x_target - states[NEAR + k])
    product = states[UPSTREAM + k] * ((of_exps - of_masses) + z_mass * (states[OFFSET + k] + x_target))
    return product if math.isfinite(product) else math.nan


@inline
def keep_common_slopes(states, count, first, products):
    """The products become what the slopes of each of these rows come to."""
    for k in range(0, count, LANES):
        common = load(states, UPSTREAM + k) * load(states, Z_MASS + k)
        store_first(products, first + k, common, min(LANES, count - k))


@outlined
def put_products_of_tile(sums, tile, slopes, first, count, classes, capped, weights, products):
    """The sum of slope * x of every row of a tile, whose products hold what slopes come to; 0 for rows of weight 0."""
    place, start, stride, _ = tile
    written, start_of_slopes, stride_of_slopes = slopes
    lanes, nothing = lanes_of(place), to_real(place, 0.0)
    for k in range(0, count, lanes):
        here = min(lanes, count - k)
        near = load_first(place, 0, 0, nothing)
        if not capped:
            near = load_first(place, 0, 0, to_real(place, -math.inf))
            for c in range(classes):
                _, near = lesser_and_top(elements(place, start + k + c * stride, here, nothing), near)
        total = zeros_wide()
        for c in range(classes):
            q = elements(written, start_of_slopes + k + c * stride_of_slopes, here, nothing)
            x = elements(place, start + k + c * stride, here, nothing)
            total = add_products(total, q, where_zero(q, near, x), near)
        store_sum(sums, lanes, EXPS, k, total)
        store_real(sums, DISTANCE_SUM + k, near)
    zero = load_first(sums, 0, 0, 0.0)
    for k in range(0, count, LANES):
        here = min(LANES, count - k)
        total = whole_sum(sums, lanes, EXPS, k)
        if not capped:
            total += load(sums, DISTANCE_SUM + k) * load_first(products, first + k, here, 0.0)
        if weights[1]:
            total = where_zero(load_first(weights[0], first + k, here, 0.0), zero, total)
        store_first(products, first + k, total, here)


@inline
def sum_of_others(tile, k, count, classes, of_lanes, kept):
    """The sum of exp(x) (x - near) of one vector of rows, but for targets, whose exps are 0 where they are kept."""
    place, start, stride, _ = tile
    (exponent, target, near), (exps, are_kept, scaled_by) = of_lanes, kept
    at, nothing, total = start + k, load_first(place, 0, 0, to_real(place, 0.0)), zeros_wide()
    if are_kept:
        for _ in range(classes):
            e, x = load(exps, at), load(place, at)
            total = add_products(total, e, where_zero(e, near, x), near)
            at += stride
        return total
    for c in range(classes):
        x = elements(place, at, count, to_real(place, 0.0))
        e = where_equal(target, to_real(place, c), nothing, exp(x, exponent, scaled_by))
        total = add_products(total, e, where_zero(e, near, x), near)
        at += stride
    return total


@outlined
def put_hard_products(states, running, sums, tile, kept, group, count, classes, weights, first, products):
    """sum_c G_c x_c of each of these rows of a tile that have mass on their targets alone.

    Their exps are kept as the tile is, or computed once more.
    """
    lanes, kept = lanes_of(tile[0]), (kept[0], kept[1], with_factor_1(kept[2]))
    for k in range(group, group + count, lanes):
        of_lanes = load(running, REFERENCE + k), load(running, CHOSEN + k), load(running, X_CHOSEN + k)
        total = sum_of_others(tile, k, min(lanes, group + count - k), classes, of_lanes, kept)
        store_sum(sums, lanes, EXPS, k, total)
    for k in range(0, count, LANES):
        here, z_mass = min(LANES, count - k), load(states, Z_MASS + k)
        of_others = whole_sum(sums, lanes, EXPS, group + k) / load(states, TOTAL + k)
        product = (load(states, TARGET_MASS + k) + z_mass) * of_others + z_mass * load(states, X_TARGET + k)
        product = product * load(states, UPSTREAM + k)
        if weights[1]:
            product = where_zero(load_first(weights[0], first + k, here, 0.0), 0.0, product)
        store_first(products, first + k, product, here)
