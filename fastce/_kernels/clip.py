"""Row and column sums of a similarity matrix in one read, and the gradient of the CLIP loss in a second.

One exp serves an element's row and its column, because both are relative to the same power of two, chosen for each
block of rows: e = exp(scale x) / 2**exponent. Rows or columns that lie so far below the block's maximum that e has
lost digits (their sums tell) are found by the caller and summed again on their own.

The positives (the points) are left out of both sums, as the target is in cross_entropy.py, and for the same reason.
"""

import math

from numba import types

from fastce._kernels.blocks import AHEAD, BLOCK, end_of_block, row_maximum, scratch_block
from fastce._kernels.centred import centred_exp, twice
from fastce._kernels.exponential import LN2, SPARE, add_exp, exp, not_too_large, overflow_bound, scaling
from fastce._kernels.jit import inline, kernel, matrix, real_of, vector
from fastce._kernels.memory import (
    copy_stretch,
    element,
    elements,
    finish_stores,
    keep_first,
    lanes_of,
    load,
    load_first,
    pointer,
    prefetch,
    row_pointer,
    set_element,
    store,
    store_first,
    to_real,
)
from fastce._kernels.rows import add_compensated, reference_near
from fastce._kernels.simd import fma, where_zero
from fastce._kernels.wide import add_wide, sum_wide, zeros_wide

ROWS_PER_SUM = 16  # rows that a column's sums are kept for in the compute dtype before they go to float64


@inline
def end_of_stretch(points, point, end_point, start, classes, lanes):
    """Where the elements from ``start`` on that can be treated alike end: at the row's next point, or a block's end."""
    stop = end_of_block(start, classes, lanes)
    return min(stop, points[point]) if point < end_point else stop


@inline
def add_vector(x, distance, j, count, exps, distances, columns, reference, smoothed):
    """Add one vector's e and x - near to the row's sums, given and returned, and to its columns'."""
    exponent, scaled_by = reference
    column_exps, column_distances = columns
    nothing = to_real(column_exps, 0.0)
    x = not_too_large(x, exponent, scaled_by)
    of_columns = add_exp(load_first(column_exps, j, count, nothing), x, exponent, scaled_by)
    store_first(column_exps, j, of_columns, count)
    if smoothed:
        distances += distance
        store_first(column_distances, j, load_first(column_distances, j, count, nothing) + distance, count)
    return add_exp(exps, x, exponent, scaled_by), distances


@inline
def add_row(row, classes, points, first_point, end_point, columns, near, reference, smoothed):
    """The row's sums of e and of x - near, each element also added to its column's."""
    lanes = lanes_of(row)
    lowest = to_real(row, -math.inf)
    zero = load_first(row, 0, 0, to_real(row, 0.0))
    all_exps, all_distances = zeros_wide(), zeros_wide()
    point, start = first_point, 0
    while start < classes:
        stop = end_of_stretch(points, point, end_point, start, classes, lanes)
        if stop == start:
            start += 1
            point += 1
            continue
        for chunk in range(start, stop, lanes * lanes):
            exps, distances = zero, zero
            end = min(chunk + lanes * lanes, stop)
            whole = end - (end - chunk) % lanes
            for j in range(chunk, whole, lanes):
                prefetch(row, j + AHEAD)
                x = load(row, j)
                exps, distances = add_vector(x, x - near, j, lanes, exps, distances, columns, reference, smoothed)
            if whole < end:
                count = end - whole
                x, distance = load_first(row, whole, count, lowest), load_first(row, whole, count, near) - near
                exps, distances = add_vector(x, distance, whole, count, exps, distances, columns, reference, smoothed)
            all_exps = add_wide(all_exps, exps)
            all_distances = add_wide(all_distances, distances)
        start = stop
    return sum_wide(all_exps), sum_wide(all_distances)


@inline
def move_to_wide(narrow, wide, columns):
    """wide += narrow, narrow = 0."""
    for j in range(columns):
        wide[j] += narrow[j]
        narrow[j] = 0.0


@inline
def sum_block(similarity, first_points, points, scale, largest, rows_out, columns_out, narrow, smoothed):
    """Write all sums of the block; returns whether a reference near ``largest`` was large enough, and its exponent."""
    row_exps, row_distances = rows_out
    column_exps, column_distances = columns_out
    rows, classes = similarity.shape
    row = row_pointer(similarity, 0)
    exponent = reference_near(row, largest, scale)[1]
    near = (exponent + SPARE) * LN2 / scale
    reference = (to_real(row, exponent), scaling(row, scale, 1.0))
    column_exps[:] = 0.0
    column_distances[:] = 0.0
    narrow[:] = 0.0
    in_range = True
    for i in range(rows):
        sums = add_row(
            row_pointer(similarity, i),
            classes,
            pointer(points),
            first_points[i],
            first_points[i + 1],
            (row_pointer(narrow, 0), row_pointer(narrow, 1)),
            to_real(row, near),
            reference,
            smoothed,
        )
        row_exps[i], row_distances[i] = sums
        in_range = in_range and not sums[0] >= overflow_bound(row)
        if i % ROWS_PER_SUM == ROWS_PER_SUM - 1 or i == rows - 1:
            move_to_wide(narrow[0], column_exps, classes)
            if smoothed:
                move_to_wide(narrow[1], column_distances, classes)
    return in_range, exponent


@kernel(
    lambda storage: (
        matrix(storage),
        vector(types.int64),
        vector(types.int64),
        types.float64,
        types.boolean,
        vector(types.float64),
        vector(types.float64),
        vector(types.float64),
        vector(types.float64),
        types.Array(real_of(storage), 2, "C"),
        vector(types.float64),
    )
)
def clip_sums(
    similarity, first_points, points, scale, smoothed, row_exps, row_distances, column_exps, column_distances,
    narrow, exponent,
):  # fmt: skip
    """The block's row and column sums, without the points, relative to 2**exponent[0] (written here)."""
    row = row_pointer(similarity, 0)
    room = scratch_block(row)
    zero = to_real(row, 0.0)
    classes = similarity.shape[1]
    largest = row_maximum(row, classes, (zero, zero), room)
    for attempt in range(2):
        if attempt == 1:
            for i in range(similarity.shape[0]):
                here = row_maximum(row_pointer(similarity, i), classes, (zero, zero), room)
                if math.isfinite(here) and (here > largest or not math.isfinite(largest)):
                    largest = here
        in_range, used = sum_block(
            similarity, first_points, points, scale, largest if math.isfinite(largest) else 0.0,
            (row_exps, row_distances), (column_exps, column_distances), narrow, smoothed,
        )  # fmt: skip
        exponent[0] = used
        if in_range:
            break


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
            prefetch(row, i + AHEAD)
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
