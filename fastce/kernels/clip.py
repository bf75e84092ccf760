"""Row and column sums of a similarity matrix in one read, and the gradient of the CLIP loss in a second.

One exp serves an element's row and its column, because both are relative to the same power of two, chosen for each
block of rows: e = exp(scale x) / 2**exponent. Rows or columns that lie so far below the block's maximum that e has
lost digits (their sums tell) are found by the caller and summed again on their own.

The positives (the points) are left out of both sums, as the target is in cross_entropy.py, and for the same reason.
"""

import math

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, real_of, vector
from fastce.kernels.memory import (
    element,
    finish_stores,
    lanes_of,
    load,
    load_first,
    pointer,
    row_pointer,
    scratch_block,
    set_element,
    store,
    store_first,
)
from fastce.kernels.rows import SPARE, reference_near, row_maximum, to_real
from fastce.kernels.simd import add_wide, sum_wide, where_zero, zeros_wide
from fastce.kernels.vector import LN2, exp, overflow_bound, scaling

ROWS_PER_SUM = 16  # rows that a column's sums are kept for in the compute dtype before they go to float64


@inline
def end_of_stretch(points, point, end_point, start, classes):
    """Where the elements from ``start`` on end: at the row's next point, or with the row."""
    return points[point] if point < end_point else classes


@inline
def add_row(row, i, classes, points, first_point, end_point, columns, reference, smoothed):
    """The row's sums of e and of x - near, each element also added to its column's."""
    exponent, near, scaled_by = reference
    column_exps, column_distances = columns
    lanes = lanes_of(row)
    nothing = to_real(row, -math.inf)
    exps, distances = zeros_wide(), zeros_wide()
    point, start = first_point, 0
    while start < classes:
        stop = end_of_stretch(points, point, end_point, start, classes)
        for j in range(start, stop, lanes):
            count = min(lanes, stop - j)
            x = load(row, j) if count == lanes else load_first(row, j, count, nothing)
            e = exp(x, exponent, scaled_by)
            exps = add_wide(exps, e)
            if count == lanes:
                store(column_exps, j, load(column_exps, j) + e)
            else:
                store_first(column_exps, j, load_first(column_exps, j, count, near) + e, count)
            if smoothed:
                distance = load_first(row, j, count, near) - near
                distances = add_wide(distances, distance)
                store_first(column_distances, j, load_first(column_distances, j, count, near) + distance, count)
        start = stop + 1
        point += 1
    return sum_wide(exps), sum_wide(distances)


@inline
def move_to_wide(narrow, wide, columns):
    """wide += narrow, narrow = 0."""
    for j in range(columns):
        wide[j] += narrow[j]
        narrow[j] = 0.0


@inline
def sum_block(similarity, first_points, points, scale, largest, rows_out, columns_out, narrow, smoothed):
    """All sums of the block relative to a reference near ``largest``; False if that was too small."""
    row_exps, row_distances = rows_out
    column_exps, column_distances = columns_out
    rows, classes = similarity.shape
    row = row_pointer(similarity, 0)
    exponent = reference_near(row, largest, scale)[1]
    near = (exponent + SPARE) * LN2 / scale
    reference = (to_real(row, exponent), to_real(row, near), scaling(row, scale, 1.0))
    column_exps[:] = 0.0
    column_distances[:] = 0.0
    narrow[:] = 0.0
    in_range = True
    for i in range(rows):
        sums = add_row(
            row_pointer(similarity, i), i, classes, pointer(points), first_points[i], first_points[i + 1],
            (row_pointer(narrow, 0), row_pointer(narrow, 1)), reference, smoothed,
        )  # fmt: skip
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
    largest = row_maximum(row, classes, zero, zero, room)[0]
    for attempt in range(2):
        if attempt == 1:
            for i in range(similarity.shape[0]):
                here = row_maximum(row_pointer(similarity, i), classes, zero, zero, room)[0]
                if math.isfinite(here) and (here > largest or not math.isfinite(largest)):
                    largest = here
        in_range, used = sum_block(
            similarity, first_points, points, scale, largest if math.isfinite(largest) else 0.0,
            (row_exps, row_distances), (column_exps, column_distances), narrow, smoothed,
        )  # fmt: skip
        exponent[0] = used
        if in_range:
            break


@kernel(
    lambda storage: (
        matrix(storage),
        vector(types.int64),
        vector(types.int64),
        vector(types.float64),
        types.float64,
        types.Array(types.float64, 2, "C"),
        types.Array(real_of(storage), 2, "C"),
        vector(types.float64),
        matrix(storage),
        vector(types.float64),
        types.boolean,
    )
)
def clip_gradient(
    similarity, first_points, points, point_slopes, scale, of_rows, of_columns, smoothing, gradient,
    scale_gradient, past_cache,
):  # fmt: skip
    """gradient = scale * dL/dx, x = scale * similarity, and scale_gradient[i] = the row's sum of similarity * dL/dx.

        dL/dx_ij = a_i (exp(x_ij - lse_i) - smoothing_0) + b_j (exp(x_ij - lse_j) - smoothing_1)

    The points' slopes are given. of_rows[i] and of_columns[:, j] hold the power of two near exp(lse), the factor that
    is left of a / exp(lse), and the factor a itself.
    """
    rows, classes = similarity.shape
    for i in range(rows):
        row, out = row_pointer(similarity, i), row_pointer(gradient, i)
        scaled_by = scaling(row, scale, 1.0)
        lanes = lanes_of(row)
        nothing = to_real(row, 0.0)
        exponents, factors, plain = (
            row_pointer(of_columns, 0),
            row_pointer(of_columns, 1),
            row_pointer(of_columns, 2),
        )
        row_exponent, row_factor = to_real(row, of_rows[i, 0]), to_real(row, of_rows[i, 1])
        row_smoothing, column_smoothing = (
            to_real(row, of_rows[i, 2] * smoothing[0]),
            to_real(row, smoothing[1]),
        )
        by_scale = to_real(row, scale)
        total, alone = zeros_wide(), 0.0
        point, end_point = first_points[i], first_points[i + 1]
        start = 0
        while start < classes:
            stop = end_of_stretch(points, point, end_point, start, classes)
            for j in range(start, stop, lanes):
                count = min(lanes, stop - j)
                x = load_first(row, j, count, nothing)
                of_row = exp(x, row_exponent, scaled_by) * row_factor - row_smoothing
                of_column = exp(x, load_first(exponents, j, count, nothing), scaled_by)
                of_column = of_column * load_first(factors, j, count, nothing)
                of_column = of_column - load_first(plain, j, count, nothing) * column_smoothing
                slope = of_row + of_column
                total = add_wide(total, where_zero(slope, nothing, slope * x))
                store_first(out, j, slope * by_scale, count)
            if stop < classes:
                x_p = element(row, stop)
                set_element(out, stop, point_slopes[point] * scale)
                alone += point_slopes[point] * x_p if point_slopes[point] != 0.0 else 0.0
            start = stop + 1
            point += 1
        scale_gradient[i] = sum_wide(total) + alone
    if past_cache:
        finish_stores()
