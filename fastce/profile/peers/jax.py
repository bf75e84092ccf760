"""The jobs in JAX under `jit`; half precision is computed in float32, as in fastce. Gradients come in new arrays."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from fastce.profile import formulas
from fastce.profile.jobs import Job
from fastce.profile.problem import Problem
from fastce.profile.work import Work, named


def has(job: Job) -> bool:
    return job.targets not in ("sparse", "ignored") and job.place != "in place"


def prepare(job: Job, problem: Problem) -> Work:
    """JAX cannot be told how many threads to use: it takes all cores."""
    jax = import_module("jax")
    jax.config.update("jax_enable_x64", problem.dtype.itemsize == 8)
    function = jax.jit(_differentiated(jax, partial(_compute, jax, job, problem.divisor(job)), job))
    targets, weight = problem.targets(job), problem.weight_of(job)
    if job.targets == "classes":
        targets = targets.astype(np.int32)
    arguments = [None if array is None else jax.numpy.asarray(array) for array in (problem.logits, targets, weight)]
    if job.place:
        job = replace(job, place="new array")

    def call() -> Any:
        return jax.block_until_ready(function(*arguments))

    def read(result: Any) -> dict[str, Any]:
        return named(job, jax.tree.map(np.asarray, result))

    return Work(job, call, read)


def _compute(jax: Any, job: Job, divisor: float, x: Any, y: Any, weight: Any) -> Any:
    """What the job does to logits, before any gradient."""
    jnp, smoothing = jax.numpy, job.label_smoothing
    if not isinstance(job.axis, int):
        over = {"logsumexp": jax.nn.logsumexp, "softmax": jax.nn.softmax, "log_softmax": jax.nn.log_softmax}
        return over[job.function](x.astype(jnp.promote_types(x.dtype, "float32")), axis=job.axis)
    x = jnp.moveaxis(x.astype(jnp.promote_types(x.dtype, "float32")), job.axis, -1)
    if job.targets == "probabilities":
        y = jnp.moveaxis(y, job.axis, -1)
    if job.function in ("softmax", "log_softmax"):
        return jnp.moveaxis(getattr(jax.nn, job.function)(x, axis=-1), -1, job.axis)
    if job.function == "logsumexp":
        return jax.nn.logsumexp(x, axis=-1)
    if job.function == "row_stats":
        return formulas.row_stats(jnp, x, y)
    if job.function == "cross_entropy_grad_and_hess":
        probabilities, classes = jax.nn.softmax(x, axis=-1), x.shape[-1]
        masses = (1 - smoothing) * jax.nn.one_hot(y, classes, dtype=x.dtype) + smoothing / classes
        pair = probabilities - masses, probabilities * (1 - probabilities)
        return tuple(jnp.moveaxis(part, -1, job.axis) for part in pair)
    losses = formulas.losses(jnp, job, x, y, weight)
    return losses if job.reduction == "none" else losses.sum() / divisor


def _differentiated(jax: Any, function: Callable[..., Any], job: Job) -> Callable[..., Any]:
    """With the gradient, if the job wants it and does not compute it itself."""
    if not job.function.endswith("value_and_grad") and not job.wants_slope:
        return function

    def sum_and_losses(x: Any, y: Any, weight: Any) -> Any:
        losses = function(x, y, weight)
        return losses.sum(), losses

    def losses_and_grad(x: Any, y: Any, weight: Any) -> Any:
        (_, losses), grad = jax.value_and_grad(sum_and_losses, has_aux=True)(x, y, weight)
        return losses, grad

    def losses_and_slope(x: Any, y: Any, weight: Any) -> Any:
        x = x.astype(jax.numpy.promote_types(x.dtype, "float32"))
        scaled = jax.value_and_grad(lambda scale: sum_and_losses(scale * x, y, weight), has_aux=True)
        (_, losses), slope = scaled(jax.numpy.ones((), x.dtype))
        return losses, slope

    return losses_and_slope if job.wants_slope else losses_and_grad
