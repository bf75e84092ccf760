"""One job of the CUDA record: every engine checked, then all of them timed in turns with their floors."""

import gc
from collections.abc import Callable
from typing import Any

import torch

from bench.cuda.engines import ENGINES, CudaEngine, Work
from bench.cuda.jobs import CudaJob, buffers_for
from bench.cuda.problem import Problem
from bench.cuda.timing import CALLS, CALLS_OF_SMALL, Stopwatch, Turns
from fastce.profile.work import one_line

WARM_UP = 2  # calls on each of the first buffers, after the one that is checked
PROFILED = 5  # calls
COPY, READ = "copy", "read"


class DeviceLostError(Exception):
    """The GPU, or this process's share of it, takes no more work."""


def floors(problem: Problem) -> dict[str, Callable[[int], Any]]:
    """What is measured beside each job: copying the logits, and reading them (PyTorch's sum, of floats of 32 bits)."""
    into = [torch.empty_like(problem.original) for _ in range(min(2, problem.buffers))]
    whole = problem.original.numel() // 2 * 2
    words = [x.view(-1)[:whole].view(torch.float32) for x in problem.logits]
    calls = {COPY: lambda k: into[k % len(into)].copy_(problem.logits[k])}
    return calls if problem.job.place else calls | {READ: lambda k: torch.sum(words[k])}


def floor_bytes(job: CudaJob) -> dict[str, int]:
    """Of each floor, read and written."""
    return {COPY: 2 * job.logits_bytes, READ: job.logits_bytes}


def checked(engine: CudaEngine, job: CudaJob, problem: Problem) -> tuple[Work, dict[str, float], bool]:
    """The work of an engine, called and compared with what is right: its errors, and whether they are too large."""
    work = engine.prepare(job, problem)
    problem.poison(0)
    found = work.read(work.call(0), 0)
    errors = problem.errors(found)
    del found
    for k in range(problem.buffers):
        problem.restore(k)
        if k < WARM_UP:
            work.call(k)
            problem.restore(k)
    return work, errors, problem.is_wrong(errors, engine.is_peer)


class Measurement:
    """A job on a device.

    Parameters
    ----------
    job : CudaJob
    device : str
    cuda : module
        `torch.cuda`.
    tell : callable
        Is told what is about to be done.
    """

    def __init__(self, job: CudaJob, device: str, cuda: Any, cache: int, tell: Callable[[str], None]):
        self.job, self.device, self.cuda, self.cache, self.tell = job, device, cuda, cache, tell
        self.failures: dict[str, str] = {}
        self.works: dict[str, Work] = {}
        self.errors: dict[str, dict[str, float]] = {}

    def run(self, engines: list[str], repeats: int) -> dict[str, Any]:
        """The case, as the record holds it."""
        self.tell("data")
        problem = Problem(self.job, self.device, buffers_for(self.job.logits_bytes, self.cache))
        _ = problem.right
        self._free()
        for name in engines:
            if ENGINES[name].has(self.job) and ENGINES[name].is_installed:
                self.tell(name)
                self._prepare(name, problem)
        calls = floors(problem) | {name: work.call for name, work in self.works.items()}
        turns = Turns(Stopwatch(self.cuda), problem.buffers, problem.restore, self.tell)
        times = turns.measure(calls, repeats, CALLS_OF_SMALL if self.job.is_small else CALLS)
        return self._case(problem, times)

    def kernels(self, name: str) -> dict[str, float]:
        """Seconds on the device in each kernel of a call of an engine, as PyTorch's profiler sees them."""
        if name not in self.works:
            return {}
        self.tell(name)
        activities = torch.profiler.ProfilerActivity
        with torch.profiler.profile(activities=[activities.CPU, activities.CUDA]) as profile:
            for _ in range(PROFILED):
                self.works[name].call(0)
            self.cuda.synchronize()
        times = {event.key: event.self_device_time_total for event in profile.key_averages()}  # in microseconds
        return {key: time / 1e6 / PROFILED for key, time in times.items() if time > 0}

    def _prepare(self, name, problem):
        """An engine that fails is noted; only a device that is lost ends the job."""
        failure = None
        try:
            self.works[name], self.errors[name], is_wrong = checked(ENGINES[name], self.job, problem)
            if is_wrong:
                failure = f"wrong: {self.errors[name]}"
        except Exception as error:
            failure = one_line(error)
        if failure is None:
            return
        self.failures[name] = failure
        self.works.pop(name, None)
        self._free()
        try:
            self.cuda.synchronize()
        except Exception as lost:
            raise DeviceLostError(f"{failure}; afterwards {one_line(lost)}") from None
        for k in range(problem.buffers):
            problem.restore(k)

    def _free(self):
        gc.collect()
        if self.device != "cpu":
            self.cuda.empty_cache()

    def _case(self, problem, times):
        bytes_of_floors = floor_bytes(self.job)
        return {
            "id": self.job.id,
            "problem": self.job.problem,
            "job": self.job.name,
            "dtype": self.job.dtype,
            "is_key": self.job.is_key,
            "nbytes": self.job.nbytes,
            "logits_bytes": self.job.logits_bytes,
            "buffers": problem.buffers,
            "floors": {name: times[name] | {"nbytes": bytes_of_floors[name]} for name in times if name in (COPY, READ)},
            "engines": {
                name: times[name] | {"errors": self.errors[name], "note": work.note}
                for name, work in self.works.items()
            },
            "failures": self.failures,
        }
