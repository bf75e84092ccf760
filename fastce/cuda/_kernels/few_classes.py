"""Few classes: a row for each thread, from shared memory (few_rooms.py) into its registers, and back."""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import (
    has_one_point,
    mass_by,
    shown_by,
    slope_by,
    value_by,
    value_of_written_by,
    written_by,
)
from fastce.cuda._kernels.endings import (
    Row,
    ending_by,
    plain_ending_by,
    upstream_of_row,
    weighed_row_by,
)
from fastce.cuda._kernels.few_rooms import Stand, empty_by, fill_by, get_row_by, place_by, put_row_by
from fastce.cuda._kernels.jobs import CROSS_ENTROPY, IS_BAD, LOG_SOFTMAX, NO_MASS, Job
from fastce.cuda._kernels.points import distances_by, points_by
from fastce.cuda._kernels.powers import is_ordinary, split_of, with_power
from fastce.cuda._kernels.primitives import (
    device,
    fma,
    found_here,
    get_reals_by,
    kernel,
    largest,
    put_reals_by,
    room_for,
    rough_exp2,
    store_real,
    to_real,
)
from fastce.cuda._kernels.scale import derivative_by, gap_by, growth_by, lags_by
from fastce.cuda._kernels.states import half_distance, raised_exp_of, reference_of, rough_exp_of
from fastce.cuda._kernels.sums import add_up_board_by, put_on, store_beside

BLOCK = 8  # elements that are added up before their sum is: fewer roundings for each
TINY = 2.0**-120  # a factor that is nearly below the normal numbers of float32
REGISTER_BYTES = 128  # of a row: up to 32 classes, or 16 of float64


@functools.cache
def exps_by(job: Job, classes: int):
    """exps[c] = exp(s (y - top)) 2**spare; returns the sum of all but the largest."""
    is_float64 = job.is_float64

    @device
    def by_powers(ys, exps, top, like, options):
        u_top, c_top = split_of(like, top, options)
        reference = u_top - options.spare  # rounded, which c_top makes up for
        c_top -= ((reference + options.spare) - u_top) * options.ln2
        for c in range(classes):  # unrolled, as the row is in registers
            u, missing = split_of(like, ys[c], options)
            power = rough_exp2(u - reference)
            exps[c] = fma(power, missing - c_top, power)

    @device
    def exactly(ys, exps, top, like, options):
        reference = reference_of(top, options.zero)
        for c in range(classes):
            exps[c] = raised_exp_of(ys[c], reference, options)

    @device
    def rest_of(exps, like):
        nothing = to_real(like, -0.0)  # x + -0.0 is x, which compilers know: it costs nothing
        rest, some = nothing, (exps[0], nothing)
        for c in range(1, classes):
            some = with_power(some, exps[c])
            if c % BLOCK == BLOCK - 1:
                rest, some = rest + some[1], (some[0], nothing)
        return rest + some[1]

    @device
    def take_exps(ys, exps, top, like, options):
        if not is_float64 and is_ordinary(like, top, options):
            by_powers(ys, exps, top, like, options)
            rest = rest_of(exps, like)
            if rest < to_real(like, math.inf):  # nan where an element is -inf
                return rest
        exactly(ys, exps, top, like, options)
        return rest_of(exps, like)

    return take_exps


@functools.cache
def sums_by(job: Job, classes: int):
    """(top, rest) of a row in registers, and its exps."""
    take_exps = exps_by(job, classes)

    @device
    def sums_of(ys, exps, like, options):
        top = ys[0]
        for c in range(1, classes):
            top = largest(top, ys[c])
        return top, found_here(take_exps(ys, exps, top, like, options))

    return sums_of


