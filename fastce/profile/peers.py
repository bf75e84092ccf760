"""The same jobs in other libraries, where they are installed."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastce.profile.jobs import Job, Result
from fastce.profile.plain import plain_jobs
from fastce.profile.problem import Array, Problem

PEERS = ("scipy", "torch", "jax", "sklearn")
_INSTALL = {"scipy": "scipy", "torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}


def is_installed(peer: str) -> bool:
    """Whether a peer can be imported; nothing is imported to find out."""
    return find_spec(peer) is not None


def how_to_install(peer: str) -> str:
    """One line for a peer that is asked for and not there."""
    return f"{peer} is not installed and left out: pip install {_INSTALL[peer]}"


def peer_jobs(peer: str, problem: Problem) -> list[Job]:
    """The jobs of one of `PEERS`, which must be installed.

    ``"torch"`` gives the eager and the compiled functions, as two engines.
    """
    makers: dict[str, Callable[[Problem], list[Job]]] = {
        "scipy": plain_jobs,
        "torch": lambda problem: torch_jobs(problem) + torch_jobs(problem, compiled=True),
        "jax": jax_jobs,
        "sklearn": sklearn_jobs,
    }
    return makers[peer](problem)


def torch_jobs(problem: Problem, compiled: bool = False) -> list[Job]:
    """PyTorch, eager or through `torch.compile`."""
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    dtype = problem.logits.dtype
    logits, targets = _torch_tensor(torch, problem.logits), torch.from_numpy(problem.targets)
    diagonal = torch.arange(problem.rows)
    smooth = partial(torch.nn.functional.cross_entropy, label_smoothing=problem.label_smoothing)

    def logsumexp(x: Any) -> Any:
        return torch.logsumexp(x, dim=1)

    def cross_entropy(x: Any) -> Any:
        return smooth(x, targets)

    def clip_loss(x: Any) -> Any:
        return (smooth(x, diagonal) + smooth(x.T, diagonal)) / 2

    def forward(function: Callable[[Any], Any]) -> Any:
        with torch.no_grad():
            return function(logits)

    def value_and_grad(function: Callable[[Any], Any]) -> Any:
        x = logits.detach().requires_grad_()
        value = function(x)
        value.backward()
        return value, x.grad

    def read_grad(result: Any) -> Result:
        return Result(value=float(result[0].detach()), grad=_numpy_array(torch, result[1], dtype))

    engine = "torch.compile" if compiled else "torch"
    if compiled:
        torch.compiler.reset()
    prepare: Any = partial(torch.compile, dynamic=False) if compiled else lambda function: function
    losses = {"cross_entropy": prepare(cross_entropy)}
    if problem.is_square:
        losses["clip_loss"] = prepare(clip_loss)
    read_rows = lambda rows: Result(losses=_numpy_array(torch, rows, dtype))  # noqa: E731
    jobs = [Job(engine, "logsumexp", partial(forward, prepare(logsumexp)), read_rows, problem)]
    for name, loss in losses.items():
        read_value = lambda value: Result(value=float(value))  # noqa: E731
        jobs.append(Job(engine, name, partial(forward, loss), read_value, problem))
        gradient = partial(value_and_grad, loss)
        jobs.append(Job(engine, f"{name}_value_and_grad", gradient, read_grad, problem, "new array"))
    return jobs


def jax_jobs(problem: Problem) -> list[Job]:
    """JAX under `jit`; half precision is computed in float32, as in fastce."""
    jax = import_module("jax")
    jnp, e = jax.numpy, problem.label_smoothing
    if problem.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    logits, targets = jnp.asarray(problem.logits), jnp.asarray(problem.targets, dtype="int32")
    wide = jnp.promote_types(logits.dtype, "float32")

    def cross_entropies(x: Any, y: Any) -> Any:
        at_target = jnp.take_along_axis(x, y[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(x, axis=1) - (1 - e) * at_target - e * x.mean(axis=1)

    def logsumexp(x: Any) -> Any:
        return jax.nn.logsumexp(x.astype(wide), axis=1)

    def cross_entropy(x: Any) -> Any:
        return cross_entropies(x.astype(wide), targets).mean()

    def clip_loss(x: Any) -> Any:
        x, diagonal = x.astype(wide), jnp.arange(problem.rows)
        return (cross_entropies(x, diagonal).mean() + cross_entropies(x.T, diagonal).mean()) / 2

    def run(function: Callable[[Any], Any]) -> Any:
        return jax.block_until_ready(function(logits))

    def read_grad(result: Any) -> Result:
        return Result(value=float(result[0]), grad=np.asarray(result[1]))

    read_rows = lambda rows: Result(losses=np.asarray(rows))  # noqa: E731
    jobs = [Job("jax", "logsumexp", partial(run, jax.jit(logsumexp)), read_rows, problem)]
    for function in [cross_entropy, clip_loss] if problem.is_square else [cross_entropy]:
        name = function.__name__
        read_value = lambda value: Result(value=float(value))  # noqa: E731
        jobs.append(Job("jax", name, partial(run, jax.jit(function)), read_value, problem))
        gradient = partial(run, jax.jit(jax.value_and_grad(function)))
        jobs.append(Job("jax", f"{name}_value_and_grad", gradient, read_grad, problem, "new array"))
    return jobs


def sklearn_jobs(problem: Problem) -> list[Job]:
    """scikit-learn's multinomial loss: cross entropy without smoothing, float32 and float64 only."""
    if problem.dtype not in ("float32", "float64"):
        return []
    losses = import_module("sklearn._loss").HalfMultinomialLoss(n_classes=problem.classes)
    exact = problem.without_smoothing()
    options = {
        "y_true": problem.targets.astype(problem.dtype),
        "raw_prediction": problem.logits,
        "n_threads": problem.n_threads,
    }

    def read_losses(rows: Array) -> Result:
        return Result(losses=rows, value=float(rows.mean(dtype=np.float64)))

    def read_grad(result: tuple[Array, Array]) -> Result:
        rows, grad = result
        return Result(losses=rows, value=float(rows.mean(dtype=np.float64)), grad=grad, grad_of_sum=True)

    note = "no label smoothing" if problem.label_smoothing else ""
    forward = partial(losses.loss, **options)
    gradient = partial(losses.loss_gradient, gradient_out=problem.out, **options)
    return [
        Job("sklearn", "cross_entropy", forward, read_losses, exact, note=note),
        Job("sklearn", "cross_entropy_value_and_grad", gradient, read_grad, exact, "out", note=note),
    ]


def _torch_tensor(torch: Any, array: Array) -> Any:
    """A tensor on the same memory."""
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _numpy_array(torch: Any, tensor: Any, dtype: np.dtype[Any]) -> Array:
    """The memory of a tensor as an array of the dtype that the problem has."""
    if tensor.dtype == torch.bfloat16:
        tensor = tensor.view(torch.int16)
    return np.asarray(tensor.detach().numpy()).view(dtype)
