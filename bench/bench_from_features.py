"""Losses from features: checked, then timed in turns with NumPy's products of the same tiles, and their memory."""

import numpy as np
import pytest

from bench import feature_jobs
from bench.feature_jobs import JOBS, SLOW_JOBS, FeatureJob
from fastce.profile.measure import extra_memory, median_ratio

ROUNDS = {"fastce": 3}
CHECKED_ROWS = 1024
BOUND = 3e-5  # of gradients in float32, relative to their largest element
ENGINES = ("fastce", "torch", "torch chunked")


def cases():
    for job in JOBS:
        for engine in ENGINES:
            if engine == "torch chunked" and not job.function.startswith("linear"):
                continue
            if engine != "fastce" and job.memory_budget != feature_jobs.MEMORY_BUDGET:
                continue
            if engine != "fastce" and job.rows * job.columns * 4 > feature_jobs.DENSE_BYTES:
                continue
            yield pytest.param(job, engine, id=f"{job.id}-{engine}".replace(" ", "-"))
    for job in SLOW_JOBS:
        yield pytest.param(job, "fastce", id=f"{job.id}-fastce", marks=pytest.mark.slow)


def call_of(job: FeatureJob, engine: str, data):
    if engine == "fastce":
        return feature_jobs.fastce_call(job, data)
    return feature_jobs.torch_call(job, data, chunked=engine == "torch chunked")


def largest_error(job: FeatureJob) -> float:
    """Of fastce's gradients (or value) on fewer rows, against the dense way in float64."""
    small = job.of(min(job.rows, CHECKED_ROWS))
    exact = feature_jobs.torch_call(small, feature_jobs.data_of(small, "float64"))()
    ours = feature_jobs.fastce_call(small, feature_jobs.data_of(small))()
    if not job.wants_gradient:
        return abs(ours - float(exact)) / abs(float(exact))
    pairs = zip(feature_jobs.fastce_gradients(small, ours), exact, strict=True)
    error = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)
    assert error < BOUND
    return error


@pytest.mark.parametrize(("job", "engine"), list(cases()))
def test_job(benchmark, job, engine):
    if engine != "fastce":
        pytest.importorskip("torch")
    data = feature_jobs.data_of(job)
    call = call_of(job, engine, data)
    if engine == "fastce":
        feature_jobs.fastce_call(job.of(256), feature_jobs.data_of(job.of(256)))()  # compiles
    floor = feature_jobs.products_floor(job, data)
    extra_bytes, _ = extra_memory(call)
    floor_times = []
    benchmark.group = f"{job.function}: {job.problem}"
    benchmark.pedantic(call, setup=lambda: floor_times.append(floor()), rounds=ROUNDS.get(engine, 2))
    benchmark.extra_info |= {
        "engine": engine,
        "job": job.function,
        "problem": job.problem,
        "operations": job.operations,
        "extra_bytes": extra_bytes,
    }
    if engine == "fastce" and feature_jobs.has_torch():
        benchmark.extra_info["error"] = largest_error(job)
    if benchmark.stats is not None:  # not with --benchmark-disable
        times = benchmark.stats.stats.data
        benchmark.extra_info |= {
            "seconds": min(times),
            "floor_seconds": min(floor_times),
            "times_floor": median_ratio(times, floor_times[-len(times) :]),
        }
