"""The gradient of the CLIP loss, row by row, in the place of the similarity or elsewhere; see clip.py for the sums."""

from numba import types

from fastce.cpu._kernels.blocks import BLOCK, scratch_block
from fastce.cpu._kernels.centred import centred_exp, twice
from fastce.cpu._kernels.clip import end_of_stretch
from fastce.cpu._kernels.rows import add_compensated
from fastce.cpu._vectors.compiler import inline, kernel, matrix, real_of, vector
from fastce.cpu._vectors.exponential import exp, scaling
from fastce.cpu._vectors.memory import (
    element,
    elements,
    elements_ahead,
    finish_stores,
    keep_first,
    lanes_of,
    load_first,
    pointer,
    prefetch,
    row_pointer,
    set_element,
    store,
    store_first,
    to_real,
)
from fastce.cpu._vectors.simd import fma, where_zero
from fastce.cpu._vectors.stretches import copy_stretch
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide


@inline
def gradient_vector(row, i, count, of_row, of_columns, smoothing, together, nothing):
    """(dL/dx, similarity * dL/dx) of ``count`` elements from ``i`` on."""
    reference, share, scaled_by, minus_smoothing, half, scale, unit = of_row
    x = elements(row, i, count, nothing)
    column_share = elements(of_columns[1], i, count, nothing)
    slope = minus_smoothing
    if smoothing != 0.0:
        slope = fma(elements(of_columns[2], i, count, nothing), nothing - smoothing, slope)
    if together:
        slope = fma(exp(x, reference, scaled_by), column_share + share, slope)
        return slope, slope * where_zero(slope, nothing, x)
    of_column = elements(of_columns[0], i, count, nothing)
    slope = fma(centred_exp(x, reference, half, scale, scaled_by), share, slope)
    slope = fma(centred_exp(x, of_column, half, scale, scaled_by), column_share, slope)
    return slope, slope * where_zero(slope, nothing, x * unit)


@inline
def gradient_of_stretch(row, start, stop, first, of_row, of_columns, smoothing, together, by_factor, room):
    """Write the gradient of the elements from start to stop to the room, which begins with element ``first``.

    Returns the sum of similarity * dL/dx, in an order that is given by the classes alone.
    """
    lanes = lanes_of(row)
    nothing = to_real(row, 0.0)
    total = zeros_wide()
    for chunk in range(start, stop, lanes * lanes):
        products = load_first(row, 0, 0, nothing)
        end = min(chunk + lanes * lanes, stop)
        whole = end - (end - chunk) % lanes
        for i in range(chunk, whole, lanes):
            prefetch(row, i + elements_ahead(row))
            slope, product = gradient_vector(row, i, lanes, of_row, of_columns, smoothing, together, nothing)
            products += product
            store(room, i - first, slope * by_factor)
        if whole < end:
            count = end - whole
            slope, product = gradient_vector(row, whole, count, of_row, of_columns, smoothing, together, nothing)
            products += keep_first(product, count)  # lanes beyond hold 0, whose exp may be infinite
            store_first(room, whole - first, slope * by_factor, count)
        total = add_wide(total, products)
    return sum_wide(total)


@inline
def write_gradient_of_row(
    row, classes, points, point_slopes, point, end_point, scale, factor, of_row, of_columns, smoothing, together, unit,
    room, out, past_cache,
):  # fmt: skip
    """One row of `clip_gradient`, a block at a time; returns the sum of similarity * dL/dx."""
    lanes = lanes_of(row)
    nothing, by_factor, smoothing = to_real(row, 0.0), to_real(row, factor), to_real(row, smoothing)
    zero = load_first(row, 0, 0, nothing)
    of_row = (
        to_real(row, of_row[0]),
        to_real(row, of_row[1]),
        scaling(row, scale, 1.0) if together else twice(row),
        zero + to_real(row, -of_row[2]),
        zero + to_real(row, 0.5),
        to_real(row, scale),
        to_real(row, unit),
    )
    total, start = (0.0, 0.0), 0
    for first in range(0, classes, BLOCK):
        block_end = min(first + BLOCK, classes)
        while start < block_end:
            stop = end_of_stretch(points, point, end_point, start, classes, lanes)
            if stop == start:
                slope = point_slopes[point]
                if slope != 0.0:
                    total = add_compensated(total, slope * (element(row, start) * unit))
                set_element(room, start - first, slope * factor)
                start += 1
                point += 1
                continue
            here = gradient_of_stretch(
                row, start, stop, first, of_row, of_columns, smoothing, together, by_factor, room
            )
            total = add_compensated(total, here)
            start = stop
        copy_stretch(room, -first, out, first, block_end, past_cache)
    return total[0] + total[1]


@kernel(
    lambda storage: (
        matrix(storage),
        vector(types.int64),
        vector(types.int64),
        vector(types.float64),
        types.float64,
        types.float64,
        types.Array(types.float64, 2, "C"),
        types.Array(real_of(storage), 2, "C"),
        types.boolean,
        vector(types.float64),
        matrix(storage),
        types.float64,
        vector(types.float64),
        types.boolean,
    )
)
def clip_gradient(
    similarity, first_points, points, point_slopes, scale, factor, of_rows, of_columns, together, smoothing,
    gradient, unit, scale_gradient, past_cache,
):  # fmt: skip
    """gradient = factor * dL/dx, x = scale * similarity, and scale_gradient[i] = the row's sum of similarity * dL/dx.

        dL/dx_ij = a_i (exp(x_ij - lse_i) - smoothing_0) + b_j (exp(x_ij - lse_j) - smoothing_1)

    The points' slopes are given. of_rows[i] and of_columns[:, j] hold a reference, what is left of a / exp(lse)
    relative to it, and a itself. ``together``: the references are one power of two, and one exp serves an element's row
    and its column. Else they are -top / 2 of a similarity near lse, see centred.py. The sums are in units of 1 / unit.

    The gradient is made a block at a time in the order of the classes, wherever ``gradient`` lies in memory.
    """
    rows, classes = similarity.shape
    room = scratch_block(row_pointer(similarity, 0))
    for i in range(rows):
        scale_gradient[i] = write_gradient_of_row(
            row_pointer(similarity, i),
            classes,
            pointer(points),
            pointer(point_slopes),
            first_points[i],
            first_points[i + 1],
            scale,
            factor,
            (of_rows[i, 0], of_rows[i, 1], of_rows[i, 2] * smoothing[0]),
            (row_pointer(of_columns, 0), row_pointer(of_columns, 1), row_pointer(of_columns, 2)),
            smoothing[1],
            together,
            unit,
            room,
            row_pointer(gradient, i),
            past_cache,
        )
    if past_cache:
        finish_stores()
