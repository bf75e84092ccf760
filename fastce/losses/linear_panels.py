"""Linear cross entropy over panels of logits: cross_entropy in place on each, then the products with its gradient."""

from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype
from fastce.arguments.silence import quietly, silently
from fastce.cpu.cross_entropy import CrossEntropyCall
from fastce.cpu.engine import Cpu
from fastce.cpu.extremes import is_extreme
from fastce.cpu.panel_losses import PanelLosses
from fastce.cpu.threads import cut_rows, for_each
from fastce.losses.linear_ranges import LayerRange, Sizes, Slopes
from fastce.products.features import Features
from fastce.products.panels import Panels
from fastce.products.progress import Progress
from fastce.products.tiles import Place


class LinearCall(NamedTuple):
    """A checked call: features and targets as matrices and vectors of rows, of which only the ``counted`` have any."""

    described: CrossEntropyCall
    features: Array  # as a matrix
    shape: tuple[int, ...]  # as given
    weight: Array
    bias: Array | None
    targets: Any
    sample_weight: Array | None
    counted: Array | None
    options: dict[str, Any]
    memory_budget: Any
    progress: Any
    n_threads: int | None


class LinearGradients:
    """The gradients of features, weights and bias, as far as the panels have come."""

    def __init__(self, call: LinearCall, panels: Panels, within: LayerRange, slopes: Slopes) -> None:
        self.call = call
        self.panels = panels
        self.slopes = slopes
        self.of_features: Array = np.zeros((len(call.features), panels.left.width), kernel_dtype(call.features.dtype))
        self.of_bias: Array = np.zeros(panels.right.rows)
        self.right_power: int = within.right_power
        self.rest_of_right: int = slopes.unit + within.left_power

    def add(self, rows: slice, numbers: slice | Array, slopes: Array) -> None:
        """Add what a panel's slopes, the gradient of its logits, contribute."""
        self.slopes.shrink(slopes, numbers, self.call.n_threads)
        rest = self.slopes.rest_of(numbers)
        self.of_features[numbers] = _times_power(self.panels.gradient_of_left(slopes), rest + self.right_power)
        if (rest != self.slopes.unit).any():
            np.ldexp(slopes, rest - self.slopes.unit, out=slopes)
        self.panels.add_to_right(rows, slopes)
        if self.call.bias is not None:
            self.of_bias += np.ones(len(slopes), slopes.dtype) @ slopes

    def finished(self) -> "Gradients":
        """In the shapes and dtypes of what they belong to."""
        right, bias, of_bias = self.panels.right, self.call.bias, None
        (of_weight,), _ = right.finished(self.panels.of_right.memory, False, (1.0, self.rest_of_right))
        if bias is not None:
            of_bias = _times_power(self.of_bias, self.slopes.unit).astype(kernel_dtype(bias.dtype))
        return self.of_features.reshape(self.call.shape), of_weight, of_bias


Gradients = tuple[Array, Array, Array | None]


def value_and_gradients(call: LinearCall, upstream: Array | None, exponent: int = 0) -> tuple[Any, Gradients | None]:
    """The value, and with an upstream, times 2**exponent, the gradients."""
    described, dtype, scale = call.described, call.described.logits.dtype, call.described.options.logit_scale
    plain, sizes = LayerRange.plain(dtype, scale), _sizes_of(call)
    if not sizes.fit(dtype) or is_extreme(described.options, described.targets, dtype.itemsize):
        return _swept(call, _range_of(call), upstream, call.progress, exponent)
    if upstream is None or (not exponent and sizes.fit_slopes(described.targets, scale, upstream, dtype)):
        return _swept(call, plain, upstream, call.progress)
    value, _ = _swept(call, plain, None, call.progress)  # that of the twin
    return value, _swept(call, _range_of(call), upstream, None, exponent)[1]


def _range_of(call: LinearCall) -> LayerRange:
    return LayerRange.of(_counted_features(call), call.weight, call.bias, call.described.options.logit_scale)


def _sizes_of(call: LinearCall) -> Sizes:
    return Sizes.of(_counted_features(call), call.weight, call.bias)


def _counted_features(call: LinearCall) -> Iterable[Array]:
    """The features in parts, without the rows that are not counted: what these hold does not matter."""
    features, counted = call.features, call.counted
    if counted is None:
        return [features]
    return (features[counted[a:b]] for a, b in cut_rows(len(counted), features.shape[1] * 8))


def _swept(
    call: LinearCall, within: LayerRange, upstream: Array | None, progress: Any, exponent: int = 0
) -> tuple[Any, Gradients | None]:
    described = call.described
    panels = _panels(call, within)
    losses = PanelLosses(described.logits.rows, described.logits.dtype, described.reduction)
    bias = None
    if call.bias is not None:
        bias = silently(_times_power, call.bias.astype(within.dtype), -within.left_power - within.right_power)
    options = call.options | {"logit_scale": within.scale}
    slopes = None
    if upstream is not None:
        slopes = Slopes.of(described, within, upstream, exponent, call.counted)
    gradients = None if slopes is None else LinearGradients(call, panels, within, slopes)

    def work(place: Place, logits: Array) -> None:
        rows = place.rows
        numbers = rows if call.counted is None else call.counted[rows]
        if bias is not None:
            _add_to_rows(logits, bias, call.n_threads)
        within.add_missing(logits)
        if call.sample_weight is not None:
            options["sample_weight"] = call.sample_weight[numbers]
        above = None if slopes is None else slopes.above(numbers)
        losses.take(numbers, logits, call.targets[numbers], above, call.n_threads, **options)
        if gradients is not None:
            gradients.add(rows, numbers, logits)

    reporter = Progress(progress, len(panels.places), "linear_cross_entropy", "panel")
    with reporter, quietly():
        panels.sweep(work, reporter)
        value = losses.value(described.logits.lead, *described.targets.total)
        return value, None if gradients is None else gradients.finished()


def _panels(call: LinearCall, within: LayerRange) -> Panels:
    engine = Cpu(call.n_threads)
    left = Features(engine, [call.features], within.dtype, numbers=call.counted, power=within.left_power)
    right = Features(engine, [call.weight], within.dtype, power=within.right_power)
    is_copied = call.counted is not None and call.targets.ndim == 2
    return Panels(
        left, right, call.memory_budget, bytes_of_row=right.rows * call.targets.dtype.itemsize if is_copied else 0
    )


def _times_power(x: Array, power: int | Array) -> Array:
    return np.ldexp(x, power) if np.any(power) else x


def _add_to_rows(logits: Array, bias: Array, n_threads: int | None) -> None:
    def work(start: int, stop: int) -> None:
        logits[start:stop] += bias

    for_each(cut_rows(len(logits), logits.shape[1] * logits.itemsize), work, n_threads)
