"""InfoNCE on a GPU: each query is to be told its positive key among negative ones; a panel of queries at a time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.numbers import checked_memory_budget, inverse_temperature, reduction_of
from fastce.arguments.silence import quietly
from fastce.cuda._kernels.jobs import options_of
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.features import Features, dtype_of_losses, dtype_of_products, feature_arrays, float_features
from fastce.cuda.layout import contiguous
from fastce.cuda.panel_losses import PanelLosses, own_targets
from fastce.cuda.panels import Panels
from fastce.cuda.products import array_module, finish, on_device, reshaped, rows_between, seen, working_in
from fastce.products.panels import QUERIES_AT_A_TIME
from fastce.products.progress import Progress
from fastce.typing import InfoNceValueAndGrad


def info_nce(**given: Any) -> Any:
    """See `fastce.info_nce`."""
    return _run(given, wants_gradients=False)[0]


def info_nce_value_and_grad(**given: Any) -> InfoNceValueAndGrad:
    """See `fastce.info_nce_value_and_grad`."""
    value, gradients = _run(given, wants_gradients=True)
    return InfoNceValueAndGrad(value, *gradients)


def _run(given: dict[str, Any], wants_gradients: bool) -> tuple[Any, tuple[Any, ...]]:
    arrays, shape = _checked_arrays(given)
    scale, reduction = inverse_temperature(given["temperature"]), reduction_of(given["reduction"])
    dtype = dtype_of_products(arrays, scale, normalize=given["normalize"])
    with working_in(arrays[0].library), quietly():
        features = [Features([array], dtype, given["normalize"]) for array in arrays]
        of_losses = dtype_of_losses(arrays)
        call = _Call(features, shape, scale, reduction, of_losses, given["memory_budget"], given["progress"])
        gradients = _Gradients(call) if wants_gradients else None
        with call.progress:
            call.panels.sweep(lambda rows, panel: call.take(rows, panel, gradients), call.progress)
        value = call.losses.value()
        return value, () if gradients is None else gradients.finished()


def _checked_arrays(given: dict[str, Any]) -> tuple[list[DeviceArray], tuple[int, ...]]:
    """The features; and the shape of the negative keys, if there are any: all of them as rows of a matrix."""
    arrays = feature_arrays([given["query"], given["positive_key"]], ["query", "positive_key"])
    queries, width = arrays[0].shape
    if arrays[1].shape[0] != queries:
        raise ValueError(f"query and positive_key differ in shape: {arrays[0].shape} and {arrays[1].shape}")
    if given["negative_keys"] is None:
        return arrays, ()
    negative = float_features(given["negative_keys"], "negative_keys", arrays[0].library)
    shape = negative.shape
    if not (len(shape) in (2, 3) and shape[-1] == width and (len(shape) == 2 or shape[0] == queries)):
        raise ValueError(f"negative_keys have shape {shape}, expected (M, {width}) or ({queries}, M, {width})")
    if len(shape) == 3:
        negative = reshaped(contiguous(negative), (queries * shape[1], width), (width, 1))
    return [*arrays, negative], shape


class _Call:
    """Panels of queries, and their losses. Without negative keys the positive ones are the right side of the panels."""

    def __init__(
        self,
        features: list[Features],
        shape: tuple[int, ...],
        scale: float,
        reduction: str,
        of_losses: np.dtype[Any],
        budget: Any,
        progress: Any,
    ) -> None:
        self.query, self.positive, *others = features
        self.negative = others[0] if others else None
        self.shape, self.scale = shape, scale
        query, dtype, library = self.query, self.query.dtype, self.query.library
        self.panels: Panels | _PanelsOfOwnKeys
        if self.negative is None:
            self.panels = Panels(query, self.positive, budget)
        elif len(shape) == 2:
            self.panels = Panels(query, self.negative, budget, 1, bytes_of_row=4 * query.width * dtype.itemsize)
        else:
            self.panels = _PanelsOfOwnKeys(query, self.negative, shape[1], budget)
        columns = self.panels.columns
        xp = array_module()
        of_rows = xp.arange(query.rows) if self.negative is None else xp.full(query.rows, columns - 1)
        classes = on_device(of_rows, library)
        matrix = (query.rows, columns)
        targets = own_targets(library, dtype, matrix, reduction, classes=classes)
        self.losses = PanelLosses(targets, options_of(dtype, scale), matrix, reduction, of_losses=of_losses)
        self.progress = Progress(progress, len(self.panels.row_cuts), "info_nce", "panel")

    def take(self, rows: slice, panel: DeviceArray, gradients: "_Gradients | None") -> None:
        """Compute the losses of a panel of products, and add its gradients if there is room for them."""
        if self.negative is not None:
            positive = self.positive.panel(rows).astype("float64")
            seen(panel)[:, -1] = (positive * self.query.panel(rows)).sum(axis=1)
        self.losses.take(rows, panel, gradients is not None)
        if gradients is not None:
            gradients.add(rows, seen(panel))


class _PanelsOfOwnKeys:
    """As `Panels`, where each query has negative keys of its own."""

    def __init__(self, query: Features, keys: Features, number: int, memory_budget: Any) -> None:
        self.query, self.keys, self.number, self.columns = query, keys, number, number + 1
        itemsize = keys.dtype.itemsize
        of_query = number * keys.bytes_of_ready_row + (number + 1 + 4 * query.width) * itemsize
        rows = max(1, min(QUERIES_AT_A_TIME, checked_memory_budget(memory_budget) // of_query))
        self.row_cuts = query.cuts(rows)
        self.room = empty(query.library, (min(rows, query.rows), self.columns), keys.dtype.name)
        self.keys_of_panel: Any = None

    def sweep(self, work: Callable[[slice, DeviceArray], None], progress: Progress) -> None:
        """work(rows, panel) for every panel; the last column is the caller's to fill."""
        xp = array_module()
        for rows in self.row_cuts:
            count = rows.stop - rows.start
            keys = self.keys.panel(slice(rows.start * self.number, rows.stop * self.number))
            self.keys_of_panel = keys.reshape(count, self.number, self.query.width)
            panel = rows_between(self.room, 0, count)
            seen(panel)[:, :-1] = xp.matmul(self.keys_of_panel, self.query.panel(rows)[:, :, None])[:, :, 0]
            work(rows, panel)
            if progress.wanted is not None:
                finish(self.query.library)
            progress.step()

    def add_to_left(self, slopes: Any, of_rows: Any) -> None:
        """Add the sum of slope * key of each query."""
        of_rows += array_module().matmul(slopes[:, None], self.keys_of_panel)[:, 0]

    def add_to_right(self, rows: slice, slopes: Any, of_right: Any) -> None:
        """Slope * query, for every key."""
        place = of_right[rows.start * self.number : rows.stop * self.number].reshape(self.keys_of_panel.shape)
        array_module().multiply(slopes[:, :, None], self.query.panel(rows)[:, None], out=place)


