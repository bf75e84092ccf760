"""Who is measured on a GPU, and what is called for a job. Packages are imported only when an engine is asked for."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench.cuda.jobs import CudaJob
from fastce.profile.peers.torch import call_of
from fastce.profile.work import Engine, named


@dataclass(frozen=True)
class Work:
    """What is called with the number of a buffer, and how to read what came out."""

    call: Callable[[int], Any]
    read: Callable[[Any, int], dict[str, Any]]
    note: str = ""


@dataclass(frozen=True)
class CudaEngine(Engine):
    """For tensors on a GPU: `prepare` makes this module's `Work`."""

    is_peer: bool = True
    is_compiled: bool = False


def _reader(job: CudaJob, problem: Any, to_tensor: Callable[[Any], Any] = lambda x: x) -> Callable:
    """Reads what was written into the problem's own tensors."""

    def read(result, k):
        if job.function == "softmax":
            return named(job, problem.out[k])
        if job.wants_gradient:
            return named(job, (result[0], problem.out[k]))
        return named(job, to_tensor(result) if job.function == "logsumexp" else result)

    return read


# --- fastce ----------------------------------------------------------------------------------------------------------


def _fastce(job: CudaJob, problem: Any, of: Callable[[Any], Any], to_tensor: Callable[[Any], Any]) -> Work:
    """fastce on arrays that ``of`` makes of tensors, on the same memory."""
    import fastce

    function = getattr(fastce, job.function)
    logits = [of(x) for x in problem.logits]
    out = None if problem.out is None else logits if job.place == "in place" else [of(x) for x in problem.out]
    options: dict[str, Any] = {}
    if job.loss == "cross_entropy":
        options = {"targets": of(problem.targets), "label_smoothing": job.label_smoothing, "softcap": job.softcap}
        options["weight"] = None if problem.weight is None else of(problem.weight)
    elif job.function in ("logsumexp", "softmax"):
        options = {"axis": 1}

    def call(k):
        return function(logits[k], **options) if out is None else function(logits[k], out=out[k], **options)

    return Work(call, _reader(job, problem, to_tensor))


def fastce_of_torch(job: CudaJob, problem: Any) -> Work:
    return _fastce(job, problem, lambda x: x, lambda x: x)


def fastce_of_cupy(job: CudaJob, problem: Any) -> Work:
    import cupy
    import torch

    return _fastce(job, problem, cupy.from_dlpack, torch.from_dlpack)


# --- PyTorch ---------------------------------------------------------------------------------------------------------


def of_torch(job: CudaJob, problem: Any, compiled: bool = False, mode: str | None = None) -> Work:
    """PyTorch; gradients, and probabilities, come in new tensors."""
    targets = problem.targets if job.has_targets else None
    weight = None if problem.weight is None else problem.weight.to(problem.dtype)
    call = call_of(job, targets, weight, compiled, mode)
    return Work(lambda k: call(problem.logits[k]), lambda result, k: named(job, result), "gradient in a new tensor")


# --- kernels of others, and one as others write it --------------------------------------------------------------------


def of_triton(job: CudaJob, problem: Any) -> Work:
    from bench.cuda.triton import cross_entropy

    def call(k):
        out = None if problem.out is None else problem.out[k]
        value = cross_entropy(problem.logits[k], problem.targets, job.label_smoothing, out)
        return (value,) if job.wants_gradient else value

    return Work(call, _reader(job, problem))


def of_liger(job: CudaJob, problem: Any) -> Work:
    """Liger's forward, which leaves the gradient where the logits were."""
    from liger_kernel.transformers.cross_entropy import LigerCrossEntropyLoss

    loss = LigerCrossEntropyLoss(weight=problem.weight, label_smoothing=job.label_smoothing, softcap=job.softcap)

    def call(k):
        return (loss(problem.logits[k].detach().requires_grad_(), problem.targets).detach(),)

    return Work(call, _reader(job, problem), "forward alone, which leaves the gradient in the logits")


def _torch_has(job: CudaJob) -> bool:
    return job.place != "in place"


def _triton_has(job: CudaJob) -> bool:
    is_plain = not job.weighted and job.softcap is None and job.targets == "classes"
    return job.loss == "cross_entropy" and is_plain and job.dtype != "float64"


def _liger_has(job: CudaJob) -> bool:
    return job.loss == "cross_entropy" and job.place == "in place" and job.dtype != "float64"


def _cupy_has(job: CudaJob) -> bool:
    return job.is_key and job.dtype == "float32" and job.place == "out"


AUTOTUNE = "max-autotune-no-cudagraphs"
ENGINES = {
    "fastce": CudaEngine(lambda job: True, fastce_of_torch, "fastce", is_peer=False),
    "fastce, CuPy arrays": CudaEngine(_cupy_has, fastce_of_cupy, "cupy", is_peer=False),
    "torch.compile": CudaEngine(_torch_has, partial(of_torch, compiled=True), "torch", is_compiled=True),
    "torch.compile autotuned": CudaEngine(
        lambda job: _torch_has(job) and job.is_key,
        partial(of_torch, compiled=True, mode=AUTOTUNE),
        "torch",
        is_compiled=True,
    ),
    "torch": CudaEngine(_torch_has, of_torch, "torch"),
    "triton": CudaEngine(_triton_has, of_triton, "triton"),
    "liger": CudaEngine(_liger_has, of_liger, "liger_kernel"),
}
