"""Exponentials relative to a similarity, for numbers of any finite size: only differences are scaled.

    exp(scale (x - top)) = exp(2 (scale (x/2 - top/2)))

Halves cannot overflow when they are subtracted, and the scale, which may be as large or small as it likes, is no factor
of the polynomial's coefficients. What a power of two as reference (exponential.py) would lose of x beyond 2**40, and of
the digits below, is not lost here: the difference of two numbers is as exact as they are.
"""

import math

from numba import types

from fastce.cpu._kernels.blocks import row_maximum, scratch_block
from fastce.cpu._vectors.compiler import inline, kernel, matrix, vector
from fastce.cpu._vectors.exponential import exp, scaling
from fastce.cpu._vectors.memory import elements, lanes_of, load_first, row_pointer, to_real
from fastce.cpu._vectors.simd import fma
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide


@inline
def twice(row):
    """What `centred_exp` needs."""
    return scaling(row, 2.0, 1.0)


@inline
def centred_exp(x, minus_half_top, half, scale, scaled_by):
    """exp(scale (x - top)); nothing is known of it where x is far above the top."""
    return exp(fma(x, half, minus_half_top) * scale, half - half, scaled_by)


@inline
def sum_around(row, classes, top, scale):
    """The sum of exp(scale (x - top)); 0 if there is nothing but -inf, NaN if there is +inf."""
    if not math.isfinite(top):
        return 0.0 if top == -math.inf else math.nan
    lanes = lanes_of(row)
    lowest, half = to_real(row, -math.inf), load_first(row, 0, 0, to_real(row, 0.5))
    minus_half_top, scale, scaled_by = half * to_real(row, -top), to_real(row, scale), twice(row)
    exps = zeros_wide()
    for j in range(0, classes, lanes):
        x = elements(row, j, min(lanes, classes - j), lowest)
        exps = add_wide(exps, centred_exp(x, minus_half_top, half, scale, scaled_by))
    return sum_wide(exps)


@kernel(lambda storage: (matrix(storage), types.float64, vector(types.float64), vector(types.float64)))
def centred_sums(similarity, scale, tops, sums):
    """tops[i] = max(row i), sums[i] = sum(exp(scale * (row i - tops[i])))."""
    rows, classes = similarity.shape
    room = scratch_block(row_pointer(similarity, 0))
    for i in range(rows):
        row = row_pointer(similarity, i)
        zero = to_real(row, 0.0)
        tops[i] = row_maximum(row, classes, (zero, zero), room)
        sums[i] = sum_around(row, classes, tops[i], scale)
