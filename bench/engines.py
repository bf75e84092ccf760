"""Who is measured: for each engine, what it calls for a job; None where it has nothing for it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

import engine_fastce
import engine_jax
import engine_numpy
import engine_sklearn
import engine_torch
from jobs import Job
from problem import Problem
from work import Work


@dataclass(frozen=True)
class Engine:
    """A library, or one way of using it.

    Attributes
    ----------
    prepare : callable
        Makes the `Work` of a job on a problem, or None.
    package : str
        What must be installed.
    seconds : float
        How long a job is measured, about.
    rounds : tuple of int
        The least and the most.
    """

    prepare: Callable[[Job, Problem], Work | None]
    package: str
    seconds: float = 1.0
    rounds: tuple[int, int] = (1, 20)

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None


ENGINES: dict[str, Any] = {
    "fastce": Engine(engine_fastce.prepare, "fastce", seconds=2.0, rounds=(5, 30)),
    "torch.compile": Engine(partial(engine_torch.prepare, compiled=True), "torch"),
    "jax": Engine(engine_jax.prepare, "jax"),
    "torch": Engine(engine_torch.prepare, "torch"),
    "sklearn": Engine(engine_sklearn.prepare, "sklearn"),
    "numpy": Engine(engine_numpy.prepare_numpy, "numpy"),
    "scipy": Engine(engine_numpy.prepare_scipy, "scipy"),
}
