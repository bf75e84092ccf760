"""The losses of rows of a matrix that comes a panel at a time: cross entropy, in place."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.options import PLAIN_OPTIONS
from fastce.arguments.reductions import ROOM, factor_of_rows, reduced, sum_in_order, upstream_of
from fastce.cpu.call import cross_entropy_call
from fastce.cpu.cross_entropy import row_losses
from fastce.cpu.row_losses import RowLosses
from fastce.cpu.sides import is_plain


class PanelLosses:
    """The losses of rows, panel by panel: kept for "none", else summed in float64."""

    def __init__(self, rows: int, dtype: np.dtype[Any], reduction: str) -> None:
        self.reduction = reduction
        self.kept: Array = np.zeros(rows if reduction == "none" else 0, dtype)
        self.sums: list[tuple[float, int]] = []

    def take(
        self,
        rows: slice | Array,
        logits: Array,
        targets: Any,
        grad_output: Any,
        n_threads: int | None,
        compute: Callable[..., RowLosses] = row_losses,
        **options: Any,
    ) -> None:
        """Add the losses of these rows; the logits become their gradient, if there is a ``grad_output``."""
        reduction = "none" if self.reduction == "none" else "sum"
        call = cross_entropy_call(
            logits, targets, axis=1, reduction=reduction, n_threads=n_threads, are_rounded=True,
            **(PLAIN_OPTIONS | options),
        )  # fmt: skip
        upstream = None
        if grad_output is not None:
            upstream, _ = upstream_of(grad_output, "none", call.logits.lead, 1.0)  # one, or one for each row
        losses = compute(call, upstream, None if upstream is None else logits, n_threads)
        if losses.kept is None:
            self.sums.append(losses.total())
        else:
            self.kept[rows] = losses.kept

    def value(self, lead: tuple[int, ...], total_weight: float, total_exponent: int = 0) -> Any:
        """What the reduction asks for, of rows of this shape; a mean is divided by total_weight * 2**total_exponent."""
        if self.reduction == "none":
            return self.kept.reshape(lead)[()]
        total, exponent = sum_in_order(self.sums)
        return reduced(total, self.reduction, total_weight, exponent - total_exponent)


class ClassLosses:
    """A loss from features (`fastce.products.loss.Loss`): of each row, cross entropy with one class as its target."""

    sweeps = 1

    def __init__(
        self,
        classes: Array,
        dtype: np.dtype[Any],
        scale: float,
        by_scale: bool,
        reduction: str,
        n_threads: int | None,
        whole_rows: int | None = None,
    ) -> None:
        """The products are to be scaled; ``by_scale`` says whether their gradient is multiplied by that.

        They may be those of some rows of a whole that has so many.
        """
        self.classes = classes
        self.scale = scale
        self.by_scale = by_scale
        self.n_threads = n_threads
        rows = classes.size if whole_rows is None else whole_rows
        self.factor: float = factor_of_rows(reduction, rows)
        self.losses: PanelLosses = PanelLosses(classes.size, dtype, reduction)

    def read(self, place: Any, panel: Array) -> None:
        self._take(place.rows, panel, None)

    def turn(self, place: Any, panel: Array) -> None:
        self._take(place.rows, panel, self.factor)

    def _take(self, rows: slice, products: Array, factor: float | None) -> None:
        targets = self.classes[rows]
        if self.by_scale and is_plain(self.scale, products.dtype):
            self.losses.take(rows, products, targets, factor, self.n_threads, logit_scale=self.scale)
            return
        power = _shifted(products, self.scale)
        above = None if factor is None else math.ldexp(factor, -power)
        self.losses.take(rows, products, targets, above, self.n_threads, logit_scale=2.0**power)
        if self.by_scale and factor is not None:
            products *= self.scale

    def value(self) -> Any:
        return self.losses.value((self.classes.size,), self.classes.size)


def _shifted(logits: Array, scale: float) -> int:
    """Make scale (x - top) / 2**power of the logits of each row; the power that they have no room for is returned.

    A row may be shifted: only differences are scaled, and halved before they are, to leave room for them.
    """
    logits[...] = 0.5 * logits - 0.5 * logits.max(axis=1, keepdims=True, initial=-np.inf)
    power = ROOM if math.isinf(2.0 * scale * float(np.abs(logits).max(initial=0.0))) else 0
    logits *= math.ldexp(scale, -power)
    logits *= 2.0
    return power