class _Gradients:
    """The gradients of queries and keys, as far as the panels have come."""

    def __init__(self, call: _Call) -> None:
        self.call = call
        self.of_query, self.of_positive = call.query.new_gradient(), call.positive.new_gradient()
        self.of_negative = None if call.negative is None else call.negative.new_gradient()

    def add(self, rows: slice, slopes: Any) -> None:
        """Add what a panel's slopes, the gradient of its products, contribute."""
        call, panels = self.call, self.call.panels
        of_query, of_positive = seen(self.of_query)[rows], seen(self.of_positive)
        of_right = of_positive
        if self.of_negative is not None:
            of_pairs, slopes = slopes[:, -1:], slopes[:, :-1]
            of_right = seen(self.of_negative)
            of_query += of_pairs * call.positive.panel(rows)
            of_positive[rows] = of_pairs * call.query.panel(rows)
        panels.add_to_left(slopes, of_query)
        panels.add_to_right(rows, slopes, of_right)

    def finished(self) -> tuple[Any, Any, Any, float]:
        """In the shapes and dtypes of what they belong to; and that of the temperature."""
        call, of_negative = self.call, None
        (of_query,), along = call.query.finished(self.of_query)
        (of_positive,), _ = call.positive.finished(self.of_positive, wants_sum=False)
        if call.negative is not None and self.of_negative is not None:
            (of_negative,), _ = call.negative.finished(self.of_negative, wants_sum=False)
            of_negative = of_negative.reshape(call.shape)
        return of_query, of_positive, of_negative, -call.scale * float(along)
