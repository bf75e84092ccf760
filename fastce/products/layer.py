"""The outputs of a linear layer: products of features with weights, and a bias; and the gradients of all three."""

from collections.abc import Callable, Collection, Iterator
from typing import Any, Protocol

import numpy as np

from fastce.products.engine import Engine
from fastce.products.features import Features
from fastce.products.gradients import Gradient
from fastce.products.loss import Loss
from fastce.products.panels import Panels
from fastce.products.progress import Progress
from fastce.products.tiles import Place, Products

BAND = 500  # powers of two that one sum is good for


class LayerLoss(Loss, Protocol):
    """A loss of a layer's outputs, and what these are computed with.

    The powers of two are what features, weights and slopes are divided by; see `fastce.cpu.layer_ranges`.
    """

    dtype: np.dtype[Any]
    left_power: int
    right_power: int
    left_unit: int  # of the features and weights that slopes are multiplied with
    right_unit: int
    unit: int  # of slopes
    counted: Any  # the numbers of the rows that have any loss; None for all
    bytes_of_row: int  # that the loss takes of each row of a panel
    writes: bool  # whether gradients are wanted

    def rest_of(self, rows: Any) -> Any:
        """The powers of two of the slopes of these rows: a column, or one number for all."""


class Outputs(Products):
    """Panels of features @ weight.T + bias, of the rows that count."""

    unit: str = "panel"

    def __init__(
        self, engine: Engine, features: Any, weight: Any, bias: Any, loss: LayerLoss, memory_budget: Any,
        wanted: Collection[str] = ("features", "linear_weight", "linear_bias"),
    ) -> None:  # fmt: skip
        """Gradients are added up of what is ``wanted`` alone, if the loss writes any."""
        left = Features(engine, [features], loss.dtype, numbers=loss.counted, power=loss.left_power)
        super().__init__(left, Features(engine, [weight], loss.dtype, power=loss.right_power))
        self.panels: Panels = Panels(self.left, self.right, memory_budget, bytes_of_row=loss.bytes_of_row)
        self.places: list[Place] = self.panels.places
        self.loss = loss
        self.weight = weight
        self.bias = bias
        if bias is not None:
            reals = engine.reals(bias, slice(0, self.right.rows), loss.dtype)
            self.scaled_bias: Any = _times_power(engine.xp, reals, -loss.left_power - loss.right_power)
        if loss.writes:
            if (loss.left_unit, loss.right_unit) != (loss.left_power, loss.right_power):
                left = Features(engine, [features], loss.dtype, numbers=loss.counted, power=loss.left_unit)
                self.panels.multiply_slopes_with(left, Features(engine, [weight], loss.dtype, power=loss.right_unit))
            self.wanted = wanted
            self.of_features: Any = engine.like(features) if "features" in wanted else None
            self.has_gradient_of_bias: bool = bias is not None and "linear_bias" in wanted
            self.of_weight: dict[int, Gradient] = {}  # by unit
            self.of_bias: dict[int, Any] = {}

    def sweep(self, work: Callable[[Place, Any], None], progress: Progress, keep: bool = False) -> None:
        """See `Products.sweep`."""

        def with_bias(place: Place, panel: Any) -> None:
            def add(start: int, stop: int) -> None:
                panel[start:stop] += self.scaled_bias

            if self.bias is not None:
                self.engine.for_each(len(panel), panel.shape[1] * panel.itemsize, add)
            work(place, panel)

        self.panels.sweep(with_bias, progress, keep)

    def add_to_gradients(self, place: Place, slopes: Any) -> None:
        """See `Products.add_to_gradients`."""
        engine, loss, xp = self.engine, self.loss, self.engine.xp
        numbers = place.rows if loss.counted is None else loss.counted[place.rows]
        rest = loss.rest_of(numbers)
        if self.of_features is not None:
            of_rows = self.panels.gradient_of_left(slopes)
            engine.put(self.of_features, numbers, _times_power(xp, of_rows, rest + loss.right_unit))
        if "linear_weight" not in self.wanted and not self.has_gradient_of_bias:
            return
        for unit, part in self._by_unit(slopes, rest):
            if "linear_weight" in self.wanted:
                if unit not in self.of_weight:
                    self.of_weight[unit] = Gradient(self.right)
                self.panels.add_to_right(place.rows, part, self.of_weight[unit])
            if self.has_gradient_of_bias:
                if unit not in self.of_bias:
                    self.of_bias[unit] = xp.zeros(self.right.rows)
                total = engine.empty((1, part.shape[1]), part.dtype)
                engine.multiply(xp.ones((1, len(part)), part.dtype), part, total)
                self.of_bias[unit] += total[0]

    def _by_unit(self, slopes: Any, rest: Any) -> Iterator[tuple[int, Any]]:
        """The slopes in units of 2**unit: rows so far apart that in one sum the small ones were 0 have their own."""
        xp, unit = self.engine.xp, self.loss.unit
        if not np.ndim(rest) or bool((rest == unit).all()):
            yield unit, slopes
            return
        bands = xp.broadcast_to((unit - rest) // BAND, (len(slopes), 1))
        for band in xp.unique(bands).tolist():
            own = unit - band * BAND
            yield own, xp.where(bands == band, xp.ldexp(slopes, rest - own), 0.0)

    def gradients(self) -> tuple[Any, Any, Any]:
        """Those of features, weights and bias (None: not wanted): memory of the engine, in their shapes and dtypes."""
        engine, of_weight, of_bias, left_unit = self.engine, None, None, self.loss.left_unit
        if len(self.of_weight) == 1:
            ((unit, gradient),) = self.of_weight.items()
            (of_weight,), _ = self.right.finished(gradient.memory, False, (1.0, unit + left_unit))
        elif "linear_weight" in self.wanted:
            of_weight = engine.like(self.weight)
            totals = {unit: gradient.total for unit, gradient in self.of_weight.items()}
            if totals:
                engine.put(of_weight, slice(0, self.right.rows), _added_up(engine.xp, totals, left_unit))
        if self.has_gradient_of_bias:
            of_bias = engine.like(self.bias)
            if self.of_bias:
                engine.put(of_bias, slice(0, self.right.rows), _added_up(engine.xp, self.of_bias, 0))
        return self.of_features, of_weight, of_bias


def _added_up(xp: Any, totals: dict[int, Any], power: int) -> Any:
    """The sum of the totals, each times 2**(its unit + power); small ones show where the larger are 0, or nearly so.

    Every element has its power of two until the end: two that are beyond the largest number would be inf - inf.
    """
    (first, total), *others = sorted(totals.items(), reverse=True, key=lambda item: item[0])
    if not others:
        return _times_power(xp, total, first + power)
    units = xp.full(total.shape, first)
    for unit, other in others:
        is_empty = total == 0.0
        total = xp.where(is_empty, other, total + xp.ldexp(other, unit - units))
        units = xp.where(is_empty, unit, units)
    return xp.ldexp(total, units + power)


def _times_power(xp: Any, x: Any, power: Any) -> Any:
    return xp.ldexp(x, power) if np.ndim(power) or power else x
