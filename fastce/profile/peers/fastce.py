"""The jobs in fastce itself."""

from functools import partial
from typing import Any

import fastce
from fastce.profile.jobs import BINARY, STATS, Job
from fastce.profile.problem import Problem
from fastce.profile.work import Work, named

# Positional arguments and options of each function.
CALLS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "logsumexp": (("logits",), ("axis",)),
    "softmax": (("logits",), ("axis",)),
    "log_softmax": (("logits",), ("axis",)),
    "cross_entropy": (("logits", "targets"), ("axis", "weight", "label_smoothing", "reduction")),
    "nll_loss": (("logits", "targets"), ("reduction",)),
    "clip_loss": (("logits",), ("label_smoothing", "reduction")),
    BINARY: (("logits", "targets"), ("pos_weight", "reduction")),
    "row_stats": (("logits", "targets"), ("outputs",)),
}
HESSIAN = (("logits", "targets"), ("axis", "weight", "label_smoothing"))


def has(job: Job) -> bool:
    return True


def prepare(job: Job, problem: Problem) -> Work:
    logits, out = problem.places(job)
    is_hessian = job.function.endswith("hess")
    values = {
        "logits": logits,
        "targets": problem.targets(job),
        "axis": job.axis,
        "weight": problem.weight_of(job),
        "pos_weight": problem.weight_of(job),
        "label_smoothing": job.label_smoothing,
        "reduction": job.reduction,
        "outputs": STATS,
    }
    positional, names = HESSIAN if is_hessian else CALLS[job.loss]
    weight = "pos_weight" if job.loss == BINARY else "weight"
    asked = {weight: job.weighted, "softcap": job.softcap is not None, "axis": job.axis != 1}
    for name, is_asked in asked.items():
        if is_asked and name not in names:
            raise ValueError(f"{job.function} is not measured with {name}, which CALLS of {__name__} has not for it")
    options = {name: values[name] for name in names} | {"n_threads": problem.n_threads}
    if job.place:
        options["out"] = (out, problem.second_out) if is_hessian else out
    call = partial(getattr(fastce, job.function), *(values[name] for name in positional), **options)
    return Work(job, call, partial(_read, job), problem.restore if job.place == "in place" else None)


def _read(job: Job, result: Any) -> dict[str, Any]:
    return named(job, tuple(result.values()) if job.function == "row_stats" else result)
