"""The jobs as a careful user of NumPy writes them, and the functions that SciPy has."""

from functools import partial

import numpy as np
from scipy import special

from bench import formulas
from bench.jobs import Job
from bench.problem import Problem
from bench.work import Work, named


def scipy_has(job: Job) -> bool:
    return job.function in ("logsumexp", "softmax", "log_softmax") and job.place != "in place"


def prepare_scipy(job: Job, problem: Problem) -> Work:
    call = partial(getattr(special, job.function), problem.logits, axis=job.axis)
    return Work(job, call, partial(named, job), compiles=False)


def numpy_has(job: Job) -> bool:
    """Half precision is computed in float32, as in fastce, and needs new arrays."""
    return job.targets != "sparse" and (job.place != "in place" or job.dtype in ("float32", "float64"))


def prepare_numpy(job: Job, problem: Problem) -> Work:
    logits, out = problem.places(job)

    def call():
        x = np.moveaxis(logits, job.axis, -1)
        return _compute(job, problem, x.astype(np.float32) if x.dtype.itemsize < 4 else x, out)

    before = problem.restore if job.place == "in place" else None
    return Work(job, call, partial(named, job), before, compiles=False)


def _compute(job, problem, x, out):
    """The result of a job, its gradient in `out`."""
    y = problem.targets(job)
    if job.targets == "probabilities":
        y = np.moveaxis(y, job.axis, -1)
    if out is not None:
        out = np.moveaxis(out, job.axis, -1)
    if job.function in ("softmax", "log_softmax"):
        return _softmax(job, x, _room(x, out), out)
    if job.function == "logsumexp":
        return formulas.log_sum_exp(np, x)[..., 0]
    if job.function == "row_stats":
        return formulas.row_stats(np, x, y)
    if job.loss == "binary_cross_entropy_with_logits":
        value = formulas.binary_cross_entropies(np, x, y).mean()
        return (value, _binary_gradient(x, y, out)) if job.wants_gradient else value
    if job.loss == "clip_loss":
        value = formulas.clip_losses(np, x, job.label_smoothing).mean()
        return (value, _clip_gradient(x, job.label_smoothing)) if job.wants_gradient else value
    divisor, weight = problem.divisor(job), problem.weight_of(job)
    if job.function == "cross_entropy_grad_and_hess":
        probabilities = formulas.softmax(np, x)
        hess = probabilities * (1 - probabilities)
        return _gradient(x, y, weight, job.label_smoothing, 1.0, out), hess
    losses = formulas.cross_entropies(np, x, y, weight, job.label_smoothing)
    result = losses if job.reduction == "none" else losses.sum(dtype=np.float64) / divisor
    if not job.wants_gradient:
        return result
    grad = _gradient(x, y, weight, job.label_smoothing, divisor, _room(x, out))
    return result, np.moveaxis(_put(grad, out), -1, job.axis)


def _room(x, out):
    """Where to compute: `out` if its dtype will do."""
    return out if out.dtype == x.dtype else np.empty_like(x)


def _put(values, out):
    if values is not out:
        np.copyto(out, values, casting="unsafe")
    return out


def _softmax(job, x, room, out):
    np.subtract(x, formulas.log_sum_exp(np, x), out=room)
    if job.function == "softmax":
        np.exp(room, out=room)
    return np.moveaxis(_put(room, out), -1, job.axis)


def _gradient(x, y, weight, smoothing, divisor, room):
    """The gradient of the losses, divided; `room` may be x."""
    classes = x.shape[-1]
    total = formulas.log_sum_exp(np, x)
    if y.shape == x.shape:
        masses = (1 - smoothing) * y + smoothing / classes
        np.exp(np.subtract(x, total, out=room), out=room)
        room *= masses.sum(-1, keepdims=True)
        room -= masses
    else:
        ones = np.ones(classes, x.dtype) if weight is None else weight
        at_target = (1 - smoothing) * ones[y][..., None]
        np.exp(np.subtract(x, total, out=room), out=room)
        room *= at_target + smoothing / classes * ones.sum()
        room -= smoothing / classes * ones
        np.put_along_axis(room, y[..., None], np.take_along_axis(room, y[..., None], -1) - at_target, -1)
    if divisor != 1:
        room /= divisor
    return room


def _binary_gradient(x, y, out):
    np.negative(x, out=out)
    np.exp(out, out=out)
    out += 1
    np.reciprocal(out, out=out)
    out -= y
    out /= x.size
    return out


def _clip_gradient(x, smoothing):
    rows, diagonal = len(x), np.arange(len(x))
    grad = formulas.softmax(np, x)
    grad += formulas.softmax(np, x.T).T
    grad -= 2 * smoothing / rows
    grad[diagonal, diagonal] -= 2 * (1 - smoothing)
    grad /= 2 * rows
    return grad
