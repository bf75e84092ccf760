"""The tables and pictures of the documents are those of the records."""

import json
import shutil

import pytest
from scripts import ROOT

from bench import (
    accuracy_report,
    boosters_report,
    headline,
    in_torch,
    in_torch_report,
    instructions,
    layouts_report,
    limits,
    small_calls,
    streaming,
    streaming_report,
)

MACHINE = {"fastce": {"cpu": "A CPU", "vector_bits": 256, "cores": 2, "threads": 2, "versions": {"fastce": "1"}}}


def case(problem, job, engine, times_floor, seconds=0.0123):
    return {"problem": problem, "job": job, "engine": engine, "times_floor": times_floor, "seconds": seconds}


@pytest.fixture
def cases():
    problem, job = headline.JOBS[0]
    times = {"fastce": 2.0, "torch.compile": 5.0, "torch": 1.8, "scipy": 100.0, "numpy": 7.0}
    small, cross_entropy = headline.JOBS[-1]
    return [
        *(case(problem, job, engine, time) for engine, time in times.items()),
        case(small, cross_entropy, "fastce", 1.0),
        case(small, cross_entropy, "numpy", 3.0),
        case("9 x 9 float64", "logsumexp", "fastce", 1.0),
        case("9 x 9 float64", "logsumexp", "jax", 1.0),
    ]


def test_the_first_figure_is_of_times_over_those_of_fastce(cases):
    found = list(headline.chosen(cases))
    assert [(problem, job) for problem, job, *_ in found] == [headline.JOBS[0], headline.JOBS[-1]]
    assert found[0][3] == {"torch.compile": 2.5, "torch": 0.9, "scipy": 50.0}
    assert found[1][3] == {"numpy": 3.0}  # for want of SciPy


def test_bars_of_letters_are_as_long_as_times(cases):
    lines = headline.as_text(cases).splitlines()
    bars = {line.split()[0]: line.count("#") for line in lines[2:6]}
    assert bars == {"fastce": 1, "torch.compile": 2, "PyTorch": 1, "SciPy": 50}
    assert lines[2].endswith("1 = 12.3 ms")
    assert "One # is 1.0 times" in lines[-2]


def test_the_caption_says_how_far_the_bars_reach(cases):
    caption = headline.caption(MACHINE, cases)
    assert "torch.compile 2.5 to 2.5 (2.5); PyTorch 0.9 to 0.9 (0.9); NumPy 3.0 to 3.0 (3.0); SciPy 50 to 50" in caption
    assert "A CPU, 256-bit vectors" in caption


def test_the_largest_errors_are_of_all_targets():
    found = [
        {"what": what, "dtype": "float32", "target": target, "worst": worst, "rows": 1000}
        for target, worsts in {"host": (0.5, 1.25, 1.0), "AVX2": (0.75, 1.0, 2.0)}.items()
        for what, worst in zip(("logsumexp, rows", "cross_entropy, ulp", "gradient, eps"), worsts, strict=True)
    ]
    sentence = accuracy_report.sentence({"found": found})
    assert "in float32, among up to 1,000 rows: logsumexp 0.75 ulp; losses 1.25 ulp; gradients" in sentence
    assert "2.00 eps" in sentence


def test_the_table_of_limits():
    seconds = {"floor": 3.5e-9, "cache": 2e-9, "call": 4.2e-9}
    found = [{"problem": "8 x 9 float32", "job": "logsumexp", "seconds": seconds}]
    table = limits.text({"machine": {"cpu": "a CPU"}, "found": found})
    assert "| 8 x 9 float32 | logsumexp | 3.50 | 2.00 | 3.50 | 5.50 | 4.20 | 1.20 |" in table
    assert "a CPU" in table


def test_the_table_of_instructions():
    counts = {"AVX-512": {"sums": 15.0, "writes": 13.0}, "AVX2": {"sums": 36.0, "ends": 99.0}}
    table = instructions.text({"found": [{"kernel": "some_rows", "dtype": "float32", "counts": counts}]})
    assert "| some_rows | float32 | 15.0 | 13.0 |  | 36.0 |  | 99.0 |" in table


def test_the_table_of_layouts():
    ratios = dict.fromkeys(layouts_report.SHOWN, 1.0) | {"Fortran": 2.75}
    jobs = [
        {"job": f"softmax {layouts_report.PROBLEM}", "ms": 3.0, "ratios": ratios},
        {"job": "softmax 1 x 1 float32", "ms": 1.0, "ratios": {"Fortran": 1.5}},
    ]
    text = layouts_report.text({"allowed": 2.5, "jobs": jobs})
    assert "| softmax | 3.0 | 2.8 | 1.0 |" in text
    assert "Of 9 multiples of all functions, shapes and dtypes 1 are above 2.5; the largest is 2.8 (`Fortran`" in text


