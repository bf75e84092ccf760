"""What the results of a job should be: the formulas of the contract in float64, a block at a time.

Numbers of rows are checked in all rows, results of the shape of the logits in a sample of them.
"""

from dataclasses import replace

import numpy as np

from bench import formulas
from bench.jobs import STATS, Job
from bench.problem import Problem

SAMPLED = 1 << 21  # elements of the logits' shape that are checked
BLOCK = 1 << 17
LARGEST_ERROR = {  # of a result that is right: absolute, of gradients before the division by the number of rows
    "float64": 1e-9,
    "float32": 2e-3,
    "float16": 5e-2,
    "bfloat16": 4e-1,
}


class WrongResultError(Exception):
    """A result is not what it should be."""


def check(job: Job, problem: Problem, found: dict, gradient_of_sum: bool = False) -> dict[str, float]:
    """The largest error of each part of a result; raises `WrongResultError` where one is too large."""
    sample, expected = _sampled(job, problem)
    errors = {}
    for name, values in found.items():
        if name in expected:
            values = _rows_last(np.asarray(values), job.axis)[sample].astype(np.float64)
            if name == "grad" and not gradient_of_sum:
                values *= problem.divisor(job)
            should_be = expected[name]
        else:
            values, should_be = np.asarray(values, np.float64).ravel(), _in_all_rows(job, problem)[name]
        errors[name] = float(np.abs(values.reshape(np.shape(should_be)) - should_be).max())
        if not errors[name] <= LARGEST_ERROR[problem.dtype.name]:
            raise WrongResultError(f"{name} of {job.name} is off by {errors[name]:.3g}")
    return errors


def _remembered(compute):
    """What jobs that differ only in where they write have in common is computed once for a problem."""

    def remembering(job, problem):
        key = compute.__name__, replace(job, function=job.loss, place="")
        if key not in problem.remembered:
            problem.remembered[key] = compute(key[1], problem)
        return problem.remembered[key]

    return remembering


@_remembered
def _in_all_rows(job: Job, problem: Problem) -> dict:
    """The numbers of rows, and the value."""
    if job.loss == "clip_loss":
        losses = (_side(job, problem, 1)[1] + _side(job, problem, 0)[1]) / 2
        return {"rows": losses, "value": losses.mean()}
    if job.loss == "binary_cross_entropy_with_logits":
        losses = [formulas.binary_cross_entropies(np, x, y).mean() for x, y in _blocks(job, problem)]
        return {"value": np.mean(losses)}
    if job.loss == "row_stats":
        columns = zip(*(formulas.row_stats(np, x, y) for x, y in _blocks(job, problem)), strict=True)
        return {name: np.concatenate(column) for name, column in zip(STATS, columns, strict=True)}
    if job.loss == "logsumexp":
        return {"rows": np.concatenate([formulas.log_sum_exp(np, x)[:, 0] for x, _ in _blocks(job, problem)])}
    losses = np.concatenate([_losses(x, _masses(y, job, problem)) for x, y in _blocks(job, problem)])
    return {"rows": losses, "value": losses.sum() / problem.divisor(job)}


@_remembered
def _sampled(job: Job, problem: Problem):
    """Which places of the rows' first axis are looked at, and what lies there in results of the logits' shape."""
    rows = _rows_last(problem.logits, job.axis)
    count = min(len(rows), max(1, SAMPLED // rows[0].size))
    sample = np.linspace(0, len(rows) - 1, count).astype(int)
    x, y = _block(job, problem, sample)
    expected = {}
    if job.loss in ("softmax", "log_softmax"):
        expected = {job.loss: getattr(formulas, job.loss)(np, x)}
    elif job.loss == "binary_cross_entropy_with_logits":
        expected = {"grad": 1 / (1 + np.exp(-x)) - y}
    elif job.loss == "clip_loss":
        half = _probabilities_less_masses(x, _masses(sample, job, problem))
        other = np.exp(x - _side(job, problem, 0)[0]) - _masses(sample, job, problem)
        expected = {"grad": (half + other) / 2}
    elif job.loss == "cross_entropy":
        probabilities = formulas.softmax(np, x)
        expected = {
            "grad": _probabilities_less_masses(x, _masses(y, job, problem)),
            "hess": probabilities * (1 - probabilities),
        }
    shape = rows[sample].shape
    return sample, {name: values.reshape(shape) for name, values in expected.items()}


def _side(job: Job, problem: Problem, axis: int):
    """The log-sum-exps and the losses of the rows of a similarity matrix, or of its columns (axis 0)."""
    key = "side", job.label_smoothing, axis
    if key not in problem.remembered:
        job = replace(job, axis=axis)
        totals, losses = [], []
        for x, y in _blocks(job, problem):
            totals.append(formulas.log_sum_exp(np, x)[:, 0])
            losses.append(_losses(x, _masses(y, job, problem)))
        problem.remembered[key] = np.concatenate(totals), np.concatenate(losses)
    return problem.remembered[key]


def _losses(x, masses):
    return -(masses * formulas.log_softmax(np, x)).sum(-1)


def _probabilities_less_masses(x, masses):
    return formulas.softmax(np, x) * masses.sum(-1, keepdims=True) - masses


def _masses(y, job: Job, problem: Problem):
    """What each class of a row counts: smoothed targets times class weights."""
    classes = problem.classes
    if y.ndim == 1:
        hard, y = y, np.zeros((len(y), classes))
        y[np.arange(len(hard)), hard] = 1
    masses = (1 - job.label_smoothing) * y + job.label_smoothing / classes
    return masses * problem.weight.astype(np.float64) if job.weighted else masses


def _rows_last(array, axis):
    return np.moveaxis(array, axis, -1)


def _blocks(job: Job, problem: Problem):
    """Logits in float64 and targets of all rows, as matrices of some rows at a time."""
    rows = _rows_last(problem.logits, job.axis)
    step = max(1, BLOCK // rows[0].size)
    for start in range(0, len(rows), step):
        yield _block(job, problem, np.arange(start, min(start + step, len(rows))))


def _block(job: Job, problem: Problem, where):
    """Logits and targets at some places of the rows' first axis."""
    x = _rows_last(problem.logits, job.axis)[where].astype(np.float64).reshape(-1, problem.classes)
    if job.targets == "pairs":
        return x, where
    if job.targets == "sparse":
        return x, problem.sparse[where].toarray()
    if job.targets == "classes":
        return x, problem.labels[where].ravel()
    return x, _rows_last(problem.targets(job), job.axis)[where].astype(np.float64).reshape(x.shape)
