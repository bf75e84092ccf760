"""The jobs as a careful user of NumPy writes them, and the functions that SciPy has."""

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from scipy import special

from fastce.profile import formulas
from fastce.profile.jobs import BINARY, Job
from fastce.profile.problem import Array, Problem
from fastce.profile.work import Work, named

_WIDE = ("float32", "float64")


def scipy_has(job: Job) -> bool:
    return job.function in ("logsumexp", "softmax", "log_softmax") and job.place != "in place"


def prepare_scipy(job: Job, problem: Problem) -> Work:
    call = partial(getattr(special, job.function), problem.logits, axis=job.axis)
    return Work(_in_new_array(job), call, partial(named, job), compiles=False)


def has(job: Job) -> bool:
    """Half precision is computed in float32, as in fastce, and needs new arrays."""
    return job.targets not in ("sparse", "ignored") and (job.place != "in place" or job.dtype in _WIDE)


def prepare(job: Job, problem: Problem) -> Work:
    logits, out = problem.places(job)

    def call() -> Any:
        if not isinstance(job.axis, int):
            return _over_axes(job, logits.astype(np.float32) if logits.dtype.itemsize < 4 else logits, out)
        x = np.moveaxis(logits, job.axis, -1)
        return _compute(job, problem, x.astype(np.float32) if x.dtype.itemsize < 4 else x, out)

    before = problem.restore if job.place == "in place" else None
    writes_out = job.loss not in ("clip_loss", "nll_loss")
    return Work(job if writes_out else _in_new_array(job), call, partial(named, job), before, compiles=False)


def prepare_either(job: Job, problem: Problem) -> Work:
    """In SciPy what it has, but for half precision."""
    return (prepare_scipy if scipy_has(job) and job.dtype in _WIDE else prepare)(job, problem)


def _in_new_array(job: Job) -> Job:
    return replace(job, place=job.place and "new array")


def _over_axes(job: Job, x: Array, out: Array | None) -> Array:
    """Logsumexp or softmax over several axes."""
    total = formulas.log_sum_exp(np, x, job.axis)
    if out is None:
        return np.asarray(total.squeeze(job.axis))
    room = np.subtract(x, total, out=_room(x, out))
    return _put(np.exp(room, out=room) if job.function == "softmax" else room, out)


def _compute(job: Job, problem: Problem, x: Array, out: Array | None) -> Any:
    """The result of a job, its gradient in `out`."""
    y = problem.targets(job)
    if job.targets == "probabilities":
        y = np.moveaxis(y, job.axis, -1)
    elif job.targets == "binary":
        y = y.astype(x.dtype, copy=False)
    if out is not None:
        out = np.moveaxis(out, job.axis, -1)
    if job.function == "logsumexp":
        return formulas.log_sum_exp(np, x)[..., 0]
    if job.function == "row_stats":
        return formulas.row_stats(np, x, y)
    if job.function in ("softmax", "log_softmax") and out is not None:
        return np.moveaxis(_put(_softmax(job, x, _room(x, out)), out), -1, job.axis)
    if job.function == "cross_entropy_grad_and_hess" and out is not None:
        grad, hess = _grad_and_hess(job, x, y, _room(x, out))
        return tuple(np.moveaxis(part, -1, job.axis) for part in (_put(grad, out), hess))
    divisor, weight = problem.divisor(job), problem.weight_of(job)
    if job.wants_slope:
        losses, grad = losses_and_grad(x, y, weight, job.label_smoothing, divisor, np.empty_like(x))
        grad *= x
        value = losses if job.reduction == "none" else losses.sum(dtype=np.float64) / divisor
        return value, grad.sum(dtype=np.float64)
    if out is None:
        losses = formulas.losses(np, job, x, y, weight)
    elif job.loss == BINARY:
        losses = formulas.losses(np, job, x, y, weight)
        out = _put(_binary_gradient(x, y, weight, _room(x, out)), out)
    elif job.loss == "nll_loss":
        losses, out = formulas.losses(np, job, x, y, weight), _nll_gradient(x, y, divisor)
    elif job.loss == "clip_loss":
        losses, out = clip_losses_and_grad(x, job.label_smoothing)
    else:
        losses, grad = losses_and_grad(x, y, weight, job.label_smoothing, divisor, _room(x, out))
        out = np.moveaxis(_put(grad, out), -1, job.axis)
    result = losses if job.reduction == "none" else losses.sum(dtype=np.float64) / divisor
    return result if out is None else (result, out)


