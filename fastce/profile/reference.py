"""What results should be: by SciPy, in float64 over all rows, and wider in a sample of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import fsum
from typing import Any

import numpy as np
from scipy.special import expit, logsumexp

from fastce.profile.jobs import BINARY, STATS, Job
from fastce.profile.problem import Array, Problem

SAMPLED_ROWS = 128
_BLOCK_ELEMENTS = 1 << 20
_OF_ROWS = ("rows", *STATS)  # the parts of a result that are numbers of rows; but for the value the others are matrices


@dataclass(frozen=True)
class Rows:
    """Some rows in a wide dtype, relative to the logit of each row's target.

    So nothing is lost where that has nearly all probability.

    Attributes
    ----------
    x : ndarray, shape (rows, classes)
    targets : ndarray
        The class of each row, or what each element is aimed at.
    smoothing : float
    weight : ndarray or None
        Of classes.
    kept : ndarray or None
        Which rows are not ignored.
    """

    x: Array
    targets: Array
    smoothing: float = 0.0
    weight: Array | None = None
    kept: Array | None = None

    @cached_property
    def at_target(self) -> Array:
        return np.asarray(np.take_along_axis(self.x, self.targets[:, None], 1)[:, 0])

    @cached_property
    def shift(self) -> Array:
        if self.targets.ndim == 2:
            return np.zeros_like(self.x[:, :1])
        return np.asarray(np.where(np.isfinite(self.at_target), self.at_target, 0)[:, None])

    @cached_property
    def total(self) -> Array:
        """Log-sum-exp, less the shift."""
        return np.asarray(logsumexp(self.x - self.shift, axis=1, keepdims=True))

    @cached_property
    def log_probs(self) -> Array:
        return np.asarray((self.x - self.shift) - self.total)

    @cached_property
    def masses(self) -> Array:
        """What each class of a row counts: smoothed targets times class weights."""
        targets = self.targets
        if targets.ndim == 1:
            targets = np.zeros_like(self.x)
            np.put_along_axis(targets, self.targets[:, None], 1, 1)
        if self.smoothing:
            targets = (1 - self.smoothing) * targets + self.smoothing / self.x.shape[1]
        return targets if self.weight is None else targets * self.weight

    @property
    def logsumexp(self) -> Array:
        return np.asarray((self.total + self.shift)[:, 0])

    @property
    def losses(self) -> Array:
        if self.targets.ndim == 1 and self.weight is None:  # the same without a matrix of masses
            losses = self.total[:, 0] - (self.at_target - self.shift[:, 0])
            if self.smoothing:
                spread = self.total[:, 0] - (self.x - self.shift).mean(axis=1)
                losses = (1 - self.smoothing) * losses + self.smoothing * spread
            return np.asarray(losses)
        return np.asarray(-np.where(self.masses == 0, 0, self.masses * self.log_probs).sum(axis=1))

    @property
    def grad(self) -> Array:
        """Of the sum of the losses."""
        return np.asarray(np.exp(self.log_probs) * self.masses.sum(axis=1, keepdims=True) - self.masses)

    def of_kept(self, values: Array) -> Array:
        """The same, 0 in ignored rows."""
        kept = self.kept
        return values if kept is None else np.where(kept if values.ndim == 1 else kept[:, None], values, 0)

    @property
    def pos_weight(self) -> Array:
        """What each element counts."""
        return np.asarray(1.0 if self.weight is None else np.where(self.targets == 1, self.weight, 1))

    @property
    def binary_losses(self) -> Array:
        """Without cancellation where the loss is near zero."""
        signed = np.where(self.targets == 1, -self.x, self.x)
        return np.asarray(self.pos_weight * (np.maximum(signed, 0) + np.log1p(np.exp(-np.abs(self.x)))))

    @property
    def entropy(self) -> Array:
        return np.asarray(-(np.exp(self.log_probs) * np.where(self.log_probs == -np.inf, 0, self.log_probs)).sum(1))

    @property
    def rank(self) -> Array:
        at_target, earlier = self.at_target[:, None], np.arange(self.x.shape[1]) < self.targets[:, None]
        return np.asarray(((self.x > at_target) | ((self.x == at_target) & earlier)).sum(axis=1))


_LOSSES: dict[str, Callable[[Rows], Array]] = {
    "logsumexp": lambda rows: rows.logsumexp,
    "cross_entropy": lambda rows: rows.of_kept(rows.losses),
    "clip_loss": lambda rows: rows.losses,
    "nll_loss": lambda rows: -rows.at_target,
    BINARY: lambda rows: rows.binary_losses,
}
_GRADS: dict[str, Callable[[Rows], Array]] = {
    "cross_entropy": lambda rows: rows.of_kept(rows.grad),
    "clip_loss": lambda rows: rows.grad,
    "nll_loss": lambda rows: -rows.masses,
    BINARY: lambda rows: rows.pos_weight * (expit(rows.x) - rows.targets),
}
_OTHERS: dict[str, Callable[[Rows], Array]] = {
    "logsumexp": lambda rows: rows.logsumexp,
    "softmax": lambda rows: np.exp(rows.log_probs),
    "log_softmax": lambda rows: rows.log_probs,
    "argmax": lambda rows: rows.x.argmax(axis=1),
    "entropy": lambda rows: rows.entropy,
    "target_log_prob": lambda rows: rows.log_probs[np.arange(len(rows.x)), rows.targets],
    "target_rank": lambda rows: rows.rank,
    "hess": lambda rows: np.exp(rows.log_probs) * -np.expm1(rows.log_probs),
}


@dataclass(frozen=True)
class Reference:
    """The right results of the jobs of a problem.

    Attributes
    ----------
    problem : Problem
    count : int
        How many places of the first axis of the rows are looked at, where not all are.
    wide : type
        The dtype in which these are computed.
    """

    problem: Problem
    count: int = SAMPLED_ROWS
    wide: type[Any] = np.longdouble

    @cached_property
    def sample(self) -> Array:
        length = self.problem.lead[0]
        return np.sort(np.random.default_rng(0).choice(length, min(self.count, length), replace=False))

    def pair(self, job: Job, name: str, found: Any, *, of_sum: bool = False, everywhere: bool = False) -> Any:
        """A part of a result and what it should be, as arrays of the same shape; gradients as those of the sum.

        Parameters
        ----------
        job : Job
        name : str
            What it is, see `fastce.profile.work.named`.
        found : ndarray or float
            All of it.
        of_sum : bool
            Whether a gradient is that of the sum of the losses already.
        everywhere : bool
            Whether numbers of rows are compared in all rows, and not only in the sample.
        """
        if name in ("value", "slope"):
            compute = self._value if name == "value" else self._slope
            return np.array([float(found)]), np.array([self._remembered(compute, job)])
        everywhere = everywhere and name in _OF_ROWS
        found = np.asarray(found)
        if found.ndim == len(self.problem.shape):
            found = self.problem.with_classes_last(found)
        if not everywhere:
            found = found[self.sample]
        if name == "grad" and not of_sum:
            found = found.astype(np.float64) * self.problem.divisor(job)
        if job.loss == "clip_loss" and name == "grad":
            found = found[:, self.sample]
        expected = self._remembered(self._in_all_rows if everywhere else self._in_sample, job, name)
        return found.reshape(expected.shape), expected

    def _remembered(self, compute: Callable[..., Any], job: Job, *name: str) -> Any:
        """What jobs that differ only in where they write have in common is computed once."""
        key = (compute.__name__, len(self.sample), replace(job, function=job.loss, place="", reduction="mean"), *name)
        if key not in self.problem.remembered:
            with np.errstate(all="ignore"):
                self.problem.remembered[key] = compute(key[2], *name)
        return self.problem.remembered[key]

    def _value(self, job: Job) -> float:
        """The mean, of all rows; of clip_loss, of all rows and all columns."""
        sides = self._sides(job)
        sums = [_LOSSES[job.loss](rows).sum() for across in sides for rows in self._blocks(job, across)]
        total = fsum(sums) if np.isfinite(sums).all() else sum(sums)
        return float(total / len(sides) / self.problem.divisor(job))

    def _slope(self, job: Job) -> float:
        """The derivative of the mean by the scale of the logits."""
        sums = [(rows.grad * rows.x).sum() for rows in self._blocks(job, across=False)]
        return float(fsum(sums) / self.problem.divisor(job))

    def _in_all_rows(self, job: Job, name: str) -> Array:
        part = _LOSSES[job.loss] if name == "rows" else _OTHERS[name]
        sides = [np.concatenate([part(rows) for rows in self._blocks(job, across)]) for across in self._sides(job)]
        return sides[0] if len(sides) == 1 else np.asarray((sides[0] + sides[1]) / 2)

    def _in_sample(self, job: Job, name: str) -> Array:
        part = _LOSSES[job.loss] if name == "rows" else _GRADS[job.loss] if name == "grad" else _OTHERS[name]
        parts = [part(self._rows(job, self.sample, across, self.wide)) for across in self._sides(job)]
        if len(parts) == 1:
            return parts[0]
        if name == "grad":  # where sampled rows cross sampled columns
            parts = [parts[0][:, self.sample], parts[1][:, self.sample].T]
        return np.asarray((parts[0] + parts[1]) / 2)

    def _sides(self, job: Job) -> tuple[bool, ...]:
        """Whether losses are along the other axis of a matrix, for all that there are."""
        return (False, True) if job.loss == "clip_loss" else (False,)

    def _blocks(self, job: Job, across: bool) -> Iterator[Rows]:
        length = self.problem.lead[0]
        step = max(1, _BLOCK_ELEMENTS * length // self.problem.logits.size)
        for start in range(0, length, step):
            yield self._rows(job, np.arange(start, min(start + step, length)), across, np.float64)

    def _rows(self, job: Job, where: Array, across: bool, wide: type[Any]) -> Rows:
        """The rows at some places of their first axis."""
        logits = self.problem.logits.T if across else self.problem.with_classes_last(self.problem.logits)
        x = logits[where].astype(wide, order="C").reshape(-1, self.problem.classes)
        weight = self.problem.weight.astype(wide) if job.weighted else None
        kept = self.problem.ignored[where].ravel() >= 0 if job.targets == "ignored" else None
        return Rows(x, self._targets(job, where, x), job.smoothing, weight, kept)

    def _targets(self, job: Job, where: Array, x: Array) -> Any:
        if job.targets == "pairs":
            return where
        targets = self.problem.targets(job)
        if job.targets in ("classes", "ignored"):
            return np.maximum(targets[where].ravel(), 0)
        if job.targets == "sparse":
            return targets[where].toarray().astype(x.dtype)
        return self.problem.with_classes_last(targets)[where].astype(x.dtype).reshape(x.shape)
