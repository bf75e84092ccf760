"""One run of `fastce profile`: every floor and every job of a problem, measured."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from time import perf_counter
from typing import Any

from fastce.profile.accuracy import Error, Reference
from fastce.profile.jobs import FUNCTIONS, Job, fastce_jobs, floor_bytes, floor_call
from fastce.profile.machine import cores, machine
from fastce.profile.measure import extra_memory, fastest_in_turns, seconds
from fastce.profile.peers import how_to_install, is_installed, peer_jobs
from fastce.profile.problem import Problem

MEASURED_FLOORS = ("read", "copy", "scale in place")
_SETTLING = 0.005  # seconds in which the threads of other libraries come to rest
_LONG = 1.0  # seconds; a peer that takes longer is measured in fewer rounds


@dataclass(frozen=True)
class FloorRow:
    """What the machine needs merely to move the bytes."""

    name: str
    seconds: float
    gb_per_s: float


@dataclass(frozen=True)
class JobRow:
    """What was measured of one job.

    Attributes
    ----------
    engine, function, place : str
        See `fastce.profile.jobs.Job`.
    seconds : float
        The fastest call; an extrapolation if `extrapolated`.
    gb_per_s : float
        The bytes of the floor over the time.
    floor : str
        What it is held against.
    floor_seconds : float
        The fastest call of the floor, measured in turns with the job.
    times_floor : float
        Time over that of the floor, the median over the rounds.
    extra_bytes : int or None
        How far resident memory rose during a call; None where the system does not tell.
    errors : dict
        The largest errors of the losses, the value and the gradient.
    extrapolated : bool
        Whether time and memory were measured on a block, and scaled up to the whole matrix.
    note : str
        What a reader must know to compare it with the others.
    """

    engine: str
    function: str
    place: str
    seconds: float
    gb_per_s: float
    floor: str
    floor_seconds: float
    times_floor: float
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
    floors: list[FloorRow] = field(default_factory=list)
    jobs: list[JobRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return asdict(self)


def new_report(problem: Problem, rounds: int) -> Report:
    """A report in which nothing has been measured yet."""
    described = {
        "origin": problem.origin,
        "rows": problem.rows,
        "classes": problem.classes,
        "dtype": problem.dtype,
        "nbytes": int(problem.logits.nbytes),
        "label_smoothing": problem.label_smoothing,
    }
    return Report(machine(problem.n_threads), described, rounds)


def profile(
    problem: Problem,
    report: Report,
    *,
    functions: Sequence[str] = FUNCTIONS,
    peers: Sequence[str] = ("scipy",),
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure floors and jobs, and write what is found into a report.

    Parameters
    ----------
    problem : Problem
    report : Report
        Receives a row for each floor and each job; see `new_report`.
    functions : sequence of str
        Which of `FUNCTIONS` to measure.
    peers : sequence of str
        Which of `fastce.profile.peers.PEERS` to measure beside them.
    progress : callable
        Told what is being done.
    """
    for name in MEASURED_FLOORS:
        progress(f"floor: {name}")
        report.floors.append(_measure_floor(name, problem, report.rounds))
    references: dict[int, Reference] = {}
    for peer in ("fastce", *peers):
        for job in _jobs_of(peer, problem, report):
            if job.function not in functions:
                continue
            progress(f"{job.engine}: {job.name}")
            reference = references.setdefault(id(job.problem), Reference(job.problem))
            try:
                report.jobs.append(_measure_job(job, problem, reference, report.rounds))
            except Exception as error:
                if job.engine == "fastce":
                    raise
                first_line = (str(error).strip().splitlines() or [""])[0]
                report.notes.append(f"{job.engine}: {job.name} failed: {type(error).__name__}: {first_line}")


def _jobs_of(peer: str, problem: Problem, report: Report) -> list[Job]:
    """The jobs of fastce or of a peer; says in the report what is left out."""
    if peer == "fastce":
        if not problem.is_square:
            report.notes.append("clip_loss is left out: it needs a square matrix")
        return fastce_jobs(problem)
    if not is_installed(peer):
        report.notes.append(how_to_install(peer))
        return []
    jobs = peer_jobs(peer, problem)
    if not jobs:
        report.notes.append(f"{peer} is left out: it has no {problem.dtype}")
    if peer == "jax" and cores() != problem.n_threads:
        report.notes.append(f"jax cannot be told how many threads to use: it runs on {cores()} cores")
    return jobs


def _measure_floor(name: str, problem: Problem, rounds: int) -> FloorRow:
    call = floor_call(name, problem)
    call()  # compiles
    fastest = min(seconds(call) for _ in range(rounds))
    return FloorRow(name, fastest, floor_bytes(name, problem) / fastest / 1e9)


@dataclass(frozen=True)
class Checked:
    """What is known of a job before it is timed.

    Attributes
    ----------
    extra_bytes : int or None
        See `fastce.profile.measure.extra_memory`.
    errors : dict
        See `fastce.profile.accuracy.Reference.errors`.
    rounds : int
        How often to time it.
    pause : float
        How long to wait before each round.
    """

    extra_bytes: int | None
    errors: dict[str, Error]
    rounds: int
    pause: float


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
    if job.engine == "fastce":
        return Checked(extra_bytes, errors, rounds, 0.0)
    if took > _LONG:
        rounds = max(1, min(rounds, round(2 * _LONG / took)))
    return Checked(extra_bytes, errors, rounds, _SETTLING)


def _measure_job(job: Job, problem: Problem, reference: Reference, rounds: int) -> JobRow:
    part = job.problem
    floor = floor_call(job.floor, part)
    floor()  # compiles
    checked = check(job, reference, rounds)
    floor_seconds, job_seconds, times_floor = fastest_in_turns(
        floor, job.call, checked.rounds, job.before, checked.pause
    )
    scale = problem.logits.size / part.logits.size
    extra_bytes = checked.extra_bytes
    return JobRow(
        engine=job.engine,
        function=job.function,
        place=job.place,
        seconds=scale * job_seconds,
        gb_per_s=floor_bytes(job.floor, part) / job_seconds / 1e9,
        floor=job.floor,
        floor_seconds=scale * floor_seconds,
        times_floor=times_floor,
        extra_bytes=None if extra_bytes is None else round(scale * extra_bytes),
        errors=checked.errors,
        extrapolated=scale != 1,
        note=job.note,
    )
