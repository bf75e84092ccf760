"""Cross entropy of a linear layer's outputs on a GPU: logits exist a panel of rows at a time.

Rows that are ignored or have no weight take part in nothing: neither do they cost a product, nor do their features,
whatever they are, show in the gradients.
"""

import contextlib
import dataclasses
import math
from typing import Any

import numpy as np

from fastce.arguments.numbers import number
from fastce.arguments.places import is_on_device
from fastce.arguments.silence import quietly
from fastce.cuda.arrays import DeviceArray, empty, zeros
from fastce.cuda.cross_entropy import CrossEntropy, has_range, options_in_range, upstream_of
from fastce.cuda.features import Features, dtype_of_losses, dtype_of_products, feature_arrays, float_features
from fastce.cuda.layout import contiguous
from fastce.cuda.panel_losses import PanelLosses, numbers_of_counted, picked, picked_probabilities
from fastce.cuda.panels import Panels
from fastce.cuda.precision import with_range
from fastce.cuda.products import (
    array_module,
    as_reals,
    multiply,
    on_device,
    reshaped,
    seen,
    seen_flat,
    working_in,
)
from fastce.cuda.targets import DeviceTargets, check, verdict
from fastce.products.progress import Progress
from fastce.typing import LinearCrossEntropyValueAndGrad


def linear_cross_entropy(**given: Any) -> Any:
    """See `fastce.linear_cross_entropy`."""

    def value(is_wide: bool) -> Any:
        call = _Call(given, is_wide)
        with working_in(call.library), quietly():
            return call.swept((1.0, None), None)

    return with_range(value)


def linear_cross_entropy_value_and_grad(**given: Any) -> LinearCrossEntropyValueAndGrad:
    """See `fastce.linear_cross_entropy_value_and_grad`."""
    return with_range(lambda is_wide: _value_and_grad(given, _Call(given, is_wide)))


def _value_and_grad(given: dict[str, Any], call: "_Call") -> LinearCrossEntropyValueAndGrad:
    upstream = upstream_of(given["grad_output"], call.entropy)
    with working_in(call.library), quietly():
        gradients = _Gradients(call)
        value = call.swept(upstream, gradients)
        return LinearCrossEntropyValueAndGrad(value, *gradients.finished())


class _Call:
    """A checked call, but for what the targets and weights hold; computed in float64 if it ``is_wide``."""

    def __init__(self, given: dict[str, Any], is_wide: bool = False) -> None:
        features = float_features(given["features"], "features")
        if features.ndim == 0:
            raise ValueError("features must have at least one dimension, got a scalar")
        self.given_shape, self.library = features.shape, features.library
        matrix = features if features.ndim == 2 else _as_matrix(features)
        weight = float_features(given["linear_weight"], "linear_weight", self.library)
        self.arrays = feature_arrays([matrix, weight], ["features", "linear_weight"])
        self.shape = matrix.shape[0], weight.shape[0]
        self.bias = None
        if given["linear_bias"] is not None:
            self.bias = self._checked_bias(float_features(given["linear_bias"], "linear_bias", self.library))
        options, lead = options_in_range(given, self.shape[1]), features.shape[:-1]
        self.of_losses = dtype_of_losses([*self.arrays, *([] if self.bias is None else [self.bias])])
        sample_weight = given["sample_weight"]
        if sample_weight is not None and np.ndim(sample_weight) == 0 and not is_on_device(sample_weight):
            weights = np.full(lead, number(sample_weight, "sample_weight"))  # the same for all rows
            with working_in(self.library):
                given = given | {"sample_weight": on_device(weights, self.library).given}
        # of the logits only their shape and dtype are known, and where they will be
        shape, strides = (*lead, self.shape[1]), (0,) * (len(lead) + 1)
        logits = DeviceArray(features.given, shape, strides, "float64", features.pointer, False, self.library)
        given = given | {"logits": logits, "axis": -1}
        self.dtype = np.dtype(np.float64)
        is_wide = is_wide or (self.bias is not None and self.bias.dtype_name == "float64")
        dtype = self._dtype_of_products(given, options.logit_scale)
        if not is_wide and has_range(dtype, given, options):
            self.dtype = dtype
        given["logits"] = dataclasses.replace(logits, dtype_name=self.dtype.name)
        self.entropy = CrossEntropy(given)
        self.budget, self.wanted_progress = given["memory_budget"], given["progress"]

    def _dtype_of_products(self, given: dict[str, Any], scale: float) -> np.dtype[Any]:
        """Features beyond the range of their dtype are of no account in rows that do not count."""
        with contextlib.suppress(ValueError):
            dtype = dtype_of_products(self.arrays, scale)
            if dtype == dtype_of_losses(self.arrays):
                return dtype
        targets = CrossEntropy(given).targets
        check(targets, *self.shape, False, 1.0)
        verdict(targets, *self.shape)
        with working_in(self.library):
            numbers = numbers_of_counted(targets)
        return dtype_of_products(self.arrays, scale, numbers=numbers)

    def _checked_bias(self, bias: DeviceArray) -> DeviceArray:
        classes = self.shape[1]
        if bias.shape != (classes,):
            raise ValueError(f"linear_bias has shape {bias.shape}, expected {(classes,)}, one number for each class")
        return bias

    def swept(self, upstream: tuple[float, DeviceArray | None], gradients: "_Gradients | None") -> Any:
        """The value; the gradients are added up if there is room for them."""
        entropy, targets = self.entropy, self.entropy.targets
        above = None if upstream[1] is None else upstream[1].flat()
        check(targets, *self.shape, entropy.reduction == "mean", upstream[0], gradients is not None, above)
        verdict(targets, *self.shape)
        numbers = numbers_of_counted(targets)
        if numbers is not None:
            targets = picked(targets, numbers)
            if above is not None and above.size > 1:
                above = on_device(seen_flat(above)[numbers], self.library).flat()
        left = Features(self.arrays[:1], self.dtype, numbers=numbers)
        right = Features(self.arrays[1:], self.dtype)
        copied = self.shape[1] * self.dtype.itemsize if numbers is not None and targets.mass_rows is not None else 0
        panels = Panels(left, right, self.budget, bytes_of_row=copied)
        progress = Progress(self.wanted_progress, len(panels.row_cuts), "linear_cross_entropy", "panel")
        losses = PanelLosses(
            targets, entropy.options, (left.rows, self.shape[1]), entropy.reduction, above, entropy.softcap > 0.0,
            self.of_losses,
        )  # fmt: skip
        bias = None if self.bias is None else as_reals(self.bias, self.dtype)

        def work(rows: slice, panel: DeviceArray) -> None:
            logits = seen(panel)
            if bias is not None:
                logits += bias
            losses.take(rows, panel, gradients is not None, _of_panel(targets, rows, numbers, panel))
            if gradients is not None:
                gradients.add(panels, rows, rows if numbers is None else numbers[rows], logits)

        with progress:
            panels.sweep(work, progress)
        value = losses.value()
        if entropy.reduction == "none":
            verdict(targets, *self.shape)  # that no row was beyond the range of the dtype
        return self._of_all_rows(value, losses, numbers)

    def _of_all_rows(self, value: Any, losses: PanelLosses, numbers: Any) -> Any:
        """The value; for "none" with 0 for the rows that do not count."""
        if self.entropy.reduction != "none":
            return value
        if numbers is not None:
            result = zeros(self.library, self.shape[:1], self.of_losses.name)
            seen(result)[numbers] = seen(losses.results)
            value = result.given
        return value if len(self.entropy.lead) == 1 else value.reshape(self.entropy.lead)


