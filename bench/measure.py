"""One case of the record: one job of one engine."""

import time
from statistics import median

import numpy as np
import pytest

from bench.jobs import ENGINES, SMALL
from fastce.profile.accuracy import check
from fastce.profile.floor import Floor, floor_of
from fastce.profile.jobs import Job
from fastce.profile.measure import median_ratio, seconds
from fastce.profile.problem import Problem
from fastce.profile.reference import Reference
from fastce.profile.work import Engine, Work, called, one_line

SETTLING = 0.005  # seconds in which the threads of other libraries come to rest
REPEATS = 20  # calls that are timed together where one is short
SAMPLED = 1 << 21  # elements of the logits' shape that are checked
SECONDS = {"fastce": 1.5}  # how long a job is measured, about
ROUNDS = {"fastce": (5, 30)}  # the least and the most


def checked_work(job: Job, engine: Engine, problem: Problem) -> tuple[Work, dict[str, float], float]:
    """The work of a job, called and found right: with its errors, and the seconds of a call."""
    work = engine.prepare(job, problem)
    found, took, _ = called(work)
    count = max(1, SAMPLED * problem.lead[0] // problem.logits.size)
    return work, check(Reference(problem, count, np.float64), work, found), took


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
        pytest.skip(f"{name}: {one_line(error)}")
    floor = floor_of(job, problem)
    floor()
    repeats = REPEATS if problem.logits.nbytes <= SMALL else 1
    least, most = ROUNDS.get(name, (1, 20))
    rounds = max(least, min(most, int(SECONDS.get(name, 0.5) / (repeats * took))))
    floor_times: list[float] = []

    def turn():
        time.sleep(SETTLING)
        floor()
        floor_times.append(seconds(floor, repeats))
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