@functools.cache
def ended_by(job: Job, stand: Stand):
    """(result, share, row) as in `ending_by`, the rest and the derivative by the scale of a row in registers; its exps.

    Its elements stand in shared memory, too, from ``first`` on.
    """
    classes, place_of, get_one = stand.classes, place_by(stand), get_reals_by(1)
    shown, mass_of, has_masses, sums_of = shown_by(job), mass_by(job), job.dense != NO_MASS, sums_by(job, classes)
    ending, plain_ending, derivative, by_scale = ending_by(job), plain_ending_by(job), derivative_by(job), job.by_scale
    growth, gap, is_capped = growth_by(job), gap_by(job), job.is_capped

    @device
    def element(row, c, options):
        room, like, first = row
        return shown(get_one(room, like, place_of(first, c))[0], options)

    distances_of, lags_of = distances_by(job, element), lags_by(job, element)

    @device
    def spread_of(ys, exps, reference, room, first, points, i, targets, like, options):
        """(spread, lag) of a row."""
        w0, spread, lag = growth(reference, options), options.zero, np.float64(0.0)
        for c in range(classes):
            w = gap(ys[c], w0, options)
            spread = fma(exps[c], w, spread)
            if is_capped and has_masses:
                lag -= 0.5 * np.float64(mass_of(c, i * classes + c, targets, like, options)) * np.float64(w)
        if is_capped:
            lag += lags_of((room, like, first), 0, 1, points, 0, classes, w0, 0, 1, targets, like, options)[0]
        return np.float64(spread), lag

    @device
    def ended(ys, exps, room, first, points, i, weight, above, targets, like, options, report):
        top, rest = sums_of(ys, exps, like, options)
        reference = reference_of(top, options.zero)
        distance, total = distances_of(
            (room, like, first), 0, 1, points, 0, classes, reference, 0, 1, targets, like, options
        )
        if has_masses:
            for c in range(classes):
                mass = mass_of(c, i * classes + c, targets, like, options)
                if mass != 0.0:
                    distance += half_distance(mass, reference, ys[c], like)
                    total += mass
        state, slope = (np.float64(top), np.float64(rest), np.float64(distance), np.float64(total)), 0.0
        if by_scale:
            more = spread_of(ys, exps, reference, room, first, points, i, targets, like, options)
            slope = derivative(state + more, weight, above, like, options)
        return *ending(state, weight, above, like, options, report), rest, slope

    @device
    def ended_plainly(ys, exps, room, first, points, i, weight, above, targets, like, options, report):
        top, rest = sums_of(ys, exps, like, options)
        y = element((room, like, first), points.first, options)
        slope = 0.0
        if by_scale:
            reference = reference_of(top, options.zero)
            distance = np.float64(half_distance(options.one, reference, y, like))
            more = spread_of(ys, exps, reference, room, first, points, i, targets, like, options)
            slope = derivative((np.float64(top), np.float64(rest), distance, 1.0, *more), 1.0, above, like, options)
        return *plain_ending(top, rest, y, above, like, options, report), rest, slope

    return ended_plainly if job.is_plain else ended


@functools.cache
def slope_at_target_by(job: Job):
    """upstream q (p - 1) of a class that has all of the target: -rest / (1 + rest) where it is the top. No z_loss."""
    slope_of = slope_by(job)

    @device
    def slope_at_target(y, rest, row, mass, options):
        slope = -row.factor * rest
        if y != row.reference:
            slope = row.factor * rough_exp_of(y - row.reference, options) - row.upstream * mass
        return slope_of(y, slope, options)

    return slope_at_target


@functools.cache
def values_by(job: Job, stand: Stand):
    """What becomes of a row in registers, put into shared memory; a class that has all of the target comes last."""
    shown, slope_of, slope_at_target = shown_by(job), slope_by(job), slope_at_target_by(job)
    written, value_of_written = written_by(job), value_of_written_by(job)
    is_alone, by_exp, classes, place_of = has_one_point(job), job.of != LOG_SOFTMAX, stand.classes, place_by(stand)
    is_hessian, value_of, may_be_squared = job.is_hessian, value_by(job), not job.is_plain
    get_one, put_one, put_row = get_reals_by(1), put_reals_by(1), put_row_by(stand)

    @device
    def put_values(ys, exps, rest, room, first, i, row, points, targets, like, options):
        row = Row(row.reference, found_here(row.factor), found_here(row.upstream), row.tail)
        y_target, target = options.zero, place_of(first, points.first)
        if is_alone:
            y_target = shown(get_one(room, like, target)[0], options)
        lowered = row.factor * options.lowered
        if by_exp and abs(lowered) < to_real(like, TINY):  # or fewer digits, or none
            lowered = row.factor
            for c in range(classes):
                exps[c] *= options.lowered
        for c in range(classes):
            value = lowered * exps[c] if by_exp else written(ys[c], row, options)
            if is_hessian:
                exps[c] = value_of(ys[c], c, i * classes + c, row, points, targets, like, options)
            elif is_alone:
                exps[c] = slope_of(ys[c], value, options)
            else:
                exps[c] = value_of_written(value, ys[c], c, i * classes + c, row, points, targets, like, options)
        put_row(exps, room, like, first)
        if is_alone:
            ys[0] = slope_at_target(y_target, to_real(like, rest) * options.lowered, row, points.mass, options)
            if may_be_squared and options.z_loss > 0.0:
                value = written(y_target, row, options)
                ys[0] = value_of_written(value, y_target, points.first, 0, row, points, targets, like, options)
            put_one(room, like, target, ys, 0)

    return put_values


