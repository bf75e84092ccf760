"""What a job must at least do with memory: read its inputs and write its outputs, each once."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jobs import Job
from problem import Problem

from fastce import floors

LEAST = 0.01  # arrays smaller than this part of the logits are left out: their calls would cost more than their bytes


@dataclass(frozen=True)
class Move:
    """One array that is moved, in one of the ways of `fastce.floors`."""

    name: str
    call: Callable[[], Any]
    nbytes: int


@dataclass(frozen=True)
class Floor:
    """All moves of a job, one after the other."""

    moves: tuple[Move, ...]

    def __call__(self):
        for move in self.moves:
            move.call()

    @property
    def nbytes(self) -> int:
        return sum(move.nbytes for move in self.moves)

    @property
    def name(self) -> str:
        return " + ".join(move.name for move in self.moves)


def floor_of(job: Job, problem: Problem) -> Floor:
    """The floor of a job."""
    logits, out = problem.places(job)
    options = {"n_threads": problem.n_threads}

    def read(name, array):
        return Move(f"read {name}", lambda: floors.read(array, **options), array.nbytes)

    def write(name, array):
        return Move(f"write {name}", lambda: floors.write(array, **options), array.nbytes)

    if job.place == "in place":
        moves = [Move("scale in place", lambda: floors.scale_in_place(logits, 1.0, **options), 2 * logits.nbytes)]
    elif job.place:
        moves = [Move("copy", lambda: floors.copy(logits, out, **options), 2 * logits.nbytes)]
    else:
        moves = [read("logits", logits)]
    if job.function == "clip_loss_value_and_grad":  # needs every sum of a column before its first gradient
        moves.insert(0, read("logits", logits))
    if job.function == "cross_entropy_grad_and_hess":
        moves.append(write("hessian", problem.second_out))
    moves += [read("targets", array) for array in _target_arrays(job, problem)]
    if job.loss == "logsumexp" or (job.loss == "cross_entropy" and job.reduction == "none"):
        moves.append(write("rows", problem.row_out))
    return Floor(tuple(move for move in moves if move.nbytes > LEAST * logits.nbytes))


def _target_arrays(job: Job, problem: Problem):
    if job.loss in ("logsumexp", "softmax", "log_softmax") or job.targets == "pairs":
        return []
    targets = problem.targets(job)
    return [targets.data, targets.indices] if job.targets == "sparse" else [targets]
