"""Losses from features: the jobs, the products that each needs, and how fastce and PyTorch are called for them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np

import fastce
from bench.tiny import IS_TINY
from fastce.products.gradients import MEMORY_BUDGET
from fastce.products.tiles import LARGEST_EDGE
from fastce.profile.measure import seconds
from fastce.profile.pairs import LOGIT_SCALE, paired_features

TEMPERATURE = 1 / LOGIT_SCALE
BIAS = -10.0
CLASSES_OF_ROWS = 1000  # labels of sup_con
DENSE_BYTES = 2 << 30  # of the matrix of logits: PyTorch holds five of them, and they must fit
PANEL = 1024  # rows whose logits are multiplied at a time, for linear_cross_entropy


@dataclass(frozen=True)
class FeatureJob:
    """A function of fastce on features.

    Attributes
    ----------
    function : str
        A loss or its value and gradients.
    rows, columns, width : int
        The shape of the matrix that never exists, and how long features are.
    sweeps : float
        How often the matrix is multiplied.
    products : float
        How many products with the matrix of slopes, each of as many operations, the gradients need.
    memory_budget : int
        What fastce is given.
    """

    function: str
    rows: int
    columns: int
    width: int
    sweeps: float
    products: float
    memory_budget: int = MEMORY_BUDGET

    @property
    def problem(self) -> str:
        budget = "" if self.memory_budget == MEMORY_BUDGET else f", budget {self.memory_budget / 2**30:g} GiB"
        return f"{self.rows:,} x {self.columns:,}, width {self.width}{budget}"

    @property
    def id(self) -> str:
        return f"{self.function}-{self.problem}".replace(",", "").replace(" x ", "x").replace(" ", "-")

    @property
    def operations(self) -> float:
        return 2.0 * self.rows * self.columns * self.width * (self.sweeps + self.products)

    @property
    def wants_gradient(self) -> bool:
        return self.products > 0

    def of(self, rows: int) -> "FeatureJob":
        """The same for fewer rows."""
        columns = self.columns if self.function.startswith("linear") else self.columns * rows // self.rows
        return replace(self, rows=rows, columns=columns)


def job(function: str, rows: int, width: int, columns: int = 0) -> FeatureJob:
    """A job with its products counted; where both sides are the same, half of the matrix does."""
    loss = function.removesuffix("_value_and_grad")
    if loss == "nt_xent":
        rows *= 2
    share = 0.5 if loss in ("nt_xent", "sup_con") else 1.0
    two_sweeps = loss in ("clip_loss_from_features", "nt_xent", "sup_con")
    has_gradient = loss != function
    sweeps = 2 if two_sweeps and has_gradient else 1
    return FeatureJob(function, rows, columns or rows, width, share * sweeps, share * 2 * has_gradient)


JOBS = [
    job("clip_loss_from_features", 16_384, 512),
    job("clip_loss_from_features_value_and_grad", 16_384, 512),
    replace(job("clip_loss_from_features_value_and_grad", 16_384, 512), memory_budget=5 << 28),  # for all tiles
    job("clip_loss_from_features_value_and_grad", 32_768, 512),
    job("siglip_loss_value_and_grad", 16_384, 512),
    job("nt_xent_value_and_grad", 8_192, 512),
    job("sup_con_value_and_grad", 16_384, 512),
    job("info_nce_value_and_grad", 16_384, 512),
    job("linear_cross_entropy_value_and_grad", 4_096, 768, 50_257),
]
SLOW_JOBS = [job("clip_loss_from_features_value_and_grad", 65_536, 256)]
if IS_TINY:
    JOBS, SLOW_JOBS = [replace(some.of(256), columns=256) for some in JOBS], []


@dataclass
class FeatureData:
    """The arrays of a job: two sides of unit vectors, labels, and for linear_cross_entropy weights."""

    first: Any
    second: Any
    labels: Any
    weights: Any


def data_of(job: FeatureJob, dtype: str = "float32") -> FeatureData:
    """Noisy copies of the shipped pairs, projected to the width of the job."""
    rng = np.random.default_rng(0)
    rows = job.rows // 2 if job.function.startswith("nt_xent") else job.rows
    sides = paired_features(rows)
    projection = rng.standard_normal((sides[0].shape[1], job.width), np.float32)
    first, second = (side @ projection for side in sides)
    for side in (first, second):
        side /= np.linalg.norm(side, axis=1, keepdims=True)
    is_linear = job.function.startswith("linear")
    weights = rng.standard_normal((job.columns, job.width), np.float32) if is_linear else np.empty((0, job.width))
    labels = rng.integers(0, job.columns if is_linear else CLASSES_OF_ROWS, rows)
    return FeatureData(first.astype(dtype), second.astype(dtype), labels, weights.astype(dtype))


def products_floor(job: FeatureJob, data: FeatureData) -> Callable[[], float]:
    """A measurement of the seconds that NumPy takes for the products alone, from those of one tile."""
    is_linear = job.function.startswith("linear")
    rows, columns = (min(PANEL, job.rows), job.columns) if is_linear else (min(LARGEST_EDGE, job.rows),) * 2
    left = data.first[np.arange(rows) % len(data.first)]
    right = data.weights if is_linear else data.second[np.arange(columns) % len(data.second)]
    tile, of_left, of_right = np.empty((rows, columns), left.dtype), np.empty_like(left), np.empty_like(right)

    def seconds_of(call: Callable[[], Any]) -> float:
        return min(seconds(call) for _ in range(2))

    def measure() -> float:
        took = job.sweeps * seconds_of(partial(np.matmul, left, right.T, out=tile))
        if job.wants_gradient:
            took += job.products / 2 * seconds_of(partial(np.matmul, tile, right, out=of_left))
            took += job.products / 2 * seconds_of(partial(np.matmul, tile.T, left, out=of_right))
        return took * (job.rows / rows) * (job.columns / columns)

    return measure


# --- engines ---------------------------------------------------------------------------------------------------------


def fastce_call(job: FeatureJob, data: FeatureData) -> Callable[[], Any]:
    """What is timed."""
    function = getattr(fastce, job.function)
    loss = job.function.removesuffix("_value_and_grad")
    arguments: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
        "clip_loss_from_features": ((data.first, data.second, LOGIT_SCALE), {}),
        "siglip_loss": ((data.first, data.second, LOGIT_SCALE, BIAS), {}),
        "nt_xent": ((data.first, data.second), {"temperature": TEMPERATURE, "normalize": False}),
        "sup_con": ((data.first, data.labels), {"temperature": TEMPERATURE, "normalize": False}),
        "info_nce": ((data.first, data.second), {"temperature": TEMPERATURE, "normalize": False}),
        "linear_cross_entropy": ((data.first, data.weights, data.labels), {}),
    }
    positional, options = arguments[loss]
    return partial(function, *positional, memory_budget=job.memory_budget, **options)


def fastce_gradients(job: FeatureJob, result: Any) -> list[Any]:
    """Those of the features (and weights)."""
    return [part for part in result[1:3] if isinstance(part, np.ndarray)]


def has_torch() -> bool:
    return find_spec("torch") is not None


def torch_call(job: FeatureJob, data: FeatureData, chunked: bool = False) -> Callable[[], Any]:
    """The dense way, and for linear_cross_entropy PyTorch's own function; returns the gradients."""
    import torch

    torch.set_num_threads(fastce.get_num_threads())
    sides = {"sup_con": (data.first,), "linear_cross_entropy": (data.first, data.weights)}
    loss = job.function.removesuffix("_value_and_grad")
    leaves = [torch.from_numpy(side) for side in sides.get(loss, (data.first, data.second))]
    labels = torch.from_numpy(data.labels)
    options = torch.nn.LinearCrossEntropyOptions() if chunked else None

    def compute(*leaves: Any) -> Any:
        if loss == "linear_cross_entropy":
            return torch.nn.functional.linear_cross_entropy(*leaves, labels, options=options)
        return _dense(torch, loss, labels, *leaves)

    def value() -> Any:
        with torch.no_grad():
            return compute(*leaves)

    def value_and_grad() -> list[Any]:
        wanted = [leaf.detach().requires_grad_() for leaf in leaves]
        compute(*wanted).backward()
        return [leaf.grad.numpy() for leaf in wanted]

    return value_and_grad if job.wants_gradient else value


def _dense(torch: Any, loss: str, labels: Any, first: Any, *others: Any) -> Any:
    """The loss from the matrix of all products, as its authors' code has it."""
    cross_entropy = torch.nn.functional.cross_entropy
    if loss in ("clip_loss_from_features", "info_nce", "siglip_loss"):
        x = LOGIT_SCALE * first @ others[0].T
        diagonal = torch.arange(len(x))
        if loss == "siglip_loss":
            z = x + BIAS
            return (torch.nn.functional.softplus(z).sum() - z.diagonal().sum()) / len(x)
        by_row = cross_entropy(x, diagonal)
        return by_row if loss == "info_nce" else (by_row + cross_entropy(x.T, diagonal)) / 2
    rows = torch.cat([first, *others])
    x = LOGIT_SCALE * rows @ rows.T
    x = x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
    if loss == "nt_xent":
        return cross_entropy(x, torch.arange(len(x)).roll(len(first)))
    log_probs = x - torch.logsumexp(x, 1, keepdim=True)
    positive = labels[:, None] == labels
    positive.fill_diagonal_(False)
    number = positive.sum(1)
    losses = -torch.where(positive, log_probs, 0).sum(1) / number.clamp(min=1)
    return losses[number > 0].mean()
