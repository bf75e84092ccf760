"""The largest error of a result in sampled rows, and that of the mean, against SciPy in float64 and wider."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import expit, logsumexp

from fastce.profile.jobs import FUNCTIONS, Job, Result
from fastce.profile.problem import Array, Problem

SAMPLED_ROWS = 128
EPS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float32": 2.0**-23, "float64": 2.0**-52}
_SMALLEST = {"float16": 2.0**-24, "bfloat16": 2.0**-133, "float32": 2.0**-149, "float64": 2.0**-1074}

_BLOCK_ELEMENTS = 1 << 20
_IN_EPS = [name for name in FUNCTIONS if name == "softmax" or name.endswith(("_grad", "_hess"))]  # up to about 1


@dataclass(frozen=True)
class Error:
    """The largest deviation of a result.

    Attributes
    ----------
    absolute : float
        The largest absolute difference; of gradients, before the division by the number of losses.
    units : float
        The largest difference in `unit`.
    unit : str
        "eps", that of the dtype of the matrix, for gradients, Hessians and softmax; else "ulp", units in the last place
        of what is expected: in the dtype of the matrix for logsumexp and log_softmax, and at least float32 for losses.
    """

    absolute: float
    units: float
    unit: str


class _Side:
    """The cross entropies of the rows of a matrix, or of its columns if it is given transposed."""

    def __init__(self, matrix: Array, targets: Array, smoothing: float, sample: Array) -> None:
        self.matrix = matrix
        self.targets = targets
        self.smoothing = smoothing
        self.sample = sample

    @cached_property
    def mean_loss(self) -> float:
        """Over all rows."""
        return _mean(self.matrix, lambda x, rows: _cross_entropies(x, self.targets[rows], self.smoothing)[1])

    @cached_property
    def logits(self) -> Array:
        """The sampled rows, as wide as the machine has it."""
        return np.array(self.matrix[self.sample], np.longdouble, order="C")

    @cached_property
    def sampled(self) -> tuple[Array, Array]:
        """Log-sum-exp and loss of the sampled rows."""
        return _cross_entropies(self.logits, self.targets[self.sample], self.smoothing)

    @cached_property
    def at_target(self) -> Array:
        return np.asarray(self.logits[np.arange(len(self.sample)), self.targets[self.sample]])

    @cached_property
    def log_probs(self) -> Array:
        """Relative to the logit of the target, so that nothing is lost where the target has nearly all probability."""
        target = self.at_target[:, None]
        with np.errstate(all="ignore"):
            near = (self.logits - target) - (self.sampled[0][:, None] - target)
        return np.asarray(np.where(np.isfinite(target), near, self.logits - self.sampled[0][:, None]))

    @cached_property
    def grad(self) -> Array:
        """The gradient of the sum of the losses, in the sampled rows."""
        with np.errstate(all="ignore"):
            grad = np.exp(self.log_probs)
        grad -= self.smoothing / self.matrix.shape[1]
        grad[np.arange(len(self.sample)), self.targets[self.sample]] -= 1 - self.smoothing
        return np.asarray(grad)


class Reference:
    """What the results of a problem should be, by SciPy in float64 and wider."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        count = min(SAMPLED_ROWS, problem.rows)
        self.sample: Array = np.sort(np.random.default_rng(0).choice(problem.rows, count, replace=False))
        self.rows: _Side = self._side(problem.logits, problem.targets)

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

    def expected(self, function: str) -> tuple[Array, ...]:
        """What belongs to the sampled rows; gradients are those of the sum, clip_loss's where rows cross columns."""
        rows = self.rows
        makers: dict[str, Callable[[], tuple[Array, ...]]] = {
            "logsumexp": lambda: (rows.sampled[0],),
            "softmax": lambda: (np.exp(rows.log_probs),),
            "log_softmax": lambda: (rows.log_probs,),
            "row_stats": self._stats,
            "cross_entropy": lambda: (rows.sampled[1],),
            "cross_entropy_value_and_grad": lambda: (rows.grad,),
            "cross_entropy_grad_and_hess": lambda: (rows.grad, np.exp(rows.log_probs) * -np.expm1(rows.log_probs)),
            "nll_loss": lambda: (-rows.at_target,),
            "nll_loss_value_and_grad": lambda: (-self._is_target(),),
            "binary_cross_entropy_with_logits": lambda: (_binary_losses(rows.logits, self._is_target()),),
            "binary_cross_entropy_with_logits_value_and_grad": lambda: (expit(rows.logits) - self._is_target(),),
            "clip_loss": lambda: ((self.rows_of_pairs.sampled[1] + self.columns_of_pairs.sampled[1]) / 2,),
            "clip_loss_value_and_grad": lambda: (
                (self.rows_of_pairs.grad[:, self.sample] + self.columns_of_pairs.grad[:, self.sample].T) / 2,
            ),
        }
        with np.errstate(all="ignore"):
            return makers[function]()

    def mean(self, loss: str) -> float:
        """What the mean loss should be."""
        matrix, targets = self.problem.logits, self.problem.targets
        if loss == "clip_loss":
            return (self.rows_of_pairs.mean_loss + self.columns_of_pairs.mean_loss) / 2
        if loss == "nll_loss":
            return float(-matrix[np.arange(len(matrix)), targets].astype(np.float64).mean())
        if loss.startswith("binary"):
            return _mean(matrix, lambda x, rows: _binary_losses(x, self.problem.labels[rows].astype(np.float64)))
        return self.rows.mean_loss

    def errors(self, job: Job, result: Result) -> dict[str, Error]:
        """The errors of a result: "rows", the largest in the sampled rows, and "mean", that of the mean loss."""
        loss = job.function.removesuffix("_value_and_grad")
        actual = [np.asarray(part)[self.sample] for part in result.rows]
        if loss != job.function and not result.grad_of_sum:
            losses = self.problem.logits.size if loss.startswith("binary") else self.problem.rows
            actual = [part.astype(np.float64) * losses for part in actual]
        if job.function == "clip_loss_value_and_grad":
            actual = [part[:, self.sample] for part in actual]
        unit = "eps" if job.function in _IN_EPS else "ulp"
        of_losses = "float64" if self.problem.dtype == "float64" else "float32"
        in_own_dtype = unit == "eps" or job.function in ("logsumexp", "log_softmax")
        dtype = self.problem.dtype if in_own_dtype else of_losses
        pairs = zip(actual, self.expected(job.function), strict=True)
        found = {"rows": _worst([_error(*pair, dtype, unit) for pair in pairs])}
        if result.value is not None:
            found["mean"] = _error(np.array([result.value]), np.array([self.mean(loss)]), of_losses, "ulp")
        return found

    def _is_target(self) -> Array:
        """The rows of the identity that belong to the sampled rows' targets."""
        found = np.zeros(self.rows.logits.shape, np.longdouble)
        found[np.arange(len(self.sample)), self.rows.targets[self.sample]] = 1
        return found

    def _stats(self) -> tuple[Array, ...]:
        """As `fastce.profile.jobs.STATS`."""
        logits, log_probs, targets = self.rows.logits, self.rows.log_probs, self.rows.targets[self.sample]
        terms = np.exp(log_probs) * np.where(log_probs == -np.inf, 0, log_probs)
        at_target = self.rows.at_target[:, None]
        earlier = np.arange(logits.shape[1]) < targets[:, None]
        rank = ((logits > at_target) | ((logits == at_target) & earlier)).sum(axis=1)
        return self.rows.sampled[0], logits.argmax(axis=1), -terms.sum(axis=1), rank


