"""The record: every job of every engine, checked, then timed in turns with the job's floor."""

import pytest
from engines import ENGINES
from jobs import JOBS
from measure import measure

CASES = [
    pytest.param(job, engine, id=f"{job.problem}-{job.name}-{engine}".replace(" ", ""))
    for job in JOBS
    for engine in ENGINES
]


@pytest.mark.parametrize(("job", "engine"), CASES)
def test_job(benchmark, problem_of, job, engine):
    if not ENGINES[engine].is_installed:
        pytest.skip(f"{ENGINES[engine].package} is not installed")
    measure(benchmark, job, ENGINES[engine], problem_of(job), engine)
