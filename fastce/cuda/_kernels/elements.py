"""What is done to single elements, chosen when a kernel is compiled."""

import functools
import math

from fastce.cuda._kernels.jobs import (
    CLASS_INDICES,
    CLASS_WEIGHTS,
    CROSS_ENTROPY,
    LOG_SOFTMAX,
    NO_MASS,
    PROBABILITIES,
    SOFTMAX,
    SPREAD,
    Job,
)
from fastce.cuda._kernels.points import mass_at_by, times_class_weight
from fastce.cuda._kernels.primitives import device, load_real, to_real
from fastce.cuda._kernels.states import exp_of, rough_exp_of


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
        return times_class_weight(options.spread, c, like, targets)

    @device
    def of_probability(c, at, targets, like, options):
        mass = options.keep * to_real(like, load_real(targets.probabilities, at)) + options.spread
        return times_class_weight(mass, c, like, targets)

    return {NO_MASS: none, SPREAD: spread, CLASS_WEIGHTS: weighted, PROBABILITIES: of_probability}[job.dense]


@device
def times_exp(y, row, options):
    """The exp of p times all that it is multiplied by, within 1 eps of that; so is a probability in half precision."""
    return row.factor * rough_exp_of(y - row.reference, options)


@functools.cache
def written_by(job: Job):
    """What becomes of an element y of a row in the end, but for what a gradient loses by the masses of its target.

    The gradient is upstream ((sum of q + 2 z lse) p - q) times dx/dlogit; ``row.factor`` holds all that the exp of p is
    multiplied by, ``row.upstream`` what q is.
    """

    @device
    def probability(y, row, options):
        return row.factor * exp_of(y, row.reference, options)

    @device
    def log_probability(y, row, options):
        return (y - row.reference) - row.tail

    return {CROSS_ENTROPY: times_exp, SOFTMAX: probability, LOG_SOFTMAX: log_probability}.get(job.of, probability)


@functools.cache
def slope_by(job: Job):
    """A gradient with respect to capped logits becomes one with respect to logits; logit_scale is in it already."""

    @device
    def of_capped(y, gradient, options):
        share = y / options.softcap
        return gradient * (options.one - share * share)

    @device
    def as_it_is(y, gradient, options):
        return gradient

    return of_capped if job.is_capped else as_it_is


def has_one_point(job: Job) -> bool:
    """Whether one class has all of a row's target, so that `slope_at_target` is its gradient."""
    return job.of == CROSS_ENTROPY and not job.is_hessian and job.points == CLASS_INDICES and job.dense == NO_MASS


@functools.cache
def slope_at_target_by(job: Job):
    """upstream q (p - 1) of a class that has all of the target: -rest / (1 + rest) keeps its digits as p nears 1.

    Without z_loss, with which 2 z lse p comes to it.
    """
    slope_of = slope_by(job)

    @device
    def slope_at_target(y, row, mass, options):
        return slope_of(y, row.upstream * mass * math.expm1((y - row.reference) * options.unit - row.tail), options)

    return slope_at_target


@functools.cache
def hessian_by(job: Job):
    """An element of the Hessian's diagonal; what gradients are multiplied by has another logit_scale in it.

    h = upstream [(sum of q + 2 z lse) p (1 - p) + 2 z p^2]; of the largest element 1 - p = rest / (1 + rest), and all
    others have p <= 1/2. By capped logits y = s t, of which g is the gradient: (1 - t^2)^2 h - 2 / s t (1 - t^2) g.
    """
    mass_of, mass_at, is_capped = mass_by(job), mass_at_by(job), job.is_capped

    @device
    def hessian_of(y, c, at, row, points, targets, like, options):
        e = exp_of(y, row.reference, options)
        slope, p = row.factor * e, e * math.exp(-row.tail)
        value = slope * (options.one - p if y < row.reference else -math.expm1(-row.tail))
        if options.z_loss > 0.0:
            value += (options.z_loss + options.z_loss) * row.upstream * p * p
        if is_capped:
            mass = mass_of(c, at, targets, like, options) + mass_at(c, points, like, targets, options)
            t = y / options.softcap
            slack = options.one - t * t
            value = slack * (slack * value - (t + t) / options.softcap * (slope - row.upstream * mass))
        return value

    return hessian_of


@functools.cache
def value_of_written_by(job: Job):
    """What `written_by` gave for an element y of class c, with all that its class has of the target."""
    slope_of, mass_of, mass_at = slope_by(job), mass_by(job), mass_at_by(job)

    @device
    def as_it_is(value, y, c, at, row, points, targets, like, options):
        return value

    @device
    def gradient(value, y, c, at, row, points, targets, like, options):
        mass = mass_of(c, at, targets, like, options) + mass_at(c, points, like, targets, options)
        return slope_of(y, value - row.upstream * mass, options)

    return gradient if job.of == CROSS_ENTROPY else as_it_is


@functools.cache
def value_by(job: Job):
    """What becomes of one element y of class c in the end, with all that its class has of the target."""
    if job.is_hessian:
        return hessian_by(job)
    written, value_of_written = written_by(job), value_of_written_by(job)

    @device
    def value_of(y, c, at, row, points, targets, like, options):
        return value_of_written(written(y, row, options), y, c, at, row, points, targets, like, options)

    return value_of
