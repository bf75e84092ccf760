"""The same jobs as a careful user of NumPy and SciPy writes them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isqrt
from typing import Any

import numpy as np
from scipy import special

from fastce.profile.jobs import FUNCTIONS, Job, Result
from fastce.profile.measure import Call
from fastce.profile.problem import Array, Problem

NAME = "numpy/scipy"
LARGEST = 1 << 27  # elements that are computed in full; above, a block stands for all of them
BLOCK = 1 << 25


def plain_jobs(problem: Problem, functions: Sequence[str] = FUNCTIONS) -> list[Job]:
    """The jobs in NumPy and SciPy, on the whole matrix or on a block of it (see `Job.problem`)."""
    rows = square = problem
    if problem.logits.size > LARGEST:
        rows = problem.block(max(1, BLOCK // problem.classes))
        square = _square_block(problem, isqrt(BLOCK)) if problem.is_square else problem
    jobs = []
    for function in functions:
        if not function.startswith("clip_loss"):
            jobs += _jobs(rows, function)
        elif problem.is_square:
            jobs += _jobs(square, function)
    return jobs


def cross_entropies(logits: Array, targets: Array, smoothing: float) -> Array:
    """The smoothed loss of each row."""
    log_probs = special.log_softmax(logits, axis=1)
    at_target = log_probs[np.arange(len(targets)), targets]
    if not smoothing:
        return np.asarray(-at_target)
    return np.asarray(-(1 - smoothing) * at_target - smoothing * log_probs.mean(axis=1))


def cross_entropy_value_and_grad(logits: Array, targets: Array, smoothing: float, out: Array) -> tuple[float, Array]:
    """The mean loss, and its gradient in `out`, which may be `logits`."""
    numbers, (rows, classes) = np.arange(len(logits)), logits.shape
    expected = logits[numbers, targets]
    if smoothing:
        expected = (1 - smoothing) * expected + smoothing * logits.mean(axis=1)
    highest = logits.max(axis=1, keepdims=True)
    np.subtract(logits, highest, out=out)
    np.exp(out, out=out)
    total = out.sum(axis=1, keepdims=True)
    losses = (np.log(total) + highest)[:, 0] - expected
    np.divide(out, total * rows, out=out)
    if smoothing:
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


def binary_cross_entropies(logits: Array, labels: Array) -> Array:
    """The loss of each element."""
    return np.asarray(np.maximum(logits, 0) - logits * labels + np.log1p(np.exp(-np.abs(logits))))


def binary_value_and_grad(logits: Array, labels: Array) -> tuple[float, Array]:
    """The mean loss and its gradient."""
    grad = special.expit(logits)
    grad -= labels
    grad /= grad.size
    return float(binary_cross_entropies(logits, labels).mean(dtype=np.float64)), np.asarray(grad)


def nll_value_and_grad(log_probs: Array, targets: Array) -> tuple[float, Array]:
    """The mean loss and its gradient."""
    rows = np.arange(len(log_probs))
    grad = np.zeros_like(log_probs)
    grad[rows, targets] = -1 / len(log_probs)
    return float(-log_probs[rows, targets].mean(dtype=np.float64)), grad


def row_stats(logits: Array, targets: Array) -> tuple[Array, ...]:
    """As `fastce.profile.jobs.STATS`."""
    total = special.logsumexp(logits, axis=1)
    probabilities = special.softmax(logits, axis=1)
    at_target = logits[np.arange(len(logits)), targets][:, None]
    earlier = np.arange(logits.shape[1]) < targets[:, None]
    rank = ((logits > at_target) | ((logits == at_target) & earlier)).sum(axis=1)
    return total, logits.argmax(axis=1), special.entr(probabilities).sum(axis=1), rank


def grad_and_hess(logits: Array, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """Gradient and Hessian diagonal of the loss of each row."""
    grad = special.softmax(logits, axis=1)
    hess = grad * (1 - grad)
    grad -= smoothing / logits.shape[1]
    grad[np.arange(len(logits)), targets] -= 1 - smoothing
    return np.asarray(grad), np.asarray(hess)


_LOSSES: dict[str, Callable[[Problem, Array], Array]] = {  # of each row, or element
    "cross_entropy": lambda problem, x: cross_entropies(x, problem.targets, problem.label_smoothing),
    "nll_loss": lambda problem, x: -x[np.arange(len(x)), problem.targets],
    "binary_cross_entropy_with_logits": lambda problem, x: binary_cross_entropies(x, _at_least_single(problem.labels)),
    "clip_loss": lambda problem, x: clip_losses(x, problem.label_smoothing),
}
_GRADS: dict[str, Callable[[Problem, Array], tuple[float, Array]]] = {
    "nll_loss_value_and_grad": lambda problem, x: nll_value_and_grad(x, problem.targets),
    "binary_cross_entropy_with_logits_value_and_grad": lambda problem, x: binary_value_and_grad(
        x, _at_least_single(problem.labels)
    ),
    "clip_loss_value_and_grad": lambda problem, x: clip_value_and_grad(x, problem.label_smoothing),
}
_OTHERS: dict[str, Callable[[Problem, Array], tuple[Array, ...]]] = {
    "logsumexp": lambda problem, x: (special.logsumexp(x, axis=1),),
    "softmax": lambda problem, x: (special.softmax(x, axis=1),),
    "log_softmax": lambda problem, x: (special.log_softmax(x, axis=1),),
    "row_stats": lambda problem, x: row_stats(x, problem.targets),
    "cross_entropy_grad_and_hess": lambda problem, x: grad_and_hess(x, problem.targets, problem.label_smoothing),
}


def _jobs(problem: Problem, function: str) -> list[Job]:
    if function == "cross_entropy_value_and_grad":
        wide = problem.logits.dtype.itemsize >= 4  # half precision is computed in float32, so nothing stays in place
        places = ("out", "in place") if wide else ("out",)
        return [_cross_entropy_value_and_grad(problem, place) for place in places]
    if function in _LOSSES:
        losses = _on_matrix(_LOSSES[function], problem)
        mean = lambda: float(losses().mean(dtype=np.float64))  # noqa: E731
        return [_job(problem, function, mean, lambda value: Result((losses(),), value))]
    if function in _GRADS:
        return [_job(problem, function, _on_matrix(_GRADS[function], problem), _read_grad, "new array")]
    return [_job(problem, function, _on_matrix(_OTHERS[function], problem), Result)]


def _on_matrix(function: Callable[[Problem, Array], Any], problem: Problem) -> Call:
    """A call on the logits; half precision as float32, as fastce computes it."""
    return lambda: function(problem, _at_least_single(problem.logits))


def _job(
    problem: Problem,
    function: str,
    call: Call,
    read: Callable[[Any], Result],
    place: str = "",
    before: Call | None = None,
) -> Job:
    return Job(NAME, function, call, read, problem, place, before, compiles=False)


def _cross_entropy_value_and_grad(problem: Problem, place: str) -> Job:
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


def _read_grad(result: tuple[float, Array]) -> Result:
    return Result((result[1],), result[0])


def _at_least_single(logits: Array) -> Array:
    """Half precision as float32, as fastce computes it; float32 and float64 as they are."""
    return logits if logits.dtype.itemsize >= 4 else logits.astype(np.float32)


def _square_block(problem: Problem, rows: int) -> Problem:
    block = np.ascontiguousarray(problem.logits[:rows, :rows])
    return replace(problem, logits=block, targets=np.arange(rows), buffers={})
