"""`fastce profile --from-features`: CLIP's loss with all gradients from features, against the size of the batch.

Beside it the dense way, which holds the matrix of all products, until that would take more memory than it may.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from importlib import import_module
from time import perf_counter
from typing import Any

import numpy as np

import fastce
from fastce.profile.machine import machine
from fastce.profile.measure import Call, extra_memory, median_ratio, seconds
from fastce.profile.problem import Array
from fastce.tiles import LARGEST_EDGE

SMALLEST_BATCH = 512
OPERATIONS = 8  # times N N D: the products once for the value and once for the gradients, which take one each
DENSE_COPIES = {"numpy": 4, "torch": 6}  # of the matrix of products, that the dense way holds at once
_LONG = 2.0  # seconds; of what takes longer, the call whose memory is measured is timed, too, and no other
_FLOOR_SECONDS = 0.3


@dataclass(frozen=True)
class FeaturesProblem:
    """Two sides of features, and how they are compared.

    Attributes
    ----------
    image, text : ndarray, shape (N, D)
        Unit vectors; row i of one belongs to row i of the other.
    logit_scale, label_smoothing, memory_limit, n_threads, origin
        `memory_limit`, in bytes, is what the dense ways may use.
    """

    image: Array
    text: Array
    logit_scale: float
    label_smoothing: float
    memory_limit: int
    n_threads: int
    origin: str

    def first(self, batch: int) -> "FeaturesProblem":
        """The first pairs."""
        sides = self.image[:batch], self.text[:batch]
        return FeaturesProblem(
            *sides, self.logit_scale, self.label_smoothing, self.memory_limit, self.n_threads, self.origin
        )

    @property
    def batch(self) -> int:
        return len(self.image)

    @property
    def operations(self) -> float:
        return float(OPERATIONS * self.batch**2 * self.image.shape[1])


@dataclass(frozen=True)
class FeaturesRow:
    """What was measured of one engine at one batch size.

    Attributes
    ----------
    engine, batch : str, int
    seconds : float
        The fastest call.
    gflop_per_s : float
        8 N N D operations over the time.
    times_floor : float
        Time over that of the products alone, the median over the rounds.
    extra_bytes : int or None
        How far resident memory rose during a call, the gradients included.
    difference : float or None
        The largest difference of a gradient from fastce's, relative to the largest element; None for fastce.
    """

    engine: str
    batch: int
    seconds: float
    gflop_per_s: float
    times_floor: float
    extra_bytes: int | None
    difference: float | None


@dataclass
class FeaturesReport:
    """All that a run has found."""

    machine: dict[str, Any]
    input: dict[str, Any]
    rounds: int
    rows: list[FeaturesRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """The report in the types of JSON."""
        return asdict(self)


def new_report(problem: FeaturesProblem, rounds: int) -> FeaturesReport:
    """A report in which nothing has been measured yet."""
    described = {
        "origin": problem.origin,
        "batch": problem.batch,
        "width": problem.image.shape[1],
        "dtype": problem.image.dtype.name,
        "label_smoothing": problem.label_smoothing,
        "memory_limit": problem.memory_limit,
    }
    return FeaturesReport(machine(problem.n_threads), described, rounds)


def batch_sizes(largest: int) -> list[int]:
    """Powers of two, and the largest."""
    sizes = []
    size = min(SMALLEST_BATCH, largest)
    while size < largest:
        sizes.append(size)
        size *= 2
    return [*sizes, largest]


def profile(
    problem: FeaturesProblem,
    report: FeaturesReport,
    *,
    peers: Sequence[str] = ("numpy",),
    progress: Callable[[str], None] = lambda text: None,
) -> None:
    """Measure batch sizes by powers of two, and write what is found into a report.

    Parameters
    ----------
    problem : FeaturesProblem
    report : FeaturesReport
        Receives a row for each engine and batch size; see `new_report`.
    peers : sequence of str
        Which of `DENSE_COPIES` to measure beside fastce.
    progress : callable
        Told what is being done.
    """
    _fastce(problem.first(2))  # compiles
    for batch in batch_sizes(problem.batch):
        part = problem.first(batch)
        ours: list[Array] = []
        for engine, call in _calls(part, peers, report):
            progress(f"{engine}: batch {batch}")
            report.rows.append(_measure(engine, call, part, report.rounds, ours))


def _calls(problem: FeaturesProblem, peers: Sequence[str], report: FeaturesReport) -> Iterator[tuple[str, Call]]:
    yield "fastce", partial(_fastce, problem)
    makers: dict[str, Callable[[FeaturesProblem], Any]] = {"numpy": dense_numpy, "torch": dense_torch}
    for peer in peers:
        needed = DENSE_COPIES[peer] * problem.batch**2 * problem.image.itemsize
        if needed > problem.memory_limit:
            _note(report, f"{peer}: from batch {problem.batch} on the dense way takes more than the memory limit")
        else:
            yield peer, partial(makers[peer], problem)


def _note(report: FeaturesReport, note: str) -> None:
    if not any(known.split(":")[0] == note.split(":")[0] for known in report.notes):
        report.notes.append(note)


def _measure(engine: str, call: Call, problem: FeaturesProblem, rounds: int, ours: list[Array]) -> FeaturesRow:
    """`ours` receives fastce's gradients, which the others are compared with."""
    floor = products_floor(problem)
    floor_times = [floor()]
    started = perf_counter()
    extra_bytes, gradients = extra_memory(call)
    job_times = [perf_counter() - started]
    difference = None
    if ours:
        difference = max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(gradients, ours, strict=True))
    else:
        ours += gradients
    del gradients
    if job_times[0] < _LONG:
        floor_times, job_times = [], []
        for _ in range(rounds):
            floor_times.append(floor())
            job_times.append(seconds(call))
    fastest = min(job_times)
    ratio = median_ratio(job_times, floor_times)
    return FeaturesRow(
        engine, problem.batch, fastest, problem.operations / fastest / 1e9, ratio, extra_bytes, difference
    )


