"""SigLIP's loss from features on a GPU: every pair is a question of its own, so that one sweep over panels does.

Positives are few: their products are computed apart, in float64, and in the panels they are -inf.
"""

import math
from typing import Any

import numpy as np

from fastce.arguments.numbers import finite, positive, reduction_of
from fastce.arguments.positives import checked_shape
from fastce.arguments.silence import quietly
from fastce.cuda._kernels.jobs import options_of
from fastce.cuda._kernels.states import WARP
from fastce.cuda._kernels.tiles import THREADS, add_points, sigmoid_rows
from fastce.cuda.arrays import DeviceArray, zeros
from fastce.cuda.features import (
    Features,
    dtype_of_losses,
    dtype_of_products,
    feature_arrays,
    products_of_pairs,
)
from fastce.cuda.layout import lanes_of, launch
from fastce.cuda.panels import Panels
from fastce.cuda.positives import DevicePositives, device_positives
from fastce.cuda.products import array_module, on_device, rows_between, seen, seen_flat, working_in
from fastce.products.progress import Progress
from fastce.typing import SiglipValueAndGrad


def siglip_loss(**given: Any) -> Any:
    """See `fastce.siglip_loss`."""
    call = _Call(given)
    with working_in(call.library), quietly():
        return call.swept(None)[0]


def siglip_loss_value_and_grad(**given: Any) -> SiglipValueAndGrad:
    """See `fastce.siglip_loss_value_and_grad`."""
    call = _Call(given)
    with working_in(call.library), quietly():
        gradients = call.left.new_gradient(), call.right.new_gradient()
        value, of_bias = call.swept(gradients)
        (image,), along = call.left.finished(gradients[0])
        (text,), _ = call.right.finished(gradients[1], wants_sum=False)
        return SiglipValueAndGrad(value, image, text, float(along) / call.scale, of_bias)


class _Points:
    """The positives of a call, and what their products come to: softplus(-z), and its derivative."""

    def __init__(self, points: DevicePositives, left: Features, right: Features, scale: float, bias: float) -> None:
        xp = array_module()
        self.points = points
        if points.is_diagonal:
            self.rows = self.columns = xp.arange(points.count)
            self.first = on_device(xp.arange(points.count + 1), left.library).flat()
        else:
            self.rows, self.columns = (seen_flat(numbers) for numbers in (points.rows, points.columns))
            self.first = points.first_points
        z = scale * products_of_pairs(left, self.rows, right, self.columns) + bias
        e = xp.exp(-xp.abs(z))
        self.losses = on_device(xp.maximum(-z, 0.0) + xp.log1p(e), left.library)
        self.slopes = -xp.where(z < 0.0, 1.0, e) / (1.0 + e)

    def of(self, rows: slice) -> tuple[slice, tuple[Any, Any]]:
        """Which they are of a panel's rows, and where they are in the panel."""
        chosen = slice(*self.points.between(rows.start, rows.stop))
        return chosen, (self.rows[chosen] - rows.start, self.columns[chosen])


class _Call:
    """A checked call."""

    def __init__(self, given: dict[str, Any]) -> None:
        names = ["image_features", "text_features"]
        arrays = feature_arrays([given[name] for name in names], names)
        self.library = arrays[0].library
        self.positives = device_positives(given["targets"], checked_shape(arrays, given["targets"]), self.library)
        self.scale, self.bias = positive(given["logit_scale"], "logit_scale"), finite(given["logit_bias"], "logit_bias")
        self.reduction = reduction_of(given["reduction"])
        self.of_losses = dtype_of_losses(arrays)
        dtype = dtype_of_products(arrays, self.scale, self.bias, given["normalize"])
        with working_in(self.library), quietly():
            self.left, self.right = (Features([array], dtype, given["normalize"]) for array in arrays)
            self.panels = Panels(self.left, self.right, given["memory_budget"])
        self.progress = Progress(given["progress"], len(self.panels.row_cuts), "siglip_loss", "panel")

    def swept(self, gradients: tuple[DeviceArray, DeviceArray] | None) -> tuple[Any, float]:
        """(value, gradient of the bias); the gradients of the features are added up if there is room for them."""
        rows, panels, library = self.left.rows, self.panels, self.library
        share = 1.0 / max(rows, 1) if self.reduction == "mean" else 1.0
        losses, slopes = zeros(library, (rows,), "float64"), zeros(library, (rows,), "float64")
        points = _Points(self.positives, self.left, self.right, self.scale, self.bias)
        totals = None if gradients is None else [seen(gradient) for gradient in gradients]

        def work(some: slice, panel: DeviceArray) -> None:
            values = seen(panel)
            chosen, places = points.of(some)
            values[places] = -np.inf
            self._turn(panel, some, share, totals is not None, (losses, slopes))
            if totals is not None:
                values[places] = (points.slopes[chosen] * (share * self.scale)).astype(values.dtype)
                panels.add_to_left(values, totals[0][some])
                panels.add_to_right(some, values, totals[1])

        with self.progress:
            panels.sweep(work, self.progress)
        if rows:
            launch(
                add_points, -(-rows // THREADS), THREADS, losses,
                points.losses.flat(), points.first, rows, losses.flat(),
            )  # fmt: skip
        of_bias = share * float(seen(slopes).sum() + points.slopes.sum())
        if self.reduction == "none":
            return on_device(seen(losses).astype(self.of_losses), library).given, of_bias
        if self.reduction == "mean" and not rows:
            return math.nan, of_bias
        return share * float(seen(losses).sum()), of_bias

    def _turn(
        self, panel: DeviceArray, rows: slice, share: float, wants_slopes: bool, sums: tuple[DeviceArray, ...]
    ) -> None:
        """Find the sums of the panel's rows; its elements become the gradient of its products, if that is wanted."""
        columns, real = panel.shape[1], self.left.dtype.type
        if columns:
            of_rows = (rows_between(array, rows.start, rows.stop).flat() for array in sums)
            threads = WARP
            while threads < THREADS and threads * lanes_of(panel) < columns:
                threads *= 2
            launch(
                sigmoid_rows, panel.shape[0], threads, panel,
                panel.flat(), columns, real(self.bias), real(share * self.scale), wants_slopes,
                options_of(self.left.dtype)._replace(logit_scale=real(self.scale)), *of_rows,
            )  # fmt: skip
