"""`fastce profile` of losses from features, against the size of the batch.

Beside them the dense ways, which hold the matrix of all products, until that would take more memory than it may.
"""

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from time import perf_counter
from typing import Any

import numpy as np

from fastce.profile.features_problem import FeaturesProblem, difference, fastce_call, products_floor
from fastce.profile.machine import busy, machine
from fastce.profile.measure import Call, Turn, extra_memory, seconds, times_in_turns
from fastce.profile.peers.dense import dense_bytes, dense_call
from fastce.profile.problem import Array

SMALLEST_BATCH = 256
_LONG = 2.0  # seconds; of what takes longer, the call whose memory is measured is timed, too, and no other
_SETTLING = 0.005


@dataclass(frozen=True)
class FeaturesRow:
    """What was measured of one engine at one batch size.

    Attributes
    ----------
    function, batch, engine : str, int, str
    seconds : float
        The median time of a call.
    times_faster : float or None
        How many times as fast fastce does the same; None for fastce itself.
    floor_seconds : float
        The median time of the products alone.
    times_floor : float
        `seconds` over `floor_seconds`.
    gflop_per_s : float
        The operations of the products over the time.
    extra_bytes : int or None
        How far resident memory rose during a call, the gradients included.
    difference : float or None
        The largest difference of a gradient from fastce's, or of the value, relative to the largest element; None for
        fastce.
    """

    function: str
    batch: int
    engine: str
    seconds: float
    times_faster: float | None
    floor_seconds: float
    times_floor: float
    gflop_per_s: float
    extra_bytes: int | None
    difference: float | None


@dataclass
class FeaturesReport:
    """All that a run has found."""

    machine: dict[str, Any]
    input: dict[str, Any]
    rounds: int
    rows: list[FeaturesRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return asdict(self)


def new_report(
    problem: FeaturesProblem, rounds: int, peers: Sequence[str], memory_limit: int, origin: str
) -> FeaturesReport:
    """A report in which nothing has been measured yet; `memory_limit`, in bytes, is what the dense ways may use."""
    described = {
        "origin": origin,
        "batch": problem.batch,
        "width": problem.image.shape[1],
        "dtype": problem.image.dtype.name,
        "rows_with_nan": int((np.isnan(problem.image) | np.isnan(problem.text)).any(axis=1).sum()),
        "label_smoothing": problem.label_smoothing,
        "memory_limit": memory_limit,
    }
    packages = [peer for peer in peers if peer != "numpy"]
    return FeaturesReport(machine(problem.n_threads, packages), described, rounds, notes=busy())


def batch_sizes(largest: int) -> list[int]:
    """Powers of two, and the largest."""
    sizes = []
    size = min(SMALLEST_BATCH, largest)
    while size < largest:
        sizes.append(size)
        size *= 2
    return [*sizes, largest]


def profile(
    problem: FeaturesProblem,
    report: FeaturesReport,
    *,
    functions: Sequence[str],
    peers: Sequence[str] = ("numpy",),
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure batch sizes by powers of two, and write what is found into a report.

    Parameters
    ----------
    problem : FeaturesProblem
    report : FeaturesReport
        Receives a row for each function, batch size and engine; see `new_report`.
    functions : sequence of str
        Which of `FEATURE_FUNCTIONS` to measure on the problem.
    peers : sequence of str
        Which of `fastce.profile.peers.dense.COPIES` to measure beside fastce.
    progress : callable
        Told what is being done.
    """
    for function in functions:
        whole = replace(problem, function=function)
        for _, call in _calls(whole.first(SMALLEST_BATCH), peers, report):
            call()  # compiles, imports, and makes the threads and pools of a library, which are not a call's memory
        for batch in batch_sizes(problem.batch):
            progress(f"{function}: batch {batch}")
            report.rows += _measured(whole.first(batch), peers, report)


@dataclass(frozen=True)
class _Checked:
    """A call that has been made once."""

    engine: str
    call: Call
    took: float
    extra_bytes: int | None
    difference: float | None


def _measured(problem: FeaturesProblem, peers: Sequence[str], report: FeaturesReport) -> Iterator[FeaturesRow]:
    """Rows of one function at one batch size, fastce's first; those that are short are timed in turns."""
    floor, tiles = products_floor(problem)
    checked = _checked(problem, peers, report)
    short = [known for known in checked if known.took < _LONG]
    medians = {known.engine: known.took for known in checked}
    if short:
        turns = [Turn(known.call, report.rounds) for known in short]
        times, floor_times = times_in_turns(turns, floor, _SETTLING if len(checked) > 1 else 0.0)
        floor_seconds = statistics.median(floor_times)
        medians |= {known.engine: statistics.median(of_call) for known, of_call in zip(short, times, strict=True)}
    else:
        floor()
        floor_seconds = statistics.median(seconds(floor) for _ in range(report.rounds))
    for known in checked:
        median = medians[known.engine]
        yield FeaturesRow(
            function=problem.function,
            batch=problem.batch,
            engine=known.engine,
            seconds=median,
            times_faster=None if known is checked[0] else median / medians["fastce"],
            floor_seconds=tiles * floor_seconds,
            times_floor=median / (tiles * floor_seconds),
            gflop_per_s=problem.operations / median / 1e9,
            extra_bytes=known.extra_bytes,
            difference=known.difference,
        )


def _checked(problem: FeaturesProblem, peers: Sequence[str], report: FeaturesReport) -> list[_Checked]:
    found: list[_Checked] = []
    ours: list[Array] = []
    for engine, call in _calls(problem, peers, report):
        started = perf_counter()
        extra_bytes, results = extra_memory(call)
        took = perf_counter() - started
        differs_by = difference(problem, results, ours) if ours else None
        ours = ours or results
        found.append(_Checked(engine, call, took, extra_bytes, differs_by))
    return found


def _calls(problem: FeaturesProblem, peers: Sequence[str], report: FeaturesReport) -> Iterator[tuple[str, Call]]:
    yield "fastce", fastce_call(problem)
    for peer in peers:
        if dense_bytes(peer, problem) <= report.input["memory_limit"]:
            yield peer, dense_call(peer, problem)
            continue
        start = f"{peer}: {problem.loss} from batch "  # said once for each loss
        if not any(note.startswith(start) for note in report.notes):
            report.notes.append(f"{start}{problem.batch} on takes more than the memory limit in the dense way")
