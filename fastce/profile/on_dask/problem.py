"""What is computed on Dask, and its data, which the workers make: stripes of rows from generators with seeds."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fastce.profile.problem import Array

OF_LOGITS = ("logsumexp", "softmax", "log_softmax", "cross_entropy", "cross_entropy_value_and_grad")
OF_FEATURES = tuple(
    loss + ending
    for loss in ("clip_loss_from_features", "siglip_loss", "info_nce", "linear_cross_entropy")
    for ending in ("", "_value_and_grad")
)
FUNCTIONS = (*OF_LOGITS, *OF_FEATURES)
DEFAULT_FUNCTIONS = (
    "logsumexp",
    "cross_entropy",
    "cross_entropy_value_and_grad",
    "clip_loss_from_features",
    "clip_loss_from_features_value_and_grad",
)
WIDTH = 512  # of features
SCALE, BIAS = 20.0, -10.0
SEED = 20240229
STRIPES = 4  # for each worker


@dataclass(frozen=True)
class DaskProblem:
    """The sizes of the data, and in how many stripes of rows they lie.

    Attributes
    ----------
    rows, classes : int
        Of the logits; there are as many pairs of features as rows, and a layer has as many weights as classes.
    dtype : str
    stripes : int
        As many rows or fewer: there are no empty ones.
    label_smoothing : float
        Of those functions that have any.
    """

    rows: int
    classes: int
    dtype: str
    stripes: int
    label_smoothing: float

    def sizes_of(self, rows: int) -> tuple[int, ...]:
        """The rows of each stripe of an array, as even as can be."""
        stripes = min(self.stripes, rows)
        return tuple(rows * (k + 1) // stripes - rows * k // stripes for k in range(stripes))


Maker = Callable[[np.random.Generator, tuple[int, ...], DaskProblem], Array]
Loader = Callable[[Maker, int, tuple[int, ...]], Any]  # an array of a shape whose stripes come from a maker and a seed


def arguments(function: str, problem: DaskProblem, load: Loader) -> tuple[list[Any], dict[str, Any]]:
    """What both the function of fastce and that of fastce.dask are called with, of arrays that `load` makes."""
    loss, rows, classes = function.removesuffix("_value_and_grad"), problem.rows, problem.classes
    smoothing = {"label_smoothing": problem.label_smoothing}
    if loss in ("logsumexp", "softmax", "log_softmax"):
        return [load(_logits, 0, (rows, classes))], {"axis": 1}
    if loss == "cross_entropy":
        return [load(_logits, 0, (rows, classes)), load(_targets, 1, (rows,))], smoothing
    features = load(_unit, 2, (rows, WIDTH))
    if loss == "linear_cross_entropy":
        weights = load(_unit, 3, (classes, WIDTH))
        return [features, weights, load(_targets, 1, (rows,))], smoothing | {"logit_scale": SCALE}
    others = load(_unit, 3, (rows, WIDTH))
    if loss == "clip_loss_from_features":
        return [features, others, SCALE], smoothing
    if loss == "siglip_loss":
        return [features, others, SCALE, BIAS], {}
    return [features, others], {"temperature": 1 / SCALE, "normalize": False}


def in_this_process(problem: DaskProblem) -> Loader:
    """Arrays of NumPy, of the same numbers as those of the workers."""

    def load(maker: Maker, seed: int, shape: tuple[int, ...]) -> Array:
        whole = np.empty(shape, _stripe(maker, problem, seed, 0, (0,) * len(shape)).dtype)
        start = 0
        for k, size in enumerate(problem.sizes_of(shape[0])):
            whole[start : start + size] = _stripe(maker, problem, seed, k, (size, *shape[1:]))
            start += size
        return whole

    return load


def in_workers(problem: DaskProblem) -> Loader:
    """Arrays of Dask, each stripe of which a task makes."""
    import dask.array as da

    def load(maker: Maker, seed: int, shape: tuple[int, ...]) -> Any:
        meta = _stripe(maker, problem, seed, 0, (0,) * len(shape))
        chunks = (problem.sizes_of(shape[0]), *((size,) for size in shape[1:]))
        return da.map_blocks(partial(_block, maker, problem, seed), chunks=chunks, dtype=meta.dtype, meta=meta)

    return load


def _block(maker: Maker, problem: DaskProblem, seed: int, *, block_info: Any) -> Array:
    """What Dask's map_blocks calls."""
    place = block_info[None]
    return _stripe(maker, problem, seed, place["chunk-location"][0], place["chunk-shape"])


def _stripe(maker: Maker, problem: DaskProblem, seed: int, number: int, shape: tuple[int, ...]) -> Array:
    return maker(np.random.default_rng([SEED, seed, number]), shape, problem)


def _logits(rng: np.random.Generator, shape: tuple[int, ...], problem: DaskProblem) -> Array:
    numbers = rng.standard_normal(shape, np.dtype(problem.dtype))
    numbers *= 4
    return numbers


def _targets(rng: np.random.Generator, shape: tuple[int, ...], problem: DaskProblem) -> Array:
    targets: Array = rng.integers(0, problem.classes, shape)
    return targets


def _unit(rng: np.random.Generator, shape: tuple[int, ...], problem: DaskProblem) -> Array:
    numbers = rng.standard_normal(shape, np.dtype(problem.dtype))
    numbers /= np.linalg.norm(numbers, axis=1, keepdims=True)
    return numbers
