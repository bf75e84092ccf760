"""What the host makes of a report, for calls that it does not wait for."""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.jobs import BEYOND, IS_BAD, PART, TOTAL_LOSS, TOTAL_OF_SHARES, TOTAL_WEIGHT
from fastce.cuda._kernels.primitives import device, kernel, store_real

THREADS = 256


@device
def make_nan(numbers):
    for k in range(cuda.grid(1), numbers.size, cuda.gridsize(1)):
        store_real(numbers, k, math.nan)


@kernel(THREADS, 4)
def conclude(report, is_mean, value, losses, gradient):
    """The sum or mean of the losses; NaN, as all losses and the gradient, if anything was wrong."""
    is_wrong = report[IS_BAD] > 0.0 or report[BEYOND] > 0.0
    if value.size > 0 and cuda.grid(1) == 0:
        total, weight = report[TOTAL_LOSS], report[TOTAL_WEIGHT]
        if not math.isfinite(total):
            total = report[TOTAL_OF_SHARES] if is_mean else report[TOTAL_OF_SHARES] / PART
        elif is_mean and weight != 0.0:
            total /= weight
        is_none = is_mean and weight == 0.0
        value[0] = math.nan if is_wrong or is_none else np.float64(total)
    if is_wrong:
        make_nan(losses)
        make_nan(gradient)
