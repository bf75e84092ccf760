"""The scripts and measurements that the benchmarks rest on."""

import json
from functools import cache

import pytest

from bench import memory, report, scaling
from bench.jobs import ENGINES, cases
from bench.measure import checked_work
from fastce.profile.accuracy import WrongResultError, check
from fastce.profile.floor import floor_of
from fastce.profile.jobs import Job
from fastce.profile.problem import Problem
from fastce.profile.reference import Reference


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
