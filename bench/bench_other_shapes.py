"""A matrix that fits the caches, and a classifier's few classes."""

from common import cases, run

SHAPES = [(1024, 1024), (1_000_000, 10)]


@cases(SHAPES, "float32")
def test_float32(benchmark, bench, engine, job):
    run(benchmark, bench, engine, job)
