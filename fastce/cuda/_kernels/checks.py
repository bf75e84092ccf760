"""What is checked on the device before a loss is computed; the host reads the verdict with the result, once.

One launch looks at all targets and weights. What it finds wrong it marks in the report, and the kernels after it write
nothing then. The block that comes last has the total weight of the rows.
"""

import functools
import math
from typing import NamedTuple

import numpy as np
from numba import cuda

from fastce.cuda._kernels.endings import weight_of_row
from fastce.cuda._kernels.jobs import (
    BAD_CLASS_WEIGHT,
    BAD_MASS,
    BAD_ROW_WEIGHT,
    BAD_STRUCTURE,
    BAD_TARGET,
    BAD_TOTAL_WEIGHT,
    BEYOND,
    CLASS_INDICES,
    FACTOR,
    IS_BAD,
    PART,
    SHARE,
    SPARSE,
    TOTAL_WEIGHT,
)
from fastce.cuda._kernels.primitives import device, kernel
from fastce.cuda._kernels.states import MOST_WARPS
from fastce.cuda._kernels.sums import comes_last, sum_of_block

THREADS = 256
PER_BLOCK = 1 << 10  # rows, or class weights: the work waits for these blocks


class Checked(NamedTuple):
    """The numbers of a call that its targets and weights are held against."""

    rows: int
    classes: int
    per_block: int
    is_mean: bool
    is_wide: bool  # float64
    upstream: float  # what gradients are multiplied by
    least: float  # of class weights that are not 0, and of masses in float32
    most: float
    most_above: float  # of what the gradients of rows are multiplied by


@device
def mark(report, field, k, count):
    """Note that item k of ``count`` is bad; the first one of all stays."""
    cuda.atomic.max(report, field, np.float64(count - k))


@device
def check_weights(weights, least, most, report, bad, beyond):
    """Mark the first weight that is not finite; and, as ``beyond``, one neither 0 nor of a size from least to most."""
    count = weights.size
    for k in range(cuda.grid(1), count, cuda.gridsize(1)):
        size = abs(np.float64(weights[k]))
        if not size < math.inf:
            mark(report, bad, k, count)
        elif not (least <= size <= most or size == 0.0):
            mark(report, beyond, k, count)


@device
def check_factors(targets, upstream, checked, report):
    """Mark what gradients of a row that counts are multiplied by, if it is too large; infinite, it may be."""
    for i in range(cuda.grid(1), checked.rows, cuda.gridsize(1)):
        weight = weight_of_row(i, targets)
        factor = upstream[i if upstream.size > 1 else 0] if upstream.size > 0 else 1.0
        if weight != 0.0 and checked.most_above < abs(factor if checked.is_mean else weight * factor) < math.inf:
            mark(report, BEYOND, i, checked.rows)


@device
def check_class_index(i, targets, masses, checked, report):
    """Mark a class index out of range. The weight of a row with another one, 0 if it is ignored."""
    c = np.int64(targets.classes[i])
    is_beyond = c < 0 and targets.classes[i] > 0  # an uint64 that no int64 holds
    if c == targets.ignore_index and not is_beyond:
        return 0.0
    if c < 0 or c >= checked.classes:
        mark(report, BAD_TARGET, i, checked.rows)
        return 0.0
    weight = targets.row_weight[i] if targets.row_weight.size > 0 else 1.0
    if targets.class_weight.size > 0:
        weight *= targets.class_weight[c]
    return weight


