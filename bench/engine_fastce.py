"""The jobs in fastce."""

from functools import partial

import numpy as np

import fastce
from bench.jobs import STATS, Job
from bench.problem import Problem
from bench.work import Work, named

# Positional arguments and options of each function.
CALLS = {
    "logsumexp": (("logits",), ("axis",)),
    "softmax": (("logits",), ("axis",)),
    "log_softmax": (("logits",), ("axis",)),
    "cross_entropy": (("logits", "targets"), ("axis", "weight", "label_smoothing", "reduction")),
    "clip_loss": (("logits",), ("label_smoothing",)),
    "binary_cross_entropy_with_logits": (("logits", "targets"), ()),
    "row_stats": (("logits", "targets"), ("outputs",)),
}
HESSIAN = (("logits", "targets"), ("axis", "weight", "label_smoothing"))


def has(job: Job) -> bool:
    return True


def prepare(job: Job, problem: Problem) -> Work:
    logits, out = problem.places(job)
    values = {
        "logits": logits,
        "targets": problem.targets(job),
        "axis": job.axis,
        "weight": problem.weight_of(job),
        "label_smoothing": job.label_smoothing,
        "reduction": job.reduction,
        "outputs": STATS,
    }
    positional, named_options = HESSIAN if job.function.endswith("hess") else CALLS[job.loss]
    options = {name: values[name] for name in named_options} | {"n_threads": problem.n_threads}
    if job.place:
        options["out"] = (out, np.empty_like(out)) if job.function.endswith("hess") else out
    call = partial(getattr(fastce, job.function), *(values[name] for name in positional), **options)
    before = problem.restore if job.place == "in place" else None
    return Work(job, call, partial(_read, job), before)


def _read(job, result):
    if job.function == "row_stats":
        return {name: result[name] for name in STATS}
    return named(job, result)
