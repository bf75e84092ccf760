"""What is done to single elements, chosen when a kernel is compiled."""

import functools
import math

from fastce.cuda.jobs import (
    CLASS_WEIGHTS,
    CROSS_ENTROPY,
    LOG_SOFTMAX,
    NO_MASS,
    PROBABILITIES,
    SOFTMAX,
    SPREAD,
    Job,
)
from fastce.cuda.primitives import device, load_real, to_real
from fastce.cuda.states import exp_of, rough_exp_of


@functools.cache
def shown_by(job: Job):
    """y of a logit: itself, or softcap * tanh(scaled logit / softcap)."""

    @device
    def capped(logit, options):
        return options.softcap * math.tanh(logit * (options.logit_scale / options.softcap))

    @device
    def as_it_is(logit, options):
        return logit

    return capped if job.is_capped else as_it_is


@functools.cache
def element_by(job: Job):
    """y of an element of an array."""
    shown = shown_by(job)

    @device
    def element(source, k, options):
        return shown(load_real(source, k), options)

    return element


@functools.cache
def mass_by(job: Job):
    """The mass that every class has of a target, beside those that are points of it: q = (keep t + spread) w.

    ``at`` is where a class's probability is.
    """

    @device
    def none(c, at, targets, like, options):
        return options.zero

    @device
    def spread(c, at, targets, like, options):
        return options.spread

    @device
    def weighted(c, at, targets, like, options):
        return options.spread * to_real(like, load_real(targets.class_weight, c))

    @device
    def of_probability(c, at, targets, like, options):
        mass = options.keep * to_real(like, load_real(targets.probabilities, at)) + options.spread
        if targets.class_weight.size > 0:
            mass *= to_real(like, load_real(targets.class_weight, c))
        return mass

    return {NO_MASS: none, SPREAD: spread, CLASS_WEIGHTS: weighted, PROBABILITIES: of_probability}[job.dense]


@functools.cache
def written_by(job: Job):
    """What becomes of an element y of a row in the end; ``mass`` is all that its class has of the target.

    The gradient is upstream ((sum of q + 2 z lse) p - q) times dx/dlogit; ``factor`` holds what p's exp is multiplied
    by.
    """

    is_capped = job.is_capped

    @device
    def gradient(y, mass, row, options):
        slope = options.logit_scale
        if is_capped:
            share = y / options.softcap
            slope *= options.one - share * share
        return (row.factor * rough_exp_of(y - row.reference, options) - row.upstream * mass) * slope

    @device
    def probability(y, mass, row, options):
        return row.factor * exp_of(y - row.reference, options)

    @device
    def log_probability(y, mass, row, options):
        return (y - row.reference) - row.tail

    return {CROSS_ENTROPY: gradient, SOFTMAX: probability, LOG_SOFTMAX: log_probability}.get(job.of, probability)
