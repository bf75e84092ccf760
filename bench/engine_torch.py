"""The jobs in PyTorch, eager or through `torch.compile`; gradients come in new arrays."""

from functools import partial

import numpy as np

from bench.jobs import Job
from bench.problem import Problem
from bench.work import Work, named


def has(job: Job) -> bool:
    return job.targets != "sparse" and job.place != "in place" and not job.function.endswith("hess")


def prepare(job: Job, problem: Problem, compiled: bool = False) -> Work:
    import torch

    torch.set_num_threads(problem.n_threads)
    function = _function(torch, job, problem)
    if compiled:
        torch.compiler.reset()
        function = torch.compile(function, dynamic=False)
    logits = _tensor(torch, problem.logits)

    def forward():
        with torch.no_grad():
            return function(logits)

    def value_and_grad():
        x = logits.detach().requires_grad_()
        losses = function(x)
        losses.backward(None if losses.ndim == 0 else torch.ones_like(losses))
        return losses, x.grad

    def read(result):
        if isinstance(result, tuple):
            return named(job, tuple(_array(torch, part, problem.dtype) for part in result))
        return named(job, _array(torch, result, problem.dtype))

    return Work(job, value_and_grad if job.wants_gradient else forward, read)


def _function(torch, job, problem):
    """What the job does to a tensor of logits, before any gradient."""
    losses = torch.nn.functional
    targets = problem.targets(job)
    y = None if targets is None else _tensor(torch, targets)
    if job.function == "logsumexp":
        return partial(torch.logsumexp, dim=job.axis)
    if job.function in ("softmax", "log_softmax"):
        return partial(getattr(torch, job.function), dim=job.axis)
    if job.function == "row_stats":
        return lambda x: _row_stats(torch, x, y)
    if job.loss == "binary_cross_entropy_with_logits":
        return lambda x: losses.binary_cross_entropy_with_logits(x, y)
    weight = problem.weight_of(job)
    options = {
        "weight": None if weight is None else torch.from_numpy(weight),
        "label_smoothing": job.label_smoothing,
        "reduction": job.reduction,
    }
    if job.loss == "clip_loss":
        diagonal = torch.arange(len(problem.logits))
        smooth = partial(losses.cross_entropy, target=diagonal, **options)
        return lambda x: (smooth(x) + smooth(x.T)) / 2
    return lambda x: losses.cross_entropy(torch.movedim(x, job.axis, 1), y, **options)


def _row_stats(torch, x, y):
    total = torch.logsumexp(x, dim=1)
    log_probs = x - total[:, None]
    at_target = x.gather(1, y[:, None])
    entropy = -(log_probs.exp() * log_probs).sum(1)
    return total, x.argmax(1), entropy, at_target[:, 0] - total, (x > at_target).sum(1)


def _tensor(torch, array):
    """A tensor on the same memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(torch, tensor, dtype):
    """The memory of a tensor as an array."""
    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(dtype)
    return tensor.numpy()
