"""What is done to a tile of products of features where every pair is a yes-or-no question of its own (SigLIP)."""

import math

from numba import types

from fastce.cpu._kernels.blocks import put_vector
from fastce.cpu._vectors.compiler import inline, kernel, matrix, vector
from fastce.cpu._vectors.elementary import log1p
from fastce.cpu._vectors.exponential import exp, scaling
from fastce.cpu._vectors.memory import elements, lanes_of, load_first, row_pointer, to_real
from fastce.cpu._vectors.simd import copysign, fma, where_less
from fastce.cpu._vectors.wide import add_wide, sum_wide, zeros_wide


@inline
def softplus_and_sigmoid(z, zero, one, scaled_by):
    """With e = exp(-|z|): max(z, 0) + log1p(e), in which nothing cancels, and 1 / (1 + e) or e / (1 + e)."""
    e = exp(copysign(z, zero - one), zero, scaled_by)
    return where_less(z, zero, zero, z) + log1p(e), where_less(z, zero, e, one) / (one + e)


@inline
def sigmoid_row(row, classes, scale, bias, factor, wants_slopes):
    """(sum of softplus(z), sum of sigmoid(z)) of one row, whose elements become factor * sigmoid(z) if wanted."""
    lanes = lanes_of(row)
    lowest, factor = to_real(row, -math.inf), to_real(row, factor)
    zero, one = load_first(row, 0, 0, to_real(row, 0.0)), load_first(row, 0, 0, to_real(row, 1.0))
    scale, bias = zero + to_real(row, scale), zero + to_real(row, bias)
    scaled_by = scaling(row, 1.0, 1.0)
    losses, slopes = zeros_wide(), zeros_wide()
    for chunk in range(0, classes, lanes * lanes):
        some_losses, some_slopes = zero, zero
        for j in range(chunk, min(chunk + lanes * lanes, classes), lanes):
            count = min(lanes, classes - j)
            z = fma(elements(row, j, count, lowest), scale, bias)
            loss, slope = softplus_and_sigmoid(z, zero, one, scaled_by)
            some_losses += loss
            some_slopes += slope
            if wants_slopes:
                put_vector(row, j, slope * factor, count, False)
        losses, slopes = add_wide(losses, some_losses), add_wide(slopes, some_slopes)
    return sum_wide(losses), sum_wide(slopes)


@kernel(
    lambda storage: (
        matrix(storage), types.float64, types.float64, types.float64, types.boolean, vector(types.float64),
        vector(types.float64),
    )
)  # fmt: skip
def sigmoid_tile(tile, scale, bias, factor, wants_slopes, losses, slopes):
    """Sums of softplus(z) and sigmoid(z) of each row, z = scale * tile + bias; the tile becomes factor * sigmoid(z)."""
    for i in range(tile.shape[0]):
        sums = sigmoid_row(row_pointer(tile, i), tile.shape[1], scale, bias, factor, wants_slopes)
        losses[i], slopes[i] = sums
