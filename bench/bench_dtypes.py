"""The other dtypes, on one matrix."""

import pytest
from common import cases, run

SHAPES = [(8192, 8192)]


@cases(SHAPES, "float64")
def test_float64(benchmark, bench, engine, job):
    run(benchmark, bench, engine, job)


# Without PyTorch, whose smoothed losses in half precision overflow on the CPU.
@cases(SHAPES, "float16", "bfloat16", engines=("fastce", "numpy/scipy", "jax"))
def test_half_precision(benchmark, bench, engine, job):
    pytest.importorskip("ml_dtypes")
    run(benchmark, bench, engine, job)
