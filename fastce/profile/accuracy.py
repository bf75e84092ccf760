"""The largest error of a result, against SciPy in float64."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from fastce.profile.jobs import Job, Result
from fastce.profile.problem import Array, Problem

SAMPLED_ROWS = 128  # rows whose gradient is checked; losses are checked in every row
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}

_BLOCK_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Error:
    """The largest deviation of a result.

    Attributes
    ----------
    absolute : float
        The largest absolute difference; of gradients, before the division by the number of rows.
    units : float
        The largest difference in units of the last place of what is expected, or in epsilons of the dtype.
    unit : str
        "ulp" for losses and values, "eps" for gradients.
    """

    absolute: float
    units: float
    unit: str


class Reference:
    """What the results of a problem should be: SciPy in float64, a block of rows or columns at a time."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count = min(SAMPLED_ROWS, problem.rows)
        self.sample = np.sort(np.random.default_rng(0).choice(problem.rows, count, replace=False))

    @cached_property
    def _rows(self) -> tuple[Array, Array]:
        return _cross_entropies(self.problem.logits, self.problem.targets, self.problem.label_smoothing)

    @cached_property
    def _rows_of_pairs(self) -> tuple[Array, Array]:
        if np.array_equal(self.problem.targets, self._diagonal):
            return self._rows
        return _cross_entropies(self.problem.logits, self._diagonal, self.problem.label_smoothing)

    @cached_property
    def _columns_of_pairs(self) -> tuple[Array, Array]:
        return _cross_entropies(self.problem.logits.T, self._diagonal, self.problem.label_smoothing)

    @cached_property
    def _diagonal(self) -> Array:
        return np.arange(self.problem.rows)

    def losses(self, function: str) -> Array:
        """What each row should give: its log-sum-exp or its loss."""
        if function == "logsumexp":
            problem = self.problem
            return self._rows[0] + problem.logits[np.arange(problem.rows), problem.targets].astype(np.float64)
        if function.startswith("clip_loss"):
            return np.asarray((self._rows_of_pairs[1] + self._columns_of_pairs[1]) / 2)
        return self._rows[1]

    def grad(self, function: str) -> Array:
        """The gradient of the sum of the losses, in the sampled rows."""
        problem, sample, smoothing = self.problem, self.sample, self.problem.label_smoothing
        logits = problem.logits[sample].astype(np.float64)
        numbers = np.arange(len(sample))
        if function.startswith("clip_loss"):
            targets = sample
            diagonal = np.diagonal(problem.logits).astype(np.float64)
            by_row = np.exp(logits - (diagonal + self._rows_of_pairs[0])[sample, None])
            by_column = np.exp(logits - (diagonal + self._columns_of_pairs[0]))
            grad = (by_row + by_column) / 2
        else:
            targets = problem.targets[sample]
            grad = np.exp(logits - (logits[numbers, targets] + self._rows[0][sample])[:, None])
        grad -= smoothing / problem.classes
        grad[numbers, targets] -= 1 - smoothing
        return np.asarray(grad)

    def errors(self, job: Job, result: Result) -> dict[str, Error]:
        """The largest errors of a result, by what it holds: "losses", "value", "grad"."""
        found = {}
        expected = self.losses(job.function)
        computed_in = "float64" if self.problem.dtype == "float64" else "float32"
        if result.losses is not None:
            found["losses"] = _error_in_ulp(
                result.losses.astype(np.float64), expected, result.losses.dtype.name
            )
        if result.value is not None:
            found["value"] = _error_in_ulp(np.array([result.value]), np.array([expected.mean()]), computed_in)
        if result.grad is not None:
            grad = result.grad[self.sample].astype(np.float64)
            if not result.grad_of_sum:
                grad *= self.problem.rows
            absolute = _largest_difference(grad, self.grad(job.function))
            found["grad"] = Error(absolute, absolute / EPS[result.grad.dtype.name], "eps")
        return found


def worst(errors: dict[str, Error]) -> Error | None:
    """The error that is largest in its own units; NaN counts as the largest of all."""
    return max(errors.values(), key=lambda error: np.nan_to_num(error.units, nan=np.inf), default=None)


def _cross_entropies(matrix: Array, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """For each row, log sum exp(x - x_target), accurate also where it is near zero, and its smoothed loss."""
    relative, losses = np.empty(len(matrix)), np.empty(len(matrix))
    step = max(1, _BLOCK_ELEMENTS // matrix.shape[1])
    with np.errstate(all="ignore"):
        for start in range(0, len(matrix), step):
            rows = slice(start, min(start + step, len(matrix)))
            block = np.array(matrix[rows], dtype=np.float64, order="C")
            at_target = block[np.arange(len(block)), targets[rows]]
            shift = np.where(np.isfinite(at_target), at_target, 0.0)
            block -= shift[:, None]
            shifted = logsumexp(block, axis=1)
            relative[rows] = shifted - (at_target - shift)
            losses[rows] = relative[rows]
            if smoothing:
                losses[rows] = (1 - smoothing) * relative[rows] + smoothing * (shifted - block.mean(axis=1))
    return relative, losses


def _error_in_ulp(actual: Array, expected: Array, dtype: str) -> Error:
    with np.errstate(all="ignore"):
        exponent = np.frexp(expected)[1] - 1
        ulp = np.ldexp(EPS[dtype], exponent)
        units = _differences(actual, expected) / np.where(ulp > 0, ulp, 1.0)
    return Error(_largest_difference(actual, expected), float(units.max(initial=0.0)), "ulp")


def _largest_difference(actual: Array, expected: Array) -> float:
    return float(_differences(actual, expected).max(initial=0.0))


def _differences(actual: Array, expected: Array) -> Array:
    """Absolute differences; equal infinities differ by nothing, nor does NaN from NaN."""
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.where(same, 0.0, np.abs(actual - expected))
