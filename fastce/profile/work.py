"""What an engine does for a job, how to read what came out, and a first call that is not timed with others."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from time import perf_counter
from typing import Any

from fastce.profile.jobs import STATS, Job
from fastce.profile.measure import Call, extra_memory
from fastce.profile.problem import Problem


@dataclass(frozen=True)
class Work:
    """One job of one engine.

    Attributes
    ----------
    job : Job
        What is computed; not quite what was asked where `note` says so.
    call : callable
        What is timed.
    read : callable
        The arrays and numbers in what `call` returned, by name; not timed.
    before : callable or None
        Run before each call, outside the time.
    compiles : bool
        Whether the first call does more than the others, and must not count.
    gradient_of_sum : bool
        Whether the gradient is that of the sum of the losses where the job asks for the mean.
    note : str
        What a reader must know to compare it with the others.
    """

    job: Job
    call: Call
    read: Callable[[Any], dict[str, Any]]
    before: Call | None = None
    compiles: bool = True
    gradient_of_sum: bool = False
    note: str = ""


@dataclass(frozen=True)
class Engine:
    """A library, or one way of using it.

    Attributes
    ----------
    has : callable
        Whether there is something to call for a job.
    prepare : callable
        Makes the `Work` of a job on a problem.
    package : str
        What must be installed.
    """

    has: Callable[[Job], bool]
    prepare: Callable[[Job, Problem], Work]
    package: str

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None


def named(job: Job, result: Any) -> dict[str, Any]:
    """The parts of a result: losses or whatever a row has, the value, and what has the shape of the logits."""
    if job.function == "row_stats":
        return dict(zip(STATS, result, strict=True))
    if job.function in ("softmax", "log_softmax"):
        return {job.function: result}
    if job.function == "cross_entropy_grad_and_hess":
        return {"grad": result[0], "hess": result[1]}
    loss = "value" if job.loss != "logsumexp" and job.reduction == "mean" else "rows"
    if job.wants_slope:
        return {loss: result[0], "slope": float(result[1])}
    return {loss: result[0], "grad": result[1]} if job.wants_gradient else {loss: result}


def called(work: Work) -> tuple[dict[str, Any], float, int | None]:
    """What a call that is not the first finds, how many seconds it takes, and how much memory beyond its input."""
    if work.compiles:
        work.call()
    if work.before is not None:
        work.before()
    start = perf_counter()
    extra_bytes, output = extra_memory(work.call)
    took = perf_counter() - start
    return work.read(output), took, extra_bytes


def one_line(error: BaseException) -> str:
    """An error as a note or a table can hold it."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"[:300]
