"""logsumexp with factors b of either sign, in float64: the logarithm of |sum of b exp(a)|, and the sign of the sum.

All terms are taken relative to the one that is largest in size, r:

    log|sum| = log1p(sum over j != r of (b_j / b_r) exp(a_j - a_r)) + log|b_r| + a_r

Elements whose factor is 0 are none. What is infinite or NaN is summed up apart, as b exp(a): inf, -inf, or NaN.
"""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.groups import FIELDS, first_of_group, sum_of_group
from fastce.cuda._kernels.lone_rows import first_of_row
from fastce.cuda._kernels.primitives import device, kernel, load_real, store_real
from fastce.cuda._kernels.states import MOST_WARPS

THREADS = 256
FAR = 700.0  # exp of more is beyond float64
FEW, MANY = 2.0**-500, 2.0**500  # ratios of factors beyond have no digits, or are beyond float64


@device
def factor_of(factors, k, factor):
    """A factor, that of all if there is one for all."""
    return np.float64(load_real(factors, k)) if factors.size > 0 else factor


@device
def is_ordinary(a, b):
    """Whether an element has a term that is a number, and not 0."""
    return b != 0.0 and math.isfinite(a) and math.isfinite(b)


@device
def special_term(a, b):
    """b exp(a) of what is not ordinary: 0, inf, -inf or NaN."""
    if b == 0.0 or (a == -math.inf and math.isfinite(b)):
        return 0.0
    if a == -math.inf:
        return math.nan
    return b * math.inf if a == math.inf else a * 0.0 + b


@device
def term_of(a, b, key, a_r, b_r, key_r):
    """The term of an element, relative to the largest one."""
    ratio, distance = b / b_r, a - a_r
    if FEW <= abs(ratio) <= MANY and distance <= FAR:
        return ratio * math.exp(distance)
    power = math.exp(min(key - key_r, 0.0))
    return power if (b > 0.0) == (b_r > 0.0) else -power


@device
def ending(a_r, b_r, rest):
    """(log|sum|, sign) of a row from its largest term and the sum of the others, relative to that."""
    sign = 1.0 if b_r > 0.0 else -1.0
    if rest < -1.0:
        sign, rest = -sign, -2.0 - rest
    if rest == -1.0:
        return -math.inf, 0.0
    return math.log1p(rest) + math.log(abs(b_r)) + a_r, sign


@kernel(THREADS, 2)
def signed_rows(array, factors, factor, rows, classes, inner, cube, of_factors, results, signs):
    """Results of rows and their signs, if there is room for these; without it, NaN where a sum is negative."""
    board = cuda.shared.array((FIELDS, MOST_WARPS), np.float64)
    i = np.int64(cuda.blockIdx.x) * cuda.blockDim.y + cuda.threadIdx.y
    end = classes if i < rows else 0
    first, first_factor = first_of_row(i, inner, cube), first_of_row(i, inner, of_factors)
    special, top, place = 0.0, -math.inf, np.float64(classes)
    for c in range(cuda.threadIdx.x, end, cuda.blockDim.x):
        a = np.float64(load_real(array, first + c * cube.class_step))
        b = factor_of(factors, first_factor + c * of_factors.class_step, factor)
        if not is_ordinary(a, b):
            special += special_term(a, b)
        elif a + math.log(abs(b)) > top:
            top, place = a + math.log(abs(b)), np.float64(c)
    special = sum_of_group(special, board)
    top, place = first_of_group(top, place, board)
    a_r, b_r, rest = 0.0, 1.0, 0.0
    if place < end:
        a_r = np.float64(load_real(array, first + np.int64(place) * cube.class_step))
        b_r = factor_of(factors, first_factor + np.int64(place) * of_factors.class_step, factor)
        for c in range(cuda.threadIdx.x, end, cuda.blockDim.x):
            a = np.float64(load_real(array, first + c * cube.class_step))
            b = factor_of(factors, first_factor + c * of_factors.class_step, factor)
            if is_ordinary(a, b) and c != place:
                rest += term_of(a, b, a + math.log(abs(b)), a_r, b_r, top)
    rest = sum_of_group(rest, board)
    if cuda.threadIdx.x == 0 and i < rows:
        result, sign = -math.inf, -1.0 if classes == 0 else 0.0  # nothing at all is called negative, as by SciPy
        if special != 0.0:
            result, sign = abs(special), special if special != special else math.copysign(1.0, special)
        elif place < end:
            result, sign = ending(a_r, b_r, rest)
        if signs.size > 0:
            store_real(signs, i, sign)
        elif sign < 0.0 and result > -math.inf:
            result = math.nan
        store_real(results, i, result)
