"""The jobs in JAX under `jit`; half precision is computed in float32, as in fastce. Gradients come in new arrays."""

from functools import partial

import numpy as np

from bench import formulas
from bench.jobs import Job
from bench.problem import Problem
from bench.work import Work, named


def has(job: Job) -> bool:
    return job.targets != "sparse" and job.place != "in place"


def prepare(job: Job, problem: Problem) -> Work:
    """JAX cannot be told how many threads to use: it takes all cores."""
    import jax

    jax.config.update("jax_enable_x64", problem.dtype.itemsize == 8)
    function = jax.jit(_differentiated(jax, partial(_compute, jax, job, problem.divisor(job)), job))
    targets, weight = problem.targets(job), problem.weight_of(job)
    if job.targets == "classes":
        targets = targets.astype(np.int32)
    arguments = [None if array is None else jax.numpy.asarray(array) for array in (problem.logits, targets, weight)]

    def call():
        return jax.block_until_ready(function(*arguments))

    def read(result):
        return named(job, jax.tree.map(np.asarray, result))

    return Work(job, call, read)


def _compute(jax, job, divisor, x, y, weight):
    """What the job does to logits, before any gradient."""
    jnp = jax.numpy
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
        probabilities = jax.nn.softmax(x, axis=-1)
        return probabilities - jax.nn.one_hot(y, x.shape[-1], dtype=x.dtype), probabilities * (1 - probabilities)
    if job.loss == "binary_cross_entropy_with_logits":
        return formulas.binary_cross_entropies(jnp, x, y).mean()
    if job.loss == "clip_loss":
        return formulas.clip_losses(jnp, x, job.label_smoothing).mean()
    losses = formulas.cross_entropies(jnp, x, y, weight, job.label_smoothing)
    return losses if job.reduction == "none" else losses.sum() / divisor


def _differentiated(jax, function, job):
    """With the gradient, if the job wants it and does not compute it itself."""
    if not job.function.endswith("value_and_grad"):
        return function

    def sum_and_losses(x, y, weight):
        losses = function(x, y, weight)
        return losses.sum(), losses

    def losses_and_grad(x, y, weight):
        (_, losses), grad = jax.value_and_grad(sum_and_losses, has_aux=True)(x, y, weight)
        return losses, grad

    return losses_and_grad
