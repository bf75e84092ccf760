"""The scripts and measurements that the benchmarks rest on."""

import json
from functools import cache

import numpy as np
import pytest

from bench import memory, report, scaling
from bench.jobs import ENGINES, cases
from bench.measure import checked_work
from fastce.profile import run
from fastce.profile.accuracy import WrongResultError, check, errors
from fastce.profile.floor import floor_of
from fastce.profile.jobs import FUNCTIONS, Job, jobs_of
from fastce.profile.measure import Turn, extra_memory, times_in_turns
from fastce.profile.peers import ENGINES as ALL_ENGINES
from fastce.profile.problem import GivenProblem, Problem
from fastce.profile.reference import Reference
from fastce.profile.work import Work, called


@pytest.fixture
def problem(rng):
    logits = 4 * rng.standard_normal((37, 37), np.float32)
    return GivenProblem(logits, rng.integers(0, 37, 37))


def benchmark(engine, job, seconds, times_floor, **changes):
    info = {
        "engine": engine,
        "problem": "8,192 x 1,024 float32",
        "job": job,
        "floor_bytes": 2_000_000_000,
        "floor_seconds": 0.1,
        "seconds": seconds,
        "times_floor": times_floor,
        "note": "",
    }
    return {"extra_info": info | changes}


@pytest.fixture
def benchmark_json(tmp_path):
    about = {
        "cpu": "A CPU",
        "vector_bits": 512,
        "cores": 2,
        "threads": 2,
        "versions": {"fastce": "1", "jax": "unknown"},
    }
    content = {
        "machine_info": {"fastce": about},
        "benchmarks": [
            benchmark("fastce", "logsumexp", 0.0123, 1.125),
            benchmark("jax", "logsumexp", 0.03, 2.5),
            benchmark("numpy", "logsumexp", 0.1, 33.3),
            benchmark("fastce", "cross_entropy", 0.002, 1.5, problem="9 x 9 float64", note="a note"),
        ],
    }
    path = tmp_path / "bench.json"
    path.write_text(json.dumps(content))
    return path


def test_report_makes_the_table_of_the_readme(benchmark_json, capsys, tmp_path):
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench:start -->\nold\n<!-- bench:end -->\nafter\n")
    report.main([str(benchmark_json), "--readme", str(readme)])
    text = capsys.readouterr().out
    lines = text.splitlines()
    assert lines[:4] == [
        "| logits | job | floor, GB/s | fastce, ms | fastce | jax | numpy |",
        "|---|---|--:|--:|--:|--:|--:|",
        "| 8,192 x 1,024 float32 | logsumexp | 20.0 | 12.3 | 1.12 | 2.50 | 33.30 |",
        "| 9 x 9 float64 | cross_entropy | 20.0 | 2 | 1.50 |  |  |",
    ]
    footnote = "\n".join(lines[4:])
    assert "A CPU, 512-bit vectors, 2 cores, 2 threads; fastce 1." in footnote
    assert "fastce: a note" in footnote
    assert readme.read_text() == f"before\n<!-- bench:start -->\n{text}<!-- bench:end -->\nafter\n"


