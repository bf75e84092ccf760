"""The jobs that scikit-learn's multinomial loss can do: losses of rows, without smoothing, float32 and float64 only."""

from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

from fastce.profile.jobs import Job
from fastce.profile.problem import Array, Problem
from fastce.profile.work import Work


def has(job: Job) -> bool:
    is_matrix = len(job.shape) == 2 and job.axis == 1 and job.dtype in ("float32", "float64")
    is_known = job.loss == "cross_entropy" and not job.wants_slope
    return is_known and job.targets == "classes" and is_matrix and job.place != "in place"


def prepare(job: Job, problem: Problem) -> Work:
    loss = import_module("sklearn._loss").HalfMultinomialLoss(n_classes=problem.classes)
    weight = problem.weight_of(job)
    options = {
        "y_true": problem.labels.astype(problem.dtype),
        "raw_prediction": problem.logits,
        "sample_weight": None if weight is None else weight[problem.labels],
        "n_threads": problem.n_threads,
    }
    exact = replace(job, label_smoothing=0.0)
    note = "no label smoothing" if job.label_smoothing else ""
    functions = {
        "cross_entropy": (partial(loss.loss, **options), lambda rows: _of_rows(exact, problem, rows)),
        "cross_entropy_value_and_grad": (
            partial(loss.loss_gradient, gradient_out=problem.out, **options),
            lambda result: _of_rows(exact, problem, result[0]) | {"grad": result[1]},
        ),
        "cross_entropy_grad_and_hess": (
            partial(loss.gradient_hessian, gradient_out=problem.out, hessian_out=problem.second_out, **options),
            lambda result: {"grad": result[0], "hess": result[1]},
        ),
    }
    call, read = functions[job.function]
    return Work(exact, call, read, compiles=False, gradient_of_sum=True, note=note)


def _of_rows(job: Job, problem: Problem, rows: Array) -> dict[str, Any]:
    return {"rows": rows} if job.reduction == "none" else {"value": rows.sum(dtype=float) / problem.divisor(job)}
