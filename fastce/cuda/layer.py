"""Linear cross entropy on a GPU: what is known of a layer's targets, and the kernels of its panels, in place.

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
from fastce.arguments.sizes import largest_finite
from fastce.cuda._kernels.jobs import TOTAL_OF_SCALE
from fastce.cuda.arrays import DeviceArray, empty, zeros
from fastce.cuda.cross_entropy import CrossEntropy, has_range, options_in_range, upstream_of
from fastce.cuda.libraries import Library
from fastce.cuda.panel_losses import PanelLosses, numbers_of_counted, picked, picked_probabilities
from fastce.cuda.precision import check_factors, fits, limits
from fastce.cuda.products import array_module, as_reals, of_numbers, on_device, rows_between, seen, seen_flat
from fastce.cuda.targets import DeviceTargets
from fastce.cuda.verdicts import check, verdict

BLOCK_BYTES = 1 << 24


class Layer:
    """A checked call, but for what the targets and weights hold; computed in float64 if it ``is_wide``."""

    def __init__(
        self,
        features: DeviceArray,
        weight: DeviceArray,
        bias: DeviceArray | None,
        lead: tuple[int, ...],
        options: dict[str, Any],
        is_wide: bool,
    ) -> None:
        self.library: Library = features.library
        self.features = features
        self.weight = weight
        self.shape: tuple[int, int] = (features.shape[0], weight.shape[0])
        of_options = options_in_range(options, self.shape[1])
        arrays = [features, weight] + ([] if bias is None else [bias])
        self.of_losses: np.dtype[Any] = _widest(arrays)
        sample_weight = options["sample_weight"]
        if sample_weight is not None and np.ndim(sample_weight) == 0 and not is_on_device(sample_weight):
            weights = np.full(lead, number(sample_weight, "sample_weight"))  # the same for all rows
            options = options | {"sample_weight": on_device(weights, self.library).given}
        # of the logits only their shape and dtype are known, and where they will be
        shape, strides = (*lead, self.shape[1]), (0,) * (len(lead) + 1)
        logits = DeviceArray(features.given, shape, strides, "float64", features.pointer, False, self.library)
        given = options | {"logits": logits, "axis": -1}
        self.dtype: np.dtype[Any] = np.dtype(np.float64)
        is_wide = is_wide or (bias is not None and bias.dtype_name == "float64")
        dtype = self._dtype_of_products(given, of_options.logit_scale)
        if not is_wide and has_range(dtype, given, of_options):
            self.dtype = dtype
        given["logits"] = dataclasses.replace(logits, dtype_name=self.dtype.name)
        self.entropy: CrossEntropy = CrossEntropy(given)

    def _dtype_of_products(self, given: dict[str, Any], scale: float) -> np.dtype[Any]:
        """Features beyond the range of their dtype are of no account in rows that do not count."""
        arrays = self.features, self.weight
        with contextlib.suppress(ValueError):
            dtype = dtype_of_products(*arrays, scale)
            if dtype == _widest(arrays):
                return dtype
        targets = CrossEntropy(given).targets
        check(targets, *self.shape, False, 1.0)
        verdict(targets, *self.shape)
        return dtype_of_products(*arrays, scale, numbers_of_counted(targets))

    def losses(self, grad_output: Any, wants_gradients: bool, wants_scale: bool = False) -> "list[LayerLosses]":
        upstream = upstream_of(grad_output, self.entropy) if wants_gradients or wants_scale else None
        return [LayerLosses(self, upstream, wants_gradients, wants_scale)]


class LayerLosses:
    """A loss of a layer's outputs (`fastce.products.layer.LayerLoss`)."""

    sweeps = 1
    left_power = right_power = left_unit = right_unit = unit = 0

    def __init__(
        self, layer: Layer, upstream: tuple[float, DeviceArray | None] | None, writes: bool, by_scale: bool
    ) -> None:
        entropy, targets = layer.entropy, layer.entropy.targets
        self.layer = layer
        self.dtype: np.dtype[Any] = layer.dtype
        self.writes = writes
        factor, per_row = upstream or (1.0, None)
        above = None if per_row is None else per_row.flat()
        check(targets, *layer.shape, entropy.reduction == "mean", factor, self.writes, above)
        verdict(targets, *layer.shape)
        self.counted: Any = numbers_of_counted(targets)
        self.bytes_of_row: int = 0
        if self.counted is not None:
            self.bytes_of_row = 0 if targets.mass_rows is None else layer.shape[1] * self.dtype.itemsize
            targets = picked(targets, self.counted)
            if above is not None and above.size > 1:
                above = on_device(seen_flat(above)[self.counted], layer.library).flat()
        self.targets = targets
        rows = layer.shape[0] if self.counted is None else self.counted.size
        self.losses: PanelLosses = PanelLosses(
            targets, entropy.options, (rows, layer.shape[1]), entropy.reduction, above, entropy.softcap > 0.0,
            layer.of_losses, by_scale,
        )  # fmt: skip

    def rest_of(self, rows: Any) -> int:
        return 0

    def read(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=False)

    def turn(self, place: Any, panel: Any) -> None:
        self._take(place.rows, panel, writes=True)

    def _take(self, rows: slice, panel: Any, writes: bool) -> None:
        array = of_numbers(panel, self.layer.library)
        self.losses.take(rows, array, writes, self._targets_of(rows, array))

    def _targets_of(self, rows: slice, panel: DeviceArray) -> DeviceTargets | None:
        """The targets of a panel, if they are not just a part of all."""
        if self.counted is None or self.targets.mass_rows is None:
            return None
        room = empty(panel.library, panel.shape, panel.dtype_name)
        return picked_probabilities(self.targets, rows, self.counted[rows], room)

    def scale_derivative(self) -> float:
        """By the scale, once all panels are read, if it was wanted."""
        return float(verdict(self.targets, *self.layer.shape)[TOTAL_OF_SCALE])

    def value(self) -> Any:
        """For "none" with 0 for the rows that do not count."""
        layer, entropy, value = self.layer, self.layer.entropy, self.losses.value()
        if entropy.reduction != "none":
            return value
        verdict(self.targets, *layer.shape)  # that no row was beyond the range of the dtype
        if self.counted is not None:
            result = zeros(layer.library, layer.shape[:1], layer.of_losses.name)
            seen(result)[self.counted] = seen(self.losses.results)
            value = result.given
        return value if len(entropy.lead) == 1 else value.reshape(entropy.lead)


