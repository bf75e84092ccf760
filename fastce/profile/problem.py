"""The data of a job: logits, every kind of targets, weights, and room for results."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any

import numpy as np
from scipy import sparse

from fastce.profile.jobs import BINARY, Job

Array = np.ndarray[Any, Any]

SEED = 20240229
BLOCK = 1 << 22  # elements that are made at a time


class InputError(ValueError):
    """Something that the user gave cannot be used; the message is one line."""


def as_dtype(name: str) -> np.dtype[Any]:
    """The NumPy dtype of one of `fastce.profile.inputs.DTYPES`."""
    if name != "bfloat16":
        return np.dtype(name)
    try:
        from ml_dtypes import bfloat16
    except ImportError:
        raise InputError("--dtype bfloat16 needs ml_dtypes: pip install ml_dtypes") from None
    kind: np.dtype[Any] = np.dtype(bfloat16)
    return kind


@dataclass(eq=False)
class Problem:
    """Logits of a shape and a dtype with classes along an axis, and what belongs to them, made when first used.

    Everything is random, and the same in every run; see `GivenProblem` for the rest.
    """

    shape: tuple[int, ...]
    dtype_name: str
    axis: int | tuple[int, ...]
    n_threads: int
    origin: str = "random"
    remembered: dict[Any, Any] = field(default_factory=dict, repr=False)  # by `fastce.profile.reference`, for all jobs

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return as_dtype(self.dtype_name)

    @property
    def axes(self) -> tuple[int, ...]:
        """Those of the classes."""
        return (self.axis,) if isinstance(self.axis, int) else self.axis

    @property
    def classes(self) -> int:
        return prod(self.shape[k] for k in self.axes)

    @property
    def lead(self) -> tuple[int, ...]:
        """The shape without the classes."""
        return tuple(n for k, n in enumerate(self.shape) if k not in self.axes)

    def with_classes_last(self, array: Array) -> Array:
        """An array of the shape of the logits with all class axes as its last one."""
        return np.moveaxis(array, self.axes, range(-len(self.axes), 0)).reshape(*self.lead, -1)

    @property
    def rows(self) -> int:
        return prod(self.lead)

    @property
    def is_square(self) -> bool:
        return self.shape == (self.classes, self.classes)

    @cached_property
    def logits(self) -> Array:
        rng = np.random.default_rng(SEED)
        return self._filled(lambda shape: 4 * rng.standard_normal(shape, np.float32))

    @cached_property
    def labels(self) -> Array:
        """The class of each row."""
        return np.random.default_rng(SEED).integers(0, self.classes, self.lead)

    @cached_property
    def ignored(self) -> Array:
        """The same without that of three rows of ten."""
        return np.where(np.random.default_rng(SEED + 1).random(self.lead) < 0.3, -100, self.labels)

    @cached_property
    def probabilities(self) -> Array:
        rng = np.random.default_rng(SEED)
        filled = self._filled(lambda shape: rng.random(shape, np.float32))
        filled /= filled.sum(self.axes, keepdims=True)
        return filled

    @cached_property
    def binary(self) -> Array:
        rng = np.random.default_rng(SEED)
        return self._filled(lambda shape: rng.random(shape, np.float32) < 0.5)

    @cached_property
    def sparse(self) -> Any:
        """Two classes a row, as mixup has them."""
        rng = np.random.default_rng(SEED)
        first = rng.random(self.rows, np.float32)
        columns = np.stack([self.labels, (self.labels + 1 + self.labels // 2) % self.classes], axis=1)
        values = np.stack([first, 1 - first], axis=1)
        starts = np.arange(0, 2 * self.rows + 1, 2)
        return sparse.csr_array((values.ravel(), columns.ravel(), starts), shape=(self.rows, self.classes))

    @cached_property
    def weight(self) -> Array:
        return (0.5 + np.random.default_rng(SEED).random(self.classes, np.float32)).astype(self.dtype)

    @cached_property
    def out(self) -> Array:
        """Room for a result, its pages already touched."""
        return self.logits.copy()

    @cached_property
    def second_out(self) -> Array:
        """Room for a Hessian."""
        return self.logits.copy()

    @cached_property
    def row_out(self) -> Array:
        """Room for one number a row."""
        return np.zeros(self.lead, np.float64 if self.dtype.itemsize == 8 else np.float32)

    @cached_property
    def work(self) -> Array:
        """A copy of the logits that jobs in place may overwrite; see `restore`."""
        return self.logits.copy()

    def restore(self) -> None:
        """Put the logits back into `work`."""
        np.copyto(self.work, self.logits)

    def places(self, job: Job) -> tuple[Array, Array | None]:
        """Where a job reads its logits and where it writes a result of their shape."""
        return (self.work, self.work) if job.place == "in place" else (self.logits, self.out if job.place else None)

    def targets(self, job: Job) -> Any:
        """The targets as fastce takes them; None if they are the diagonal."""
        names = {"classes": "labels", "pairs": None}
        name = names.get(job.targets, job.targets)
        return None if name is None else getattr(self, name)

    def weight_of(self, job: Job) -> Array | None:
        return self.weight if job.weighted else None

    def divisor(self, job: Job) -> float:
        """What the sum of the losses is divided by."""
        if job.reduction == "none":
            return 1.0
        if job.loss == BINARY:
            return float(self.logits.size)
        if job.targets == "ignored":
            return float(np.count_nonzero(self.ignored >= 0))
        return float(self.weight[self.labels].sum(dtype=np.float64)) if job.weighted else float(self.rows)

    def _filled(self, make: Callable[[tuple[int, ...]], Array]) -> Array:
        result = np.empty(self.shape, self.dtype)
        step = max(1, BLOCK // max(1, result[0].size))
        for start in range(0, len(result), step):
            block = result[start : start + step]
            block[:] = make(block.shape)
        return result


class GivenProblem(Problem):
    """A matrix of logits that is given, C-contiguous, with the class of each row.

    Parameters
    ----------
    logits : ndarray, shape (rows, classes)
    labels : ndarray of int64, shape (rows,)
    n_threads : int
    origin : str
        Where the logits come from, in words.
    """

    def __init__(self, logits: Array, labels: Array, n_threads: int = 1, origin: str = "") -> None:
        super().__init__(logits.shape, logits.dtype.name, 1, n_threads, origin)
        self.logits, self.labels = logits, labels

    @cached_property
    def binary(self) -> Array:
        """The labels as a matrix of ones and zeros."""
        labels = np.zeros_like(self.logits)
        labels[np.arange(self.rows), self.labels] = 1
        return labels

    def block(self, rows: int, columns: int | None = None) -> "GivenProblem":
        """The first rows (and columns, with the diagonal as labels) as a problem of their own."""
        if columns is None:
            return GivenProblem(self.logits[:rows], self.labels[:rows], self.n_threads, self.origin)
        square = np.ascontiguousarray(self.logits[:rows, :columns])
        return GivenProblem(square, np.arange(rows), self.n_threads, self.origin)
