"""The end of a row: its result, and what its elements need to become a gradient or probabilities."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastce.cuda._kernels.jobs import BEYOND, CROSS_ENTROPY, FACTOR, PROBABILITIES, SHARE, Job
from fastce.cuda._kernels.primitives import device, fma, rough_reciprocal, store_real, to_real
from fastce.cuda._kernels.states import raised_by, reference_of

ALONE = 2.0**-64  # log1p(x) is x below
MODERATE = 2.0**-96, 2.0**96  # what products of two or three do not take beyond the normal numbers of float32


class Row(NamedTuple):
    """A row after its end; see `elements.written_by`."""

    reference: Any
    factor: Any
    upstream: Any
    tail: Any  # log1p(rest)


@device
def weight_of_row(i, targets):
    """The sample weight of row i, 0 if it is ignored."""
    weight = targets.row_weight[i] if targets.row_weight.size > 0 else 1.0
    if targets.classes.size == 0 or targets.first_points.size > 0:
        return weight
    return 0.0 if targets.classes[i] == targets.ignore_index else weight


@functools.cache
def weighed_row_by(job: Job):
    """(whether row i, if there is one, counts; its sample weight)."""

    @device
    def weighed_row(i, is_there, targets):
        weight = weight_of_row(i, targets) if is_there else 0.0
        return weight != 0.0, weight

    @device
    def plain_row(i, is_there, targets):
        return is_there and targets.classes[i] != targets.ignore_index, 1.0

    return plain_row if job.is_plain else weighed_row


@device
def upstream_of_row(i, upstream, report):
    """What the gradient of row i is multiplied by."""
    if upstream.size == 0:
        return report[FACTOR]
    return upstream[i if upstream.size > 1 else 0] * report[FACTOR]


@functools.cache
def is_beyond_by(job: Job):
    """Whether the dtype of elements does not hold what those of a row are multiplied by: they would be nan, inf or 0.

    ``given`` is what the caller multiplies by, which may be infinite itself.
    """
    is_float64, real = job.is_float64, np.float64 if job.is_float64 else np.float32
    least, infinite = np.finfo(real).tiny, real(np.inf)

    @device
    def is_beyond(row, given, mass, upstream, multiplier):
        if abs(row.factor) < infinite and least <= abs(row.upstream) < infinite:
            return False
        if math.isinf(given) or math.isinf(mass):
            return not is_float64 and math.isinf(mass)
        is_raised = 0.0 < abs(upstream) < least <= abs(multiplier)
        return math.isinf(row.factor) or math.isinf(row.upstream) or is_raised

    return is_beyond


@device
def store_result(results, i, rows, result, share):
    """Store the result of row i; and where results are to be added up but this is too large, its share of their sum."""
    store_real(results, i, result)
    if results.size > rows and not math.isfinite(result):
        store_real(results, rows + i, share)


@device
def weighed(weight, distance, mass, tail, lse, options):
    """The loss times a weight, which is that of a loss that may be beyond the largest number itself."""
    loss = weight * mass * tail + 2.0 * (weight * options.unit) * distance
    if options.z_loss > 0.0:
        loss += weight * options.z_loss * lse * lse
    return loss


@functools.cache
def ending_by(job: Job):
    """(result, its share, row): the loss or logsumexp in float64, what it adds to a sum of shares, and the `Row`."""
    is_loss, is_written, is_float64 = job.of == CROSS_ENTROPY, job.writes, job.is_float64
    is_beyond, only_masses = is_beyond_by(job), job.dense == PROBABILITIES and not is_float64 and not is_written
    lowered, half_lowered = 1.0 / raised_by(job), raised_by(job) ** -0.5

    @device
    def ending(state, weight, upstream, like, options, report):
        top, raised_rest, distance, mass = state[0], state[1], state[2], state[3]
        rest, given = raised_rest * lowered, upstream
        tail = rest if rest < ALONE else np.float64(math.log1p(to_real(like, rest)))  # rest is log1p(rest)
        lse = top if math.isinf(top) else options.unit * top + tail
        result, share, multiplier = lse, lse, 1.0
        if is_loss:
            is_faint = is_float64 and raised_rest < 1.0  # what the weight makes of the tail may be a normal number
            result, multiplier = (0.0 if is_faint else mass * tail) + options.unit * (2.0 * distance), mass
            if options.z_loss > 0.0:
                result += options.z_loss * lse * lse
                multiplier += 2.0 * options.z_loss * lse
            result *= weight
            if is_faint:
                result += (mass * half_lowered) * (weight * half_lowered) * raised_rest
            share = result
            if not math.isfinite(result) and math.isfinite(distance):
                result = weighed(weight, distance, mass, tail, lse, options)
                share = weighed(weight * report[SHARE], distance, mass, tail, lse, options)
            if only_masses and math.isinf(mass):
                report[BEYOND] = 1.0
            upstream *= weight * options.logit_scale
            multiplier *= upstream
        if math.isinf(top) and (is_loss or is_written):
            result = share = multiplier = math.nan
            is_below = top > 0.0 and not is_loss  # log_softmax of what stands beside inf is -inf
            tail = 0.0 if is_below else math.nan
        reference = to_real(like, reference_of(top, 0.0))
        factor = to_real(like, multiplier) / (options.one + to_real(like, rest))
        row = Row(reference, factor, to_real(like, upstream), to_real(like, tail))
        if is_loss and is_written and is_beyond(row, given, mass, upstream, multiplier):
            report[BEYOND] = 1.0
        return np.float64(result), np.float64(share), row

    return ending


@device
def is_moderate(size, like):
    """Whether this is neither 0 nor tiny, huge or nan."""
    return to_real(like, MODERATE[0]) <= size <= to_real(like, MODERATE[1])


@device
def ratio(a, b):
    """a / b of moderate numbers of float32, b near 1: a division has as many instructions again for all others."""
    reciprocal = rough_reciprocal(b)
    quotient = a * reciprocal
    return fma(fma(-b, quotient, a), reciprocal, quotient)


@functools.cache
def plain_ending_by(job: Job):
    """`ending_by` for a loss whose target is one class, with the element y, and for which nothing has a weight.

    loss = log1p(rest) + s (top - y): neither term is negative, so that float32, with a rounding for the difference and
    one for the sum, is within an ulp of what it makes of the rest. Numbers that are tiny or huge end as all others do.
    """
    ending, writes, is_float64 = ending_by(job), job.writes, job.is_float64

    @device
    def usual_ending(top, raised_rest, y, upstream, like, options, report):
        distance = 0.5 * np.float64(reference_of(top, options.zero)) - 0.5 * np.float64(y)
        state = np.float64(top), np.float64(raised_rest), distance, 1.0
        return ending(state, 1.0, upstream, like, options, report)

    @device
    def plain_ending(top, raised_rest, y, upstream, like, options, report):
        rest = raised_rest * options.lowered
        tail = to_real(like, math.log1p(rest))
        loss, slope = fma(options.unit, top - y, tail), to_real(like, upstream) * options.logit_scale
        is_quick = is_moderate(loss, like)  # whatever the gradient is: a loss and its twin have the same bits
        if is_quick and (not writes or is_moderate(abs(slope), like)):
            result = share = np.float64(loss)
            return result, share, Row(top, ratio(slope, options.one + rest), slope, tail)
        result, share, row = usual_ending(top, raised_rest, y, upstream, like, options, report)
        if is_quick:
            result = share = np.float64(loss)
        return result, share, row

    return usual_ending if is_float64 else plain_ending
