"""NT-Xent and SupCon on a GPU: the rows of one set of features, each to be told its positives among all others.

The products of a row with itself are made -inf, by which they do not count. A product stands in the rows of both of
its features, so that a panel's gradient is added to both.
"""

from typing import Any

import numpy as np

from fastce.arguments.labels import Classes, checked_labels
from fastce.arguments.numbers import inverse_temperature, reduction_of
from fastce.arguments.reductions import mean_factor
from fastce.arguments.silence import quietly
from fastce.cuda._kernels.jobs import PROBABILITIES, options_of
from fastce.cuda.arrays import DeviceArray, device_array, empty
from fastce.cuda.features import Features, dtype_of_losses, dtype_of_products, feature_arrays
from fastce.cuda.layout import contiguous, rows_of
from fastce.cuda.panel_losses import PanelLosses, own_targets
from fastce.cuda.panels import Panels
from fastce.cuda.products import array_module, host_numbers, on_device, rows_between, seen, working_in
from fastce.cuda.targets import DeviceTargets
from fastce.products.progress import Progress
from fastce.typing import NtXentValueAndGrad, SupConValueAndGrad


class _Partners:
    """NT-Xent's positives: row i of one set of views and row i of the other.

    ``counted`` is the number of rows that have any. ``mates`` are the columns of those that are a row's only positive,
    -1 for other rows; None where targets are class indices, with which kernels keep the digits of slopes themselves.
    """

    bytes_of_column = 0
    mates = None

    def __init__(self, views: Features, reduction: str) -> None:
        self.counted = views.rows
        partners = array_module().roll(array_module().arange(views.rows), views.rows // 2)
        classes = on_device(partners, views.library)
        self.all = own_targets(views.library, views.dtype, (views.rows, views.rows), reduction, classes=classes)

    def of(self, rows: slice) -> DeviceTargets | None:
        """A panel's own targets: none, they are part of all."""
        return None


class _Labels:
    """SupCon's positives: all other rows with the same label, each with the same share. See `_Partners`."""

    def __init__(self, labels: DeviceArray, classes: Classes, features: Features, reduction: str) -> None:
        library, others, mates = features.library, classes.others, np.full(features.rows, -1)
        one, other = classes.couples()
        mates[one] = other
        self.mates, self.counted = array_module().asarray(mates), int((others > 0).sum())
        self.bytes_of_column = features.dtype.itemsize + 1
        self.labels = contiguous(labels)
        self.shares = array_module().asarray((1.0 / np.maximum(others, 1)).astype(features.dtype))[:, None]
        has_positives = on_device((others > 0).astype(np.float64), library)
        shape = (features.rows, features.rows)
        self.all = own_targets(library, features.dtype, shape, reduction, row_weight=has_positives)
        self.dtype = features.dtype.name
        self.room = empty(library, (0, 0), self.dtype)

    def of(self, rows: slice) -> DeviceTargets:
        """The targets of a panel, as probabilities."""
        count, labels = rows.stop - rows.start, seen(self.labels)
        if self.room.shape[0] < count:
            self.room = empty(self.room.library, (count, labels.size), self.dtype)
        masses = rows_between(self.room, 0, count)
        same = labels[rows][:, None] == labels
        _on_diagonal(same, rows)[...] = False
        array_module().multiply(same, self.shares[rows], out=seen(masses))
        return with_probabilities(self.all, masses, rows)


def with_probabilities(described: DeviceTargets, masses: DeviceArray, rows: slice) -> DeviceTargets:
    """The targets of these rows, with these masses of all classes."""
    arrays = described.arrays._replace(
        probabilities=masses.flat(), row_weight=described.arrays.row_weight[rows]
    )  # fmt: skip
    kept = [*described.kept, masses]
    return DeviceTargets(described.points, PROBABILITIES, arrays, rows_of(masses, 1), described.report, kept)


def _on_diagonal(panel: Any, rows: slice) -> Any:
    """The elements of a panel of rows that belong to a row and itself: a view."""
    columns = panel.shape[1]
    flat = panel.reshape(-1)  # a view: panels are contiguous
    return flat[rows.start :: columns + 1][: len(panel)]


class _Call:
    """A checked call of one of both."""

    def __init__(self, features: Features, positives: _Partners | _Labels, scale: float, reduction: str) -> None:
        self.features, self.positives, self.scale = features, positives, scale
        shape = (features.rows, features.rows)
        self.factor = scale * (mean_factor(positives.counted) if reduction == "mean" else 1.0)
        options, of_losses = options_of(features.dtype, scale), dtype_of_losses(features.arrays)
        self.losses = PanelLosses(positives.all, options, shape, reduction, of_losses=of_losses)

    def run(self, memory_budget: Any, progress: Any, name: str, wants_gradients: bool) -> tuple[Any, list[Any], float]:
        """(value, the gradients of the arrays, that of the temperature)."""
        features, of_columns = self.features, self.features.rows * self.positives.bytes_of_column
        panels = Panels(features, features, memory_budget, bytes_of_row=of_columns)
        reporter = Progress(progress, len(panels.row_cuts), name, "panel")
        gradient = features.new_gradient() if wants_gradients else None
        total = None if gradient is None else seen(gradient)

        def work(rows: slice, panel: DeviceArray) -> None:
            slopes = seen(panel)
            _on_diagonal(slopes, rows)[...] = -np.inf
            self.losses.take(rows, panel, wants_gradients, self.positives.of(rows))
            if total is not None:
                if self.positives.mates is not None:
                    self.losses.sharpen(rows, panel, self.positives.mates, self.factor)
                panels.add_to_left(slopes, total[rows])
                panels.add_to_right(rows, slopes, total)

        with reporter:
            panels.sweep(work, reporter)
        value = self.losses.value()
        if gradient is None:
            return value, [], 0.0
        gradients, along = features.finished(gradient)
        return value, gradients, -0.5 * self.scale * float(along)  # every product counts twice


# --- NT-Xent ---------------------------------------------------------------------------------------------------------


def nt_xent(**given: Any) -> Any:
    """See `fastce.nt_xent`."""
    return _nt_xent(given, wants_gradients=False)[0]


def nt_xent_value_and_grad(**given: Any) -> NtXentValueAndGrad:
    """See `fastce.nt_xent_value_and_grad`."""
    value, (of_first, of_second), of_number = _nt_xent(given, wants_gradients=True)
    return NtXentValueAndGrad(value, of_first, of_second, of_number)


def _nt_xent(given: dict[str, Any], wants_gradients: bool) -> tuple[Any, list[Any], float]:
    arrays = feature_arrays([given["first_views"], given["second_views"]], ["first_views", "second_views"])
    if arrays[0].shape[0] != arrays[1].shape[0]:
        raise ValueError(f"first_views and second_views differ in shape: {arrays[0].shape} and {arrays[1].shape}")
    scale, reduction = inverse_temperature(given["temperature"]), reduction_of(given["reduction"])
    with working_in(arrays[0].library), quietly():
        dtype = dtype_of_products(arrays, scale, normalize=given["normalize"], is_one_side=True)
        views = Features(arrays, dtype, given["normalize"])
        call = _Call(views, _Partners(views, reduction), scale, reduction)
        return call.run(given["memory_budget"], given["progress"], "nt_xent", wants_gradients)


# --- SupCon ----------------------------------------------------------------------------------------------------------


def sup_con(**given: Any) -> Any:
    """See `fastce.sup_con`."""
    return _sup_con(given, wants_gradients=False)[0]


def sup_con_value_and_grad(**given: Any) -> SupConValueAndGrad:
    """See `fastce.sup_con_value_and_grad`."""
    value, (gradient,), of_number = _sup_con(given, wants_gradients=True)
    return SupConValueAndGrad(value, gradient, of_number)


def _sup_con(given: dict[str, Any], wants_gradients: bool) -> tuple[Any, list[Any], float]:
    arrays = feature_arrays([given["features"]], ["features"])
    labels = device_array(given["labels"], "labels", arrays[0].library)
    classes = Classes(checked_labels(host_numbers(labels), arrays[0].shape[0]))
    scale, reduction = inverse_temperature(given["temperature"]), reduction_of(given["reduction"])
    with working_in(arrays[0].library), quietly():
        dtype = dtype_of_products(arrays, scale, normalize=given["normalize"], is_one_side=True)
        features = Features(arrays, dtype, given["normalize"])
        call = _Call(features, _Labels(labels, classes, features, reduction), scale, reduction)
        return call.run(given["memory_budget"], given["progress"], "sup_con", wants_gradients)
