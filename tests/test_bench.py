"""The scripts and measurements that the benchmarks rest on."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from fastce.profile.accuracy import Reference
from fastce.profile.jobs import FLOORS, Job, Result, fastce_jobs, floor_bytes, floor_call
from fastce.profile.measure import extra_memory, fastest_in_turns
from fastce.profile.plain import plain_jobs
from fastce.profile.problem import Problem

BENCH = Path(__file__).resolve().parent.parent / "bench"


@pytest.fixture
def problem(rng):
    logits = 4 * rng.standard_normal((37, 37), np.float32)
    return Problem(logits, rng.integers(0, 37, 37), 0.1, 1)


def benchmark(engine, job, seconds, times_floor, **changes):
    info = {
        "engine": engine,
        "job": job,
        "rows": 8192,
        "classes": 1024,
        "dtype": "float32",
        "n_threads": 2,
        "block_rows": 8192,
        "gb_per_s": 12.34,
        "times_floor": times_floor,
        "note": "",
    }
    return {"extra_info": info | changes, "stats": {"min": seconds}}


@pytest.fixture
def benchmark_json(tmp_path):
    content = {
        "machine_info": {"cpu": {"brand_raw": "A CPU", "count": 2}},
        "benchmarks": [
            benchmark("fastce", "logsumexp", 0.0123, 1.125),
            benchmark("jax", "logsumexp", 0.03, 2.5),
            benchmark("numpy/scipy", "logsumexp", 0.1, 33.3, block_rows=2048),
            benchmark("fastce", "cross_entropy", 0.002, 1.5, dtype="float64", note="a note"),
        ],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    return path


def test_report_makes_the_table_of_the_readme(benchmark_json, capsys):
    runpy.run_path(str(BENCH / "report.py"))["main"]([str(benchmark_json)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:4] == [
        "| logits | job | fastce, ms | GB/s | fastce | jax | numpy/scipy |",
        "|---|---|--:|--:|--:|--:|--:|",
        "| 8,192 x 1,024 float32 | logsumexp | 12.3 | 12.3 | 1.12 | 2.50 | ~33.30 |",
        "| 8,192 x 1,024 float64 | cross_entropy | 2 | 12.3 | 1.50 |  |  |",
    ]
    footnote = "\n".join(lines[4:])
    assert "A CPU, 2 cores, 2 threads" in footnote
    assert "fastce: a note" in footnote
    assert "~: measured on a block" in footnote


def test_report_draws_the_figure(benchmark_json, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    runpy.run_path(str(BENCH / "report.py"))["main"]([str(benchmark_json), "--figure", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_says_when_there_is_nothing_to_report(tmp_path):
    path = tmp_path / "bench.json"
    path.write_text('{"machine_info": {}, "benchmarks": []}')
    with pytest.raises(SystemExit, match="no benchmarks"):
        runpy.run_path(str(BENCH / "report.py"))["main"]([str(path)])


def test_extra_memory_sees_what_a_call_touches_and_gives_back():
    size = 64 << 20
    measured, result = extra_memory(lambda: np.ones(size, np.uint8).sum(dtype=np.int64))
    assert result == size
    if measured is None:
        pytest.skip("the system does not tell")
    assert 0.9 * size < measured < 1.5 * size
    assert extra_memory(lambda: None)[0] < 4 << 20


def test_floor_and_job_take_turns_after_a_call_of_the_floor():
    calls = []
    fastest_in_turns(
        lambda: calls.append("floor"), lambda: calls.append("job"), 2, before=lambda: calls.append("before")
    )
    assert calls == ["floor", "floor", "before", "job"] * 2


@pytest.mark.parametrize("shape", [(3, 5), (1000, 10), (7, 5000), (1, 1)])
def test_floors_touch_every_byte(shape, rng):
    problem = Problem(rng.standard_normal(shape, np.float32), np.zeros(shape[0], int), 0.1, 1)
    problem.out[:] = 0
    for name in FLOORS:
        floor_call(name, problem)()
        assert floor_bytes(name, problem) % problem.logits.nbytes == 0
    np.testing.assert_array_equal(problem.out, problem.logits)
    np.testing.assert_array_equal(problem.work, problem.logits)


@pytest.mark.parametrize("jobs", [fastce_jobs, plain_jobs])
def test_every_job_is_right_and_a_wrong_result_is_noticed(jobs, problem):
    reference = Reference(problem)
    for job in jobs(problem):
        if job.before is not None:
            job.before()
        result = job.read(job.call())
        for kind, error in reference.errors(job, result).items():
            assert error.absolute < 1e-4, (job.name, kind)
        for kind, wrong in wrong_results(result):
            assert reference.errors(job, wrong)[kind].absolute > 1e-3, (job.name, kind)


def wrong_results(result):
    if result.losses is not None:
        losses = result.losses.copy()
        losses[5] += 0.01
        yield "losses", Result(losses=losses)
    if result.value is not None:
        yield "value", Result(value=result.value + 0.01)
    if result.grad is not None:
        grad = result.grad.copy()
        grad[5, 6] += 0.01
        yield "grad", Result(grad=grad)


def test_a_nan_where_there_should_be_none_is_the_largest_error(problem):
    losses = np.zeros(37, np.float32)
    losses[3] = np.nan
    job = Job("peer", "logsumexp", lambda: losses, lambda rows: Result(losses=rows), problem)
    assert np.isnan(Reference(problem).errors(job, Result(losses=losses))["losses"].absolute)


def test_large_matrices_are_left_to_a_block_in_plain_numpy(problem, monkeypatch):
    monkeypatch.setattr("fastce.profile.plain.LARGEST", 100)
    monkeypatch.setattr("fastce.profile.plain.BLOCK", 370)
    for job in plain_jobs(problem):
        expected = (19, 19) if job.function.startswith("clip_loss") else (10, 37)
        assert job.problem.logits.shape == expected
