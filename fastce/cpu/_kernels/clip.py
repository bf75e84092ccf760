"""Row and column sums of a similarity matrix in one read, and the gradient of the CLIP loss in a second.

One exp serves an element's row and its column, because both are relative to the same power of two, chosen for each
block of rows: e = exp(scale x) / 2**exponent. Rows or columns that lie so far below the block's maximum that e has
lost digits (their sums tell) are found by the caller and summed again on their own.

The positives (the points) are left out of both sums, as the target is in cross_entropy.py, and for the same reason.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import end_of_block, row_maximum, scratch_block
from fastce.cpu._kernels.rows import reference_near
from fastce.cpu._vectors.compiler import inline, kernel, matrix, real_of, vector
from fastce.cpu._vectors.exponential import LN2, SPARE, add_exp, not_too_large, overflow_bound, scaling
from fastce.cpu._vectors.memory import (
    elements_ahead,
    lanes_of,
    load,
    load_first,
    pointer,
    prefetch,
    row_pointer,
    store_first,
    to_real,
)
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide

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
                prefetch(row, j + elements_ahead(row))
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
