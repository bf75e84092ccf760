"""The jobs of fastce itself."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

import fastce
from fastce.profile.jobs import FUNCTIONS, LOSSES, STATS, Job, Result
from fastce.profile.problem import Array, Problem


def fastce_jobs(problem: Problem, functions: Sequence[str] = FUNCTIONS) -> list[Job]:
    """The functions that fit this problem; cross entropy's gradient both in `out` and in place."""
    jobs = []
    for function in functions:
        loss = function.removesuffix("_value_and_grad")
        if function.startswith("clip_loss") and not problem.is_square:
            continue
        if loss not in LOSSES:
            jobs.append(_ALONE[function](problem))
        elif loss == function:
            jobs.append(_value(problem, loss))
        else:
            places = ("out", "in place") if loss == "cross_entropy" else ("out",)
            jobs += [_value_and_grad(problem, loss, place) for place in places]
    return jobs


def _arguments(problem: Problem, loss: str) -> dict[str, Any]:
    """What a loss takes besides the matrix."""
    options: dict[str, Any] = {"n_threads": problem.n_threads}
    if loss in ("cross_entropy", "clip_loss"):
        options["label_smoothing"] = problem.label_smoothing
    if loss != "clip_loss":
        options["targets"] = problem.labels if loss.startswith("binary") else problem.targets
    return options


def _value(problem: Problem, loss: str) -> Job:
    call = partial(getattr(fastce, loss), problem.logits, **_arguments(problem, loss))

    def read(value: float) -> Result:
        return Result((call(reduction="none"),), float(value))

    return Job("fastce", loss, call, read, problem)


def _value_and_grad(problem: Problem, loss: str, place: str) -> Job:
    function, in_place = f"{loss}_value_and_grad", place == "in place"
    matrix, out = (problem.work, problem.work) if in_place else (problem.logits, problem.out)
    call = partial(getattr(fastce, function), matrix, out=out, **_arguments(problem, loss))

    def read(result: Any) -> Result:
        return Result((result.grad,), float(result.value))

    return Job("fastce", function, call, read, problem, place, before=problem.restore if in_place else None)


def _along_rows(problem: Problem, function: str) -> Job:
    out = {} if function == "logsumexp" else {"out": problem.out}
    call = partial(getattr(fastce, function), problem.logits, axis=1, n_threads=problem.n_threads, **out)
    return Job("fastce", function, call, lambda rows: Result((rows,)), problem, "out" if out else "")


def _row_stats(problem: Problem) -> Job:
    call = partial(fastce.row_stats, problem.logits, problem.targets, outputs=STATS, n_threads=problem.n_threads)
    return Job("fastce", "row_stats", call, lambda stats: Result(tuple(stats.values())), problem)


def _grad_and_hess(problem: Problem) -> Job:
    options = _arguments(problem, "cross_entropy")
    call = partial(fastce.cross_entropy_grad_and_hess, problem.logits, out=(problem.out, problem.second_out), **options)

    def read(result: tuple[Array, Array]) -> Result:
        return Result((np.asarray(result[0]), np.asarray(result[1])))

    return Job("fastce", "cross_entropy_grad_and_hess", call, read, problem, "out")


_ALONE: dict[str, Callable[[Problem], Job]] = {
    "logsumexp": partial(_along_rows, function="logsumexp"),
    "softmax": partial(_along_rows, function="softmax"),
    "log_softmax": partial(_along_rows, function="log_softmax"),
    "row_stats": _row_stats,
    "cross_entropy_grad_and_hess": _grad_and_hess,
}
