"""The derivative of a row's loss by the scale s of its logits z, from the same read as the loss.

With w = dx/ds of an element x: z where x = s z, and (1 - t^2) z where x = softcap t, t = tanh(s z / softcap). With the
element of the top 0, q the masses of the target, p the probabilities, and all else as in `states`,

    spread      sum of exp(x - x0) (w - w0), held raised as rest is; so that sum of p w = w0 + spread / (1 + rest)
    lag         half the sum of q (w0 - w); without a cap it is the distance
    derivative  sum of ((mass + 2 z_loss lse) p - q) w
                = 2 lag + (mass + 2 z_loss lse) spread / (1 + rest) + 2 z_loss lse w0

The top adds nothing to either sum, so that confident rows, and rows with much in common, keep their digits. The state
of a row has spread and lag as two more numbers.
"""

import functools
import math

import numpy as np

from fastce.cuda._kernels.elements import element_by
from fastce.cuda._kernels.jobs import Job
from fastce.cuda._kernels.points import distances_by
from fastce.cuda._kernels.primitives import device, fma, largest, smallest, to_real
from fastce.cuda._kernels.states import NOTHING, merged, raised_by, raised_term_of, reference_of, term_of


def nothing_by(job: Job) -> tuple[float, ...]:
    """The state of no elements."""
    return NOTHING + (0.0, 0.0) * job.by_scale


@functools.cache
def growth_by(job: Job):
    """w of an element y.

    z is softcap / s atanh(t), which is as near to the logit as t is; where t is 1, the cap holds it whatever the scale.
    """

    @device
    def of_capped(y, options):
        t = abs(y) / options.softcap
        if t >= options.one:
            return options.zero
        of_cap = (options.one - t) * (options.one + t) * math.log1p((t + t) / (options.one - t))
        half = options.softcap / (options.logit_scale + options.logit_scale)
        return math.copysign(of_cap * half, y)

    @device
    def as_it_is(y, options):
        return y

    return of_capped if job.is_capped else as_it_is


@functools.cache
def gap_by(job: Job):
    """w - w0 of an element; without a cap it is as far as exp goes, so that 0 times it is 0."""
    growth = growth_by(job)

    @device
    def of_capped(y, w0, options):
        return growth(y, options) - w0

    @device
    def as_it_is(y, w0, options):
        return largest(y - w0, options.furthest)

    return of_capped if job.is_capped else as_it_is


def lags_by(job: Job, element=None):
    """`distances_by` of w, for the sums of a cap; ``element`` is how a class's y is found."""
    growth, shown = growth_by(job), element_by(job) if element is None else element

    @device
    def growth_of_element(source, k, options):
        return growth(shown(source, k, options), options)

    return distances_by(job, growth_of_element)


@functools.cache
def with_term_and_spread_by(job: Job):
    """`with_term`, and (sum of 2**t (w - w0), sum of 2**t (w - w0) c) with the same element."""
    gap = gap_by(job)

    @device
    def with_both(sums, spreads, y, reference, w0, is_rough, options):
        lower = smallest(sums[0], y)
        power, c = term_of(lower, reference, is_rough, options)
        term = power * gap(lower, w0, options)
        sums = largest(sums[0], y), sums[1] + power, fma(power, c, sums[2])
        return sums, (spreads[0] + term, fma(term, c, spreads[1]))

    return with_both


@functools.cache
def merged_by(job: Job):
    """`merged`, with all that a state has."""
    growth, gap, is_capped = growth_by(job), gap_by(job), job.is_capped

    @device
    def with_spread(one, other, like, options):
        of_high, of_low = (one, other) if one[0] >= other[0] else (other, one)
        both, lowered = merged(one, other, like, options), np.float64(options.lowered)
        top = reference_of(both[0], 0.0)
        _, term = raised_term_of(smallest(one[0], other[0]), top, like, options)
        w0 = growth(to_real(like, top), options)
        moved = np.float64(gap(to_real(like, of_low[0]), w0, options))
        spread, lag = of_high[4] + term * (of_low[4] * lowered + moved * (1.0 + of_low[1] * lowered)), 0.0
        if is_capped:
            lag = of_high[5] + of_low[5] - 0.5 * of_low[3] * moved
        return both + (spread, lag)  # noqa: RUF005  # Numba has no unpacking in a tuple

    return with_spread if job.by_scale else merged


@functools.cache
def derivative_by(job: Job):
    """The derivative of a row that counts, from its state."""
    growth, is_capped, lowered = growth_by(job), job.is_capped, 1.0 / raised_by(job)

    @device
    def derivative(state, weight, upstream, like, options):
        top, rest, mass, z = state[0], state[1] * lowered, state[3], np.float64(options.z_loss)
        if math.isinf(top):
            return math.nan
        above, mean = weight * upstream, state[4] * lowered / (1.0 + rest)
        lag = state[5] if is_capped else state[2]
        result = above * mass * mean + 2.0 * above * lag
        if z > 0.0:
            # an fma of its own: a product that the loss's end has use for, too, would be rounded there
            lse = fma(np.float64(options.unit), top, np.float64(math.log1p(to_real(like, rest))))
            result += 2.0 * above * z * lse * (np.float64(growth(to_real(like, top), options)) + mean)
        return result

    return derivative
