"""Jobs of a library that differentiates by itself, from a few words about how it is called."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastce.profile.jobs import LOSSES, Job, Result
from fastce.profile.problem import Array, Problem

Function = Callable[[Any], Any]


@dataclass(frozen=True)
class Library:
    """How a library computes.

    Attributes
    ----------
    name : str
        The engine.
    of_rows : dict of str to callable
        The functions of a matrix, such as softmax.
    loss : callable
        Makes a function of a matrix of the name of a loss and a reduction, "mean" or "none".
    run : callable
        Calls a function on the logits.
    value_and_grad : callable
        Makes of a loss a call that returns its value and gradient.
    compiled : callable
        Makes of a function of a matrix what users would run.
    to_numpy : callable
        Makes an array of a result.
    """

    name: str
    of_rows: dict[str, Function]
    loss: Callable[[str, str], Function]
    run: Callable[[Function], Any]
    value_and_grad: Callable[[Function], Callable[[], Any]]
    compiled: Callable[[Function], Function]
    to_numpy: Callable[[Any], Array]


def library_jobs(library: Library, problem: Problem, functions: Sequence[str]) -> list[Job]:
    """The jobs of those functions that the library has."""
    jobs = []
    for function in functions:
        loss = function.removesuffix("_value_and_grad")
        if function in library.of_rows:
            jobs.append(_of_rows(library, problem, function))
        elif loss in LOSSES and (problem.is_square or loss != "clip_loss"):
            jobs.append((_value if loss == function else _value_and_grad)(library, problem, loss))
    return jobs


def _of_rows(library: Library, problem: Problem, function: str) -> Job:
    call = partial(library.run, library.compiled(library.of_rows[function]))
    return Job(library.name, function, call, lambda rows: Result((library.to_numpy(rows),)), problem)


def _value(library: Library, problem: Problem, loss: str) -> Job:
    def read(value: Any) -> Result:
        rows = library.run(library.compiled(library.loss(loss, "none")))
        return Result((library.to_numpy(rows),), float(value))

    return Job(library.name, loss, partial(library.run, library.compiled(library.loss(loss, "mean"))), read, problem)


def _value_and_grad(library: Library, problem: Problem, loss: str) -> Job:
    def read(result: Any) -> Result:
        return Result((library.to_numpy(result[1]),), float(result[0]))

    call = library.value_and_grad(library.loss(loss, "mean"))
    return Job(library.name, f"{loss}_value_and_grad", call, read, problem, "new array")
