"""The jobs in PyTorch, eager or through `torch.compile`; gradients come in new arrays."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from fastce.profile.jobs import BINARY, Job
from fastce.profile.problem import Array, Problem
from fastce.profile.work import Work, named


def has(job: Job) -> bool:
    return job.targets != "sparse" and job.place != "in place" and not job.function.endswith("hess")


def prepare(job: Job, problem: Problem, compiled: bool = False) -> Work:
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    targets = np.arange(problem.rows) if job.targets == "pairs" else problem.targets(job)
    arrays = (problem.logits, targets, problem.weight_of(job))
    logits, targets, weight = (None if array is None else _tensor(torch, array) for array in arrays)
    call = partial(call_of(job, targets, weight, compiled), logits)
    if job.place:
        job = replace(job, place="new array")

    def read(result: Any) -> dict[str, Any]:
        if isinstance(result, tuple):
            return named(job, tuple(_array(torch, part, problem.dtype) for part in result))
        return named(job, _array(torch, result, problem.dtype))

    return Work(job, call, read)


def call_of(
    job: Job, targets: Any, weight: Any, compiled: bool = False, mode: str | None = None
) -> Callable[[Any], Any]:
    """What is called with a tensor of logits: the job, and its gradient if it wants one."""
    torch = import_module("torch")
    function = _function(torch, job, targets, weight)
    if compiled:
        torch.compiler.reset()
        function = torch.compile(function, dynamic=False, mode=mode)

    def forward(logits: Any) -> Any:
        with torch.no_grad():
            return function(logits)

    def value_and_grad(logits: Any) -> Any:
        x = logits.detach().requires_grad_()
        losses = function(x)
        losses.backward(None if losses.ndim == 0 else torch.ones_like(losses))
        return losses.detach(), x.grad

    def value_and_slope(logits: Any) -> Any:
        scale = torch.ones((), dtype=torch.float64 if logits.dtype == torch.float64 else None, requires_grad=True)
        losses = function(scale * logits)
        losses.backward(None if losses.ndim == 0 else torch.ones_like(losses))
        return losses.detach(), scale.grad

    return value_and_slope if job.wants_slope else value_and_grad if job.wants_gradient else forward


def _function(torch: Any, job: Job, y: Any, weight: Any) -> Callable[[Any], Any]:
    """What the job does to a tensor of logits, before any gradient."""
    losses = torch.nn.functional
    if job.function in ("softmax", "log_softmax") and not isinstance(job.axis, int):
        return lambda x: _over_axes(torch, job, x)
    if job.function in ("logsumexp", "softmax", "log_softmax"):
        return partial(getattr(torch, job.function), dim=job.axis)
    if job.function == "row_stats":
        return lambda x: _row_stats(torch, x, y)
    if job.loss == BINARY:
        return lambda x: losses.binary_cross_entropy_with_logits(x, y, pos_weight=weight, reduction=job.reduction)
    if job.loss == "nll_loss":
        return lambda x: losses.nll_loss(x, y, reduction=job.reduction)
    smooth = partial(losses.cross_entropy, weight=weight, label_smoothing=job.label_smoothing, reduction=job.reduction)
    if job.loss == "clip_loss":
        return lambda x: (smooth(x, y) + smooth(x.T, y)) / 2
    cap = job.softcap
    return lambda x: smooth(torch.movedim(x if cap is None else cap * torch.tanh(x / cap), job.axis, 1), y)


def _over_axes(torch: Any, job: Job, x: Any) -> Any:
    """Softmax over several axes, which PyTorch has for one."""
    log_probs = x - torch.logsumexp(x, dim=job.axis, keepdim=True)
    return log_probs.exp() if job.function == "softmax" else log_probs


def _row_stats(torch: Any, x: Any, y: Any) -> tuple[Any, ...]:
    total = torch.logsumexp(x, dim=1)
    log_probs = x - total[:, None]
    at_target = x.gather(1, y[:, None])
    entropy = -(log_probs.exp() * log_probs).sum(1)
    return total, x.argmax(1), entropy, at_target[:, 0] - total, (x > at_target).sum(1)


def _tensor(torch: Any, array: Array) -> Any:
    """A tensor on the same memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _array(torch: Any, tensor: Any, dtype: np.dtype[Any]) -> Array:
    """The memory of a tensor as an array."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
        return np.asarray(tensor.numpy()).view(dtype)
    return np.asarray(tensor.numpy())
