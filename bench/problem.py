"""The data of a job: logits, every kind of targets, weights, and room for results; the same in every run."""

from functools import cached_property

import numpy as np
from scipy import sparse

from bench.jobs import Job
from fastce.profile.inputs import as_dtype

SEED = 20240229
BLOCK = 1 << 22  # elements that are made at a time


class Problem:
    """Logits of a shape and a dtype with classes along an axis, and what belongs to them, made when first used."""

    def __init__(self, shape, dtype, axis, n_threads):
        self.shape, self.axis, self.n_threads = shape, axis, n_threads
        self.dtype = as_dtype(dtype)
        self.classes = shape[axis]
        self.lead = shape[:axis] + shape[axis + 1 :]
        self.rows = int(np.prod(self.lead))
        self.remembered = {}  # by `reference`

    @cached_property
    def logits(self):
        rng = np.random.default_rng(SEED)
        return self._filled(lambda shape: 4 * rng.standard_normal(shape, np.float32))

    @cached_property
    def labels(self):
        return np.random.default_rng(SEED).integers(0, self.classes, self.lead)

    @cached_property
    def probabilities(self):
        rng = np.random.default_rng(SEED)
        filled = self._filled(lambda shape: rng.random(shape, np.float32))
        filled /= filled.sum(self.axis, keepdims=True)
        return filled

    @cached_property
    def binary(self):
        rng = np.random.default_rng(SEED)
        return self._filled(lambda shape: rng.random(shape, np.float32) < 0.5)

    @cached_property
    def sparse(self):
        """Two classes a row, as mixup has them."""
        rng = np.random.default_rng(SEED)
        first = rng.random(self.rows, np.float32)
        columns = np.stack([self.labels, (self.labels + 1 + self.labels // 2) % self.classes], axis=1)
        values = np.stack([first, 1 - first], axis=1)
        starts = np.arange(0, 2 * self.rows + 1, 2)
        return sparse.csr_array((values.ravel(), columns.ravel(), starts), shape=(self.rows, self.classes))

    @cached_property
    def weight(self):
        return (0.5 + np.random.default_rng(SEED).random(self.classes, np.float32)).astype(self.dtype)

    @cached_property
    def out(self):
        """Room for a result, its pages already touched."""
        return self.logits.copy()

    @cached_property
    def second_out(self):
        return self.logits.copy()

    @cached_property
    def row_out(self):
        """Room for one number a row."""
        return np.zeros(self.lead, np.float64 if self.dtype.itemsize == 8 else np.float32)

    @cached_property
    def work(self):
        """A copy of the logits that jobs in place may overwrite; see `restore`."""
        return self.logits.copy()

    def restore(self):
        np.copyto(self.work, self.logits)

    def places(self, job: Job):
        """Where a job reads its logits and where it writes a result of their shape."""
        return (self.work, self.work) if job.place == "in place" else (self.logits, self.out if job.place else None)

    def targets(self, job: Job):
        """The targets as fastce takes them; None if they are the diagonal."""
        names = {"classes": "labels", "pairs": None}
        name = names.get(job.targets, job.targets)
        return None if name is None else getattr(self, name)

    def weight_of(self, job: Job):
        return self.weight if job.weighted else None

    def divisor(self, job: Job):
        """What the sum of the losses is divided by."""
        if job.reduction == "none":
            return 1.0
        if job.loss == "binary_cross_entropy_with_logits":
            return float(self.logits.size)
        return float(self.weight[self.labels].sum(dtype=np.float64)) if job.weighted else float(self.rows)

    def _filled(self, make):
        result = np.empty(self.shape, self.dtype)
        step = max(1, BLOCK // max(1, result[0].size))
        for start in range(0, len(result), step):
            block = result[start : start + step]
            block[:] = make(block.shape)
        return result