def products_floor(problem: FeaturesProblem) -> Callable[[], float]:
    """A measurement of the seconds that NumPy takes for the products alone, from those of one tile."""
    edge = min(problem.batch, LARGEST_EDGE)
    a, b = problem.image[:edge], problem.text[:edge]
    tile, gradient = np.empty((edge, edge), a.dtype), np.empty_like(a)

    def products() -> None:
        for _ in range(2):
            np.matmul(a, b.T, out=tile)
        np.matmul(tile, b, out=gradient)
        np.matmul(tile.T, a, out=gradient)

    def measure() -> float:
        products()
        times = [seconds(products)]
        while sum(times) < _FLOOR_SECONDS:
            times.append(seconds(products))
        return min(times) * (problem.batch / edge) ** 2

    return measure


def _fastce(problem: FeaturesProblem) -> list[Array]:
    result = fastce.clip_loss_from_features_value_and_grad(
        problem.image,
        problem.text,
        problem.logit_scale,
        label_smoothing=problem.label_smoothing,
        n_threads=problem.n_threads,
    )
    return [result.grad_image_features, result.grad_text_features]


def dense_numpy(problem: FeaturesProblem) -> list[Array]:
    """The gradients as a careful user of NumPy writes them: two matrices of all pairs."""
    n, smoothing, diagonal = problem.batch, problem.label_smoothing, np.arange(problem.batch)
    x = (problem.logit_scale * problem.image) @ problem.text.T
    total = np.zeros_like(x)
    for axis in (1, 0):
        p = x - x.max(axis=axis, keepdims=True)
        np.exp(p, out=p)
        p /= p.sum(axis=axis, keepdims=True)
        total += p
        del p
    total -= 2 * smoothing / n
    total[diagonal, diagonal] -= 2 * (1 - smoothing)
    total *= problem.logit_scale / (2 * n)
    return [total @ problem.text, total.T @ problem.image]


def dense_torch(problem: FeaturesProblem) -> list[Array]:
    """PyTorch, eager, as in open_clip."""
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    image, text = (torch.from_numpy(side).requires_grad_() for side in (problem.image, problem.text))
    x = problem.logit_scale * image @ text.T
    diagonal = torch.arange(problem.batch)
    loss = partial(torch.nn.functional.cross_entropy, target=diagonal, label_smoothing=problem.label_smoothing)
    ((loss(x) + loss(x.T)) / 2).backward()
    return [image.grad.numpy(), text.grad.numpy()]