def test_report_draws_the_figure(benchmark_json, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "bench.png"
    report.main([str(benchmark_json), "--figure", str(path)])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_report_says_what_it_lacks(benchmark_json, tmp_path, capsys):
    (tmp_path / "README.md").write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        report.main([str(benchmark_json), "--readme", str(tmp_path / "README.md")])
    path = tmp_path / "empty.json"
    path.write_text('{"machine_info": {}, "benchmarks": []}')
    with pytest.raises(SystemExit, match="no benchmarks"):
        report.main([str(path)])


@pytest.fixture(scope="module")
def problem_of():
    """The data of a job; jobs that share theirs share its reference too."""
    return cache(lambda shape, dtype, axis: Problem(shape, dtype, axis, 1))


def tiny_cases():
    """Each job once, whatever its size; what is slow is one more job of a function that a peer has already done."""
    done = set()
    for job, engine in dict.fromkeys((job.tiny(), engine) for job, engine in cases()):
        if engine in ("torch.compile", "jax"):  # which compile for seconds
            continue
        is_slow = engine != "fastce" and (engine, job.function) in done
        done.add((engine, job.function))
        yield pytest.param(job, engine, id=f"{job.id}-{engine}", marks=pytest.mark.slow if is_slow else ())


@pytest.mark.parametrize(("job", "engine"), list(tiny_cases()))
@pytest.mark.filterwarnings("ignore")  # of the peers
def test_every_job_of_the_record_is_right(job, engine, problem_of):
    if not ENGINES[engine].is_installed:
        pytest.skip(f"{ENGINES[engine].package} is not installed")
    if job.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    problem = problem_of(job.shape, job.dtype, job.axis)
    checked_work(job, ENGINES[engine], problem)
    floor = floor_of(job, problem)
    floor()
    assert floor.nbytes >= problem.logits.nbytes


def test_the_record_notices_a_wrong_result(problem_of):
    job = Job("cross_entropy_value_and_grad", (33, 33), place="out")
    problem = problem_of(job.shape, job.dtype, job.axis)
    work = ENGINES["fastce"].prepare(job, problem)
    for name, wrong in (("value", 0.01), ("grad", 0.001)):
        found = work.read(work.call())
        found[name] = found[name] + wrong
        with pytest.raises(WrongResultError, match=name):
            check(Reference(problem), work, found)


@pytest.mark.slow
def test_scaling_measures_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(scaling, "SECONDS", 0)
    monkeypatch.setattr(scaling, "SHORTEST", 0)
    monkeypatch.setattr(scaling, "LARGEST", 4000)
    record, picture = tmp_path / "scaling.json", tmp_path / "scaling.png"
    scaling.main([str(record), "--memory", "0.001"])
    points = json.loads(record.read_text())["points"]
    assert {(point["sweep"], point["rows"], point["classes"]) for point in points} >= {
        ("square", 56, 56),
        ("rows of 1000 classes", 3, 1000),
        ("1000 rows", 1000, 3),
    }
    pytest.importorskip("matplotlib")
    scaling.draw(json.loads(record.read_text()), picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_memory_prints_a_table(capsys):
    memory.main(["--rows", "33"])
    assert "| clip_loss_value_and_grad | " in capsys.readouterr().out


def test_extra_memory_sees_what_a_call_touches_and_gives_back():
    size = 64 << 20
    measured, result = extra_memory(lambda: np.ones(size, np.uint8).sum(dtype=np.int64))
    assert result == size
    if measured is None:
        pytest.skip("the system does not tell")
    assert 0.9 * size < measured < 1.5 * size
    assert extra_memory(lambda: None)[0] < 4 << 20


def test_jobs_take_turns_each_after_a_call_of_the_floor():
    calls = []
    job = Turn(lambda: calls.append("job"), 2, before=lambda: calls.append("before"))
    slow = Turn(lambda: calls.append("slow"), 1)
    times, floor_times = times_in_turns([job, slow], lambda: calls.append("floor"))
    assert [len(times[0]), len(times[1]), len(floor_times)] == [2, 1, 3]
    assert calls == ["floor", "floor", "before", "job", "floor", "floor", "slow", "floor", "floor", "before", "job"]


def test_calls_that_are_timed_together():
    calls, ticks = [], iter(range(10))
    (times,), _ = times_in_turns([Turn(lambda: calls.append(1), 2, repeats=4)], clock=lambda: next(ticks))
    assert len(calls) == 8
    assert times == [0.25, 0.25]


def jobs_on(problem):
    return [job for function in FUNCTIONS for job in jobs_of(function, problem.shape, problem.dtype.name, 0.1)]


@pytest.mark.parametrize("shape", [(3, 5), (1000, 10), (7, 5000), (1, 1)])
def test_floors_touch_every_byte(shape, rng):
    problem = GivenProblem(rng.standard_normal(shape, np.float32), np.zeros(shape[0], int))
    problem.out[:] = 0
    for job in jobs_on(problem):
        floor = floor_of(job, problem)
        floor()
        assert floor.nbytes >= problem.logits.nbytes * (job.loss != "nll_loss")
        assert bool(floor.name) == (job.function != "nll_loss")
        if "copy logits" in floor.name:
            np.testing.assert_array_equal(problem.out, problem.logits)
        if "write gradient" in floor.name:
            assert not problem.out.any()
    np.testing.assert_array_equal(problem.work, problem.logits)
    assert not problem.second_out.any()


def rows_and_mean(engine, job, problem):
    """What `fastce profile` finds of a job."""
    rows = run._losses_of_rows(engine, job, problem)
    work = engine.prepare(job, problem)
    found, *_ = called(work)
    return work, rows | found


@pytest.mark.parametrize("name", ["fastce", "numpy", "numpy/scipy"])
def test_every_job_is_right_and_a_wrong_result_is_noticed(name, problem):
    reference, made = Reference(problem), jobs_on(problem)
    assert {job.function for job in made} == set(FUNCTIONS)
    for job in made:
        assert ALL_ENGINES[name].has(job)
        work, found = rows_and_mean(ALL_ENGINES[name], job, problem)
        for kind, error in errors(reference, work, found).items():
            assert error.absolute < 1e-4, (job.name, kind)
        for kind, wrong in wrong_results(found):
            assert errors(reference, work, wrong)[kind].absolute > 1e-3, (job.name, kind)


def wrong_results(found):
    for part, values in found.items():
        if part == "value":
            yield "mean", found | {part: values + 0.01}
            continue
        wrong = np.asarray(values).copy()
        wrong[(5, 6)[: wrong.ndim]] += 1 if wrong.dtype.kind == "i" else 0.01
        yield "rows", found | {part: wrong}


def test_a_nan_where_there_should_be_none_is_the_largest_error(problem):
    losses = np.zeros(37, np.float32)
    losses[3] = np.nan
    work = Work(Job("logsumexp", problem.shape), lambda: losses, lambda rows: {"rows": rows})
    assert np.isnan(errors(Reference(problem), work, {"rows": losses})["rows"].absolute)


def test_the_reference_keeps_the_digits_of_a_confident_row():
    logits = np.array([[40.0, 0.0, -1.0], [0.0, 35.0, 3.0]])
    reference = Reference(GivenProblem(logits, np.array([0, 1])))
    job = Job("cross_entropy", logits.shape, "float64", label_smoothing=0.0)
    expected = np.log1p([np.exp(-40.0) + np.exp(-41.0), np.exp(-35.0) + np.exp(-32.0)])
    for everywhere in (False, True):
        _, right = reference.pair(job, "rows", np.zeros(2), everywhere=everywhere)
        np.testing.assert_allclose(right.astype(float), expected, rtol=1e-15)
    np.testing.assert_allclose(reference.pair(job, "value", 0.0)[1], expected.mean(), rtol=1e-15)


def test_large_matrices_are_left_to_a_block_in_plain_numpy(problem, monkeypatch):
    monkeypatch.setattr(run, "LARGEST", 100)
    monkeypatch.setattr(run, "BLOCK", 370)
    for job in jobs_on(problem):
        expected = (19, 19) if job.function.startswith("clip_loss") else (10, 37)
        assert run._part_of(problem, job).shape == expected
        assert run.check("numpy/scipy", job, problem, 1).scale == pytest.approx(37 * 37 / np.prod(expected))
