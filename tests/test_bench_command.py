"""`python -m pytest bench` as a user runs it: from the command line, whichever peers there are."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from scripts import ROOT

OPTIONS = ["bench", "--benchmark-enable", "--benchmark-only", "-q", "-p", "no:cacheprovider"]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "bench").is_dir(), reason="bench/ is not installed with the package"),
]


@pytest.fixture
def run_bench(tmp_path):
    """run_bench(*options) -> (exit status, what it printed), with peers that fail if anything imports them."""
    for peer in ("torch", "triton", "jax", "sklearn", "cupy"):
        (tmp_path / f"{peer}.py").write_text("raise ImportError('a peer was imported to collect benchmarks')")

    def run_bench(*options):
        command = [sys.executable, "-m", "pytest", *OPTIONS, "--benchmark-storage", str(tmp_path / "runs"), *options]
        of_this_run = [name for name in os.environ if name.startswith("PYTEST_")]  # a worker of xdist measures nothing
        environment = {name: value for name, value in os.environ.items() if name not in of_this_run}
        environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
        process = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in process.stdout + process.stderr
        return process.returncode, process.stdout + process.stderr

    return run_bench


def test_a_benchmark_needs_no_peer_and_its_table_is_of_single_calls(run_bench, tmp_path):
    path = tmp_path / "record.json"
    status, printed = run_bench("-k", "1024x1024-float32-logsumexp-fastce", "--benchmark-json", str(path))
    assert status == 0
    assert "1 passed" in printed
    (benchmark,) = json.loads(path.read_text())["benchmarks"]
    stats, extra = benchmark["stats"], benchmark["extra_info"]
    assert stats["iterations"] > 1  # calls of a round
    assert stats["median"] == pytest.approx(extra["seconds"])
    assert stats["min"] == pytest.approx(extra["fastest"])
    assert stats["ops"] == pytest.approx(1 / stats["mean"])


def test_a_peer_that_is_missing_or_broken_skips_its_own_benchmarks(run_bench):
    status, printed = run_bench("-k", "1024x1024-float32-logsumexp and (torch or numpy)")
    assert status == 0
    assert "1 passed, 2 skipped" in printed  # PyTorch eager and compiled


def test_no_earlier_run_to_compare_with_is_said_in_a_line(run_bench):
    status, printed = run_bench("-k", "1024x1024-float32-logsumexp-numpy", "--benchmark-compare")
    assert status == 0
    assert "Can't load the previous benchmark" in printed


def test_a_pattern_that_finds_nothing_ends_as_pytest_ends(run_bench, tmp_path):
    status, printed = run_bench("-k", "no_such_job", "--benchmark-json", str(tmp_path / "record.json"))
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED
    assert "deselected" in printed


def test_a_matrix_of_ones_own_is_measured_in_place_of_the_record(run_bench, tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((40, 50)))
    options = ["--logits", str(tmp_path / "mine.npy"), "--benchmark-json", str(tmp_path / "record.json")]
    status, _ = run_bench(*options, "-k", "fastce and logsumexp and 40x50")
    assert status == 0
    (benchmark,) = json.loads((tmp_path / "record.json").read_text())["benchmarks"]
    assert benchmark["extra_info"]["problem"] == "40 x 50 float64"


def test_a_matrix_that_cannot_be_read_is_said_in_a_line(run_bench, tmp_path):
    status, printed = run_bench("--logits", str(tmp_path / "none.npy"))
    assert status == pytest.ExitCode.INTERRUPTED
    assert "none.npy: no such file" in printed
