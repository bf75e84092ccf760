"""Binary cross entropy with logits and its gradient, element by element."""

from numba import types

from fastce.kernels.jit import inline, kernel, matrix, real_of, vector
from fastce.kernels.memory import lanes_of, load_first, row_pointer, store_first
from fastce.kernels.rows import to_real
from fastce.kernels.simd import add_wide, sum_wide, where_less, where_zero, zeros_wide
from fastce.kernels.vector import SPARE, exp, log1p, scaling


@inline
def times(factor, value, zero):
    """factor * value; 0 where the factor is 0, even beside an infinity."""
    return where_zero(factor, zero, factor * value)


@inline
def loss_and_slope(x, y, positive_weight, zero, one, scaled_by, spare, to_normal):
    """a y softplus(-x) + (1 - y) softplus(x), a = pos_weight, and its derivative (1 - y) s(x) - a y s(-x).

    softplus(x) = max(x, 0) + log1p(e), e = exp(-|x|): no term is negative, so nothing cancels. The sigmoid s of
    +|x| is 1 / (1 + e), of -|x| it is e / (1 + e). The detour over 2**spare lets e be subnormal.
    """
    e = exp(where_less(x, zero, x, zero - x), -spare, scaled_by) * to_normal
    tail = log1p(e)
    larger = one / (one + e)
    smaller = e * larger
    positive, negative = positive_weight * y, one - y
    softplus = where_less(zero, x, x, zero) + tail
    softplus_of_minus = where_less(x, zero, zero - x, zero) + tail
    loss = times(positive, softplus_of_minus, zero) + times(negative, softplus, zero)
    slope = negative * where_less(x, zero, smaller, larger) - positive * where_less(x, zero, larger, smaller)
    return loss, slope


def _types_of_binary(storage):
    reals = matrix(real_of(storage))
    return matrix(storage), reals, reals, reals, reals, vector(types.float64), reals, matrix(storage)


@kernel(_types_of_binary)
def binary_rows(logits, targets, weight, positive_weight, losses, row_losses, upstream, gradient):
    """row_losses[i] = sum of the row's losses; losses and gradient element by element, where they have rows."""
    classes = logits.shape[1]
    for i in range(logits.shape[0]):
        x_row = row_pointer(logits, i)
        y_row, w_row, a_row = row_pointer(targets, i), row_pointer(weight, i), row_pointer(positive_weight, i)
        zero, one = to_real(x_row, 0.0), to_real(x_row, 1.0)
        scaled_by = scaling(x_row, 1.0, 1.0)
        lanes = lanes_of(x_row)
        total = zeros_wide()
        for j in range(0, classes, lanes):
            count = min(lanes, classes - j)
            loss, slope = loss_and_slope(
                load_first(x_row, j, count, zero),
                load_first(y_row, j, count, zero),
                load_first(a_row, j, count, zero),
                zero,
                one,
                scaled_by,
                to_real(x_row, SPARE),
                to_real(x_row, 2.0**-SPARE),
            )
            w = load_first(w_row, j, count, zero)
            loss = times(w, loss, zero)
            total = add_wide(total, loss)
            if losses.shape[0] > 0:
                store_first(row_pointer(losses, i), j, loss, count)
            if gradient.shape[0] > 0:
                above = load_first(row_pointer(upstream, i), j, count, zero)
                store_first(row_pointer(gradient, i), j, times(w * above, slope, zero), count)
        row_losses[i] = sum_wide(total)
