"""The rows of a class and their mates: of each row the sum of all others, in float64.

That is the sum of the class less the row, if rows are even: see cpu/mates.py. Class c has the numbers from starts[c]
to starts[c + 1]. Each row has a factor, if there are any.
"""

from numba import types

from fastce.cpu._kernels.blocks import put_vector
from fastce.cpu._kernels.dots import WIDE_LANES, add_pair, factor_of, wide_elements, wide_numbers
from fastce.cpu._vectors.compiler import inline, kernel, matrix, real_of, vector
from fastce.cpu._vectors.memory import lanes_of, row_pointer, store
from fastce.cpu._vectors.wide import narrowed, sum_wide, zeros_wide


@inline
def difference(a, b):
    """The difference a - b, of both vectors."""
    return a[0] - b[0], a[1] - b[1]


@inline
def put_wide(numbers, j, pair, lanes):
    """Write float64 numbers of as many lanes."""
    store(numbers, j, pair[0])
    if lanes > WIDE_LANES:
        store(numbers, j + WIDE_LANES, pair[1])


def types_of_classes(storage):
    """Those of features, numbers, factors, starts and totals."""
    integers = vector(types.int64)
    return matrix(storage), integers, vector(types.float64), integers, types.Array(types.float64, 2, "C")


@kernel(lambda storage: (*types_of_classes(storage), vector(types.float64), vector(types.float64)))
def sum_classes(features, numbers, factors, starts, totals, least, largest):
    """totals[c] += x_k for all rows x_k of class c, and the least and the largest squared length of these so far."""
    width = features.shape[1]
    for c in range(starts.size - 1):
        total = row_pointer(totals, c)
        for k in range(starts[c], starts[c + 1]):
            row, factor, squares = row_pointer(features, numbers[k]), factor_of(factors, numbers[k]), zeros_wide()
            lanes = lanes_of(row)
            for j in range(0, width, lanes):
                x = wide_elements(row, j, width, factor)
                squares = add_pair(squares, x, x)
                before = wide_numbers(total, j, lanes)
                put_wide(total, j, (before[0] + x[0], before[1] + x[1]), lanes)
            square = sum_wide(squares)
            least[c], largest[c] = min(least[c], square), max(largest[c], square)  # NaN is in the total


@kernel(lambda storage: (*types_of_classes(storage), vector(types.boolean), vector(types.float64)))
def mate_products(features, numbers, factors, starts, totals, even, products):
    """products[k] = x_k @ (totals[c] - x_k)."""
    width = features.shape[1]
    for c in range(starts.size - 1):
        total = row_pointer(totals, c)
        for k in range(starts[c], starts[c + 1] if even[c] else starts[c]):
            row, factor, product = row_pointer(features, numbers[k]), factor_of(factors, numbers[k]), zeros_wide()
            lanes = lanes_of(row)
            for j in range(0, width, lanes):
                x = wide_elements(row, j, width, factor)
                product = add_pair(product, x, difference(wide_numbers(total, j, lanes), x))
            products[k] = sum_wide(product)


@kernel(
    lambda storage: (
        *types_of_classes(storage), vector(types.boolean), vector(types.float64), vector(types.int64),
        matrix(real_of(storage)),
    )
)  # fmt: skip
def add_mates(features, numbers, factors, starts, totals, even, slopes, places, gradient):
    """gradient[places[k]] += slopes[k] * (totals[c] - x_k)."""
    width = features.shape[1]
    for c in range(starts.size - 1):
        total = row_pointer(totals, c)
        for k in range(starts[c], starts[c + 1] if even[c] else starts[c]):
            row, factor = row_pointer(features, numbers[k]), factor_of(factors, numbers[k])
            written, slope = row_pointer(gradient, places[k]), zeros_wide()
            slope = (slope[0] + slopes[k], slope[1] + slopes[k])
            lanes = lanes_of(row)
            for j in range(0, width, lanes):
                mates = difference(wide_numbers(total, j, lanes), wide_elements(row, j, width, factor))
                there = add_pair(wide_elements(written, j, width, 1.0), slope, mates)
                put_vector(written, j, narrowed(written, there), min(lanes, width - j), False)
