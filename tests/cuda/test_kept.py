"""Compiled kernels on disk: a second process finds what the first one made, unless what it is made of differs."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx

CALL = """
import logging
from counted import Counted
import fastce

logging.basicConfig(format="%(message)s")
with Counted(keeps=True) as driver:
    fastce.cross_entropy_value_and_grad(driver.tensor((16, 300), "float32"), driver.tensor((16,), "int64"))
print(*sorted(name for name, _ in driver.kernels.values()), len(driver.loaded))
"""


def compiled(folder, **environment):
    """(the kernels that a process compiled, how many it loaded; the log)"""
    here = Path(__file__).parent
    paths = [str(here.parent.parent), str(here.parent), str(here)]
    known = {"FASTCE_CACHE_DIR": str(folder), "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run(
        [sys.executable, "-c", CALL], env=os.environ | known | environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split(), done.stderr


def test_kernels_are_compiled_once_for_all_processes(tmp_path):
    folder = tmp_path / "cache"
    assert compiled(folder) == (["check", "rows", "2"], "")
    assert compiled(folder) == (["2"], "")
    files = {path.name.partition("-")[0]: path for path in folder.glob("cuda-*/*")}
    assert sorted(files) == ["check", "rows"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*"))
    files["rows"].write_bytes(files["rows"].read_bytes()[:-1])
    names, log = compiled(folder)
    assert names == ["rows", "2"]
    assert "is damaged" in log
    assert compiled(folder) == (["2"], "")


def test_a_folder_that_others_may_write_to_is_not_used(tmp_path):
    folder = tmp_path / "cache"
    folder.mkdir()
    folder.chmod(0o777)
    names, log = compiled(folder)
    assert names == ["check", "rows", "2"]
    assert "can be written to by other users" in log
    assert not list(folder.rglob("*-*/*"))


def test_damaged_files_are_read_as_none(tmp_path, monkeypatch, caplog):
    from fastce.cuda._kernels.sums import sum_up
    from fastce.cuda.kept import Kept

    monkeypatch.setenv("FASTCE_CACHE_DIR", str(tmp_path / "cache"))
    kept = Kept(sum_up, (int,), (9, 0))
    assert kept.read() is None
    kept.write(b"\x7fELF\n\n", "a name")
    assert kept.read() == (b"\x7fELF\n\n", "a name")
    assert Kept(sum_up, (int,), (8, 0)).read() is None
    whole = kept.path.read_bytes()
    for damaged in (whole[:-1], whole + b"\n", whole[:70] + b"!" + whole[71:], b"", whole[:64]):
        kept.path.write_bytes(damaged)
        assert kept.read() is None
    monkeypatch.setenv("FASTCE_CACHE", "0")
    assert Kept(sum_up, (int,), (9, 0)).path is None


def test_what_a_kernel_is_filed_under(monkeypatch):
    from fastce.cuda import kept
    from fastce.cuda._kernels import states
    from fastce.cuda._kernels.few_classes import few_classes_kernel
    from fastce.cuda._kernels.few_rooms import Stand
    from fastce.cuda._kernels.jobs import CROSS_ENTROPY, LOGSUMEXP, Job
    from fastce.cuda._kernels.rows import rows_kernel

    def digest(kernel, form=(int,), capability=(9, 0)):
        return kept._digest_of(kernel, form, capability)

    jobs = [Job(LOGSUMEXP, False), Job(CROSS_ENTROPY, False), Job(LOGSUMEXP, False, is_float64=True)]
    kernels = [*map(rows_kernel, jobs), *(few_classes_kernel(jobs[0], Stand(classes, 128, 4, 0)) for classes in (3, 4))]
    found = {digest(kernel) for kernel in kernels}
    assert len(found) == len(kernels)
    assert digest(rows_kernel.__wrapped__(jobs[0])) == digest(kernels[0])
    assert digest(kernels[0], (float,)) not in found
    assert digest(kernels[0], (int,), (8, 0)) not in found
    monkeypatch.setattr(states, "WARP", 64)  # of functions that the kernel calls
    assert digest(kernels[0]) not in found
