"""Who is measured: which jobs each engine has, and what it calls for them."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

from bench import engine_fastce, engine_jax, engine_numpy, engine_sklearn, engine_torch
from bench.jobs import JOBS, Job
from bench.problem import Problem
from bench.work import Work


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
    seconds : float
        How long a job is measured, about.
    rounds : tuple of int
        The least and the most.
    """

    has: Callable[[Job], bool]
    prepare: Callable[[Job, Problem], Work]
    package: str
    seconds: float = 0.5
    rounds: tuple[int, int] = (1, 20)

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None


ENGINES = {
    "fastce": Engine(engine_fastce.has, engine_fastce.prepare, "fastce", seconds=1.5, rounds=(5, 30)),
    "torch.compile": Engine(engine_torch.has, partial(engine_torch.prepare, compiled=True), "torch"),
    "jax": Engine(engine_jax.has, engine_jax.prepare, "jax"),
    "torch": Engine(engine_torch.has, engine_torch.prepare, "torch"),
    "sklearn": Engine(engine_sklearn.has, engine_sklearn.prepare, "sklearn"),
    "numpy": Engine(engine_numpy.numpy_has, engine_numpy.prepare_numpy, "numpy"),
    "scipy": Engine(engine_numpy.scipy_has, engine_numpy.prepare_scipy, "scipy"),
}


def cases(jobs: list[Job] = JOBS) -> list[tuple[Job, str]]:
    """Every job with every engine that has it."""
    return [(job, name) for job in jobs for name, engine in ENGINES.items() if engine.has(job)]
