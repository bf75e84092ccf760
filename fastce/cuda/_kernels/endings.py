"""The end of a row: its result, and what its elements need to become a gradient or probabilities."""

import functools
import math
from typing import Any, NamedTuple

import numpy as np

from fastce.cuda._kernels.jobs import CROSS_ENTROPY, FACTOR, Job
from fastce.cuda._kernels.primitives import device, to_real
from fastce.cuda._kernels.states import LOWERED, reference_of


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


@device
def upstream_of_row(i, upstream, report):
    """What the gradient of row i is multiplied by."""
    if upstream.size == 0:
        return report[FACTOR]
    return upstream[i if upstream.size > 1 else 0] * report[FACTOR]


@functools.cache
def ending_by(job: Job):
    """(result, row): the loss or logsumexp in float64, and the `Row`."""
    is_loss, is_written = job.of == CROSS_ENTROPY, job.writes

    @device
    def ending(state, weight, upstream, like, options):
        top, rest, distance, mass = state
        rest *= LOWERED
        tail = rest if rest < LOWERED else np.float64(math.log1p(to_real(like, rest)))  # rest is log1p(rest)
        lse = top if math.isinf(top) else options.unit * top + tail
        result, multiplier = lse, 1.0
        if is_loss:
            result, multiplier = mass * tail + options.unit * distance, mass
            if options.z_loss > 0.0:
                result += options.z_loss * lse * lse
                multiplier += 2.0 * options.z_loss * lse
            result *= weight
            upstream *= weight * options.logit_scale
            multiplier *= upstream
        if math.isinf(top) and (is_loss or is_written):
            result = multiplier = math.nan
            is_below = top > 0.0 and not is_loss  # log_softmax of what stands beside inf is -inf
            tail = 0.0 if is_below else math.nan
        reference = to_real(like, reference_of(top, 0.0))
        factor = to_real(like, multiplier) / (options.one + to_real(like, rest))
        return np.float64(result), Row(reference, factor, to_real(like, upstream), to_real(like, tail))

    return ending
