"""The same jobs as a careful user of NumPy and SciPy writes them."""

from collections.abc import Callable
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
from scipy import special

from fastce.profile.jobs import Job, Result
from fastce.profile.measure import Call
from fastce.profile.problem import Array, Problem

NAME = "numpy/scipy"
LARGEST = 1 << 27  # elements that are computed in full; above, a block stands for all of them
BLOCK = 1 << 25


def plain_jobs(problem: Problem) -> list[Job]:
    """The jobs in NumPy and SciPy, on the whole matrix or on a block of it (see `Job.problem`)."""
    is_large = problem.logits.size > LARGEST
    rows = problem.block(max(1, BLOCK // problem.classes)) if is_large else problem
    jobs = [_logsumexp(rows), _cross_entropy(rows), _value_and_grad(rows, "out")]
    if rows.logits.dtype.itemsize >= 4:  # half precision is computed in float32, so nothing stays in place
        jobs.append(_value_and_grad(rows, "in place"))
    if problem.is_square:
        square = _square_block(problem, isqrt(BLOCK)) if is_large else problem
        jobs += [_clip_loss(square), _clip_loss_value_and_grad(square)]
    return jobs


def cross_entropies(logits: Array, targets: Array, smoothing: float) -> Array:
    """The smoothed loss of each row."""
    log_probs = special.log_softmax(logits, axis=1)
    at_target = log_probs[np.arange(len(targets)), targets]
    return np.asarray(-(1 - smoothing) * at_target - smoothing * log_probs.mean(axis=1))


def cross_entropy_value_and_grad(logits: Array, targets: Array, smoothing: float, out: Array) -> tuple[float, Array]:
    """The mean loss, and its gradient in `out`, which may be `logits`."""
    numbers, (rows, classes) = np.arange(len(logits)), logits.shape
    at_target, mean = logits[numbers, targets], logits.mean(axis=1)
    highest = logits.max(axis=1, keepdims=True)
    np.subtract(logits, highest, out=out)
    np.exp(out, out=out)
    total = out.sum(axis=1, keepdims=True)
    losses = (np.log(total) + highest)[:, 0] - (1 - smoothing) * at_target - smoothing * mean
    np.divide(out, total * rows, out=out)
    np.subtract(out, smoothing / (classes * rows), out=out)
    out[numbers, targets] -= (1 - smoothing) / rows
    return float(losses.mean(dtype=np.float64)), out


def clip_losses(similarity: Array, smoothing: float) -> Array:
    """Half the loss of each row and half that of its column."""
    diagonal = np.arange(len(similarity))
    by_row = cross_entropies(similarity, diagonal, smoothing)
    return np.asarray((by_row + cross_entropies(similarity.T, diagonal, smoothing)) / 2)


def clip_value_and_grad(similarity: Array, smoothing: float) -> tuple[float, Array]:
    """The mean loss and its gradient."""
    rows, diagonal = len(similarity), np.arange(len(similarity))
    grad = special.softmax(similarity, axis=1)
    grad += special.softmax(similarity, axis=0)
    grad -= 2 * smoothing / rows
    grad[diagonal, diagonal] -= 2 * (1 - smoothing)
    grad /= 2 * rows
    return float(clip_losses(similarity, smoothing).mean(dtype=np.float64)), np.asarray(grad)


def _job(
    problem: Problem,
    function: str,
    call: Call,
    read: Callable[[Any], Result],
    place: str = "",
    before: Call | None = None,
) -> Job:
    return Job(NAME, function, call, read, problem, place, before, compiles=False)


def _logsumexp(problem: Problem) -> Job:
    def call() -> Array:
        return np.asarray(special.logsumexp(_at_least_single(problem.logits), axis=1))

    return _job(problem, "logsumexp", call, lambda losses: Result(losses=losses))


def _cross_entropy(problem: Problem) -> Job:
    def losses() -> Array:
        return cross_entropies(_at_least_single(problem.logits), problem.targets, problem.label_smoothing)

    return _job(
        problem,
        "cross_entropy",
        lambda: float(losses().mean(dtype=np.float64)),
        lambda value: Result(losses=losses(), value=value),
    )


def _value_and_grad(problem: Problem, place: str) -> Job:
    in_place = place == "in place"
    logits, out = (problem.work, problem.work) if in_place else (problem.logits, problem.out)

    def call() -> tuple[float, Array]:
        matrix = _at_least_single(logits)
        room = matrix if matrix is not logits else out
        value, grad = cross_entropy_value_and_grad(matrix, problem.targets, problem.label_smoothing, room)
        if grad is not out:
            np.copyto(out, grad, casting="unsafe")
        return value, out

    before = problem.restore if in_place else None
    return _job(problem, "cross_entropy_value_and_grad", call, _read_grad, place, before)


def _clip_loss(problem: Problem) -> Job:
    def losses() -> Array:
        return clip_losses(_at_least_single(problem.logits), problem.label_smoothing)

    return _job(
        problem,
        "clip_loss",
        lambda: float(losses().mean(dtype=np.float64)),
        lambda value: Result(losses=losses(), value=value),
    )


def _clip_loss_value_and_grad(problem: Problem) -> Job:
    def call() -> tuple[float, Array]:
        return clip_value_and_grad(_at_least_single(problem.logits), problem.label_smoothing)

    return _job(problem, "clip_loss_value_and_grad", call, _read_grad, "new array")


def _read_grad(result: tuple[float, Array]) -> Result:
    return Result(value=result[0], grad=result[1])


def _at_least_single(logits: Array) -> Array:
    """Half precision as float32, as fastce computes it; float32 and float64 as they are."""
    return logits if logits.dtype.itemsize >= 4 else logits.astype(np.float32)


def _square_block(problem: Problem, rows: int) -> Problem:
    block = np.ascontiguousarray(problem.logits[:rows, :rows])
    return replace(problem, logits=block, targets=np.arange(rows), buffers={})
