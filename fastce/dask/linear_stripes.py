"""What the tasks of cross entropy of a linear layer compute: of a stripe, and of what is known of all rows."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.options import PLAIN_OPTIONS
from fastce.arguments.reductions import reduced, sum_in_order, upstream_of
from fastce.cpu.call import cross_entropy_call
from fastce.cpu.checked_targets import ORDINARY, total_of
from fastce.cpu.engine import Cpu
from fastce.losses.linear import linear_cross_entropy, linear_cross_entropy_value_and_grad


class TotalWeight(NamedTuple):
    """What a mean divides by: fraction * 2**exponent, the exponent 0 for ordinary numbers."""

    fraction: float
    exponent: int

    def in_units(self, sample_weight: Any) -> Any:
        """Weights of rows divided by the power of two: of these the fraction is the total."""
        if self.exponent == 0:
            return sample_weight
        return np.ldexp(np.asarray(1.0 if sample_weight is None else sample_weight, np.float64), -self.exponent)


NO_WEIGHT = TotalWeight(1.0, 0)  # of a loss that is no mean


def losses(
    engine: Cpu, features: Array, layer: Array, bias: Any, targets: Any, weight: Any, sample_weight: Any,
    total: TotalWeight, *, dtype: np.dtype[Any], **options: Any
) -> Any:  # fmt: skip
    """The sum of the losses of a stripe, or all of them."""
    bias = None if bias is None else bias.astype(dtype)
    return linear_cross_entropy(
        features, layer.astype(dtype, copy=False), targets, linear_bias=bias, weight=weight,
        sample_weight=total.in_units(sample_weight), n_threads=engine.n_threads, **options,
    )  # fmt: skip


def losses_and_gradients(
    engine: Cpu, features: Array, layer: Array, bias: Any, targets: Any, weight: Any, sample_weight: Any,
    total: TotalWeight, grad_output: Any, *, dtype: np.dtype[Any], is_mean: bool, **options: Any
) -> tuple[Any, ...]:  # fmt: skip
    """Gradients, those of the layer in the dtype in which they are added up; then the losses."""
    bias = None if bias is None else bias.astype(dtype)
    if is_mean:
        (factor,), exponent = upstream_of(grad_output, "mean", (), total.fraction)
        grad_output = math.ldexp(factor, exponent)
    value, *gradients = linear_cross_entropy_value_and_grad(
        features, layer.astype(dtype, copy=False), targets, linear_bias=bias, weight=weight,
        sample_weight=total.in_units(sample_weight), grad_output=grad_output, n_threads=engine.n_threads, **options,
    )  # fmt: skip
    return *gradients, value


def weight_of_stripe(
    engine: Cpu, targets: Any, weight: Any, sample_weight: Any,
    *, lead: tuple[int, ...], classes: int, dtype: np.dtype[Any], **options: Any
) -> tuple[float, int]:  # fmt: skip
    """What a mean of the stripe alone would divide by, as fraction and exponent."""
    logits = np.broadcast_to(np.zeros((), dtype), (*lead, classes))
    given = PLAIN_OPTIONS | options | {"weight": weight, "sample_weight": sample_weight}
    return total_of(
        cross_entropy_call(logits, targets, -1, reduction="sum", n_threads=engine.n_threads, **given).targets
    )


def total_weight(engine: Cpu, parts: Sequence[tuple[float, int]]) -> TotalWeight:
    """What the mean of all divides by."""
    unit = max((exponent for fraction, exponent in parts if fraction != 0.0), default=0)
    total, own = math.frexp(sum(math.ldexp(fraction, max(exponent - unit, -4000)) for fraction, exponent in parts))
    if total == 0.0 or (abs(unit + own) < 1000 and _is_ordinary(math.ldexp(total, unit + own))):
        return TotalWeight(math.ldexp(total, unit + own), 0)
    return TotalWeight(total, unit + own)


def _is_ordinary(total: float) -> bool:
    return 1.0 / ORDINARY < abs(total) < ORDINARY


def value(engine: Cpu, losses: Sequence[float], total: TotalWeight, *, reduction: str) -> Any:
    """The sum, or the mean."""
    sum_of_all, exponent = sum_in_order([(loss, 0) for loss in losses])
    return np.float64(reduced(sum_of_all, reduction, total.fraction, exponent))


def rounded(engine: Cpu, total: Array, *, dtype: np.dtype[Any]) -> Array:
    """A gradient in the dtype of what it belongs to."""
    return total.astype(dtype, copy=False)
