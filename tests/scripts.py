"""Python programs of their own, for what a test cannot do to the process it runs in."""

import os
import subprocess
import sys
from pathlib import Path

import fastce

ROOT = Path(fastce.__file__).resolve().parent.parent  # the folder fastce is imported from
TESTS = Path(__file__).resolve().parent


def start_script(source, folder, *, root=ROOT, name="script.py", **environment):
    """Start `source` as a program; an environment variable that is given as None is taken away."""
    path = Path(folder) / name
    path.write_text(source)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(TESTS), str(TESTS.parent)]), **environment}
    env = {key: str(value) for key, value in env.items() if value is not None}
    options = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, str(path)], cwd=folder, env=env, **options)


def finish(process, timeout=60):
    """Wait, and give what it printed; a program that fails or hangs fails the test with its own words."""
    try:
        out, err = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"still running after {timeout} s\n{process.communicate()}") from None
    assert process.returncode == 0, f"exit status {process.returncode}\n{out}\n{err}"
    return out, err


def run_script(source, folder, *, timeout=60, **options):
    return finish(start_script(source, folder, **options), timeout)
