"""What an engine does for a job, and how to read what came out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bench.jobs import STATS, Job


@dataclass
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
    call: Callable[[], Any]
    read: Callable[[Any], dict[str, Any]]
    before: Callable[[], None] | None = None
    compiles: bool = True
    gradient_of_sum: bool = False
    note: str = ""


def named(job: Job, result: Any) -> dict[str, Any]:
    """The parts of a result: losses or whatever a row has, the value, and what has the shape of the logits."""
    if job.function == "row_stats":
        return dict(zip(STATS, result, strict=True))
    if job.function in ("softmax", "log_softmax"):
        return {job.function: result}
    if job.function == "cross_entropy_grad_and_hess":
        return {"grad": result[0], "hess": result[1]}
    loss = "value" if job.loss != "logsumexp" and job.reduction == "mean" else "rows"
    return {loss: result[0], "grad": result[1]} if job.wants_gradient else {loss: result}