def _as_matrix(features: DeviceArray) -> DeviceArray:
    """The last axis is kept."""
    width = features.shape[-1]
    return reshaped(contiguous(features), (math.prod(features.shape[:-1]), width), (width, 1))


def _of_panel(targets: DeviceTargets, rows: slice, numbers: Any, panel: DeviceArray) -> DeviceTargets | None:
    """The targets of a panel, if they are not just a part of all."""
    if numbers is None or targets.mass_rows is None:
        return None
    room = empty(panel.library, panel.shape, panel.dtype_name)
    return picked_probabilities(targets, rows, numbers[rows], room)


class _Gradients:
    """The gradients of features, weights and bias, as far as the panels have come."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.left, self.right = (Features([array], call.dtype) for array in call.arrays)
        self.of_features, self.of_weight = self.left.new_gradient(), self.right.new_gradient()
        self.of_bias = None if call.bias is None else zeros(call.library, call.bias.shape, "float64")

    def add(self, panels: Panels, rows: slice, numbers: Any, slopes: Any) -> None:
        """Add what a panel's slopes, the gradient of its logits, contribute; the numbers are those of the rows."""
        xp, of_features = array_module(), seen(self.of_features)
        of_rows = xp.zeros((len(slopes), self.left.width), slopes.dtype)
        panels.add_to_left(slopes, of_rows)
        of_features[numbers] = of_rows
        panels.add_to_right(rows, slopes, seen(self.of_weight))
        if self.of_bias is not None:
            total = xp.empty((1, slopes.shape[1]), slopes.dtype)
            multiply(xp.ones((1, len(slopes)), slopes.dtype), slopes, total)
            of_bias = seen(self.of_bias)
            of_bias += total[0]

    def finished(self) -> tuple[Any, Any, Any]:
        """In the shapes and dtypes of what they belong to."""
        call, of_bias = self.call, None
        (of_features,), _ = self.left.finished(self.of_features, wants_sum=False)
        (of_weight,), _ = self.right.finished(self.of_weight, wants_sum=False)
        if call.bias is not None and self.of_bias is not None:
            of_bias = contiguous(self.of_bias, call.bias.dtype_name).given
        if len(call.given_shape) != 2:
            of_features = of_features.reshape(call.given_shape)
        return of_features, of_weight, of_bias