@functools.cache
def few_classes_kernel(job: Job, stand: Stand):
    """The kernel for rows of so many adjacent classes that follow each other without a gap."""
    shown, ended, points_of = shown_by(job), ended_by(job, stand), points_by(job)
    weighed_row, fill, empty, writes = weighed_row_by(job), fill_by(stand), empty_by(stand), job.writes
    put_values, get_row, put_row = values_by(job, stand), get_row_by(stand), put_row_by(stand)
    classes, step, before, rows_of_block = stand.classes, stand.step, stand.before, stand.rows
    by_scale, add_up_board, fields = job.by_scale, add_up_board_by(job.by_scale), 3 if job.by_scale else 2
    real, room_of_block = np.float64 if job.is_float64 else np.float32, room_for(stand.chunks + stand.rows)
    most, is_loss = max(classes, 1), job.of == CROSS_ENTROPY

    @kernel(rows_of_block, 2 if job.is_float64 else 5 if job.is_capped else 6)
    def few_classes(logits, out, rows, targets, options, upstream, report, results, tally):
        if report[IS_BAD] > 0.0:
            return  # nothing is written
        board = cuda.shared.array((fields, rows_of_block), np.float64)
        flag = cuda.shared.array(1, np.int32)
        room, ys, exps = found_here(room_of_block()), cuda.local.array(most, real), cuda.local.array(most, real)
        ys[0] = options.lowest  # where there are no classes
        thread, block = found_here(np.uint32(cuda.threadIdx.x)), np.uint32(cuda.blockIdx.x)
        before_block = np.int64(block) * rows_of_block
        is_full = block < np.uint32(np.uint64(rows) // np.uint64(rows_of_block))
        own_rows = found_here(np.uint32(rows_of_block if is_full else rows - before_block))
        start, i = before_block * classes, before_block + thread
        first = found_here(np.uint32(before + thread * np.uint32(step)))
        fill(thread, room, logits, start, own_rows)
        is_there, result, share, slope = thread < own_rows, 0.0, 0.0, 0.0
        counts, weight = weighed_row(i, is_there, targets)
        if counts:
            points = points_of(i, logits, targets, options)
            get_row(ys, room, logits, first)
            for c in range(classes):
                ys[c] = shown(ys[c], options)
            above = upstream_of_row(i, upstream, report) if writes or by_scale else 1.0
            result, share, row, rest, slope = ended(
                ys, exps, room, first, points, i, weight, above, targets, logits, options, report
            )
            if writes:
                put_values(ys, exps, rest, room, first, i, row, points, targets, logits, options)
        elif writes and is_there:
            for c in range(classes):
                exps[c] = options.zero
            put_row(exps, room, logits, first)
        if by_scale and is_there:
            store_beside(tally, i, result)
        if is_loss:
            put_on(board, thread, result, share)
            if by_scale:
                board[2, thread] = slope
        if writes or is_loss:
            cuda.syncthreads()
        if writes:
            empty(thread, room, out, start, own_rows)
        if is_loss and tally.tickets.size > 0:
            add_up_board(board, thread, rows_of_block, results, report, tally, flag)
        elif is_there:
            store_real(results, i, result)

    return few_classes