def _worst(errors: list[Error]) -> Error:
    """The error that is largest in its own units; NaN counts as the largest of all."""
    return max(errors, key=lambda error: np.nan_to_num(error.units, nan=np.inf))


def _error(actual: Array, expected: Array, dtype: str, unit: str) -> Error:
    differences, size = _differences(actual, expected), np.array(EPS[dtype])
    with np.errstate(all="ignore"):
        if expected.dtype.kind == "i":  # an index is right, or infinitely wrong
            size = np.array(0.0)
        elif unit == "ulp":
            size = np.maximum(np.ldexp(EPS[dtype], np.frexp(expected)[1] - 1), _SMALLEST[dtype])
        units = np.where(differences == 0, 0, differences / size)
    return Error(float(differences.max(initial=0.0)), float(units.max(initial=0.0)), unit)


def _mean(matrix: Array, losses: Callable[[Array, slice], Array]) -> float:
    """Of losses that are computed in float64, a block of rows at a time."""
    step, means = max(1, _BLOCK_ELEMENTS // matrix.shape[1]), []
    for start in range(0, len(matrix), step):
        rows = slice(start, start + step)
        block = losses(np.array(matrix[rows], np.float64, order="C"), rows)
        means.append(block.reshape(len(block), -1).mean(axis=1))
    return float(np.concatenate(means).mean())


def _binary_losses(logits: Array, labels: Array) -> Array:
    """Without cancellation where the loss is near zero."""
    signed = np.where(labels == 1, -logits, logits)
    return np.asarray(np.maximum(signed, 0) + np.log1p(np.exp(-np.abs(signed))))


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


def _differences(actual: Array, expected: Array) -> Array:
    """Absolute differences; equal infinities differ by nothing, nor does NaN from NaN."""
    with np.errstate(all="ignore"):
        same = (actual == expected) | (np.isnan(actual) & np.isnan(expected))
        return np.where(same, 0, np.abs(actual.astype(np.longdouble) - expected))
