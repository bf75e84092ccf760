"""The same jobs in other libraries, where they are installed."""

from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from fastce.profile.jobs import FUNCTIONS, Job, Result
from fastce.profile.library import Function, Library, library_jobs
from fastce.profile.plain import plain_jobs
from fastce.profile.problem import Array, Problem

PACKAGES = {"scipy": "scipy", "torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}
PEERS = tuple(PACKAGES)


def is_installed(peer: str) -> bool:
    """Whether a peer can be imported; nothing is imported to find out."""
    return find_spec(peer) is not None


def peer_jobs(peer: str, problem: Problem, functions: Sequence[str] = FUNCTIONS) -> list[Job]:
    """The jobs of one of `PEERS`, which must be installed, for those of the functions that it has.

    ``"torch"`` gives the eager and the compiled functions, as two engines.
    """
    makers: dict[str, Callable[[Problem, Sequence[str]], list[Job]]] = {
        "scipy": plain_jobs,
        "torch": lambda problem, functions: [
            *torch_jobs(problem, functions),
            *torch_jobs(problem, functions, compiled=True),
        ],
        "jax": jax_jobs,
        "sklearn": sklearn_jobs,
    }
    return makers[peer](problem, functions)


def torch_jobs(problem: Problem, functions: Sequence[str], compiled: bool = False) -> list[Job]:
    """PyTorch, eager or through `torch.compile`."""
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    logits = _torch_tensor(torch, problem.logits)

    def run(function: Function) -> Any:
        with torch.no_grad():
            return function(logits)

    def value_and_grad(loss: Function) -> Callable[[], Any]:
        function = prepared(loss)

        def call() -> Any:
            x = logits.detach().requires_grad_()
            value = function(x)
            value.backward()
            return value.detach(), x.grad

        return call

    if compiled:
        torch.compiler.reset()
    prepared: Callable[[Function], Function] = partial(torch.compile, dynamic=False) if compiled else _as_it_is
    library = Library(
        name="torch.compile" if compiled else "torch",
        of_rows={
            "logsumexp": lambda x: torch.logsumexp(x, dim=1),
            "softmax": lambda x: torch.softmax(x, dim=1),
            "log_softmax": lambda x: torch.log_softmax(x, dim=1),
        },
        loss=partial(_torch_loss, torch, problem),
        run=run,
        value_and_grad=value_and_grad,
        compiled=prepared,
        to_numpy=partial(_numpy_array, torch, dtype=problem.logits.dtype),
    )
    return library_jobs(library, problem, functions)


def _torch_loss(torch: Any, problem: Problem, loss: str, reduction: str) -> Function:
    functional, smoothing = torch.nn.functional, problem.label_smoothing
    targets, diagonal = torch.from_numpy(problem.targets), torch.arange(problem.rows)
    smooth = partial(functional.cross_entropy, label_smoothing=smoothing, reduction=reduction)
    if loss == "cross_entropy":
        return lambda x: smooth(x, targets)
    if loss == "clip_loss":
        return lambda x: (smooth(x, diagonal) + smooth(x.T, diagonal)) / 2
    if loss == "nll_loss":
        return lambda x: functional.nll_loss(x, targets, reduction=reduction)
    labels = _torch_tensor(torch, problem.labels)
    return lambda x: functional.binary_cross_entropy_with_logits(x, labels, reduction=reduction)


def jax_jobs(problem: Problem, functions: Sequence[str]) -> list[Job]:
    """JAX under `jit`; half precision is computed in float32, as in fastce."""
    jax = import_module("jax")
    jnp = jax.numpy
    if problem.dtype == "float64":
        jax.config.update("jax_enable_x64", True)
    logits = jnp.asarray(problem.logits)
    wide = jnp.promote_types(logits.dtype, "float32")

    def run(function: Function) -> Any:
        return jax.block_until_ready(function(logits))

    library = Library(
        name="jax",
        of_rows={
            "logsumexp": lambda x: jax.nn.logsumexp(x.astype(wide), axis=1),
            "softmax": lambda x: jax.nn.softmax(x.astype(wide), axis=1),
            "log_softmax": lambda x: jax.nn.log_softmax(x.astype(wide), axis=1),
        },
        loss=partial(_jax_loss, jax, problem, wide),
        run=run,
        value_and_grad=lambda loss: partial(run, jax.jit(jax.value_and_grad(loss))),
        compiled=jax.jit,
        to_numpy=np.asarray,
    )
    return library_jobs(library, problem, functions)


def _jax_loss(jax: Any, problem: Problem, wide: Any, loss: str, reduction: str) -> Function:
    jnp, e = jax.numpy, problem.label_smoothing
    targets, diagonal = jnp.asarray(problem.targets, dtype="int32"), jnp.arange(problem.rows)
    labels = jnp.asarray(problem.labels) if loss.startswith("binary") else None

    def at(x: Any, y: Any) -> Any:
        return jnp.take_along_axis(x, y[:, None], axis=1)[:, 0]

    def cross_entropies(x: Any, y: Any) -> Any:
        return jax.nn.logsumexp(x, axis=1) - (1 - e) * at(x, y) - e * x.mean(axis=1)

    losses: dict[str, Function] = {
        "cross_entropy": lambda x: cross_entropies(x, targets),
        "clip_loss": lambda x: (cross_entropies(x, diagonal) + cross_entropies(x.T, diagonal)) / 2,
        "nll_loss": lambda x: -at(x, targets),
        "binary_cross_entropy_with_logits": lambda x: jax.nn.softplus(x) - x * labels,
    }
    of_rows = losses[loss]
    return lambda x: of_rows(x.astype(wide)) if reduction == "none" else of_rows(x.astype(wide)).mean()


def sklearn_jobs(problem: Problem, functions: Sequence[str]) -> list[Job]:
    """scikit-learn's multinomial loss: cross entropy without smoothing, float32 and float64 only."""
    if problem.dtype not in ("float32", "float64"):
        return []
    losses = import_module("sklearn._loss").HalfMultinomialLoss(n_classes=problem.classes)
    options = {
        "y_true": problem.targets.astype(problem.dtype),
        "raw_prediction": problem.logits,
        "n_threads": problem.n_threads,
    }

    def read_losses(rows: Array) -> Result:
        return Result((rows,), float(rows.mean(dtype=np.float64)))

    def read_grad(result: tuple[Array, Array]) -> Result:
        rows, grad = result
        return Result((grad,), float(rows.mean(dtype=np.float64)), grad_of_sum=True)

    calls: dict[str, tuple[Any, Callable[[Any], Result], dict[str, Array]]] = {
        "cross_entropy": (losses.loss, read_losses, {}),
        "cross_entropy_value_and_grad": (losses.loss_gradient, read_grad, {"gradient_out": problem.out}),
    }
    note = "without label smoothing, which it does not have" if problem.label_smoothing else ""
    jobs = []
    for function in functions:
        if function in calls:
            call, read, out = calls[function]
            timed = partial(call, **options, **out)
            jobs.append(Job("sklearn", function, timed, read, problem.without_smoothing(), note=note))
    return jobs


def _as_it_is(function: Function) -> Function:
    return function


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
