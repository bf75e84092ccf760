"""Memory that is kept within a limit: of the budget, and of the process."""

import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits of the address space are Linux's")

MEBIBYTE = 1 << 20
IN_A_LIMIT = """
import resource, sys
import numpy as np
import fastce, fastce.streaming
path, out, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
small, targets = np.zeros((4, 3000), np.float32), np.load(path.replace("logits", "targets"))
fastce.streaming.cross_entropy_value_and_grad(small, [0, 1, 2, 3], out=small.copy(), n_threads=2)  # loaded now
used = int(next(line for line in open("/proc/self/status") if line.startswith("VmSize")).split()[1]) << 10
resource.setrlimit(resource.RLIMIT_AS, (used + limit, used + limit))
try:
    np.load(path, mmap_mode="r")
except OSError:
    print("the file does not fit")
options = {"memory_budget": limit // 3, "n_threads": 2}
value, _ = fastce.streaming.cross_entropy_value_and_grad(path, targets, out=out, **options)
print(value, fastce.streaming.cross_entropy(path, targets, **options) == value)
"""


def save(tmp_path, rows, classes, rng):
    """A file of logits, written a block at a time, one of targets, and the loss."""
    logits = np.lib.format.open_memmap(tmp_path / "logits.npy", "w+", np.float32, (rows, classes))
    targets, total = rng.integers(0, classes, rows), 0.0
    np.save(tmp_path / "targets.npy", targets)
    for start in range(0, rows, 1000):
        block = rng.normal(size=(min(1000, rows - start), classes)).astype(np.float32)
        logits[start : start + len(block)] = block
        x = block.astype(float)
        total += (np.log(np.exp(x).sum(axis=1)) - x[range(len(x)), targets[start : start + len(x)]]).sum()
    return total / rows


@pytest.mark.slow
def test_a_file_larger_than_the_address_space_that_is_left(tmp_path, rng):
    limit, rows, classes = 48 * MEBIBYTE, 20_000, 3_000
    expected = save(tmp_path, rows, classes, rng)
    assert (tmp_path / "logits.npy").stat().st_size > 4 * limit
    run = subprocess.run(
        [sys.executable, "-c", IN_A_LIMIT, tmp_path / "logits.npy", tmp_path / "grad.npy", str(limit)],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    first, second = run.stdout.splitlines()
    assert first == "the file does not fit"
    value, are_twins = second.split()
    assert float(value) == pytest.approx(expected, rel=1e-6)
    assert are_twins == "True"
    grad = np.load(tmp_path / "grad.npy", mmap_mode="r")
    assert np.abs(grad[::997].sum(axis=1)).max() < 1e-9
    targets = np.load(tmp_path / "targets.npy")
    assert (grad[np.arange(rows), targets] < 0).all()
