"""The data of `smoke`, what is right of them in float64, and how far a result is from it."""

from importlib.util import find_spec
from typing import Any

import numpy as np

from bench.cuda.smoke_arrays import is_simulated
from fastce.profile.problem import as_dtype
from fastce.profile.reference import Rows

SIZES = {"300x10": (300, 10), "7x1001": (7, 1001), "2x40000": (2, 40_000), "3x1000000": (3, 1_000_000)}
SIMULATED = {"300x10": (30, 10), "7x1001": (3, 301), "2x40000": (1, 2101), "3x1000000": (1, 9001)}
ULPS = 4  # of losses and logsumexps; gradients and probabilities may be off by as many eps


class Skipped(Exception):
    """What the case needs is not installed."""


def needs(package: str) -> None:
    """A case without this package is no failure."""
    if find_spec(package) is None:
        raise Skipped(f"{package} is not installed")


def logits_of(size: str, dtype: str = "float32") -> Any:
    """Logits with a row that is confident and one of a common offset."""
    rows, classes = (SIMULATED if is_simulated() else SIZES)[size]
    x = 3 * np.random.default_rng(rows * classes).normal(size=(rows, classes))
    x[0, classes // 2] += 25.0
    x[-1] += 100.0
    if dtype == "bfloat16":
        needs("ml_dtypes")
    return x.astype(as_dtype(dtype))


def targets_of(x: Any) -> Any:
    """A class index of each row; the first row's is the class that it is confident of."""
    rows, classes = x.shape
    targets = np.random.default_rng(classes).integers(0, classes, rows)
    targets[0] = classes // 2
    return targets


def right(x: Any, targets: Any) -> Rows:
    """What is right of some rows, in float64."""
    return Rows(x.astype(np.float64), targets)


def compare(what: str, ours: Any, exact: Any, dtype: str, is_relative: bool, most: float = ULPS) -> str:
    """One word on the largest error; AssertionError if that is too large."""
    ours, exact = np.asarray(ours).astype(np.float64), np.asarray(exact, np.float64)
    assert ours.shape == exact.shape, f"{what} has shape {ours.shape}, not {exact.shape}"
    assert np.isfinite(ours).all(), f"{what} is not finite"
    eps = float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps) if dtype != "bfloat16" else 2.0**-8
    # the least scale is that of what is next to 0: a loss of 1e-12 is held to its own digits all the same
    scale = np.maximum(np.abs(exact), np.finfo(np.float32).tiny) if is_relative else 1.0
    worst = float(np.max(np.abs(ours - exact) / (scale * eps), initial=0.0))
    assert worst <= most, f"{what} is off by {worst:.3g} {'ulp' if is_relative else 'eps'}, more than {most}"
    return f"{what} {worst:.2g}"
