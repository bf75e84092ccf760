"""What all benchmarks share: the problems, the engines, and one benchmark of one job."""

import time
from dataclasses import dataclass, field

import numpy as np
import pytest

import fastce
from fastce.profile.accuracy import Reference
from fastce.profile.inputs import as_dtype
from fastce.profile.jobs import Job, fastce_jobs, floor_bytes, floor_call
from fastce.profile.measure import median_ratio, seconds
from fastce.profile.peers import PEERS, is_installed, jax_jobs, sklearn_jobs, torch_jobs
from fastce.profile.plain import plain_jobs
from fastce.profile.problem import Problem
from fastce.profile.run import check

JOBS = {
    "logsumexp": ("logsumexp", False),
    "cross_entropy": ("cross_entropy", False),
    "cross_entropy_value_and_grad": ("cross_entropy_value_and_grad", False),
    "cross_entropy_value_and_grad in place": ("cross_entropy_value_and_grad", True),
    "clip_loss": ("clip_loss", False),
    "clip_loss_value_and_grad": ("clip_loss_value_and_grad", False),
}
MAKERS = {
    "fastce": fastce_jobs,
    "numpy/scipy": plain_jobs,
    "torch": torch_jobs,
    "torch.compile": lambda problem: torch_jobs(problem, compiled=True),
    "jax": jax_jobs,
    "sklearn": sklearn_jobs,
}
ENGINES = tuple(MAKERS)
ROUNDS = {"fastce": 20}
PEER_ROUNDS = 5
LARGEST_ERROR = {
    "float64": 1e-9,
    "float32": 2e-3,
    "float16": 5e-2,
    "bfloat16": 4e-1,
}  # of a result that is right


def cases(shapes: list[tuple[int, int]], *dtypes: str, engines: tuple[str, ...] = ENGINES):
    """Parametrize a benchmark: each job of each engine on each shape and dtype, where it exists."""
    values = [
        pytest.param(problem, engine, job, id=f"{problem[0]}x{problem[1]}-{problem[2]}-{engine}-{job}")
        for problem in [(*shape, dtype) for shape in shapes for dtype in dtypes]
        for engine in engines
        for job in JOBS
        if _exists(problem, engine, job)
    ]
    return pytest.mark.parametrize(("bench", "engine", "job"), values, indirect=["bench"])


def _exists(problem: tuple[int, int, str], engine: str, job: str) -> bool:
    rows, classes, dtype = problem
    if job.startswith("clip_loss"):
        return rows == classes and engine != "sklearn"
    if job.endswith("in place"):
        return engine == "fastce" or (engine == "numpy/scipy" and dtype in ("float32", "float64"))
    return engine != "sklearn" or job.startswith("cross_entropy")


@dataclass
class Bench:
    """A problem, with its reference and the jobs of the engines that have been asked for."""

    problem: Problem
    reference: dict[int, Reference] = field(default_factory=dict)
    jobs: dict[str, list[Job]] = field(default_factory=dict)

    def job(self, engine: str, name: str) -> Job:
        """One job of one engine; the benchmark is skipped where it is not installed."""
        package = engine.split(".")[0]
        if package in PEERS and not is_installed(package):
            pytest.skip(f"{package} is not installed")
        if engine not in self.jobs:
            self.jobs[engine] = MAKERS[engine](self.problem)
        function, in_place = JOBS[name]
        jobs = self.jobs[engine]
        return next(job for job in jobs if (job.function, job.place == "in place") == (function, in_place))

    def reference_of(self, job: Job) -> Reference:
        return self.reference.setdefault(id(job.problem), Reference(job.problem))


def make_bench(rows: int, classes: int, dtype: str) -> Bench:
    """Logits and targets of a shape, the same in every run."""
    rng = np.random.default_rng(20240229)
    logits = np.empty((rows, classes), as_dtype(dtype))
    step = max(1, (1 << 22) // classes)
    for start in range(0, rows, step):
        block = logits[start : start + step]
        block[:] = 4 * rng.standard_normal(block.shape, np.float32)
    targets = rng.integers(0, classes, rows)
    return Bench(Problem(logits, targets, 0.1, fastce.get_num_threads(), "4 * standard normal"))


def run(benchmark, bench: Bench, engine: str, name: str) -> None:
    """Check a job against its reference, then benchmark it in turns with its floor."""
    job = bench.job(engine, name)
    problem = job.problem
    floor = floor_call(job.floor, problem)
    floor()
    checked = check(job, bench.reference_of(job), ROUNDS.get(engine, PEER_ROUNDS))
    for kind, error in checked.errors.items():
        assert error.absolute <= LARGEST_ERROR[problem.dtype], f"{kind} is off by {error.absolute}"
    floor_times = []

    def turn():
        time.sleep(checked.pause)
        floor()
        floor_times.append(seconds(floor))
        if job.before is not None:
            job.before()

    benchmark.group = f"{bench.problem.rows} x {bench.problem.classes} {problem.dtype}: {name}"
    benchmark.pedantic(job.call, setup=turn, rounds=checked.rounds)
    benchmark.extra_info |= {
        "engine": engine,
        "job": name,
        "rows": bench.problem.rows,
        "classes": bench.problem.classes,
        "dtype": problem.dtype,
        "n_threads": problem.n_threads,
        "block_rows": problem.rows,
        "floor": job.floor,
        "floor_seconds": min(floor_times),
        "extra_bytes": checked.extra_bytes,
        "errors": {kind: [error.absolute, error.units, error.unit] for kind, error in checked.errors.items()},
        "note": job.note,
    }
    if benchmark.stats is not None:  # not with --benchmark-disable
        fastest = benchmark.stats.stats.min
        benchmark.extra_info |= {
            "gb_per_s": floor_bytes(job.floor, problem) / fastest / 1e9,
            "times_floor": median_ratio(benchmark.stats.stats.data, floor_times[-len(benchmark.stats.stats.data) :]),
        }
