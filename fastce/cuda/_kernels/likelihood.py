"""Negative log likelihood: the entry of each row's target, and a gradient that is 0 everywhere else."""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.endings import store_result, upstream_of_row, weight_of_row
from fastce.cuda._kernels.jobs import IS_BAD, SHARE
from fastce.cuda._kernels.lone_rows import first_of_row
from fastce.cuda._kernels.primitives import device, kernel, load_real, store_real

THREADS = 256


@device
def product_of(a, b, c):
    """A product that is in range wherever it ends there: the largest and the smallest factor meet first."""
    if abs(a) < abs(b):
        a, b = b, a
    if abs(b) < abs(c):
        b, c = c, b
    if abs(a) < abs(b):
        a, b = b, a
    return (a * c) * b


@device
def class_weight_of(c, targets):
    """The weight of a class, 1 if there are none."""
    return targets.class_weight[c] if targets.class_weight.size > 0 else 1.0


@kernel(THREADS, 4)
def likelihood_rows(log_probs, rows, inner, cube, targets, report, results):
    """-v w log_p of each row's target, for its weight v and that of the class w; 0 where one of them is."""
    if report[IS_BAD] > 0.0:
        return
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        weight, loss, share = weight_of_row(i, targets), 0.0, 0.0
        if weight != 0.0:
            c = np.int64(targets.classes[i])
            of_class = class_weight_of(c, targets)
            if of_class != 0.0:
                log_p = np.float64(load_real(log_probs, first_of_row(i, inner, cube) + c * cube.class_step))
                loss = product_of(-log_p, weight, of_class)
                if not math.isfinite(loss):
                    share = product_of(-log_p, report[SHARE] * weight, of_class)
        store_result(results, i, rows, loss, share)


@kernel(THREADS, 4)
def clear(out, report):
    """Zeros everywhere, before gradients of targets are stored."""
    if report[IS_BAD] > 0.0:
        return
    for k in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        store_real(out, k, 0.0)


@kernel(THREADS, 4)
def likelihood_gradients(out, rows, inner, cube, targets, upstream, report):
    """-v w, times what is above, at each row's target."""
    if report[IS_BAD] > 0.0:
        return
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        weight = weight_of_row(i, targets)
        if weight != 0.0:
            c = np.int64(targets.classes[i])
            of_class = class_weight_of(c, targets)
            if of_class != 0.0:
                slope = -product_of(upstream_of_row(i, upstream, report), weight, of_class)
                store_real(out, first_of_row(i, inner, cube) + c * cube.class_step, slope)
