"""One case of the record: one job of one engine."""

import time
from statistics import median

import pytest

from bench.engines import ENGINES, Engine
from bench.floor import Floor, floor_of
from bench.jobs import SMALL, Job
from bench.problem import Problem
from bench.reference import check
from bench.work import Work
from fastce.profile.measure import median_ratio, seconds

SETTLING = 0.005  # seconds in which the threads of other libraries come to rest
REPEATS = 20  # calls that are timed together where one is short


def checked_work(job: Job, engine: Engine, problem: Problem) -> tuple[Work, dict[str, float], float]:
    """The work of a job, called and found right: with its errors, and the seconds of a call."""
    work = engine.prepare(job, problem)
    if work.compiles:
        work.call()
    if work.before is not None:
        work.before()
    start = time.perf_counter()
    output = work.call()
    took = time.perf_counter() - start
    return work, check(work.job, problem, work.read(output), work.gradient_of_sum), took


def measure(benchmark, job: Job, name: str, problem: Problem) -> None:
    """Check a job of an engine, then benchmark it in turns with its floor.

    Turns put both under the same conditions, and the median of their ratios holds on a machine whose speed drifts.
    A call of the floor comes before either, and leaves the same state of the caches to both. A peer that fails or is
    wrong skips the test, says why, and leaves its cell of the table empty.
    """
    engine = ENGINES[name]
    try:
        work, errors, took = checked_work(job, engine, problem)
    except Exception as error:
        if name == "fastce":
            raise
        reason = (str(error).strip().splitlines() or [""])[0]
        pytest.skip(f"{name}: {type(error).__name__}: {reason}")
    floor = floor_of(job, problem)
    floor()
    repeats = REPEATS if problem.logits.nbytes <= SMALL else 1
    least, most = engine.rounds
    rounds = max(least, min(most, int(engine.seconds / (repeats * took))))
    floor_times: list[float] = []

    def turn():
        time.sleep(SETTLING)
        floor()
        floor_times.append(seconds(lambda: _repeat(floor, repeats)) / repeats)
        if work.before is not None:
            work.before()

    benchmark.group = f"{job.problem}: {job.name}"
    turn()  # pytest-benchmark takes a setup for single calls only; a round's teardown is the next one's setup
    benchmark.pedantic(work.call, rounds=rounds, iterations=repeats, teardown=turn)
    benchmark.extra_info |= _described(job, name, work, floor, errors, problem)
    if benchmark.stats is not None:  # not with --benchmark-disable
        times = benchmark.stats.stats.data  # of one call each
        benchmark.extra_info |= {
            "seconds": median(times),
            "fastest": min(times),
            "floor_seconds": median(floor_times),
            "times_floor": median_ratio(times, floor_times[: len(times)]),
        }


def _repeat(call, repeats):
    for _ in range(repeats):
        call()


def _described(job: Job, engine: str, work: Work, floor: Floor, errors: dict[str, float], problem: Problem) -> dict:
    return {
        "engine": engine,
        "problem": job.problem,
        "job": job.name,
        "dtype": job.dtype,
        "n_threads": problem.n_threads,
        "floor": floor.name,
        "floor_bytes": floor.nbytes,
        "errors": errors,
        "note": work.note,
    }
