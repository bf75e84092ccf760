"""Losses from features: checked, then timed in turns with NumPy's products of the same tiles, and their memory."""

from importlib.util import find_spec

import pytest

from bench.feature_jobs import DENSE_BYTES, JOBS, MEMORY_BUDGET, SLOW_JOBS, FeatureJob, problem_of
from fastce.profile.features_problem import difference, fastce_call, products_floor
from fastce.profile.measure import extra_memory, median_ratio, seconds
from fastce.profile.peers.dense import dense_call

ROUNDS = {"fastce": 3}
CHECKED_ROWS = 1024
BOUND = 3e-5  # of gradients in float32, relative to their largest element
ENGINES = ("fastce", "torch", "torch chunked")


def cases():
    for job in JOBS:
        for engine in ENGINES:
            if engine == "torch chunked" and not job.is_linear:
                continue
            if engine != "fastce" and job.memory_budget != MEMORY_BUDGET:
                continue
            if engine != "fastce" and job.rows * job.columns * 4 > DENSE_BYTES:
                continue
            yield pytest.param(job, engine, id=f"{job.id}-{engine}".replace(" ", "-"))
    for job in SLOW_JOBS:
        yield pytest.param(job, "fastce", id=f"{job.id}-fastce", marks=pytest.mark.slow)


def largest_error(job: FeatureJob) -> float:
    """Of fastce's gradients (or value) on fewer rows, against the dense way in float64."""
    small = job.of(min(job.rows, CHECKED_ROWS))
    exact = dense_call("torch", problem_of(small, "float64"))()
    problem = problem_of(small)
    error = difference(problem, fastce_call(problem)(), exact)
    assert error < BOUND
    return error


@pytest.mark.parametrize(("job", "engine"), list(cases()))
def test_job(benchmark, job, engine):
    if engine != "fastce":
        pytest.importorskip("torch")
    problem = problem_of(job)
    call = fastce_call(problem) if engine == "fastce" else dense_call(engine, problem)
    if engine == "fastce":
        fastce_call(problem_of(job.of(256)))()  # compiles
    products, share = products_floor(problem)
    extra_bytes, _ = extra_memory(call)
    floor_times = []

    def floor():
        floor_times.append(share * min(seconds(products) for _ in range(2)))

    benchmark.group = f"{job.function}: {job.problem}"
    benchmark.pedantic(call, setup=floor, rounds=ROUNDS.get(engine, 2))
    benchmark.extra_info |= {
        "engine": engine,
        "job": job.function,
        "problem": job.problem,
        "operations": problem.operations,
        "extra_bytes": extra_bytes,
    }
    if engine == "fastce" and find_spec("torch"):
        benchmark.extra_info["error"] = largest_error(job)
    if benchmark.stats is not None:  # not with --benchmark-disable
        times = benchmark.stats.stats.data
        benchmark.extra_info |= {
            "seconds": min(times),
            "floor_seconds": min(floor_times),
            "times_floor": median_ratio(times, floor_times[-len(times) :]),
        }
