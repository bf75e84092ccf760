"""Linear cross entropy on the CPU: what is known of a layer's targets, and cross_entropy in place on its panels."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.reductions import upstream_of
from fastce.arguments.sparse import checked_csr, is_sparse
from fastce.cpu.call import CrossEntropyCall, cross_entropy_call, of_counted
from fastce.cpu.cross_entropy import row_losses
from fastce.cpu.extremes import is_extreme
from fastce.cpu.layer_ranges import LayerRange, Sizes, Slopes
from fastce.cpu.layout import Rows
from fastce.cpu.logit_scale import ScaleTerms
from fastce.cpu.panel_losses import PanelLosses
from fastce.cpu.row_losses import RowLosses
from fastce.cpu.threads import cut_rows

_OF_ROWS = ("weight", "ignore_index", "label_smoothing", "smoothing_over", "softcap", "z_loss")


class Layer:
    """A checked call: features as a matrix, whose rows have this ``lead``, and targets by row."""

    def __init__(
        self,
        features: Array,
        weight: Array,
        bias: Array | None,
        lead: tuple[int, ...],
        options: dict[str, Any],
        n_threads: int | None,
    ) -> None:
        self.features = features
        self.weight = weight
        self.bias = bias
        self.n_threads = n_threads
        arrays = [array for array in (features, weight, bias) if array is not None]
        dtype = np.result_type(*(compute_dtype(kernel_dtype(array.dtype)) for array in arrays))
        logits = np.broadcast_to(np.zeros((), dtype), (*lead, len(weight)))
        self.described: CrossEntropyCall = cross_entropy_call(
            logits, axis=-1, n_threads=n_threads, are_rounded=True, **options
        )
        self.targets: Any = _by_row(options["targets"], self.described.logits)
        self.options: dict[str, Any] = {name: options[name] for name in _OF_ROWS}
        self.counted: Array | None = self.described.targets.counted()

    def losses(self, grad_output: Any, wants_gradients: bool, wants_scale: bool = False) -> "list[LayerLosses]":
        """What is to be swept: the first tells the value; the last one the gradients and the scale's, if wanted."""
        described = self.described
        dtype, scale = described.logits.dtype, described.options.logit_scale
        upstream, exponent = None, 0
        wanted = wants_gradients, wants_scale
        if any(wanted):
            upstream, exponent = upstream_of(
                grad_output, described.reduction, described.logits.lead, *described.targets.total
            )
            upstream = of_counted(upstream, described.targets)
        plain = LayerRange.plain(dtype, scale)
        sizes = Sizes.of(self._counted_features(), self.weight, self.bias, self.n_threads)
        if not sizes.fit(dtype) or is_extreme(described.options, described.targets, dtype.itemsize):
            return [LayerLosses(self, self._range(), upstream, exponent, *wanted)]
        if upstream is None or (not exponent and sizes.fit_slopes(described.targets, scale, upstream, dtype)):
            return [LayerLosses(self, plain, upstream, 0, *wanted)]
        return [LayerLosses(self, plain, None), LayerLosses(self, self._range(), upstream, exponent, *wanted)]

    def _range(self) -> LayerRange:
        scale = self.described.options.logit_scale
        return LayerRange.of(self._counted_features(), self.weight, self.bias, scale)

    def _counted_features(self) -> Iterable[Array]:
        """The features in parts, without the rows that are not counted: what these hold does not matter."""
        features, counted = self.features, self.counted
        if counted is None:
            return [features]
        return (features[counted[a:b]] for a, b in cut_rows(len(counted), features.shape[1] * 8))


class LayerLosses:
    """A loss of a layer's outputs (`fastce.products.layer.LayerLoss`), computed within a range."""

    sweeps = 1

    def __init__(
        self,
        layer: Layer,
        within: LayerRange,
        upstream: Array | None,
        exponent: int = 0,
        writes: bool = False,
        wants_scale: bool = False,
    ) -> None:
        described = layer.described
        self.layer = layer
        self.within = within
        self.dtype: np.dtype[Any] = within.dtype
        self.left_power: int = within.left_power
        self.right_power: int = within.right_power
        self.left_unit: int = within.left_unit
        self.right_unit: int = within.right_unit
        self.counted: Array | None = layer.counted
        self.writes = writes
        self.of_scale: ScaleTerms | None = ScaleTerms() if wants_scale else None
        is_copied = layer.counted is not None and layer.targets.ndim == 2
        self.bytes_of_row: int = len(layer.weight) * layer.targets.dtype.itemsize if is_copied else 0
        self.slopes: Slopes | None = None
        if upstream is not None:
            self.slopes = Slopes.of(described, within, upstream, exponent, layer.counted)
        self.unit: int = 0 if self.slopes is None else self.slopes.unit
        self.losses: PanelLosses = PanelLosses(described.logits.rows, described.logits.dtype, described.reduction)
        self.options: dict[str, Any] = layer.options | {"logit_scale": within.scale}

    def _numbers(self, rows: slice) -> Any:
        return rows if self.counted is None else self.counted[rows]

    def rest_of(self, rows: Any) -> Array | int:
        assert self.slopes is not None
        return self.slopes.rest_of(rows)

    def read(self, place: Any, panel: Array) -> None:
        self._take(self._numbers(place.rows), panel, writes=False)

    def turn(self, place: Any, panel: Array) -> None:
        assert self.slopes is not None
        numbers = self._numbers(place.rows)
        self._take(numbers, panel, writes=True)
        self.slopes.shrink(panel, numbers, self.layer.n_threads)

    def _take(self, numbers: Any, logits: Array, writes: bool) -> None:
        layer, per_row = self.layer, self.layer.described.targets.per_row
        self.within.add_missing(logits)
        weights = {} if per_row is None else {"sample_weight": per_row[numbers]}
        above: Array | float | None = None
        compute: Callable[..., RowLosses] = row_losses
        if writes or self.of_scale is not None:
            assert self.slopes is not None
            above = self.slopes.above(numbers)
        if self.of_scale is not None:
            compute = partial(self._with_scale, numbers, writes)
        self.losses.take(
            numbers, logits, layer.targets[numbers], above, layer.n_threads, compute, **self.options, **weights
        )

    def _with_scale(
        self, numbers: Any, writes: bool, call: CrossEntropyCall, upstream: Array, out: Array, n_threads: int | None
    ) -> RowLosses:
        assert self.slopes is not None
        assert self.of_scale is not None
        powers = self.slopes.missing_of(numbers) + self.within.power_of_scale
        return self.of_scale.take(powers, call, upstream, out if writes else None, n_threads)

    def scale_derivative(self) -> float:
        """By the scale, once all panels are read, if it was wanted."""
        return 0.0 if self.of_scale is None else self.of_scale.derivative()

    def value(self) -> Any:
        described = self.layer.described
        return self.losses.value(described.logits.lead, *described.targets.total)


def _by_row(targets: Any, logits: Rows) -> Any:
    """Checked targets, so that an index picks rows."""
    rows = logits.rows
    if is_sparse(targets):
        return checked_csr(targets, (rows, logits.classes))
    array = np.asarray(targets)
    return array.reshape(rows, *array.shape[-1:]) if array.dtype.kind not in "iu" else array.reshape(rows)
