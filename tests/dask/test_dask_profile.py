"""`fastce profile` on Dask: what it measures, what it prints, and what it refuses."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

da = pytest.importorskip("dask.array")
pytest.importorskip("distributed")

from scripts import ROOT

import fastce
import fastce.dask
from fastce.__main__ import main
from fastce.profile.on_dask import command
from fastce.profile.on_dask.problem import FUNCTIONS, DaskProblem, arguments, in_this_process, in_workers

SMALL = ("--batch", "60", "--repeat", "1", "--stripes", "5")


@pytest.fixture(autouse=True)
def terminal(monkeypatch):
    """The same width wherever the tests are run."""
    monkeypatch.setenv("COLUMNS", "80")


@pytest.fixture
def problem():
    return DaskProblem(rows=17, classes=9, dtype="float32", stripes=4, label_smoothing=0.1)


def run_command(*arguments):
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "fastce", "profile", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=200,
    )


def refused(capsys, *arguments):
    """The one line with which the command line refuses its arguments."""
    assert main(["profile", *map(str, arguments)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(("fastce profile: error: ", "fastce: error: "))
    assert err.count("\n") == 1
    return err


# ------------------------------------------------------------------------------------ what it measures
def test_workers_make_the_numbers_that_this_process_has(problem):
    for function in FUNCTIONS:
        here, there = (arguments(function, problem, load(problem)) for load in (in_this_process, in_workers))
        assert here[1] == there[1]
        for x, y in zip(here[0], there[0], strict=True):
            if isinstance(x, float):
                assert x == y
                continue
            assert y.numblocks[0] == 4
            np.testing.assert_array_equal(x, y.compute(scheduler="synchronous"))


def test_stripes_are_even_and_none_is_empty():
    assert DaskProblem(10, 3, "float32", 4, 0.0).sizes_of(10) == (2, 3, 2, 3)
    assert DaskProblem(10, 3, "float32", 4, 0.0).sizes_of(2) == (1, 1)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_both_ways_take_the_same_arguments(function, problem):
    given, options = arguments(function, problem, in_this_process(problem))
    right = getattr(fastce, function)(*given, **options)
    given, options = arguments(function, problem, in_workers(problem))
    found = getattr(fastce.dask, function)(*given, **options)
    value, right_value = (x[0] if isinstance(x, tuple) else x for x in (found, right))
    np.testing.assert_allclose(value.compute(scheduler="synchronous"), right_value, rtol=2e-6)


@pytest.mark.slow
def test_one_worker_and_two_beside_one_process(tmp_path):
    figures, picture = tmp_path / "figures.json", tmp_path / "picture.svg"
    drawn = ("--plot", picture) if command_can_draw() else ()
    functions = ("cross_entropy_value_and_grad", "clip_loss_from_features_value_and_grad")
    done = run_command("--dask", "1,2", *SMALL, "--op", ",".join(functions), "--json", figures, *drawn)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "5 stripes of rows" in " ".join(done.stdout.split())
    assert picture.exists() == bool(drawn)

    report = json.loads(figures.read_text())
    assert report["input"]["rows"] == 60
    assert {"dask", "distributed"} <= set(report["machine"]["versions"])
    assert [(row["workers"], row["function"]) for row in report["rows"]] == [(n, f) for n in (1, 2) for f in functions]
    tasks = [row["tasks"] for row in report["rows"]]
    assert tasks[:2] == tasks[2:]  # whoever does them
    assert tasks[1] > tasks[0] >= 5
    for row in report["rows"]:
        assert row["function"] in done.stdout
        assert min(row["seconds"], row["plain_seconds"], row["times_plain"], row["bytes_to_client"]) > 0
        assert 0 < row["fastest"] <= row["seconds"]
        assert (row["bytes_between_workers"] > 0) == (row["workers"] > 1)
        assert row["bytes_to_client"] < 1000  # numbers, and no gradient
        assert row["difference"] < 1e-5


@pytest.mark.slow
def test_a_cluster_that_runs(cluster, tmp_path, capsys):
    path = tmp_path / "figures.json"
    options = ("--scheduler", cluster.scheduler_address, *SMALL[:4], "--op", "siglip_loss", "--json", str(path))
    assert main(["profile", *options]) == 0
    capsys.readouterr()
    report = json.loads(path.read_text())
    assert report["input"]["stripes"] == 8  # four for each worker
    (row,) = report["rows"]
    assert (row["workers"], row["worker_threads"]) == (2, 2)
    assert row["difference"] < 1e-5


def command_can_draw():
    from fastce.profile.figure import can_draw

    return can_draw()


# ------------------------------------------------------------------------------------ what it refuses
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--dask", "0"], "must be a positive integer, not '0'"),
        (["--dask", "1,x"], "must be a positive integer, not 'x'"),
        (["--dask", "2", "--scheduler", "tcp://127.0.0.1:1"], "--dask starts workers and does not go with --scheduler"),
        (["--scheduler", "tcp://127.0.0.1:1", "--dashboard"], "--dashboard goes with --dask"),
        (["--dashboard"], "--dashboard goes with --dask"),
        (["--stripes", "3"], "--stripes goes with --dask"),
        (["--dask", "2", "--threads", "2"], "--threads does not go with --dask"),
        (["--dask", "2", "--compare", "none"], "--compare does not go with --dask"),
        (["--dask", "2", "--from-features"], "--from-features does not go with --dask"),
        (["--dask", "2", "--memory-limit", "1"], "--memory-limit does not go with --dask"),
        (["--scheduler", "x", "--input", "x.npy"], "--input does not go with --scheduler"),
        (["--dask", "2", "--dtype", "float16"], "--dtype float16 does not go with --dask; float32 and float64 do"),
        (["--dask", "2", "--op", "nt_xent"], "--op nt_xent does not go with --dask; "),
    ],
)
def test_options_that_do_not_go_together(given, said, capsys):
    assert said in refused(capsys, *given)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://here", "no.such.host.invalid:8786"])
def test_a_scheduler_that_is_not_there(address, capsys, monkeypatch):
    from fastce.profile.on_dask import clusters

    monkeypatch.setattr(clusters, "SECONDS", 0.5)
    assert f"--scheduler {address} cannot be reached: " in refused(capsys, "--scheduler", address)


def test_without_dask_it_says_what_to_install(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "distributed" else True)
    assert 'needs distributed: pip install "fastce[dask]"' in refused(capsys, "--dask", 2)


def test_the_dashboard_needs_bokeh(capsys, monkeypatch):
    monkeypatch.setattr(command, "find_spec", lambda name: None if name == "bokeh" else True)
    assert "--dashboard needs bokeh: pip install bokeh" in refused(capsys, "--dask", 2, "--dashboard")
