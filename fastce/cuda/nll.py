"""nll_loss and its gradient for arrays on a GPU: a kernel that reads one entry of each row."""

import math
from typing import Any

from fastce.arguments.arrays import class_axis
from fastce.arguments.numbers import integer, reduction_of
from fastce.cuda._kernels.jobs import CLASS_INDICES
from fastce.cuda._kernels.likelihood import THREADS, clear, likelihood_gradients, likelihood_rows
from fastce.cuda.arrays import DeviceArray, empty
from fastce.cuda.cross_entropy import (
    float_array,
    readable_rows,
    real_of,
    reduced_loss,
    value_and_grad_of,
)
from fastce.cuda.flat import nothing
from fastce.cuda.launching import launch
from fastce.cuda.layout import blocks_for, copy, is_contiguous
from fastce.cuda.run import add_up_losses
from fastce.cuda.targets import DeviceTargets, described_targets
from fastce.cuda.verdicts import check
from fastce.typing import Reduction, ValueAndGrad


class NllCall:
    """A checked call of nll_loss, whose products are of float64."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.logits: DeviceArray = float_array(given["log_probs"], "log_probs")
        self.axis: int = class_axis(self.logits, given["axis"], "log_probs")  # type: ignore[arg-type]  # has a shape
        self.lead: tuple[int, ...] = self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]
        self.reduction: Reduction = reduction_of(given["reduction"])
        self.targets: DeviceTargets = described_targets(
            given["targets"], self.logits, self.axis, weight=given["weight"], sample_weight=given["sample_weight"],
            ignore_index=integer(given["ignore_index"], "ignore_index"), spread=0.0, real="float64", name="log_probs",
        )  # fmt: skip
        if self.targets.points != CLASS_INDICES:
            raise TypeError("targets of nll_loss must be class indices; cross_entropy takes probabilities")

    def run(self, upstream: tuple[float, DeviceArray | None], out: DeviceArray | None) -> Any:
        """The value; the gradient goes to ``out`` if that is given."""
        library, targets, rows = self.logits.library, self.targets, math.prod(self.lead)
        classes = self.logits.shape[self.axis]
        per_row = None if upstream[1] is None else upstream[1].flat()
        results = empty(library, self.lead, real_of(self.logits).name) if self.reduction == "none" else None
        check(targets, rows, classes, self.reduction == "mean", upstream[0])
        room = None
        if rows:
            source = readable_rows(self.logits, self.axis)
            into = results if results is not None else empty(library, (2 * rows,), "float64")  # and shares
            launch(
                likelihood_rows, blocks_for(rows), THREADS, self.logits,
                source.array.flat(), rows, source.inner, source.cube, targets.arrays, targets.report,
                into.flat(),
            )  # fmt: skip
            if results is None:
                add_up_losses(into, rows, targets.report)
            if out is not None:
                room = out if is_contiguous(out) else empty(library, out.shape, out.dtype_name)
                self._write(room, rows, nothing("float64") if per_row is None else per_row)
        value = reduced_loss(targets, rows, classes, self.reduction)
        if room is not None and out is not None and room is not out:
            copy(room, out)
        return results.given if results is not None else value

    def _write(self, out: DeviceArray, rows: int, above: Any) -> None:
        written, report = readable_rows(out, self.axis), self.targets.report
        launch(clear, blocks_for(out.size), THREADS, out, out.flat(), report)
        launch(
            likelihood_gradients, blocks_for(rows), THREADS, out,
            out.flat(), rows, written.inner, written.cube, self.targets.arrays, above, report,
        )  # fmt: skip


def nll_loss(**given: Any) -> Any:
    """See `fastce.nll_loss`."""
    return NllCall(given).run((1.0, None), None)


def nll_loss_value_and_grad(**given: Any) -> ValueAndGrad:
    """See `fastce.nll_loss_value_and_grad`."""
    call = NllCall(given)
    return value_and_grad_of(call, call.logits, given)
