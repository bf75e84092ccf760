"""The largest errors that a search finds, as a Markdown table: python -m bench.accuracy [--rows 1010000] [--json FILE]

Every target is a process of its own. Rows are of the kinds whose roundings do not average out: equal elements, two
levels, near ties, sums that cancel the offset, beside random ones at many scales. What is true comes from float64 for
float32 and half precision, and from longdouble for float64.

"AVX-512 arithmetic" is the table of exp that is used with AVX-512, in instructions that this machine has: fma is fma,
and a table looked up one way or another gives the same bits.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import logsumexp

from bench.tiny import IS_TINY
from fastce.profile.accuracy import EPS, last_place
from fastce.profile.reference import Rows

ROOT = Path(__file__).resolve().parent.parent
Array = np.ndarray[Any, Any]

TARGETS = {
    "host": {},
    "AVX-512 arithmetic": {"ACCURACY_TABLE": "1", "FASTCE_CACHE": "0"},
    "AVX2": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    "generic": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": ""},
}
# classes, how many of a thousand rows
SHAPES = {2: 220, 3: 200, 4: 200, 5: 120, 7: 90, 10: 80, 16: 40, 33: 20, 100: 10}
SHAPES |= {256: 5, 257: 5, 300: 5, 1000: 4, 5000: 1}
BLOCK = 1 << 21  # elements that are looked at together


# ------------------------------------------------------------------------------------------- kinds of rows
def equal(rng: np.random.Generator, rows: int, classes: int) -> Array:
    return np.repeat(rng.normal(0, 1, (rows, 1)) * 10.0 ** rng.uniform(-2, 2, (rows, 1)), classes, axis=1)


def equal_near_zero(rng: np.random.Generator, rows: int, classes: int) -> Array:
    return np.repeat(-np.log(classes) + rng.normal(0, 1, (rows, 1)), classes, axis=1)


def two_levels(rng: np.random.Generator, rows: int, classes: int) -> Array:
    high = rng.random((rows, classes)) < rng.uniform(0, 1, (rows, 1))
    every = rng.integers(1, 6, (rows, 1))
    in_turn = (np.arange(classes) + rng.integers(0, 6, (rows, 1))) % every == 0
    high = np.where(rng.random((rows, 1)) < 0.5, high, in_turn)
    gap = np.where(rng.random((rows, 1)) < 0.3, rng.uniform(15, 18, (rows, 1)), rng.exponential(3, (rows, 1)))
    return np.where(high, 0.0, -gap) + offsets(rng, rows, classes)


def near_ties(rng: np.random.Generator, rows: int, classes: int) -> Array:
    spread = 10.0 ** rng.uniform(-6, 0, (rows, 1))
    return rng.uniform(-1, 0, (rows, classes)) * spread + offsets(rng, rows, classes)


def random(rng: np.random.Generator, rows: int, classes: int) -> Array:
    return rng.normal(0, 1, (rows, classes)) * 10.0 ** rng.uniform(-2, 1.5, (rows, 1)) + offsets(rng, rows, classes)


def cancelling(rng: np.random.Generator, rows: int, classes: int) -> Array:
    x = rng.normal(0, 1, (rows, classes)) * 10.0 ** rng.uniform(-2, 1, (rows, 1))
    offset = rng.normal(0, 1, (rows, 1)) * 10.0 ** rng.uniform(-4, 0.5, (rows, 1))
    return x - logsumexp(x, axis=1, keepdims=True) + offset


def offsets(rng: np.random.Generator, rows: int, classes: int) -> Array:
    """Results from 0 to some thousands: near 0 a rounding of the sum weighs most."""
    small = -np.log(classes) * rng.integers(0, 2, (rows, 1)) + rng.normal(0, 1.5, (rows, 1))
    return np.where(
        rng.random((rows, 1)) < 0.9, small, rng.normal(0, 1, (rows, 1)) * 10.0 ** rng.uniform(0, 4, (rows, 1))
    )


KINDS: tuple[Callable[[np.random.Generator, int, int], Array], ...] = (
    equal, equal_near_zero, two_levels, near_ties, random, cancelling,
)  # fmt: skip


def matrices(rng: np.random.Generator, rows: int) -> Iterator[tuple[str, Array]]:
    """So many rows in all, in matrices of one kind."""
    for classes, share in SHAPES.items():
        of_kind = max(1, rows * share // (1000 * len(KINDS)))
        for kind in KINDS:
            for start in range(0, of_kind, max(1, BLOCK // classes)):
                yield kind.__name__, kind(rng, min(max(1, BLOCK // classes), of_kind - start), classes)


# ------------------------------------------------------------------------------------------- errors
def ulps(actual: Array, exact: Array, dtype: np.dtype[Any]) -> Array:
    """Errors in units of the last place of the exact result."""
    return np.abs(actual.astype(exact.dtype) - exact) / last_place(exact, dtype.name)


def promised(actual: Array, exact: Array, dtype: np.dtype[Any]) -> Array:
    """Errors in ulp, or, of results below 1, in units of 2 eps if that is less."""
    errors = ulps(actual, exact, dtype)
    absolute = np.abs(actual.astype(exact.dtype) - exact) / (2 * EPS[dtype.name])
    return np.where(np.abs(exact) < 1, np.minimum(errors, absolute), errors)


# ------------------------------------------------------------------------------------------- the search
def use_table() -> None:
    """Compute exp as with AVX-512."""
    from fastce.cpu._vectors import exponential

    exponential.has_avx512 = lambda: True


def search(rows: int, seed: int) -> dict[str, Any]:
    """What this process compiles for, and the largest errors."""
    if os.environ.get("ACCURACY_TABLE"):
        use_table()
    found: dict[tuple[str, str], dict[str, Any]] = {}

    def note(what: str, dtype: np.dtype[Any], kind: str, errors: Array, x: Array) -> None:
        key = (what, dtype.name)
        entry = found.setdefault(key, {"what": what, "dtype": dtype.name, "worst": 0.0, "rows": 0})
        entry["rows"] += len(x)
        worst = float(errors.max())
        if not worst <= entry["worst"]:
            row = x[int(np.argmax(errors.reshape(len(x), -1).max(1)))]
            entry.update(worst=worst, kind=kind, classes=len(row), row=[float(v) for v in row[:8]])

    names = {"float32": 1, "float64": 20, "float16": 20}
    try:
        import ml_dtypes
    except ImportError:
        bfloat16 = None
    else:
        bfloat16, names["bfloat16"] = np.dtype(ml_dtypes.bfloat16), 20
    for name, fewer in names.items():
        dtype = bfloat16 if name == "bfloat16" else np.dtype(name)
        assert dtype is not None
        rng = np.random.default_rng(seed)
        for kind, wide_rows in matrices(rng, rows // fewer):
            examine(wide_rows.astype(dtype), kind, dtype, rng, note)
    from fastce.cpu._vectors import target

    machine = {"vector_bits": target.vector_bits(), "fma": target.has_fma(), "half": target.has_half()}
    return {"compiled_for": machine, "found": list(found.values())}


def examine(x: Array, kind: str, dtype: np.dtype[Any], rng: np.random.Generator, note: Callable[..., None]) -> None:
    """The errors of every function on one matrix."""
    import fastce

    wide = x.astype(np.longdouble if dtype == np.float64 else np.float64)
    y = np.where(rng.random(len(x)) < 0.5, wide.argmax(1), rng.integers(0, x.shape[1], len(x)))
    right = Rows(wide, y)
    exact = logsumexp(wide, axis=1)
    note("logsumexp, rows", dtype, kind, promised(fastce.logsumexp(x, axis=1), exact, dtype), x)
    of_columns = fastce.logsumexp(np.ascontiguousarray(x.T), axis=0)
    note("logsumexp, columns", dtype, kind, promised(of_columns, exact, dtype), x)
    computed = np.dtype(np.float64 if dtype == np.float64 else np.float32)
    result = fastce.cross_entropy(x, y, reduction="none")
    note("cross_entropy, ulp", dtype, kind, ulps(result, right.losses, computed), x)
    grad = fastce.cross_entropy_value_and_grad(x, y, reduction="sum").grad
    note("gradient, eps", dtype, kind, np.abs(grad.astype(wide.dtype) - right.grad) / EPS[dtype.name], x)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000 if IS_TINY else 1_010_000, help="of float32, for each target")
    parser.add_argument("--seed", type=int, default=0)
    default = ["host"] if IS_TINY else list(TARGETS)  # each is compiled for anew
    parser.add_argument("--targets", nargs="*", default=default, choices=list(TARGETS))
    parser.add_argument("--json", type=Path, default=ROOT / "bench" / "results" / "accuracy.json")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.here:
        print(json.dumps(search(options.rows, options.seed)))
        return
    record = []
    print("| target | what | dtype | rows | largest error | kind of rows, classes |\n|---|---|---|---|---|---|")
    for target in options.targets:
        command = [sys.executable, "-m", "bench.accuracy", "--here", f"--rows={options.rows}", f"--seed={options.seed}"]
        start = time.perf_counter()
        environment = {"PYTHONPATH": str(ROOT), **os.environ, **TARGETS[target]}
        output = subprocess.run(
            command, env=environment, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT
        ).stdout
        result = json.loads(output)
        for entry in result["found"]:
            print(
                f"| {target} | {entry['what']} | {entry['dtype']} | {entry['rows']:,} | {entry['worst']:.3f} "
                f"| {entry.get('kind', '')}, {entry.get('classes', '')} |",
                flush=True,
            )
            record.append({"target": target, "compiled_for": result["compiled_for"], **entry})
        print(f"<!-- {target}, {result['compiled_for']}: {time.perf_counter() - start:.0f} s -->", flush=True)
        options.json.write_text(json.dumps({"machine": platform.machine(), "found": record}, indent=1) + "\n")


if __name__ == "__main__":
    main()
