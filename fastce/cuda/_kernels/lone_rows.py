"""A row for each thread: for class axes that are not the last, and whatever else has strides of its own.

Threads that are side by side take rows that are, so that they read and write stretches of memory. A row is read twice,
or three times where its classes have masses; the second time it mostly comes from a cache.
"""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import element_by, has_one_point, mass_by, slope_at_target_by, value_by
from fastce.cuda._kernels.endings import ending_by, upstream_of_row, weight_of_row
from fastce.cuda._kernels.jobs import IS_BAD, NO_MASS, SPREAD, Job
from fastce.cuda._kernels.points import distances_by, points_by
from fastce.cuda._kernels.primitives import device, found_here, kernel, store_real, to_real
from fastce.cuda._kernels.scale import derivative_by, gap_by, growth_by, lags_by
from fastce.cuda._kernels.states import half_distance, pushed, raised_exp_of, reference_of, with_block
from fastce.cuda._kernels.sums import add_up_board_by, put_on, store_beside

THREADS = 256
BLOCK = 16  # elements that are added up in the dtype of the reals


@device
def first_of_row(i, inner, cube):
    """Where class 0 of row i is; ``inner`` rows follow each other before the next outer one."""
    return cube.origin + (i // inner) * cube.outer_step + (i % inner) * cube.inner_step


@functools.cache
def state_by(job: Job, element):
    """The state of a row that one thread looks at; its element c is number first + c * step."""
    distances_of, mass_of, has_masses = distances_by(job, element), mass_by(job), job.dense != NO_MASS
    all_alike = job.dense == SPREAD

    @device
    def of_block(logits, first, step, begin, end, like, options):
        top, rest = to_real(like, -math.inf), options.zero
        for c in range(begin, end):
            top, rest = pushed(top, rest, element(logits, first + c * step, options), options)
        return top, rest

    @device
    def of_masses(logits, first, step, begin, end, of_row, mass_step, reference, targets, like, options):
        """(half the distance, mass); a mass that all classes have is not added up, but multiplied by their number."""
        distance, total = np.float64(0.0), np.float64(0.0)
        for c in range(begin, end):
            mass = mass_of(c, of_row + c * mass_step, targets, like, options)
            if mass != 0.0:
                y = element(logits, first + c * step, options)
                distance += half_distance(mass, reference, y, like)
                if not all_alike:
                    total += mass
        return distance, total

    @device
    def state_of(logits, first, step, classes, points, of_row, mass_step, targets, like, options):
        top, rest = of_block(logits, first, step, 0, min(BLOCK, classes), like, options)
        whole = (np.float64(top), np.float64(rest))
        for begin in range(BLOCK, classes, BLOCK):
            top, rest = of_block(logits, first, step, begin, min(begin + BLOCK, classes), like, options)
            whole = with_block(whole, top, rest, like, options)
        reference = to_real(like, reference_of(whole[0], 0.0))
        distance, total = distances_of(logits, first, step, points, 0, classes, reference, 0, 1, targets, like, options)
        if has_masses:
            for begin in range(0, classes, BLOCK):
                more = of_masses(
                    logits, first, step, begin, min(begin + BLOCK, classes), of_row, mass_step, reference, targets,
                    like, options,
                )  # fmt: skip
                distance += more[0]
                total += more[1]
        if all_alike:
            total += np.float64(options.spread) * classes
        return whole[0], whole[1], distance, total

    return state_of


@functools.cache
def spread_by(job: Job, element):
    """(spread, lag) of a row whose state is known, from another look at it."""
    growth, gap, lags_of = growth_by(job), gap_by(job), lags_by(job, element)
    mass_of, has_masses, is_capped = mass_by(job), job.dense != NO_MASS, job.is_capped

    @device
    def spread_of(top, logits, first, step, classes, points, of_row, mass_step, targets, like, options):
        reference, spread, lag = found_here(to_real(like, reference_of(top, 0.0))), 0.0, 0.0
        w0 = growth(reference, options)
        for begin in range(0, classes, BLOCK):
            some, of_masses = options.zero, options.zero
            for c in range(begin, min(begin + BLOCK, classes)):
                y = element(logits, first + c * step, options)
                some += raised_exp_of(y, reference, options) * gap(y, w0, options)
                if is_capped and has_masses:
                    mass = mass_of(c, of_row + c * mass_step, targets, like, options)
                    of_masses += half_distance(mass, w0, growth(y, options), like)
            spread += some
            lag += of_masses
        if is_capped:
            lag += lags_of(logits, first, step, points, 0, classes, w0, 0, 1, targets, like, options)[0]
        return spread, lag

    return spread_of


@functools.cache
def lone_rows_kernel(job: Job):
    """The kernel for rows of any strides."""
    element, value_of = element_by(job), value_by(job)
    state_of, points_of, ending = state_by(job, element), points_by(job), ending_by(job)
    writes, slope_at_target, is_alone = job.writes, slope_at_target_by(job), has_one_point(job)
    by_scale, spread_of, derivative = job.by_scale, spread_by(job, element), derivative_by(job)
    add_up_board, fields = add_up_board_by(job.by_scale), 3 if job.by_scale else 2

    @device
    def row_of(i, logits, out, shape, targets, options, upstream, report):
        """(result, share, derivative by the scale) of row i, whose gradient is written."""
        weight = weight_of_row(i, targets)
        first_out, step = first_of_row(i, shape.inner, shape.out), shape.out.class_step
        if weight == 0.0:
            if writes:
                for c in range(shape.classes):
                    store_real(out, first_out + c * step, 0.0)
            return 0.0, 0.0, 0.0
        first, of_row = first_of_row(i, shape.inner, shape.logits), first_of_row(i, shape.inner, shape.masses)
        points, class_step, mass_step = (
            points_of(i, logits, targets, options),
            shape.logits.class_step,
            shape.masses.class_step,
        )
        state = state_of(logits, first, class_step, shape.classes, points, of_row, mass_step, targets, logits, options)
        above, slope = upstream_of_row(i, upstream, report) if writes or by_scale else 1.0, 0.0
        if by_scale:
            more = spread_of(
                state[0], logits, first, class_step, shape.classes, points, of_row, mass_step, targets, logits, options
            )
            slope = derivative(state + more, weight, above, logits, options)
        result, share, row = ending(state, weight, above, logits, options, report)
        if writes:
            y_target = element(logits, first + points.first * class_step, options) if is_alone else options.zero
            for c in range(shape.classes):
                y, at = element(logits, first + c * class_step, options), of_row + c * mass_step
                store_real(out, first_out + c * step, value_of(y, c, at, row, points, targets, logits, options))
            if is_alone and options.z_loss == 0.0:
                of_target = slope_at_target(y_target, row, points.mass, options)
                store_real(out, first_out + points.first * step, of_target)
        return result, share, slope

    @kernel(THREADS, 2 if job.is_float64 else 3)
    def lone_rows(logits, out, shape, targets, options, upstream, report, results, tally):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        board = cuda.shared.array((fields, THREADS), np.float64)
        flag = cuda.shared.array(1, np.int32)
        i, result, share, slope = np.int64(cuda.grid(1)), 0.0, 0.0, 0.0
        if i < shape.rows:
            result, share, slope = row_of(i, logits, out, shape, targets, options, upstream, report)
            if by_scale:
                store_beside(tally, i, result)
        if tally.tickets.size > 0:
            put_on(board, cuda.threadIdx.x, result, share)
            if by_scale:
                board[2, cuda.threadIdx.x] = slope
            cuda.syncthreads()
            add_up_board(board, cuda.threadIdx.x, cuda.blockDim.x, results, report, tally, flag)
        elif i < shape.rows:
            store_real(results, i, result)

    return lone_rows
