"""What the elements of a piece come to: the largest of them, and the sums of the state that `states` tells of."""

import functools
import math

import numpy as np
from numba import cuda

from fastce.cuda._kernels.elements import mass_by, shown_by
from fastce.cuda._kernels.jobs import CROSS_ENTROPY, LOGSUMEXP, NO_MASS, SOFTMAX, Job
from fastce.cuda._kernels.primitives import device, held, lanes_of, largest, reals_of, to_real, top_of_chunk
from fastce.cuda._kernels.scale import gap_by, growth_by, with_term_and_spread_by
from fastce.cuda._kernels.states import (
    HALF_LANES,
    added,
    are_faint,
    half_distance,
    raised_by,
    raised_exp_of,
    rest_of,
    with_faint_term,
    with_half_term,
    with_term,
)


@functools.cache
def y_by(job: Job):
    """y of an element of class c; -inf beyond the ends of the row, where a logit of -inf fills the chunk."""
    shown = shown_by(job)

    @device
    def within(logit, c, classes, options):
        return shown(logit, options) if 0 <= c < classes else options.lowest

    @device
    def as_it_is(logit, c, classes, options):
        return logit

    return within if job.is_capped else as_it_is


@functools.cache
def top_by(job: Job):
    """The largest element of a piece."""
    y_of, is_capped = y_by(job), job.is_capped

    @device
    def top_of_capped(chunk, first, logits, shape, options):
        top, reals = to_real(logits, -math.inf), reals_of(logits, chunk)
        for lane in range(lanes_of(logits)):
            top = largest(top, y_of(reals[lane], first + lane, shape.classes, options))
        return top

    @device
    def top_of(logits, room, piece, shape, options):
        top, k = to_real(logits, -math.inf), piece.first
        while k < piece.end:
            chunk = held(room, piece.slot + k)
            if is_capped:
                of_chunk = top_of_capped(chunk, k * lanes_of(logits) - piece.before, logits, shape, options)
            else:
                of_chunk = top_of_chunk(logits, chunk)
            top = largest(top, of_chunk)
            k += cuda.blockDim.x
        return top

    return top_of


@functools.cache
def faint_rest_by(job: Job):
    """The rest of a piece whose terms are faint."""
    y_of = y_by(job)

    @device
    def faint_rest_of(logits, room, piece, reference, shape, options):
        lanes, k, nothing = lanes_of(logits), piece.first, to_real(logits, -0.0)
        sums, powers, lost = (to_real(logits, -math.inf), nothing, nothing), nothing, nothing
        while k < piece.end:
            reals, first = reals_of(logits, held(room, piece.slot + k)), k * lanes - piece.before
            sums = (sums[0], nothing, sums[2])
            for lane in range(lanes):
                y = y_of(reals[lane], first + lane, shape.classes, options)
                sums = with_faint_term(sums, y, reference, options)
            powers, lost = added(powers, lost, sums[1])
            k += cuda.blockDim.x
        return rest_of(powers, lost, sums[2])

    return faint_rest_of


@functools.cache
def sums_by(job: Job):
    """(own top, rest, half the distance, mass, spread, lag) of a piece; the last two are 0 if nobody asks for them."""
    y_of, mass_of, has_masses, faint_rest_of = y_by(job), mass_by(job), job.dense != NO_MASS, faint_rest_by(job)
    is_rough, is_loss, raised = job.of in (LOGSUMEXP, SOFTMAX), job.of == CROSS_ENTROPY, raised_by(job)
    by_scale, has_lags, with_both = job.by_scale, job.by_scale and job.is_capped, with_term_and_spread_by(job)
    growth, gap = growth_by(job), gap_by(job)

    @device
    def sums_of(logits, room, piece, reference, shape, targets, options):
        lanes, of_row, k = lanes_of(logits), piece.i * shape.probabilities_step, piece.first
        nothing = to_real(logits, -0.0)  # x + -0.0 is x, which compilers know: it costs nothing
        sums, powers, lost = (to_real(logits, -math.inf), nothing, nothing), nothing, nothing
        distance, total, lag = nothing, nothing, nothing
        w0, spreads, of_spread, lost_of_spread = growth(reference, options), (nothing, nothing), nothing, nothing
        while k < piece.end:
            reals, first = reals_of(logits, held(room, piece.slot + k)), k * lanes - piece.before
            sums, spreads = (sums[0], nothing, sums[2]), (nothing, spreads[1])
            for lane in range(lanes):
                y = y_of(reals[lane], first + lane, shape.classes, options)
                if by_scale:
                    sums, spreads = with_both(sums, spreads, y, reference, w0, lanes == HALF_LANES, options)
                elif lanes == HALF_LANES and not is_loss:  # losses of halves are in float32
                    sums = with_half_term(sums, y, reference, options)
                else:
                    sums = with_term(sums, y, reference, is_rough or lanes == HALF_LANES, options)
                if has_masses and 0 <= first + lane < shape.classes:
                    mass = mass_of(first + lane, of_row + first + lane, targets, logits, options)
                    if mass != 0.0:
                        distance += half_distance(mass, reference, y, logits)
                        total += mass
                        if has_lags:
                            lag += half_distance(mass, w0, growth(y, options), logits)
            powers, lost = added(powers, lost, sums[1])
            if by_scale:
                of_spread, lost_of_spread = added(of_spread, lost_of_spread, spreads[0])
            k += cuda.blockDim.x
        rest, spread = rest_of(powers, lost, sums[2]) * raised, np.float64(0.0)
        if not is_rough and are_faint(powers, sums[0], reference, options):
            rest = faint_rest_of(logits, room, piece, reference, shape, options)
        if by_scale:  # with its own top, which adds nothing if it is that of the row
            own = np.float64(raised_exp_of(sums[0], reference, options)) * np.float64(gap(sums[0], w0, options))
            spread = rest_of(of_spread, lost_of_spread, spreads[1]) * raised + own
        return sums[0], rest, np.float64(distance), np.float64(total), spread, np.float64(lag)

    return sums_of
