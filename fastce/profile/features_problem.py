"""A loss from features that is profiled: its data, the products that it needs, and how fastce is called for it."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

import fastce
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.tiles import LARGEST_EDGE
from fastce.profile.measure import Call
from fastce.profile.problem import Array

BIAS = -10.0  # of siglip_loss
VIEWS = 4  # pairs that have the same label in sup_con
PANEL = 1024  # rows whose logits are multiplied at a time, for linear_cross_entropy
FEATURE_LOSSES = ("clip_loss_from_features", "siglip_loss", "info_nce", "nt_xent", "sup_con", "linear_cross_entropy")
FEATURE_FUNCTIONS = tuple(loss + ending for loss in FEATURE_LOSSES for ending in ("", "_value_and_grad"))
DEFAULT = "clip_loss_from_features_value_and_grad"


@dataclass(frozen=True)
class FeaturesProblem:
    """A function, two sides of features, and how they are compared.

    Attributes
    ----------
    function : str
        One of `FEATURE_FUNCTIONS`.
    image, text : ndarray, shape (N, D)
        Unit vectors; row i of one belongs to row i of the other. The second is the weights of linear_cross_entropy,
        of which there may be more; nt_xent and sup_con compare the rows of both with each other.
    logit_scale, label_smoothing, n_threads, memory_budget
        As those of the function.
    given_labels : ndarray or None
        Of the rows, for sup_con, or their classes, for linear_cross_entropy.
    """

    function: str
    image: Array
    text: Array
    logit_scale: float
    label_smoothing: float
    n_threads: int
    memory_budget: int = MEMORY_BUDGET
    given_labels: Array | None = None

    def first(self, batch: int) -> "FeaturesProblem":
        """The first pairs."""
        return replace(self, image=self.image[:batch], text=self.text[:batch])

    @property
    def batch(self) -> int:
        return len(self.image)

    @property
    def loss(self) -> str:
        return self.function.removesuffix("_value_and_grad")

    @property
    def wants_gradients(self) -> bool:
        return self.loss != self.function

    @property
    def smoothing(self) -> float:
        """The label smoothing of those that have any."""
        return self.label_smoothing if self.loss in ("clip_loss_from_features", "linear_cross_entropy") else 0.0

    @property
    def is_symmetric(self) -> bool:
        """Whether all rows are compared with each other."""
        return self.loss in ("nt_xent", "sup_con")

    @cached_property
    def sides(self) -> tuple[Array, Array]:
        """The two factors of the matrix of products; the same one twice if it is symmetric."""
        if not self.is_symmetric:
            return self.image, self.text
        rows = np.concatenate([self.image, self.text])
        return rows, rows

    @property
    def rows(self) -> int:
        """Of the matrix of products."""
        return self.batch * (2 if self.is_symmetric else 1)

    @property
    def columns(self) -> int:
        """Of the matrix of products."""
        return self.rows if self.is_symmetric else len(self.text)

    @cached_property
    def targets(self) -> Array:
        """The column that belongs to each row."""
        if self.loss == "linear_cross_entropy" and self.given_labels is not None:
            return self.given_labels
        return np.roll(np.arange(self.rows), -self.batch) if self.is_symmetric else np.arange(self.rows)

    @cached_property
    def labels(self) -> Array:
        """Of the rows, for sup_con."""
        return np.tile(np.arange(self.batch) // VIEWS, 2) if self.given_labels is None else self.given_labels

    @property
    def sweeps(self) -> int:
        """How often the matrix is multiplied: twice where its gradient needs sums that all of it must give first."""
        is_double = self.is_symmetric or self.loss == "clip_loss_from_features"
        return 2 if is_double and self.wants_gradients else 1

    @property
    def operations(self) -> float:
        """Of the matrix, half of which does if it is symmetric, and of two products with its gradient."""
        products = self.sweeps + (2 if self.wants_gradients else 0)
        return float((1 if self.is_symmetric else 2) * self.rows * self.columns * self.image.shape[1] * products)


def fastce_call(problem: FeaturesProblem) -> Callable[[], list[Array]]:
    """A call that returns the gradients of the features, or the value alone."""
    image, text, scale = problem.image, problem.text, problem.logit_scale
    by_temperature = {"temperature": 1 / scale, "normalize": False}
    smoothing = {"label_smoothing": problem.label_smoothing}
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "clip_loss_from_features": ((image, text, scale), smoothing),
        "siglip_loss": ((image, text, scale, BIAS), {}),
        "info_nce": ((image, text), by_temperature),
        "nt_xent": ((image, text), by_temperature),
        "sup_con": ((problem.sides[0], problem.labels), by_temperature),
        "linear_cross_entropy": ((image, text, problem.targets), {"logit_scale": scale, **smoothing}),
    }
    positional, options = arguments[problem.loss]
    function = getattr(fastce, problem.function)

    options |= {"memory_budget": problem.memory_budget, "n_threads": problem.n_threads}

    def call() -> list[Array]:
        result = function(*positional, **options)
        return [part for part in result[1:3] if np.ndim(part) == 2] if problem.wants_gradients else [np.array(result)]

    return call


def difference(problem: FeaturesProblem, found: list[Array], right: list[Array]) -> float:
    """The largest of the gradients of two calls (or of their values), relative to the largest element."""
    if problem.is_symmetric and problem.wants_gradients:  # of both sides
        found, right = [np.concatenate(found)], [np.concatenate(right)]
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, right, strict=True))


def products_floor(problem: FeaturesProblem) -> tuple[Call, float]:
    """NumPy's matrix products of one tile (or panel), and how many times as long those of all take."""
    rows = columns = min(problem.rows, LARGEST_EDGE)
    if problem.loss == "linear_cross_entropy":
        rows, columns = min(problem.rows, PANEL), problem.columns
    a, b = problem.sides[0][:rows], problem.sides[1][:columns]
    if problem.is_symmetric:
        b = b.copy()  # an array times itself takes NumPy longer
    tile, of_a, of_b = np.empty((rows, columns), a.dtype), np.empty_like(a), np.empty_like(b)

    def products() -> None:
        for _ in range(problem.sweeps):
            np.matmul(a, b.T, out=tile)
        if problem.wants_gradients:
            np.matmul(tile, b, out=of_a)
            np.matmul(tile.T, a, out=of_b)

    share = 0.5 if problem.is_symmetric else 1.0
    return products, share * (problem.rows / rows) * (problem.columns / columns)
