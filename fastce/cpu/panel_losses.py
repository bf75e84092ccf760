"""The losses of rows of a matrix that comes a panel at a time: cross entropy, in place."""

import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.options import PLAIN_OPTIONS
from fastce.arguments.reductions import ROOM, reduced, sum_in_order, upstream_of
from fastce.cpu.cross_entropy import cross_entropy_call, row_losses
from fastce.cpu.sides import is_plain


class PanelLosses:
    """The losses of rows, panel by panel: kept for "none", else summed in float64."""

    def __init__(self, rows: int, dtype: np.dtype[Any], reduction: str) -> None:
        self.reduction = reduction
        self.kept: Array = np.zeros(rows if reduction == "none" else 0, dtype)
        self.sums: list[tuple[float, int]] = []

    def take(
        self, rows: slice | Array, logits: Array, targets: Any, grad_output: Any, n_threads: int | None, **options: Any
    ) -> None:
        """Add the losses of these rows; the logits become their gradient, if there is a ``grad_output``."""
        reduction = "none" if self.reduction == "none" else "sum"
        call = cross_entropy_call(
            logits, targets, axis=1, reduction=reduction, n_threads=n_threads, **(PLAIN_OPTIONS | options)
        )
        upstream = None
        if grad_output is not None:
            upstream, _ = upstream_of(grad_output, "none", call.logits.lead, 1.0)  # one, or one for each row
        losses = row_losses(call, upstream, None if upstream is None else logits, n_threads)
        if losses.kept is None:
            self.sums.append(losses.total())
        else:
            self.kept[rows] = losses.kept

    def take_scaled(
        self,
        rows: slice,
        logits: Array,
        targets: Array,
        grad_output: float | None,
        scale: float,
        by_scale: bool,
        n_threads: int | None,
    ) -> None:
        """The same for products that are to be scaled; ``by_scale`` says whether their gradient is multiplied by it."""
        if by_scale and is_plain(scale, logits.dtype):
            self.take(rows, logits, targets, grad_output, n_threads, logit_scale=scale)
            return
        power = _shifted(logits, scale)
        above = None if grad_output is None else math.ldexp(grad_output, -power)
        self.take(rows, logits, targets, above, n_threads, logit_scale=2.0**power)
        if by_scale and grad_output is not None:
            logits *= scale

    def value(self, lead: tuple[int, ...], total_weight: float, total_exponent: int = 0) -> Any:
        """What the reduction asks for, of rows of this shape; a mean is divided by total_weight * 2**total_exponent."""
        if self.reduction == "none":
            return self.kept.reshape(lead)[()]
        total, exponent = sum_in_order(self.sums)
        return reduced(total, self.reduction, total_weight, exponent - total_exponent)


def _shifted(logits: Array, scale: float) -> int:
    """Make scale (x - top) / 2**power of the logits of each row; the power that they have no room for is returned.

    A row may be shifted: only differences are scaled, and halved before they are, to leave room for them.
    """
    logits[...] = 0.5 * logits - 0.5 * logits.max(axis=1, keepdims=True, initial=-np.inf)
    power = ROOM if math.isinf(2.0 * scale * float(np.abs(logits).max(initial=0.0))) else 0
    logits *= math.ldexp(scale, -power)
    logits *= 2.0
    return power
