"""The largest error of a result in sampled rows, against SciPy in float64 and wider."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logsumexp

from fastce.profile.jobs import Job, Result
from fastce.profile.problem import Array, Problem

SAMPLED_ROWS = 128
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


class _Side:
    """The cross entropies of the rows of a matrix, or of its columns if it is given transposed."""

    def __init__(self, matrix: Array, targets: Array, smoothing: float, sample: Array) -> None:
        self.matrix, self.targets, self.smoothing, self.sample = matrix, targets, smoothing, sample

    @cached_property
    def mean_loss(self) -> float:
        """Over all rows, in float64, a block at a time."""
        step, losses = max(1, _BLOCK_ELEMENTS // self.matrix.shape[1]), []
        for start in range(0, len(self.matrix), step):
            rows = slice(start, start + step)
            block = np.array(self.matrix[rows], np.float64, order="C")
            losses.append(_cross_entropies(block, self.targets[rows], self.smoothing)[1])
        return float(np.concatenate(losses).mean())

    @cached_property
    def logits(self) -> Array:
        """The sampled rows, as wide as the machine has it."""
        return np.array(self.matrix[self.sample], np.longdouble, order="C")

    @cached_property
    def sampled(self) -> tuple[Array, Array]:
        """Log-sum-exp and loss of the sampled rows."""
        return _cross_entropies(self.logits, self.targets[self.sample], self.smoothing)

    @cached_property
    def grad(self) -> Array:
        """The gradient of the sum of the losses, in the sampled rows."""
        numbers, targets = np.arange(len(self.sample)), self.targets[self.sample]
        at_target = self.logits[numbers, targets, None]
        with np.errstate(all="ignore"):
            grad = np.exp((self.logits - at_target) - (self.sampled[0][:, None] - at_target))
        grad -= self.smoothing / self.matrix.shape[1]
        grad[numbers, targets] -= 1 - self.smoothing
        return np.asarray(grad)


class Reference:
    """What the results of a problem should be, by SciPy in float64 and wider."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count = min(SAMPLED_ROWS, problem.rows)
        self.sample = np.sort(np.random.default_rng(0).choice(problem.rows, count, replace=False))
        self.rows = self._side(problem.logits, problem.targets)

    @cached_property
    def rows_of_pairs(self) -> _Side:
        """The rows with the diagonal as targets, for clip_loss."""
        diagonal = np.arange(self.problem.rows)
        is_diagonal = np.array_equal(self.problem.targets, diagonal)
        return self.rows if is_diagonal else self._side(self.problem.logits, diagonal)

    @cached_property
    def columns_of_pairs(self) -> _Side:
        """The columns with the diagonal as targets."""
        return self._side(self.problem.logits.T, np.arange(self.problem.rows))

    def _side(self, matrix: Array, targets: Array) -> _Side:
        return _Side(matrix, targets, self.problem.label_smoothing, self.sample)

    def losses(self, function: str) -> Array:
        """What the sampled rows should give: log-sum-exps or losses."""
        if function == "logsumexp":
            return self.rows.sampled[0]
        if function.startswith("clip_loss"):
            return np.asarray((self.rows_of_pairs.sampled[1] + self.columns_of_pairs.sampled[1]) / 2)
        return self.rows.sampled[1]

    def value(self, function: str) -> float:
        """What the mean loss should be."""
        if function.startswith("clip_loss"):
            return (self.rows_of_pairs.mean_loss + self.columns_of_pairs.mean_loss) / 2
        return self.rows.mean_loss

    def grad_error(self, function: str, grad: Array) -> float:
        """The largest error of the gradient of the sum of the losses, given in the sampled rows.

        For clip_loss it is looked for where they cross the sampled columns.
        """
        if not function.startswith("clip_loss"):
            return _largest_difference(grad, self.rows.grad)
        crossing = self.rows_of_pairs.grad[:, self.sample] + self.columns_of_pairs.grad[:, self.sample].T
        return _largest_difference(grad[:, self.sample], crossing / 2)

    def errors(self, job: Job, result: Result) -> dict[str, Error]:
        """The largest errors of a result, by what it holds: "losses", "value", "grad"."""
        found, function = {}, job.function
        if result.losses is not None:
            losses = result.losses[self.sample]
            found["losses"] = _error_in_ulp(losses, self.losses(function), losses.dtype.name)
        if result.value is not None:
            dtype = "float64" if self.problem.dtype == "float64" else "float32"
            found["value"] = _error_in_ulp(np.array([result.value]), np.array([self.value(function)]), dtype)
        if result.grad is not None:
            scale = 1.0 if result.grad_of_sum else float(self.problem.rows)
            grad = result.grad[self.sample].astype(np.float64) * scale
            absolute = self.grad_error(function, grad)
            found["grad"] = Error(absolute, absolute / EPS[result.grad.dtype.name], "eps")
        return found


def worst(errors: dict[str, Error]) -> Error | None:
    """The error that is largest in its own units; NaN counts as the largest of all."""
    return max(errors.values(), key=lambda error: np.nan_to_num(error.units, nan=np.inf), default=None)


def _cross_entropies(logits: Array, targets: Array, smoothing: float) -> tuple[Array, Array]:
    """Log-sum-exp and smoothed loss of each row, accurate also where the loss is near zero."""
    at_target = logits[np.arange(len(logits)), targets]
    shift = np.where(np.isfinite(at_target), at_target, 0)
    with np.errstate(all="ignore"):
        shifted = logits - shift[:, None]
        total = logsumexp(shifted, axis=1)
        losses = total - (at_target - shift)
        if smoothing:
            losses = (1 - smoothing) * losses + smoothing * (total - shifted.mean(axis=1))
        return total + shift, losses


def _error_in_ulp(actual: Array, expected: Array, dtype: str) -> Error:
    with np.errstate(all="ignore"):
        ulp = np.ldexp(EPS[dtype], np.frexp(expected)[1] - 1)
        units = _differences(actual, expected) / np.where(ulp > 0, ulp, 1.0)
    return Error(_largest_difference(actual, expected), float(units.max(initial=0.0)), "ulp")


def _largest_difference(actual: Array, expected: Array) -> float:
    return float(_differences(actual, expected).max(initial=0.0))


def _differences(actual: Array, expected: Array) -> Array:
    """Absolute differences; equal infinities differ by nothing, nor does NaN from NaN."""
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.where(same, 0, np.abs(actual.astype(np.longdouble) - expected))
