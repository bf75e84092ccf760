"""What is checked on the device before a loss is computed; the host reads the verdict with the result, once.

A kernel that finds something wrong leaves a mark in the report, and the kernels after it write nothing.
"""

import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.endings import weight_of_row
from fastce.cuda._kernels.jobs import (
    BAD_MASS,
    BAD_STRUCTURE,
    BAD_TARGET,
    BAD_TOTAL_WEIGHT,
    BEYOND,
    FACTOR,
    IS_BAD,
    PART,
    SHARE,
    TOTAL_WEIGHT,
)
from fastce.cuda._kernels.primitives import device, kernel
from fastce.cuda._kernels.states import MOST_WARPS
from fastce.cuda._kernels.sums import sum_of_block

THREADS = 256


@device
def mark(report, field, k, count):
    """Note that item k of ``count`` is bad; the first one of all stays."""
    cuda.atomic.max(report, field, np.float64(count - k))


@kernel(THREADS, 4)
def check_weights(weights, count, low, high, report, field, beyond):
    """Mark the first weight that is not finite; and, as ``beyond``, one neither 0 nor of a size from low to high."""
    for k in range(cuda.grid(1), count, cuda.gridsize(1)):
        size = abs(weights[k])
        if not size < math.inf:
            mark(report, field, k, count)
        elif not (low <= size <= high or size == 0.0):
            mark(report, beyond, k, count)


@kernel(THREADS, 4)
def check_factors(targets, upstream, rows, is_mean, high, report):
    """Mark what gradients of a row that counts are multiplied by, if it is above ``high``; infinite, it may be."""
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        weight = weight_of_row(i, targets)
        factor = upstream[i if upstream.size > 1 else 0] if upstream.size > 0 else 1.0
        if weight != 0.0 and high < abs(factor if is_mean else weight * factor) < math.inf:
            mark(report, BEYOND, i, rows)


@kernel(THREADS, 4)
def check_class_indices(targets, rows, classes, per_block, report, totals):
    """Mark the first class index out of range, and add up the weights of the rows of each block."""
    board = cuda.shared.array(MOST_WARPS, np.float64)
    first = np.int64(cuda.blockIdx.x) * per_block
    total = 0.0
    for i in range(first + cuda.threadIdx.x, min(first + per_block, rows), cuda.blockDim.x):
        c = np.int64(targets.classes[i])
        is_beyond = c < 0 and targets.classes[i] > 0  # an uint64 that no int64 holds
        if c == targets.ignore_index and not is_beyond:
            continue
        if c < 0 or c >= classes:
            mark(report, BAD_TARGET, i, rows)
            continue
        weight = targets.row_weight[i] if targets.row_weight.size > 0 else 1.0
        if targets.class_weight.size > 0:
            weight *= targets.class_weight[c]
        total += weight
    total = sum_of_block(total, board)
    if cuda.threadIdx.x == 0:
        totals[cuda.blockIdx.x] = total


@kernel(THREADS, 4)
def check_sparse(targets, masses, rows, classes, stored, low, high, report):
    """Mark the first row of a sparse matrix that is not in canonical form, or has an index or a mass out of range.

    A row whose largest mass is not of a size from low to high is marked, too, if it counts.
    """
    for i in range(cuda.grid(1), rows, cuda.gridsize(1)):
        first, end = np.int64(targets.first_points[i]), np.int64(targets.first_points[i + 1])
        if first < 0 or end < first or end > stored or (i == 0 and first != 0):
            mark(report, BAD_STRUCTURE, i, rows)
            continue
        before, most = np.int64(-1), 0.0
        for k in range(first, end):
            c = np.int64(targets.classes[k])
            if c < 0 or c >= classes:
                mark(report, BAD_TARGET, i, rows)
                break
            if c <= before:
                mark(report, BAD_STRUCTURE, i, rows)
                break
            if not 0.0 <= masses[k] < math.inf:
                mark(report, BAD_MASS, i, rows)
                break
            before, most = c, max(most, np.float64(masses[k]))
        if most > 0.0 and not low <= most <= high and weight_of_row(i, targets) != 0.0:
            mark(report, BEYOND, i, rows)


@kernel(THREADS, 4)
def finish_checks(totals, count, known, is_mean, upstream, report):
    """One block: the total weight, and what gradients are multiplied by: upstream, for means / total weight.

    And the share of each loss; a mean needs a total weight that float64 holds.
    """
    board = cuda.shared.array(MOST_WARPS, np.float64)
    total = 0.0
    for k in range(cuda.threadIdx.x, count, cuda.blockDim.x):
        total += totals[k]
    total = known + sum_of_block(total, board)
    if cuda.threadIdx.x > 0:
        return
    report[TOTAL_WEIGHT] = total
    factor, share = upstream, PART
    if is_mean:
        factor, share = (upstream / total, 1.0 / total) if total != 0.0 else (0.0, 0.0)
        if not math.isfinite(total):
            report[BAD_TOTAL_WEIGHT] = 1.0
    report[FACTOR], report[SHARE] = factor, share
    for field in range(IS_BAD):
        if report[field] > 0.0:
            report[IS_BAD] = 1.0
    if report[BEYOND] > 0.0:
        report[IS_BAD] = 1.0