# --- the dtype of products -------------------------------------------------------------------------------------------


def _widest(arrays: Any) -> np.dtype[Any]:
    """float32, or float64 if anything is that."""
    return np.dtype(np.float64 if any(array.dtype_name == "float64" for array in arrays) else np.float32)


def dtype_of_products(features: DeviceArray, weight: DeviceArray, scale: float, numbers: Any = None) -> np.dtype[Any]:
    """What products are computed in: float64 where they, or they times the scale, leave the range of float32.

    Refused where they leave that of float64. With ``numbers``, only these rows of the features count.
    """
    check_factors(logit_scale=scale)
    dtype, wide = _widest((features, weight)), np.dtype(np.float64)
    left, right = _size(features, numbers), _size(weight)
    factors = [scale] if 0.0 in (left, right) else _factors(left, right, scale)
    if fits(dtype, *factors):
        return dtype
    if not fits(wide, *factors):
        low, high = limits(wide)
        raise ValueError(
            f"on a GPU, features, their products and both times the scale must be between {low} and {high} in size, "
            f"got features of up to {max(left, right)} and a scale of {scale}"
        )
    return wide


def _factors(left: float, right: float, scale: float) -> list[float]:
    """The scale, and the ends of what else is multiplied for features of these sizes."""
    powers = [math.log2(left) + math.log2(right), math.log2(left), math.log2(right)]
    powers += [power + math.log2(scale) for power in powers]
    return [scale, *(2.0 ** min(max(power, -1074.0), 1023.0) for power in (min(powers), max(powers)))]


def _size(array: DeviceArray, numbers: Any = None) -> float:
    """The size of the largest element that is finite, of the rows of these numbers or of all; the host waits for it."""
    if array.dtype_name == "float16" or array.size == 0:
        return 1.0  # which is far from either end
    xp, wide = array_module(), np.dtype(np.float64)
    rows = array.shape[0] if numbers is None else numbers.size
    step = max(1, BLOCK_BYTES // (8 * array.shape[1]))

    def reals(start: int) -> Any:
        stop = min(start + step, rows)
        if numbers is None:
            return as_reals(rows_between(array, start, stop), wide)
        return as_reals(array, wide, numbers[start:stop])

    return largest_finite(xp, (xp.abs(reals(start)) for start in range(0, rows, step)))
