"""Sums of slope * logit along each row: what a loss's derivative by the scale of its logits is made of."""

from numba import types

from fastce.cpu._vectors.compiler import kernel, matrix, vector
from fastce.cpu._vectors.memory import lanes_of, load, load_first, row_pointer, to_real
from fastce.cpu._vectors.simd import maximum, maximum_of_lanes, where_zero
from fastce.cpu._vectors.wide import add_products, sum_wide, zeros_wide


@kernel(lambda storage: (matrix(storage), matrix(storage), types.boolean, vector(types.float64)))
def slope_products_rows(logits, slopes, below_top, result):
    """The sum of slope * (x - near), added in float64; near is the largest logit, or 0. Where a slope is 0, so is that.

    Rows have both in cache. Differences of logits are as exact as these, whatever they have in common.
    """
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        row, slope = row_pointer(logits, i), row_pointer(slopes, i)
        lanes = lanes_of(row)
        nothing = to_real(row, 0.0)
        whole = classes - classes % lanes
        near = load_first(row, 0, 0, nothing)
        if below_top:
            lowest = to_real(row, -float("inf"))
            top = load_first(row, whole, classes - whole, lowest)
            for j in range(0, whole, lanes):
                top = maximum(top, load(row, j))
            near = load_first(row, 0, 0, maximum_of_lanes(top))
        total = zeros_wide()
        for j in range(0, whole, lanes):
            q = load(slope, j)
            total = add_products(total, q, where_zero(q, near, load(row, j)), near)
        if whole < classes:
            q = load_first(slope, whole, classes - whole, nothing)
            x = load_first(row, whole, classes - whole, nothing)
            total = add_products(total, q, where_zero(q, near, x), near)
        result[i] = sum_wide(total)
