"""Products of rows of features with each other, or with one vector, and the sum of all rows: in float64 from the start.

How large they are, is told in their own dtype.

Each row has a factor, if there are any, which its elements are multiplied with first.
"""

import math

from numba import types

from fastce.cpu._vectors.compiler import inline, kernel, matrix, vector
from fastce.cpu._vectors.memory import elements, lanes_of, load, load_first, pointer, row_pointer, store, to_real
from fastce.cpu._vectors.simd import fma
from fastce.cpu._vectors.wide import add_wide, sum_wide, widened, zeros_wide

WIDE_LANES = 8  # of float64
ROOM = 16  # by as many numbers vectors of float64 are read and written


@inline
def factor_of(factors, i):
    return factors[i] if factors.size else 1.0


@inline
def wide_elements(row, j, width, factor):
    """A vector of the row from element j on, times the factor; zeros beyond the width."""
    first, second = widened(elements(row, j, min(lanes_of(row), width - j), to_real(row, 0.0)))
    if factor != 1.0:
        first, second = first * factor, second * factor
    return first, second


@inline
def wide_numbers(numbers, j, lanes):
    """Float64 numbers for as many lanes."""
    first = load(numbers, j)
    return first, load(numbers, j + WIDE_LANES) if lanes > WIDE_LANES else load_first(numbers, j, 0, 0.0)


@inline
def add_pair(totals, a, b):
    """totals + a * b, of both vectors."""
    return fma(a[0], b[0], totals[0]), fma(a[1], b[1], totals[1])


@kernel(
    lambda storage: (
        matrix(storage), vector(types.int64), vector(types.float64), matrix(storage), vector(types.int64),
        vector(types.float64), vector(types.float64),
    )
)  # fmt: skip
def pair_products(left, rows, left_factors, right, columns, right_factors, products):
    """products[k] = left[rows[k]] @ right[columns[k]], each row times its factor."""
    width = left.shape[1]
    for k in range(products.size):
        a, b = row_pointer(left, rows[k]), row_pointer(right, columns[k])
        of_a, of_b = factor_of(left_factors, rows[k]), factor_of(right_factors, columns[k])
        total = zeros_wide()
        for j in range(0, width, lanes_of(a)):
            total = add_pair(total, wide_elements(a, j, width, of_a), wide_elements(b, j, width, of_b))
        products[k] = sum_wide(total)


@kernel(lambda storage: (matrix(storage), vector(types.float64), vector(types.float64), vector(types.float64)))
def vector_products(features, factors, numbers, products):
    """products[i] = factors[i] * features[i] @ numbers."""
    rows, width = features.shape
    for i in range(rows):
        row, factor, total = row_pointer(features, i), factor_of(factors, i), zeros_wide()
        lanes = lanes_of(row)
        for j in range(0, width, lanes):
            here = wide_numbers(pointer(numbers), j, lanes)
            total = add_pair(total, wide_elements(row, j, width, factor), here)
        products[i] = sum_wide(total)


@kernel(lambda storage: (matrix(storage), vector(types.float64), vector(types.float64)))
def add_rows(features, factors, totals):
    """Add factors[i] * features[i] to the totals, for every i."""
    rows, width = features.shape
    total = pointer(totals)
    for i in range(rows):
        row, factor = row_pointer(features, i), factor_of(factors, i)
        lanes = lanes_of(row)
        for j in range(0, width, lanes):
            first, second = wide_elements(row, j, width, factor)
            store(total, j, load(total, j) + first)
            if lanes > WIDE_LANES:
                store(total, j + WIDE_LANES, load(total, j + WIDE_LANES) + second)


@kernel(lambda storage: (matrix(storage), vector(types.float64)))
def largest_square(features, found):
    """found[0] = the largest squared length of a row, up to roundings; inf if one is not finite."""
    rows, width = features.shape
    for i in range(rows):
        row = row_pointer(features, i)
        lanes, total = lanes_of(row), load_first(row, 0, 0, to_real(row, 0.0))
        for j in range(0, width, lanes):
            x = elements(row, j, min(lanes, width - j), to_real(row, 0.0))
            total = fma(x, x, total)
        square = sum_wide(add_wide(zeros_wide(), total))
        found[0] = max(found[0], square) if math.isfinite(square) else math.inf
