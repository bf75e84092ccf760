"""The record: every job of every engine that has it, checked, then timed in turns with the job's floor."""

import pytest
from engines import ENGINES, cases
from measure import measure

CASES = [pytest.param(job, engine, id=f"{job.id}-{engine}") for job, engine in cases()]


@pytest.mark.parametrize(("job", "engine"), CASES)
def test_job(benchmark, problem_of, job, engine):
    if not ENGINES[engine].is_installed:
        pytest.skip(f"{ENGINES[engine].package} is not installed")
    if job.dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    measure(benchmark, job, engine, problem_of(job))
