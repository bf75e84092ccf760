"""One run: each function on each cluster, in turns with the plain function in this process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import cache
from statistics import median
from typing import Any

import dask.array as da
import numpy as np
from distributed import futures_of, get_task_stream, wait

import fastce
import fastce.dask
from fastce.dask.share import share
from fastce.profile.machine import busy, cores, machine
from fastce.profile.measure import Turn, times_in_turns
from fastce.profile.on_dask.clusters import traffic
from fastce.profile.on_dask.problem import DaskProblem, Loader, Maker, arguments, in_this_process, in_workers
from fastce.profile.text import counted


@dataclass(frozen=True)
class DaskRow:
    """What was measured of one function on one cluster.

    Attributes
    ----------
    function : str
    workers, worker_threads : int
        Of the cluster, all together.
    seconds : float
        The median time of a call, which leaves gradients in the workers and brings numbers here.
    plain_threads : int
        Those of the plain function: as many as the workers have, or the cores of this machine.
    plain_seconds : float
        The median time of the plain function in this process.
    fastest, fastest_plain : float
        The shortest times of both.
    times_plain : float
        `seconds` over `plain_seconds`.
    tasks : int
        That have run.
    bytes_between_workers, bytes_to_client : int
        Of results that moved.
    difference : float
        The largest from the plain results, relative to their largest element.
    """

    function: str
    workers: int
    worker_threads: int
    seconds: float
    plain_threads: int
    plain_seconds: float
    fastest: float
    fastest_plain: float
    times_plain: float
    tasks: int
    bytes_between_workers: int
    bytes_to_client: int
    difference: float


@dataclass
class DaskReport:
    """All that a run has found."""

    machine: dict[str, Any]
    input: dict[str, Any]
    rounds: int
    rows: list[DaskRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return asdict(self)


def new_report(problem: DaskProblem, rounds: int) -> DaskReport:
    """A report in which nothing has been measured yet."""
    about = machine(fastce.get_num_threads(), ["dask", "distributed"])
    return DaskReport(about, asdict(problem), rounds, notes=busy())


def profile(
    clusters: Sequence[Callable[[], AbstractContextManager[Any]]],
    problem: DaskProblem,
    report: DaskReport,
    *,
    functions: Sequence[str],
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure functions on clusters, and write what is found into a report.

    Parameters
    ----------
    clusters : sequence of callable
        Each gives a context in which there is a client of one.
    problem : DaskProblem
    report : DaskReport
        Receives a row for each function and cluster; see `new_report`.
    functions : sequence of str
        Which of `fastce.profile.on_dask.problem.FUNCTIONS` to measure.
    progress : callable
        Told what is being done.
    """
    here = cache(in_this_process(problem))
    for cluster in clusters:
        progress("starting workers")
        with cluster() as client:
            there = cache(_held(client, in_workers(problem)))
            for function in functions:
                progress(f"{function}: {counted(len(client.nthreads()), 'worker')}")
                report.rows.append(_measured(client, function, problem, report.rounds, here, there))


def _held(client: Any, load: Loader) -> Loader:
    """Make arrays that workers have made and hold."""

    def held(maker: Maker, seed: int, shape: tuple[int, ...]) -> Any:
        array = client.persist(load(maker, seed, shape))
        wait(array)
        return array

    return held


def _measured(client: Any, function: str, problem: DaskProblem, rounds: int, here: Loader, there: Loader) -> DaskRow:
    worker_threads = sum(client.nthreads().values())
    plain_threads = min(worker_threads, cores())
    plain = _plain_call(function, problem, here, plain_threads)
    on_dask = _dask_call(client, function, problem, there)
    on_dask()  # loads or compiles, as the next call here does
    before = traffic(client)
    with get_task_stream(client) as stream:
        parts = on_dask()
    moved = traffic(client).since(before)
    differs_by = _difference(client, parts, plain())
    del parts  # or the next calls would have nothing to do
    (dask_times, plain_times), _ = times_in_turns([Turn(on_dask, rounds), Turn(plain, rounds)])
    return DaskRow(
        function=function,
        workers=len(client.nthreads()),
        worker_threads=worker_threads,
        seconds=median(dask_times),
        plain_threads=plain_threads,
        plain_seconds=median(plain_times),
        fastest=min(dask_times),
        fastest_plain=min(plain_times),
        times_plain=median(dask_times) / median(plain_times),
        tasks=len(stream.data),
        bytes_between_workers=moved.between_workers,
        bytes_to_client=moved.to_client,
        difference=differs_by,
    )


def _dask_call(client: Any, function: str, problem: DaskProblem, load: Loader) -> Callable[[], list[Any]]:
    """A call that computes all parts of a result, leaves arrays in the workers, and brings numbers here."""
    given, options = arguments(function, problem, load)

    def call() -> list[Any]:
        parts = client.persist(_parts(getattr(fastce.dask, function)(*given, **options)))
        wait(parts)
        return [part if part.ndim else client.gather(futures_of(part))[0] for part in parts]

    return call


def _plain_call(function: str, problem: DaskProblem, load: Loader, threads: int) -> Callable[[], list[Any]]:
    """A call of the plain function, for which BLAS has as many threads, too."""
    given, options = arguments(function, problem, load)

    def call() -> list[Any]:
        with share(threads):
            return _parts(getattr(fastce, function)(*given, **options, n_threads=threads))

    return call


def _parts(result: Any) -> list[Any]:
    return [part for part in result if part is not None] if isinstance(result, tuple) else [result]


def _difference(client: Any, parts: Sequence[Any], right: Sequence[Any]) -> float:
    """The largest, relative to the largest element of each part; large ones come here a chunk at a time."""
    worst = []
    for part, whole in zip(parts, map(np.asarray, right), strict=True):
        places = da.core.slices_from_chunks(part.chunks) if np.ndim(part) else [()]
        chunks = (client.gather(client.compute(part[place])) if place else part for place in places)
        furthest = [np.abs(chunk - whole[place]).max() for place, chunk in zip(places, chunks, strict=True)]
        worst.append(np.max(furthest) / (np.abs(whole).max() or 1.0))  # NaN stays
    return float(np.max(worst))
