"""Linear cross entropy over panels of logits: cross_entropy in place on each, then the products with its gradient."""

import math
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments import Array, kernel_dtype
from fastce.panels import PanelLosses, Panels
from fastce.products import Gradient
from fastce.progress import Progress
from fastce.running import CrossEntropyCall
from fastce.threads import cut_rows, for_each


class LinearCall(NamedTuple):
    """A checked call: features and targets as matrices and vectors of rows, of which only the ``counted`` have any."""

    panels: Panels
    described: CrossEntropyCall
    features: Array
    bias: Array | None
    targets: Any
    sample_weight: Array | None
    counted: Array | None
    options: dict[str, Any]
    progress: Progress
    n_threads: int | None


class LinearGradients:
    """The gradients of features, weights and bias, as far as the panels have come."""

    def __init__(self, call: LinearCall) -> None:
        self.panels, self.bias = call.panels, call.bias
        left, right = call.panels.left, call.panels.right
        self.shape = call.features.shape
        self.of_features = np.zeros((math.prod(self.shape[:-1]), left.width), kernel_dtype(call.features.dtype))
        self.of_weight = Gradient(right.rows, right)
        self.of_bias = np.zeros(right.rows)

    def add(self, rows: slice, numbers: slice | Array, slopes: Array) -> None:
        """Add what a panel's slopes, the gradient of its logits, contribute."""
        self.of_features[numbers] = self.panels.gradient_of_left(slopes)
        self.panels.add_to_right(rows, slopes, self.of_weight)
        if self.bias is not None:
            self.of_bias += np.ones(len(slopes), slopes.dtype) @ slopes

    def finished(self) -> tuple[Array, Array, Array | None]:
        """In the shapes and dtypes of what they belong to."""
        (of_weight,), _ = self.panels.right.finished(self.of_weight.total, wants_sum=False)
        of_bias = None if self.bias is None else self.of_bias.astype(kernel_dtype(self.bias.dtype))
        return self.of_features.reshape(self.shape), of_weight, of_bias


def swept(call: LinearCall, upstream: Array | None, gradients: LinearGradients | None) -> Any:
    """The value; the gradients are added up if there is room for them."""
    described = call.described
    losses = PanelLosses(described.logits.rows, described.logits.dtype, described.reduction)
    bias = None if call.bias is None else call.bias.astype(described.logits.dtype)
    options = call.options | {"n_threads": call.n_threads}

    def work(rows: slice, logits: Array) -> None:
        numbers = rows if call.counted is None else call.counted[rows]
        targets = call.targets[numbers]
        if bias is not None:
            _add_to_rows(logits, bias, call.n_threads)
        if call.sample_weight is not None:
            options["sample_weight"] = call.sample_weight[numbers]
        above = None
        if upstream is not None:
            above = upstream[numbers] if upstream.size > 1 else float(upstream[0])
        losses.take(numbers, logits, targets, above, **options)
        if gradients is not None:
            gradients.add(rows, numbers, logits)

    call.panels.sweep(work, call.progress)
    return losses.value(described.logits.lead, described.targets.total_weight)


def _add_to_rows(logits: Array, bias: Array, n_threads: int | None) -> None:
    def work(start: int, stop: int) -> None:
        logits[start:stop] += bias

    for_each(cut_rows(len(logits), logits.shape[1] * logits.itemsize), work, n_threads)
