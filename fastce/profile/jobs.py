"""What is timed: a call, the floor it is held against, and how to read its result."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fastce.cpu import floors
from fastce.profile.measure import Call
from fastce.profile.problem import Array, Problem

_BINARY = "binary_cross_entropy_with_logits"
FLOOR_OF = {  # what each function must at least do with the memory; of each row, nll_loss reads one element
    "logsumexp": "read",
    "softmax": "copy",
    "log_softmax": "copy",
    "row_stats": "read",
    "cross_entropy": "read",
    "cross_entropy_value_and_grad": "copy",
    "cross_entropy_grad_and_hess": "copy + write",
    "nll_loss": "",
    "nll_loss_value_and_grad": "write",
    _BINARY: "read + read labels",
    f"{_BINARY}_value_and_grad": "read labels + copy",
    "clip_loss": "read",
    "clip_loss_value_and_grad": "read + copy",
}
FUNCTIONS = tuple(FLOOR_OF)
DEFAULT_FUNCTIONS = ("logsumexp", "cross_entropy", "cross_entropy_value_and_grad", "clip_loss_value_and_grad")
LOSSES = ("cross_entropy", "nll_loss", _BINARY, "clip_loss")  # each with its twin
FLOORS = tuple(dict.fromkeys(name for name in (*FLOOR_OF.values(), "scale in place") if name))
STATS = ("logsumexp", "argmax", "entropy", "target_rank")  # outputs of row_stats


@dataclass(frozen=True)
class Result:
    """What a job computed, in common terms.

    Attributes
    ----------
    rows : tuple of ndarray
        What belongs to each row: its loss or log-sum-exp, or its row of a matrix of results; several for functions
        with several outputs. Of a value and gradient it is the gradient.
    value : float or None
        The mean loss.
    grad_of_sum : bool
        Whether a gradient is that of the sum, and not of the mean.
    """

    rows: tuple[Array, ...]
    value: float | None = None
    grad_of_sum: bool = False


@dataclass(frozen=True)
class Job:
    """One function of one engine on one problem.

    Attributes
    ----------
    engine : str
        Who computes: fastce, or the name of a peer.
    function : str
        One of `FUNCTIONS`.
    call : callable
        What is timed.
    read : callable
        Makes a `Result` of what `call` returned; may compute more, it is not timed.
    problem : Problem
        What is computed on: the whole matrix, or a block of its rows.
    place : str
        Where a gradient goes: "out", "in place", "new array", or "".
    before : callable or None
        Run before each call, outside the time.
    compiles : bool
        Whether the first call does more than the others, and must not count.
    note : str
        What a reader must know to compare it with the others.
    """

    engine: str
    function: str
    call: Call
    read: Callable[[Any], Result]
    problem: Problem
    place: str = ""
    before: Call | None = None
    compiles: bool = True
    note: str = ""

    @property
    def name(self) -> str:
        """The name under which engines are compared: all of them may write a gradient where they like, or in place."""
        return f"{self.function}, in place" if self.place == "in place" else self.function

    @property
    def floor(self) -> str:
        """The floor this job is held against, one of `FLOORS`, or "" for none."""
        return "scale in place" if self.place == "in place" else FLOOR_OF[self.function]


def floor_call(name: str, problem: Problem) -> Call:
    """The least that a job must do with the memory of this problem, as a call."""
    moves = _moves(name, problem)

    def call() -> None:
        for move in moves:  # one after the other: a block that was just read would be copied from the cache
            floors.run(move, n_threads=problem.n_threads)

    return call


def floor_bytes(name: str, problem: Problem) -> int:
    """Bytes that a floor reads and writes."""
    return sum(move.nbytes for move in _moves(name, problem))


def _moves(name: str, problem: Problem) -> list[floors.Move]:
    moves: dict[str, Callable[[], floors.Move]] = {
        "read": lambda: floors.reading(problem.logits),
        "read labels": lambda: floors.reading(problem.labels),
        "copy": lambda: floors.copying(problem.logits, problem.out),
        "write": lambda: floors.writing(problem.second_out),
        "scale in place": lambda: floors.scaling(problem.work, 1.0),
    }
    return [moves[move]() for move in name.split(" + ")]
