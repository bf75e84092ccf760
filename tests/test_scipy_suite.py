"""SciPy's own tests of logsumexp, softmax and log_softmax pass with the functions of fastce in their place.

They are run from the installed SciPy, in a process of their own (SciPy's conftest changes global settings),
with the three names of the module bound anew: see scipy_suite_plugin.py.
"""

import importlib.util
import json
import os
import subprocess
import sys

import pytest
import scipy
from scipy_suite_plugin import MODULE, NAMES
from scripts import ROOT, TESTS

pytestmark = pytest.mark.slow

if importlib.util.find_spec("scipy.special.tests") is None or importlib.util.find_spec(MODULE) is None:
    pytest.skip(f"SciPy {scipy.__version__} was installed without its tests", allow_module_level=True)


def run_suite(folder, **environment):
    (folder / "pytest.ini").write_text("[pytest]\n")  # so that no settings of ours or of SciPy's are found
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{TESTS}", **environment}
    env["FASTCE_SUITE_REPORT"] = str(folder / "report.json")
    env.pop("SCIPY_ARRAY_API", None)  # NumPy arrays only
    options = [
        "-q",
        "-c",
        "pytest.ini",
        "-p",
        "no:cacheprovider",
        "-p",
        "scipy_suite_plugin",
        "--pyargs",
        MODULE,
    ]
    command = [sys.executable, "-m", "pytest", *options]
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: some tests failed
    return {**json.loads((folder / "report.json").read_text()), "output": done.stdout}


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    return run_suite(tmp_path_factory.mktemp("fastce"))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory):
    return run_suite(tmp_path_factory.mktemp("scipy"), FASTCE_SUITE_BASELINE="1")


def test_every_test_that_scipy_passes_is_passed(ours, theirs):
    assert ours["outcomes"] == theirs["outcomes"], ours["output"]


def test_at_least_300_tests_pass_and_none_fails(ours):
    outcomes = list(ours["outcomes"].values())
    assert outcomes.count("failed") == 0, ours["output"]
    assert outcomes.count("passed") >= 300  # 407 in SciPy 1.17


def test_no_test_is_skipped_without_a_reason_known_here(ours):
    # With SciPy 1.17 and NumPy arrays none is skipped.
    assert ours["reasons"] == {}


def test_the_suite_did_call_fastce(ours, theirs):
    assert ours["calls"] == theirs["calls"]
    assert all(ours["calls"][name] >= 10 for name in NAMES)
