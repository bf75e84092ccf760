"""What all tests share: one seed, how long hypothesis may look, and what keeps thousands of tests quick."""

import gc
import os
import sys
from importlib import import_module
from pathlib import Path

# Before NumPy is imported: its products here are so small that a second thread only waits, and takes a core to do so.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

# Where bench is: last, so that an installed fastce comes before the one of the clone.
sys.path.append(str(Path(__file__).resolve().parent.parent))

gc.set_threshold(50_000, 20, 20)  # collecting tests, and compiling kernels, makes many objects that stay
hypothesis.settings.register_profile(
    "fastce",
    max_examples=50,
    deadline=None,  # the first example of each dtype compiles
    derandomize=bool(os.environ.get("CI")),
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.register_profile("quick", parent=hypothesis.settings.get_profile("fastce"), max_examples=20)


def pytest_configure(config):
    """With ``-n 2`` each process takes half of the files, and then what the other has left.

    By turns, as is usual, both would import and load from disk all that any test needs.
    """
    if config.getoption("dist", "no") == "load":
        config.option.dist = "worksteal"
    is_quick = "not slow" in config.option.markexpr
    hypothesis.settings.load_profile("quick" if is_quick else "fastce")


def pytest_collection_finish():
    """Thousands of tests are in memory now, to stay: looks for garbage need not go through them again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def rng():
    """The same numbers in every run, whatever the order of the tests."""
    return np.random.default_rng(20240229)


@pytest.fixture
def small_blocks(monkeypatch):
    """Small calls are cut in blocks too, and go to all threads."""
    monkeypatch.setattr("fastce.cpu.threads.INLINE_BYTES", 1 << 16)
    import_module("checks").forget_plain_calls(monkeypatch)
    for name in ("threads", "columns"):
        monkeypatch.setattr(f"fastce.cpu.{name}.BLOCK_BYTES", 1 << 18)


@pytest.fixture
def edges(monkeypatch):
    """edges(largest, smallest) sets the sizes of tiles, and of panels, of losses from features."""

    def set_edges(largest, smallest):
        tiles, panels = (import_module(f"fastce.products.{name}") for name in ("tiles", "panels"))
        monkeypatch.setattr(tiles, "LARGEST_EDGE", largest)
        monkeypatch.setattr(tiles, "SMALLEST_EDGE", smallest)
        monkeypatch.setattr(panels, "MOST_ROWS", largest)
        monkeypatch.setattr(import_module("fastce.cpu.engine").Cpu, "columns_at_a_time", largest)
        monkeypatch.setattr(panels, "QUERIES_AT_A_TIME", largest)

    return set_edges


@pytest.fixture
def small_tiles(edges):
    """Losses from features take several tiles, or panels, for batches of a few dozen."""
    edges(16, 8)
