"""Long rows, far larger than the caches: similarity matrices and the vocabularies of language models."""

from common import cases, run

SHAPES = [(8192, 8192), (4096, 32768), (1024, 151936)]


@cases(SHAPES, "float32")
def test_float32(benchmark, bench, engine, job):
    run(benchmark, bench, engine, job)