def _room(x: Array, out: Array) -> Array:
    """Where to compute: `out` if its dtype will do."""
    return out if out.dtype == x.dtype else np.empty_like(x)


def _put(values: Array, out: Array) -> Array:
    if values is not out:
        np.copyto(out, values, casting="unsafe")
    return out


def _softmax(job: Job, x: Array, room: Array) -> Array:
    np.subtract(x, formulas.log_sum_exp(np, x), out=room)
    if job.function == "softmax":
        np.exp(room, out=room)
    return room


def losses_and_grad(
    x: Array, y: Array, weight: Array | None, smoothing: float, divisor: float, room: Array
) -> tuple[Array, Array]:
    """The loss of each row and the gradient of their sum over the divisor, from one exp; `room` may be x."""
    classes = x.shape[-1]
    of_classes = np.ones(classes, x.dtype) if weight is None else weight
    if is_dense := y.shape == x.shape:
        masses = (1 - smoothing) * y + smoothing / classes
        mass, expected = masses.sum(-1), (masses * x).sum(-1)
    else:
        masses = (1 - smoothing) * of_classes[y]
        mass, expected = masses + smoothing / classes * of_classes.sum(), masses * formulas.at(np, x, y)
        if smoothing:
            expected += smoothing * x.mean(-1) if weight is None else smoothing / classes * (x @ weight)
    highest = x.max(-1, keepdims=True)
    np.exp(np.subtract(x, highest, out=room), out=room)
    total = room.sum(-1, keepdims=True)
    losses = (np.log(total) + highest)[..., 0] * mass - expected
    room *= mass[..., None] / (total * divisor)
    masses /= divisor
    if is_dense:
        room -= masses
        return losses, room
    if smoothing:
        room -= smoothing / (classes * divisor) * of_classes
    np.put_along_axis(room, y[..., None], (formulas.at(np, room, y) - masses)[..., None], -1)
    return losses, room


def clip_losses_and_grad(x: Array, smoothing: float) -> tuple[Array, Array]:
    """Half the loss of each row and half that of its column, and the gradient of their mean."""
    diagonal = np.arange(len(x))
    sides = (losses_and_grad(side, diagonal, None, smoothing, 2 * len(x), np.empty_like(side)) for side in (x, x.T))
    (of_rows, grad), (of_columns, other) = sides
    grad += other.T
    return (of_rows + of_columns) / 2, grad


def _grad_and_hess(job: Job, x: Array, y: Array, room: Array) -> tuple[Array, Array]:
    """Of the loss of each row."""
    np.exp(np.subtract(x, x.max(-1, keepdims=True), out=room), out=room)
    room /= room.sum(-1, keepdims=True)
    hess = room * (1 - room)
    room -= job.label_smoothing / x.shape[-1]
    np.put_along_axis(room, y[..., None], formulas.at(np, room, y)[..., None] - (1 - job.label_smoothing), -1)
    return room, hess


def _binary_gradient(x: Array, y: Array, weight: Array | None, room: Array) -> Array:
    np.negative(x, out=room)
    np.exp(room, out=room)
    room += 1
    np.reciprocal(room, out=room)
    room -= y
    if weight is not None:
        room *= 1 + (weight - 1) * y  # y is 0 or 1
    room /= x.size
    return room


def _nll_gradient(x: Array, y: Array, divisor: float) -> Array:
    grad = np.zeros_like(x)
    np.put_along_axis(grad, y[:, None], -1 / divisor, 1)
    return grad
