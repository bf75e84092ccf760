"""What the tasks of cross entropy of a linear layer compute: of a stripe, and of what is known of all rows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.options import PLAIN_OPTIONS
from fastce.arguments.reductions import reduced, sum_in_order, upstream_of
from fastce.cpu.cross_entropy import cross_entropy_call
from fastce.cpu.engine import Cpu
from fastce.losses.linear import linear_cross_entropy, linear_cross_entropy_value_and_grad


def losses(
    engine: Cpu, features: Array, layer: Array, bias: Any, targets: Any, weight: Any, sample_weight: Any,
    *, dtype: np.dtype[Any], **options: Any
) -> Any:  # fmt: skip
    """The sum of the losses of a stripe, or all of them."""
    bias = None if bias is None else bias.astype(dtype)
    return linear_cross_entropy(
        features, layer.astype(dtype, copy=False), targets, linear_bias=bias, weight=weight,
        sample_weight=sample_weight, n_threads=engine.n_threads, **options,
    )  # fmt: skip


def losses_and_gradients(
    engine: Cpu, features: Array, layer: Array, bias: Any, targets: Any, weight: Any, sample_weight: Any,
    grad_output: Any, *, dtype: np.dtype[Any], **options: Any
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients, those of the layer in the dtype in which they are added up; then the losses."""
    bias = None if bias is None else bias.astype(dtype)
    value, *gradients = linear_cross_entropy_value_and_grad(
        features, layer.astype(dtype, copy=False), targets, linear_bias=bias, weight=weight,
        sample_weight=sample_weight, grad_output=grad_output, n_threads=engine.n_threads, **options,
    )  # fmt: skip
    return *gradients, value


def weight_of_stripe(
    engine: Cpu, targets: Any, weight: Any, sample_weight: Any,
    *, lead: tuple[int, ...], classes: int, dtype: np.dtype[Any], **options: Any
) -> float:  # fmt: skip
    """What a mean of the stripe alone would divide by."""
    logits = np.broadcast_to(np.zeros((), dtype), (*lead, classes))
    call = cross_entropy_call(
        logits, targets, -1, reduction="sum", n_threads=engine.n_threads,
        **(PLAIN_OPTIONS | options | {"weight": weight, "sample_weight": sample_weight}),
    )  # fmt: skip
    return call.targets.total_weight


def total_weight(engine: Cpu, parts: Sequence[float]) -> float:
    """What that of all is divided by."""
    return sum(parts)


def factor(engine: Cpu, grad_output: Any, total_weight: float) -> float:
    """What gradients of the sum are multiplied by to be those of the mean."""
    (factor,), exponent = upstream_of(grad_output, "mean", (), total_weight)
    return math.ldexp(factor, exponent)


def value(engine: Cpu, losses: Sequence[float], total_weight: float, *, reduction: str) -> Any:
    """The sum, or the mean."""
    total, exponent = sum_in_order([(loss, 0) for loss in losses])
    return np.float64(reduced(total, reduction, total_weight, exponent))


def rounded(engine: Cpu, total: Array, *, dtype: np.dtype[Any]) -> Array:
    """A gradient in the dtype of what it belongs to."""
    return total.astype(dtype, copy=False)