@device
def weight_of_sparse_row(i, targets, masses, checked, report):
    """Mark a row of a sparse matrix that is not in canonical form, or has an index or a mass out of range.

    A row whose largest mass is not of a size from least to most is marked, too, if it counts.
    """
    rows, weight = checked.rows, targets.row_weight[i] if targets.row_weight.size > 0 else 1.0
    first, end = np.int64(targets.first_points[i]), np.int64(targets.first_points[i + 1])
    if first < 0 or end < first or end > targets.classes.size or (i == 0 and first != 0):
        mark(report, BAD_STRUCTURE, i, rows)
        return weight
    before, largest = np.int64(-1), 0.0
    for k in range(first, end):
        c = np.int64(targets.classes[k])
        if c < 0 or c >= checked.classes:
            mark(report, BAD_TARGET, i, rows)
            break
        if c <= before:
            mark(report, BAD_STRUCTURE, i, rows)
            break
        if not 0.0 <= masses[k] < math.inf:
            mark(report, BAD_MASS, i, rows)
            break
        before, largest = c, max(largest, np.float64(masses[k]))
    if not checked.is_wide and largest > 0.0 and not checked.least <= largest <= checked.most and weight != 0.0:
        mark(report, BEYOND, i, rows)
    return weight


@device
def weight_of_other_row(i, targets, masses, checked, report):
    return targets.row_weight[i] if targets.row_weight.size > 0 else 1.0


@device
def finish(total, checked, report):
    """The total weight, and what gradients are multiplied by: upstream, for means / total weight.

    And the share of each loss; a mean needs a total weight that float64 holds.
    """
    report[TOTAL_WEIGHT] = total
    factor, share = checked.upstream, PART
    if checked.is_mean:
        factor, share = (checked.upstream / total, 1.0 / total) if total != 0.0 else (0.0, 0.0)
        if not math.isfinite(total):
            report[BAD_TOTAL_WEIGHT] = 1.0
    report[FACTOR], report[SHARE] = factor, share
    for field in range(IS_BAD):
        if report[field] > 0.0:
            report[IS_BAD] = 1.0
    if report[BEYOND] > 0.0:
        report[IS_BAD] = 1.0


@kernel(THREADS, 4)
def check_two(first, second, checked, report, tickets):
    """Mark the first weight that is not finite, or neither 0 nor in range, of those of rows and those of classes."""
    flag = cuda.shared.array(1, np.int32)
    check_weights(first, checked.least, checked.most, report, BAD_ROW_WEIGHT, BAD_ROW_WEIGHT)
    check_weights(second, checked.least, checked.most, report, BAD_CLASS_WEIGHT, BAD_CLASS_WEIGHT)
    cuda.syncthreads()
    if comes_last(tickets, 0, 1, cuda.gridDim.x, flag) and cuda.threadIdx.x == 0:
        finish(np.float64(checked.rows), checked, report)


@functools.cache
def check_kernel(points: int):
    """The kernel for targets whose points come from there."""
    weight_of = {CLASS_INDICES: check_class_index, SPARSE: weight_of_sparse_row}.get(points, weight_of_other_row)

    @kernel(THREADS, 4)
    def check(targets, weights, masses, upstream, checked, report, totals, tickets):
        """``weights`` of classes and ``masses`` are as they were given: not in float32, if that is narrower."""
        board = cuda.shared.array(MOST_WARPS, np.float64)
        flag = cuda.shared.array(1, np.int32)
        beyond = BAD_CLASS_WEIGHT if checked.is_wide else BEYOND
        check_weights(weights, checked.least, checked.most, report, BAD_CLASS_WEIGHT, beyond)
        check_weights(targets.row_weight, 0.0, math.inf, report, BAD_ROW_WEIGHT, BEYOND)
        if checked.most_above > 0.0:
            check_factors(targets, upstream, checked, report)
        first, total = np.int64(cuda.blockIdx.x) * checked.per_block, 0.0
        for i in range(first + cuda.threadIdx.x, min(first + checked.per_block, checked.rows), cuda.blockDim.x):
            total += weight_of(i, targets, masses, checked, report)
        total = sum_of_block(total, board)
        if cuda.threadIdx.x == 0:
            totals[cuda.blockIdx.x] = total
        if comes_last(tickets, 0, 1, cuda.gridDim.x, flag):
            total = 0.0
            for k in range(cuda.threadIdx.x, cuda.gridDim.x, cuda.blockDim.x):
                total += totals[k]
            total = sum_of_block(total, board)
            if cuda.threadIdx.x == 0:
                finish(total, checked, report)

    return check
