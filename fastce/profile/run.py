"""One run of `fastce profile`: every job of a problem, and its floor, measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fastce.profile.accuracy import Error, Reference
from fastce.profile.jobs import DEFAULT_FUNCTIONS, Job, floor_bytes, floor_call
from fastce.profile.machine import busy, cores, machine
from fastce.profile.measure import Turn, extra_memory, medians_in_turns
from fastce.profile.ours import fastce_jobs
from fastce.profile.peers import PACKAGES, peer_jobs
from fastce.profile.problem import Problem

_SETTLING = 0.005  # seconds in which the threads of other libraries come to rest
_LONG = 1.0  # seconds; a peer that takes longer is measured in fewer rounds


@dataclass(frozen=True)
class JobRow:
    """What was measured of one job.

    Attributes
    ----------
    engine, function, place, name : str
        See `fastce.profile.jobs.Job`.
    seconds : float
        The median time of a call; an extrapolation if `extrapolated`.
    times_faster : float or None
        How many times as fast fastce does the same: `seconds` over those of fastce. None for fastce itself.
    floor : str
        What it is held against; "" for nothing.
    floor_seconds : float or None
        The median time of the floor, measured in turns with all jobs of the same name.
    times_floor : float or None
        `seconds` over `floor_seconds`.
    gb_per_s : float or None
        The bytes of the floor over `seconds`.
    extra_bytes : int or None
        How far resident memory rose during a call; None where the system does not tell.
    errors : dict
        See `fastce.profile.accuracy.Reference.errors`.
    extrapolated : bool
        Whether time and memory were measured on a block, and scaled up to the whole matrix.
    note : str
        What a reader must know to compare it with the others.
    """

    engine: str
    function: str
    place: str
    name: str
    seconds: float
    times_faster: float | None
    floor: str
    floor_seconds: float | None
    times_floor: float | None
    gb_per_s: float | None
    extra_bytes: int | None
    errors: dict[str, Error]
    extrapolated: bool = False
    note: str = ""


@dataclass
class Report:
    """All that a run has found."""

    machine: dict[str, Any]
    input: dict[str, Any]
    rounds: int
    jobs: list[JobRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return asdict(self)


def new_report(problem: Problem, rounds: int, peers: Sequence[str] = ()) -> Report:
    """A report in which nothing has been measured yet."""
    described = {
        "origin": problem.origin,
        "rows": problem.rows,
        "classes": problem.classes,
        "dtype": problem.dtype,
        "nbytes": int(problem.logits.nbytes),
        "rows_with_nan": int(np.isnan(problem.logits).any(axis=1).sum()),
        "label_smoothing": problem.label_smoothing,
    }
    return Report(machine(problem.n_threads, [PACKAGES[peer] for peer in peers]), described, rounds, notes=busy())


def profile(
    problem: Problem,
    report: Report,
    *,
    functions: Sequence[str] = DEFAULT_FUNCTIONS,
    peers: Sequence[str] = ("scipy",),
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure jobs, and write what is found into a report.

    Parameters
    ----------
    problem : Problem
    report : Report
        Receives a row for each job, those of the same name together; see `new_report`.
    functions : sequence of str
        Which of `fastce.profile.jobs.FUNCTIONS` to measure.
    peers : sequence of str
        Which of `fastce.profile.peers.PEERS` to measure beside them; they must be installed.
    progress : callable
        Told what is being done.
    """
    ours = fastce_jobs(problem, functions)
    if not problem.is_square and any(function.startswith("clip_loss") for function in functions):
        report.notes.append("clip_loss is left out: it needs a square matrix")
    possible = list(dict.fromkeys(job.function for job in ours))
    theirs = [job for peer in peers for job in _jobs_of(peer, problem, possible, report)]
    references: dict[int, Reference] = {}
    for first in ours:
        checked = []
        for job in [first, *(job for job in theirs if job.name == first.name)]:
            progress(f"{job.engine}: {job.name}")
            reference = references.setdefault(id(job.problem), Reference(job.problem))
            try:
                checked.append(check(job, reference, report.rounds))
            except Exception as error:
                if job.engine == "fastce":
                    raise
                first_line = (str(error).strip().splitlines() or [""])[0]
                report.notes.append(f"{job.engine}: {job.name} failed: {type(error).__name__}: {first_line}")
        report.jobs += _measured(checked, problem)


def _jobs_of(peer: str, problem: Problem, functions: Sequence[str], report: Report) -> list[Job]:
    """The jobs of a peer; says in the report what it does not have."""
    jobs = peer_jobs(peer, problem, functions)
    if missing := [name for name in functions if name not in {job.function for job in jobs}]:
        report.notes.append(f"{peer} has no {', '.join(missing)} of {problem.dtype}")
    if peer == "jax" and cores() != problem.n_threads:
        report.notes.append(f"jax cannot be told how many threads to use: it runs on {cores()} cores")
    return jobs


@dataclass(frozen=True)
class Checked:
    """What is known of a job before it is timed.

    Attributes
    ----------
    job : Job
    extra_bytes : int or None
        See `fastce.profile.measure.extra_memory`.
    errors : dict
        See `fastce.profile.accuracy.Reference.errors`.
    rounds : int
        How often to time it.
    """

    job: Job
    extra_bytes: int | None
    errors: dict[str, Error]
    rounds: int


def check(job: Job, reference: Reference, rounds: int) -> Checked:
    """Measure the memory and the errors of a job, in a call that is not timed."""
    if job.compiles:
        job.call()
    if job.before is not None:
        job.before()
    started = perf_counter()
    extra_bytes, output = extra_memory(job.call)
    took = perf_counter() - started
    errors = reference.errors(job, job.read(output))
    if job.engine != "fastce" and took > _LONG:
        rounds = max(1, min(rounds, round(2 * _LONG / took)))
    return Checked(job, extra_bytes, errors, rounds)


def _measured(checked: Sequence[Checked], problem: Problem) -> Iterator[JobRow]:
    """Rows of jobs of one name, the first of them fastce's, timed in turns."""
    floor = checked[0].job.floor
    floor_of_all = floor_call(floor, problem) if floor else lambda: None
    floor_of_all()  # compiles
    turns = [Turn(known.job.call, known.rounds, known.job.before) for known in checked]
    floor_seconds, medians = medians_in_turns(floor_of_all, turns, _SETTLING if len(turns) > 1 else 0.0)
    for known, median in zip(checked, medians, strict=True):
        job = known.job
        scale = problem.logits.size / job.problem.logits.size
        seconds = scale * median
        yield JobRow(
            engine=job.engine,
            function=job.function,
            place=job.place,
            name=job.name,
            seconds=seconds,
            times_faster=None if known is checked[0] else seconds / medians[0],
            floor=floor,
            floor_seconds=floor_seconds if floor else None,
            times_floor=seconds / floor_seconds if floor else None,
            gb_per_s=floor_bytes(floor, problem) / seconds / 1e9 if floor else None,
            extra_bytes=None if known.extra_bytes is None else round(scale * known.extra_bytes),
            errors=known.errors,
            extrapolated=scale != 1,
            note=job.note,
        )
