"""One run of `fastce profile`: every job of a problem, and its floor, measured."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isqrt
from statistics import median
from typing import Any

import numpy as np

from fastce.profile.accuracy import Error, errors
from fastce.profile.floor import floor_of
from fastce.profile.jobs import DEFAULT_FUNCTIONS, LOSSES, Job, jobs_of
from fastce.profile.machine import busy, cores, machine
from fastce.profile.measure import Turn, times_in_turns
from fastce.profile.peers import ENGINES, OF_PEER, PACKAGES
from fastce.profile.problem import GivenProblem, Problem
from fastce.profile.reference import Reference
from fastce.profile.work import Engine, Work, called, one_line

_SETTLING = 0.005  # seconds in which the threads of other libraries come to rest
_LONG = 1.0  # seconds; a peer that takes longer is measured in fewer rounds
LARGEST = 1 << 27  # elements that NumPy is measured on in full; above, a block stands for all of them
BLOCK = 1 << 25


@dataclass(frozen=True)
class JobRow:
    """What was measured of one job.

    Attributes
    ----------
    engine, function, place : str
        See `fastce.profile.peers.ENGINES` and `fastce.profile.jobs.Job`.
    name : str
        The function; and "in place", if the gradient goes there.
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
        See `fastce.profile.accuracy.errors`.
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


def new_report(problem: Problem, rounds: int, peers: Sequence[str] = (), label_smoothing: float = 0.1) -> Report:
    """A report in which nothing has been measured yet."""
    described = {
        "origin": problem.origin,
        "rows": problem.rows,
        "classes": problem.classes,
        "dtype": problem.dtype.name,
        "nbytes": int(problem.logits.nbytes),
        "rows_with_nan": int(np.isnan(problem.logits).any(axis=1).sum()),
        "label_smoothing": label_smoothing,
    }
    return Report(machine(problem.n_threads, [PACKAGES[peer] for peer in peers]), described, rounds, notes=busy())


def profile(
    problem: GivenProblem,
    report: Report,
    *,
    functions: Sequence[str] = DEFAULT_FUNCTIONS,
    peers: Sequence[str] = ("scipy",),
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure jobs, and write what is found into a report.

    Parameters
    ----------
    problem : GivenProblem
    report : Report
        Receives a row for each job, those of the same name together; see `new_report`.
    functions : sequence of str
        Which of `fastce.profile.jobs.FUNCTIONS` to measure.
    peers : sequence of str
        Which of `fastce.profile.peers.PEERS` to measure beside them; they must be installed.
    progress : callable
        Told what is being done.
    """
    smoothing = report.input["label_smoothing"]
    jobs = [job for name in functions for job in jobs_of(name, problem.shape, problem.dtype.name, smoothing)]
    if not problem.is_square and any(function.startswith("clip_loss") for function in functions):
        report.notes.append("clip_loss is left out: it needs a square matrix")
    for peer in peers:
        report.notes += _notes_of(peer, jobs, problem)
    engines = ["fastce", *(engine for peer in peers for engine in OF_PEER[peer])]
    for job in jobs:
        checked = []
        for engine in (name for name in engines if ENGINES[name].has(job)):
            progress(f"{engine}: {name_of(job)}")
            try:
                checked.append(check(engine, job, problem, report.rounds))
            except Exception as error:
                if engine == "fastce":
                    raise
                report.notes.append(f"{engine}: {name_of(job)} failed: {one_line(error)}")
        report.jobs += _measured(checked, problem)


def name_of(job: Job) -> str:
    """Under which engines are compared: all of them may write a gradient where they like, or in place."""
    return f"{job.function}, in place" if job.place == "in place" else job.function


def _notes_of(peer: str, jobs: Sequence[Job], problem: Problem) -> Iterator[str]:
    """What a peer does not have."""
    engines = [ENGINES[name] for name in OF_PEER[peer]]
    found = {job.function for job in jobs if any(engine.has(job) for engine in engines)}
    if missing := [name for name in dict.fromkeys(job.function for job in jobs) if name not in found]:
        yield f"{peer} has no {', '.join(missing)} of {problem.dtype.name}"
    if peer == "jax" and cores() != problem.n_threads:
        yield f"jax cannot be told how many threads to use: it runs on {cores()} cores"


@dataclass(frozen=True)
class Checked:
    """What is known of a job of an engine before it is timed.

    Attributes
    ----------
    engine : str
    job : Job
        What was asked.
    work : Work
    scale : float
        How many times as large the matrix is as the part of it that is computed on.
    extra_bytes : int or None
        See `fastce.profile.measure.extra_memory`.
    errors : dict
        See `fastce.profile.accuracy.errors`.
    rounds : int
        How often to time it.
    """

    engine: str
    job: Job
    work: Work
    scale: float
    extra_bytes: int | None
    errors: dict[str, Error]
    rounds: int


def check(engine: str, job: Job, problem: GivenProblem, rounds: int) -> Checked:
    """Measure the memory and the errors of a job, in a call that is not timed."""
    part = part_of(problem, job) if engine == "numpy/scipy" else problem
    rows = losses_of_rows(ENGINES[engine], job, part)
    work = ENGINES[engine].prepare(job, part)
    found, took, extra_bytes = called(work)
    known = errors(Reference(part), work, rows | found)
    if engine != "fastce" and took > _LONG:
        rounds = max(1, min(rounds, round(2 * _LONG / took)))
    return Checked(engine, job, work, problem.logits.size / part.logits.size, extra_bytes, known, rounds)


def losses_of_rows(engine: Engine, job: Job, problem: Problem) -> dict[str, Any]:
    """Those behind a mean; a gradient is checked instead where there is one."""
    if job.wants_gradient or job.loss not in LOSSES:
        return {}
    work = engine.prepare(replace(job, reduction="none"), problem)
    return work.read(work.call())


def part_of(problem: GivenProblem, job: Job) -> GivenProblem:
    """All of it, or a block of a matrix that is too large for NumPy."""
    if problem.logits.size <= LARGEST:
        return problem
    if job.loss == "clip_loss":
        return problem.block(isqrt(BLOCK), isqrt(BLOCK))
    return problem.block(max(1, BLOCK // problem.classes))


def _measured(checked: Sequence[Checked], problem: Problem) -> Iterator[JobRow]:
    """Rows of jobs of one name, the first of them fastce's, timed in turns."""
    floor = floor_of(checked[0].job, problem)
    floor()  # compiles
    turns = [Turn(known.work.call, known.rounds, known.work.before) for known in checked]
    times, floor_times = times_in_turns(turns, floor, _SETTLING if len(turns) > 1 else 0.0)
    medians, floor_seconds = [median(of_call) for of_call in times], median(floor_times)
    for known, of_call in zip(checked, medians, strict=True):
        seconds = known.scale * of_call
        yield JobRow(
            engine=known.engine,
            function=known.job.function,
            place=known.work.job.place,
            name=name_of(known.job),
            seconds=seconds,
            times_faster=None if known is checked[0] else seconds / medians[0],
            floor=floor.name,
            floor_seconds=floor_seconds if floor.name else None,
            times_floor=seconds / floor_seconds if floor.name else None,
            gb_per_s=floor.nbytes / seconds / 1e9 if floor.name else None,
            extra_bytes=None if known.extra_bytes is None else round(known.scale * known.extra_bytes),
            errors=known.errors,
            extrapolated=known.scale != 1,
            note=known.work.note,
        )
