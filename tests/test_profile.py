"""What `fastce profile` and the benchmarks share: jobs, engines, floors, what is right, and how is measured."""

import numpy as np
import pytest

from fastce.profile import run
from fastce.profile.accuracy import errors
from fastce.profile.floor import floor_of
from fastce.profile.jobs import FUNCTIONS, Job, jobs_of
from fastce.profile.measure import Turn, extra_memory, times_in_turns
from fastce.profile.peers import ENGINES
from fastce.profile.peers import fastce as fastce_peer
from fastce.profile.problem import GivenProblem, Problem
from fastce.profile.reference import Reference
from fastce.profile.work import Work, called


@pytest.fixture
def problem(rng):
    logits = 4 * rng.standard_normal((37, 37), np.float32)
    return GivenProblem(logits, rng.integers(0, 37, 37))


def test_extra_memory_sees_what_a_call_touches_and_gives_back():
    size = 64 << 20
    measured, result = extra_memory(lambda: np.ones(size, np.uint8).sum(dtype=np.int64))
    assert result == size
    if measured is None:
        pytest.skip("the system does not tell")
    assert 0.9 * size < measured < 1.5 * size
    assert extra_memory(lambda: None)[0] < 4 << 20


def test_jobs_take_turns_each_after_a_call_of_the_floor():
    calls = []
    job = Turn(lambda: calls.append("job"), 2, before=lambda: calls.append("before"))
    slow = Turn(lambda: calls.append("slow"), 1)
    times, floor_times = times_in_turns([job, slow], lambda: calls.append("floor"))
    assert [len(times[0]), len(times[1]), len(floor_times)] == [2, 1, 3]
    assert calls == ["floor", "floor", "before", "job", "floor", "floor", "slow", "floor", "floor", "before", "job"]


def test_calls_that_are_timed_together():
    calls, ticks = [], iter(range(10))
    (times,), _ = times_in_turns([Turn(lambda: calls.append(1), 2, repeats=4)], clock=lambda: next(ticks))
    assert len(calls) == 8
    assert times == [0.25, 0.25]


def jobs_on(problem):
    return [job for function in FUNCTIONS for job in jobs_of(function, problem.shape, problem.dtype.name, 0.1)]


@pytest.mark.parametrize("shape", [(3, 5), (1000, 10), (7, 5000), (1, 1)])
def test_floors_touch_every_byte(shape, rng):
    problem = GivenProblem(rng.standard_normal(shape, np.float32), np.zeros(shape[0], int))
    problem.out[:] = 0
    for job in jobs_on(problem):
        floor = floor_of(job, problem)
        floor()
        assert floor.nbytes >= problem.logits.nbytes * (job.loss != "nll_loss")
        assert bool(floor.name) == (job.function != "nll_loss")
        if "copy logits" in floor.name:
            np.testing.assert_array_equal(problem.out, problem.logits)
        if "write gradient" in floor.name:
            assert not problem.out.any()
    np.testing.assert_array_equal(problem.work, problem.logits)
    assert not problem.second_out.any()


def rows_and_mean(engine, job, problem):
    """What `fastce profile` finds of a job."""
    rows = run.losses_of_rows(engine, job, problem)
    work = engine.prepare(job, problem)
    found, *_ = called(work)
    return work, rows | found


@pytest.mark.parametrize("name", ["fastce", "numpy", "numpy/scipy"])
def test_every_job_is_right_and_a_wrong_result_is_noticed(name, problem):
    reference, made = Reference(problem), jobs_on(problem)
    assert {job.function for job in made} == set(FUNCTIONS)
    for job in made:
        assert ENGINES[name].has(job)
        work, found = rows_and_mean(ENGINES[name], job, problem)
        for kind, error in errors(reference, work, found).items():
            assert error.absolute < 1e-4, (job.name, kind)
        for kind, wrong in wrong_results(found):
            assert errors(reference, work, wrong)[kind].absolute > 1e-3, (job.name, kind)


def wrong_results(found):
    for part, values in found.items():
        if part == "value":
            yield "mean", found | {part: values + 0.01}
            continue
        wrong = np.asarray(values).copy()
        wrong[(5, 6)[: wrong.ndim]] += 1 if wrong.dtype.kind == "i" else 0.01
        yield "rows", found | {part: wrong}


@pytest.mark.parametrize("options", [{"weighted": True}, {"softcap": 1.0}, {"axis": 0}])
def test_an_option_that_a_function_is_not_measured_with_is_refused(options):
    job = Job("nll_loss", (6, 5), **options)
    with pytest.raises(ValueError, match="nll_loss is not measured with"):
        fastce_peer.prepare(job, Problem(job.shape, job.dtype, job.axis, 1))


def test_a_nan_where_there_should_be_none_is_the_largest_error(problem):
    losses = np.zeros(37, np.float32)
    losses[3] = np.nan
    work = Work(Job("logsumexp", problem.shape), lambda: losses, lambda rows: {"rows": rows})
    assert np.isnan(errors(Reference(problem), work, {"rows": losses})["rows"].absolute)


def test_the_reference_keeps_the_digits_of_a_confident_row():
    logits = np.array([[40.0, 0.0, -1.0], [0.0, 35.0, 3.0]])
    reference = Reference(GivenProblem(logits, np.array([0, 1])))
    job = Job("cross_entropy", logits.shape, "float64", label_smoothing=0.0)
    expected = np.log1p([np.exp(-40.0) + np.exp(-41.0), np.exp(-35.0) + np.exp(-32.0)])
    for everywhere in (False, True):
        _, right = reference.pair(job, "rows", np.zeros(2), everywhere=everywhere)
        np.testing.assert_allclose(right.astype(float), expected, rtol=1e-15)
    np.testing.assert_allclose(reference.pair(job, "value", 0.0)[1], expected.mean(), rtol=1e-15)


def test_large_matrices_are_left_to_a_block_in_plain_numpy(problem, monkeypatch):
    monkeypatch.setattr(run, "LARGEST", 100)
    monkeypatch.setattr(run, "BLOCK", 370)
    for job in jobs_on(problem):
        expected = (19, 19) if job.function.startswith("clip_loss") else (10, 37)
        assert run.part_of(problem, job).shape == expected
        assert run.check("numpy/scipy", job, problem, 1).scale == pytest.approx(37 * 37 / np.prod(expected))