@pytest.mark.slow
@pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").is_file(), reason="documents are not installed with the package")
def test_the_documents_hold_what_the_records_say(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    from bench import redraw

    (tmp_path / "bench").mkdir()
    for name in ("README.md", "bench/README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    results = shutil.copytree(
        ROOT / "bench" / "results", tmp_path / "results", ignore=shutil.ignore_patterns("*.png", "*.txt")
    )
    redraw.main(["--results", str(results), "--root", str(tmp_path)])
    for name in ("README.md", "bench/README.md"):
        assert (tmp_path / name).read_text() == (ROOT / name).read_text()
    assert (results / "headline.txt").read_text() == (ROOT / "bench" / "results" / "headline.txt").read_text()
    pictures = {path.name for path in results.glob("*.png")}
    assert pictures == {path.name for path in (ROOT / "bench" / "results").glob("*.png")}
    assert json.loads((results / "record.json").read_text())["benchmarks"]


def test_the_table_of_pieces():
    ms = {
        streaming.READ: 100.0, streaming.READ_MAP: 50.0, streaming.LOSS: 80.0, streaming.COPY: 200.0,
        streaming.COPY_MAP: 130.0, streaming.GRADIENT: 260.0, "cross_entropy": 90.0, "grad": 260.0,
        streaming.NEW: 500.0, "grad to a new file": 450.0,
    }  # fmt: skip
    machine = {"cpu": "a CPU"}
    text = streaming_report.text({"machine": machine, "shape": [1024, 1024], "ms": ms, "notes": ["It was busy."]})
    assert "| 1,024 x 1,024 float32, 4 MiB, on a CPU |" in text
    assert "| cross_entropy | 90 | 0.90 | 1.80 | 1.12 |" in text
    assert "| grad | 260 | 1.30 | 2.00 | 1.00 |" in text
    assert "| grad to a new file | 450 | 0.90 | | |" in text
    assert text.endswith("It was busy.")


def test_the_table_of_boosters():
    ms = {"LightGBM": {"its own objective": 100.0, "NumPy": 150.0}, "objective alone": {"NumPy": 50.0}}
    record = {"machine": {"cpu": "a CPU"}, "shape": [1000, 10, 4, 3], "ms": ms, "notes": [], "absent": ["XGBoost"]}
    text = boosters_report.text(record)
    assert "| 1,000 rows, 10 classes, 4 features, 3 rounds, on a CPU |" in text
    assert "| LightGBM | NumPy | 150 | 1.50 |" in text
    assert "| objective alone | NumPy | 50 |  |" in text
    assert text.endswith("XGBoost was not installed.")


def test_steps_in_pytorch_are_multiples_of_ours_beside_the_memory_that_they_take():
    jobs = {
        "small": {
            "ms": {in_torch.OURS: 0.05, in_torch.EAGER: 0.1}, "mib": {in_torch.OURS: None, in_torch.EAGER: 2.0},
            "leaves": 1.0,
        },
        "large": {
            "ms": {in_torch.OURS: 1000.0, in_torch.EAGER: 8000.0, in_torch.COMPILED: 4000.0},
            "mib": {in_torch.OURS: 512.0, in_torch.EAGER: 2048.0, in_torch.COMPILED: 1024.0}, "leaves": 512.0,
        },
    }  # fmt: skip
    text = in_torch_report.text({"machine": {"cpu": "CPU", "cores": 2}, "torch": "2", "jobs": jobs, "notes": ["Busy."]})
    assert "| small | 0.05 | 2.00 |  | 1 |  | 2 |  |" in text
    assert "| large | 1,000 | 8.00 | 4.00 | 512 | 512 | 2,048 | 1,024 |" in text
    assert text.endswith("Busy.")


def test_small_calls_stand_beside_those_of_others():
    us = {"softmax": {"fastce": 3.04, "SciPy or NumPy": 8.0, "PyTorch": 5.0}, "a step": {"fastce": 30.0}}
    record = {"shape": [32, 10], "machine": {"cpu": "CPU"}, "torch": None, "notes": ["Busy."], "us": us}
    text = small_calls.text(record)
    assert "| 32 x 10 float32 | fastce, us | SciPy or NumPy, us | PyTorch, us |" in text
    assert "| softmax | 3.0 | 8.0 | 5.0 |" in text
    assert "| a step | 30.0 |  |  |" in text
    assert "PyTorch was not installed." in text
    assert text.endswith("Busy.")


def test_without_pytorch_the_measurement_in_it_says_so(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(in_torch, "find_spec", lambda name: None)
    in_torch.main([str(tmp_path / "in_torch.json")])
    assert capsys.readouterr().out == "PyTorch is not installed: there is nothing to measure\n"
    assert not list(tmp_path.iterdir())
