"""The record: every job of every engine that has it, checked, then timed in turns with the job's floor."""

import pytest

from bench.jobs import ENGINES, JOBS, cases, of_matrix
from bench.measure import measure
from bench.own_matrix import own_matrix


def pytest_generate_tests(metafunc):
    """The jobs of the record, or those of the matrix that is given by --logits."""
    logits = own_matrix(metafunc.config)
    jobs = JOBS if logits is None else of_matrix(logits.shape, logits.dtype.name)
    metafunc.parametrize(
        ("job", "engine"), [pytest.param(job, engine, id=f"{job.id}-{engine}") for job, engine in cases(jobs)]
    )


def test_job(benchmark, problem_of, job, engine):
    if not ENGINES[engine].is_installed:
        pytest.skip(f"{ENGINES[engine].package} is not installed")
    if job.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    measure(benchmark, job, engine, problem_of(job))
