"""What is timed: a call, the floor it is held against, and how to read its result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastce
from fastce import floors
from fastce.profile.measure import Call
from fastce.profile.problem import Array, Problem

FUNCTIONS = (
    "logsumexp",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "clip_loss",
    "clip_loss_value_and_grad",
)
FLOORS = ("read", "copy", "scale in place", "read + copy")


@dataclass(frozen=True)
class Result:
    """What a job computed, in common terms.

    Attributes
    ----------
    losses : ndarray or None
        One number per row: log-sum-exps, or losses without reduction.
    value : float or None
        The mean loss.
    grad : ndarray or None
        The gradient of the mean loss, or of the sum if `grad_of_sum`.
    """

    losses: Array | None = None
    value: float | None = None
    grad: Array | None = None
    grad_of_sum: bool = False


@dataclass(frozen=True)
class Job:
    """One function of one engine on one problem.

    Attributes
    ----------
    engine : str
        Who computes: fastce, or the name of a peer.
    function : str
        One of `FUNCTIONS`.
    call : callable
        What is timed.
    read : callable
        Makes a `Result` of what `call` returned; may compute more, it is not timed.
    problem : Problem
        What is computed on: the whole matrix, or a block of its rows.
    place : str
        Where a gradient goes: "out", "in place", "new array", or "".
    before : callable or None
        Run before each call, outside the time.
    compiles : bool
        Whether the first call does more than the others, and must not count.
    note : str
        What a reader must know to compare it with the others.
    """

    engine: str
    function: str
    call: Call
    read: Callable[[Any], Result]
    problem: Problem
    place: str = ""
    before: Call | None = None
    compiles: bool = True
    note: str = ""

    @property
    def name(self) -> str:
        return f"{self.function} ({self.place})" if self.place else self.function

    @property
    def floor(self) -> str:
        """The floor this job is held against, one of `FLOORS`."""
        if not self.function.endswith("value_and_grad"):
            return "read"
        if self.function.startswith("clip_loss"):
            return "read + copy"
        return "scale in place" if self.place == "in place" else "copy"


def floor_call(name: str, problem: Problem) -> Call:
    """The least that a job must do with the memory of this problem, as a call."""
    if name == "scale in place":
        moves = [floors.scaling(problem.work, 1.0)]
    elif name == "read":
        moves = [floors.reading(problem.logits)]
    else:
        moves = [floors.copying(problem.logits, problem.out)]
    if name == "read + copy":  # one after the other: a block that was just read would be copied from the cache
        moves.insert(0, floors.reading(problem.logits))

    def call() -> None:
        for move in moves:
            floors.run(move, n_threads=problem.n_threads)

    return call


def floor_bytes(name: str, problem: Problem) -> int:
    """Bytes that a floor reads and writes."""
    passes = {"read": 1, "copy": 2, "scale in place": 2, "read + copy": 3}
    return passes[name] * int(problem.logits.nbytes)


def fastce_jobs(problem: Problem) -> list[Job]:
    """The functions of fastce that fit this problem."""
    jobs = [_logsumexp(problem), _cross_entropy(problem)]
    jobs += [_cross_entropy_value_and_grad(problem, place) for place in ("out", "in place")]
    if problem.is_square:
        jobs += [_clip_loss(problem), _clip_loss_value_and_grad(problem)]
    return jobs


def _logsumexp(problem: Problem) -> Job:
    def call() -> Array:
        return np.asarray(fastce.logsumexp(problem.logits, axis=1, n_threads=problem.n_threads))

    return Job("fastce", "logsumexp", call, lambda losses: Result(losses=losses), problem)


def _cross_entropy(problem: Problem) -> Job:
    options: dict[str, Any] = {"label_smoothing": problem.label_smoothing, "n_threads": problem.n_threads}

    def call() -> Any:
        return fastce.cross_entropy(problem.logits, problem.targets, **options)

    def read(value: Any) -> Result:
        losses = fastce.cross_entropy(problem.logits, problem.targets, reduction="none", **options)
        return Result(losses=np.asarray(losses), value=float(value))

    return Job("fastce", "cross_entropy", call, read, problem)


def _cross_entropy_value_and_grad(problem: Problem, place: str) -> Job:
    in_place = place == "in place"
    logits, out = (problem.work, problem.work) if in_place else (problem.logits, problem.out)
    options: dict[str, Any] = {"label_smoothing": problem.label_smoothing, "n_threads": problem.n_threads}

    def call() -> Any:
        return fastce.cross_entropy_value_and_grad(logits, problem.targets, out=out, **options)

    return Job(
        "fastce",
        "cross_entropy_value_and_grad",
        call,
        lambda result: Result(value=float(result.value), grad=result.grad),
        problem,
        place,
        before=problem.restore if in_place else None,
    )


def _clip_loss(problem: Problem) -> Job:
    options: dict[str, Any] = {"label_smoothing": problem.label_smoothing, "n_threads": problem.n_threads}

    def call() -> Any:
        return fastce.clip_loss(problem.logits, **options)

    def read(value: Any) -> Result:
        losses = fastce.clip_loss(problem.logits, reduction="none", **options)
        return Result(losses=np.asarray(losses), value=float(value))

    return Job("fastce", "clip_loss", call, read, problem)


def _clip_loss_value_and_grad(problem: Problem) -> Job:
    options: dict[str, Any] = {"label_smoothing": problem.label_smoothing, "n_threads": problem.n_threads}

    def call() -> Any:
        return fastce.clip_loss_value_and_grad(problem.logits, out=problem.out, **options)

    def read(result: Any) -> Result:
        return Result(value=float(result.value), grad=result.grad)

    return Job("fastce", "clip_loss_value_and_grad", call, read, problem, "out")
