"""Losses from features that the record measures, and their data."""

from dataclasses import dataclass, replace

import numpy as np

import fastce
from bench.tiny import IS_TINY
from fastce.products.gradients import MEMORY_BUDGET
from fastce.profile.features_problem import FeaturesProblem
from fastce.profile.pairs import LOGIT_SCALE, paired_features

CLASSES_OF_ROWS = 1000  # labels of sup_con
DENSE_BYTES = 2 << 30  # of the matrix of logits: PyTorch holds five of them, and they must fit


@dataclass(frozen=True)
class FeatureJob:
    """A function of fastce on features.

    Attributes
    ----------
    function : str
        A loss or its value and gradients.
    rows, columns, width : int
        The shape of the matrix that never exists, and how long features are.
    memory_budget : int
        What fastce is given.
    """

    function: str
    rows: int
    columns: int
    width: int
    memory_budget: int = MEMORY_BUDGET

    @property
    def problem(self) -> str:
        budget = "" if self.memory_budget == MEMORY_BUDGET else f", budget {self.memory_budget / 2**30:g} GiB"
        return f"{self.rows:,} x {self.columns:,}, width {self.width}{budget}"

    @property
    def id(self) -> str:
        return f"{self.function}-{self.problem}".replace(",", "").replace(" x ", "x").replace(" ", "-")

    @property
    def is_linear(self) -> bool:
        return self.function.startswith("linear")

    def of(self, rows: int) -> "FeatureJob":
        """The same for fewer rows."""
        return replace(self, rows=rows, columns=self.columns if self.is_linear else rows)


def _square(function: str, rows: int, width: int = 512) -> FeatureJob:
    return FeatureJob(function, rows, rows, width)


JOBS = [
    _square("clip_loss_from_features", 16_384),
    _square("clip_loss_from_features_value_and_grad", 16_384),
    replace(_square("clip_loss_from_features_value_and_grad", 16_384), memory_budget=5 << 28),  # for all tiles
    _square("clip_loss_from_features_value_and_grad", 32_768),
    _square("siglip_loss_value_and_grad", 16_384),
    _square("nt_xent_value_and_grad", 16_384),
    _square("sup_con_value_and_grad", 16_384),
    _square("info_nce_value_and_grad", 16_384),
    FeatureJob("linear_cross_entropy_value_and_grad", 4_096, 50_257, 768),
]
SLOW_JOBS = [_square("clip_loss_from_features_value_and_grad", 65_536, 256)]
if IS_TINY:
    JOBS, SLOW_JOBS = [replace(some.of(256), columns=256) for some in JOBS], []


def problem_of(job: FeatureJob, dtype: str = "float32") -> FeaturesProblem:
    """Noisy copies of the shipped pairs, projected to the width of the job.

    Rows of sup_con, which has one side, are both halves of it here; linear_cross_entropy has weights instead of a
    second side.
    """
    rng = np.random.default_rng(0)
    sides = paired_features(job.rows // 2 if job.function.startswith("nt_xent") else job.rows)
    projection = rng.standard_normal((sides[0].shape[1], job.width), np.float32)
    first, second = (side @ projection for side in sides)
    for side in (first, second):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    labels = None
    if job.is_linear:
        second = rng.standard_normal((job.columns, job.width), np.float32)
        labels = rng.integers(0, job.columns, job.rows)
    elif job.function.startswith("sup_con"):
        first, second = first[: job.rows // 2], first[job.rows // 2 :]
        labels = rng.integers(0, CLASSES_OF_ROWS, job.rows)
    scale = 1.0 if job.is_linear else LOGIT_SCALE
    sides = first.astype(dtype), second.astype(dtype)
    return FeaturesProblem(job.function, *sides, scale, 0.0, fastce.get_num_threads(), job.memory_budget, labels)
