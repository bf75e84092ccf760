"""One checked call of cross_entropy."""

from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array, class_axis, kernel_dtype, real_array
from fastce.arguments.numbers import reduction_of
from fastce.arguments.options import checked_options
from fastce.cpu._kernels.targets import Options
from fastce.cpu.checked_targets import for_mean, target_rows
from fastce.cpu.columns import parts_of
from fastce.cpu.layout import Rows
from fastce.cpu.targets import TargetRows


class CrossEntropyCall(NamedTuple):
    """A checked call of cross_entropy."""

    array: Array
    axis: int
    logits: Rows
    targets: TargetRows
    options: Options
    reduction: str
    exponent: int = 0  # of what gradients are multiplied by, as a power of two

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of gradients, whatever kernels compute in."""
        return kernel_dtype(self.array.dtype)

    @property
    def parts(self) -> tuple[int, ...]:
        """The rows with which the parts begin whose losses are summed."""
        return parts_of(self.array.shape, self.axis, self.logits.dtype.itemsize)


def cross_entropy_call(
    logits: Any,
    targets: Any,
    axis: Any,
    *,
    weight: Any,
    sample_weight: Any,
    ignore_index: Any,
    label_smoothing: Any,
    smoothing_over: Any,
    logit_scale: Any,
    softcap: Any,
    z_loss: Any,
    reduction: Any,
    n_threads: int | None,
    are_rounded: bool = False,
) -> CrossEntropyCall:
    """Check the arguments that all forms of cross_entropy share.

    Of capped logits float32 would lose digits, which losses need: differences of numbers near the cap are small. Of
    logits that ``are_rounded`` themselves, as products are, it does not.
    """
    array = real_array(logits, "logits")
    axis = class_axis(array, axis, "logits")
    rows = Rows(array, axis)
    options = Options(*checked_options(rows.classes, label_smoothing, smoothing_over, logit_scale, softcap, z_loss))
    if options.softcap > 0.0 and not are_rounded:
        rows = Rows(array, axis, np.dtype(np.float64))
    described = target_rows(
        targets,
        rows,
        array.shape,
        axis,
        weight=weight,
        sample_weight=sample_weight,
        ignore_index=ignore_index,
        smoothed=options.spread > 0.0,
        n_threads=n_threads,
    )
    reduction = reduction_of(reduction)
    return CrossEntropyCall(
        array, axis, rows, for_mean(described) if reduction == "mean" else described, options, reduction
    )


def of_counted(upstream: Array, targets: TargetRows) -> Array:
    """The same numbers; of one per row, 1 for rows that are ignored or have no weight: any will do there."""
    counted = targets.counted() if upstream.size > 1 else None
    if counted is None:
        return upstream
    result = np.ones(upstream.size)
    result[counted] = upstream[counted]
    return result


def in_memory_order(
    call: CrossEntropyCall, order: tuple[int, ...], upstream: Any, out: Array | None
) -> tuple[CrossEntropyCall, Any, Array | None, tuple[int, ...]]:
    """(call, upstream, out) with the axes of the logits in this order, and how those of rows are put back."""
    lead = [k - (k > call.axis) for k in order if k != call.axis]
    numbers = np.arange(call.logits.rows).reshape(call.logits.lead).transpose(lead).ravel()
    array, axis = call.array.transpose(order), order.index(call.axis)
    in_order = call._replace(
        array=array,
        axis=axis,
        logits=Rows(array, axis, call.logits.dtype),
        targets=call.targets.in_order(numbers, order, call.axis),
    )
    if upstream is not None and upstream.size > 1:
        upstream = upstream[numbers]
    return in_order, upstream, None if out is None else out.transpose(order), tuple(np.argsort(lead))
