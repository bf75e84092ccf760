"""What a job must at least do with memory: read its inputs and write its outputs, each once."""

from dataclasses import dataclass

from fastce.cpu import floors
from fastce.profile.jobs import Job
from fastce.profile.problem import Array, Problem

LEAST = 0.01  # arrays smaller than this part of the logits are left out: their calls would cost more than their bytes


@dataclass(frozen=True)
class Floor:
    """Passes over memory, one after the other; the moves of a pass, by name, are made side by side."""

    passes: tuple[dict[str, floors.Move], ...]
    n_threads: int

    def __call__(self) -> None:
        for moves in self.passes:
            floors.run(*moves.values(), n_threads=self.n_threads)

    @property
    def nbytes(self) -> int:
        return sum(move.nbytes for moves in self.passes for move in moves.values())

    @property
    def name(self) -> str:
        """What is moved; "" for nothing."""
        return " + ".join(name for moves in self.passes for name in moves)


def floor_of(job: Job, problem: Problem) -> Floor:
    """The floor of a job. Of each row, nll_loss reads one element: it has none."""
    logits, out = problem.places(job)
    if job.loss == "nll_loss":
        gradient = ({"write gradient": floors.writing(problem.out)},) if job.wants_gradient else ()
        return Floor(gradient, problem.n_threads)
    if out is None:
        moves = {"read logits": floors.reading(logits)}
    elif out is logits:
        moves = {"scale in place": floors.scaling(logits, 1.0)}
    else:
        moves = {"copy logits": floors.copying(logits, out)}
    moves |= {f"read {name}": floors.reading(array) for name, array in _target_arrays(job, problem).items()}
    if job.function.endswith("hess"):
        moves["write hessian"] = floors.writing(problem.second_out)
    elif job.loss == "logsumexp" or job.reduction == "none":
        moves["write rows"] = floors.writing(problem.row_out)
    moves = {name: move for name, move in moves.items() if move.nbytes > LEAST * logits.nbytes}
    # CLIP needs every sum of a column before its first gradient.
    first = ({"read logits": floors.reading(logits)},) if job.function == "clip_loss_value_and_grad" else ()
    return Floor((*first, moves), problem.n_threads)


def _target_arrays(job: Job, problem: Problem) -> dict[str, Array]:
    if job.loss in ("logsumexp", "softmax", "log_softmax") or job.targets == "pairs":
        return {}
    targets = problem.targets(job)
    if job.targets == "sparse":
        return {"probabilities": targets.data, "columns": targets.indices}
    return {"targets": targets}
