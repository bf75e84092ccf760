"""cross_entropy and its gradient for arrays on a GPU."""

import math
from typing import Any, Protocol

import numpy as np

from fastce.arguments.arrays import class_axis, real_array
from fastce.arguments.deferring import is_deferred
from fastce.arguments.numbers import integer, is_one_number, reduction_of
from fastce.arguments.options import CheckedOptions, checked_options
from fastce.arguments.places import is_on_device
from fastce.arguments.reductions import reduced
from fastce.cuda._kernels.conclusions import THREADS, conclude
from fastce.cuda._kernels.jobs import (
    CROSS_ENTROPY,
    PART,
    TOTAL_LOSS,
    TOTAL_OF_SCALE,
    TOTAL_OF_SHARES,
    TOTAL_WEIGHT,
    Job,
    Options,
    options_of,
)
from fastce.cuda.arrays import DeviceArray, checked_out, device_array, empty
from fastce.cuda.flat import nothing
from fastce.cuda.launching import launch
from fastce.cuda.layout import FLOATS, Rows, blocks_for, contiguous, copy, rows_of
from fastce.cuda.libraries import Library
from fastce.cuda.precision import BeyondRange, check_factors, fits, with_range
from fastce.cuda.run import Call, plan_of
from fastce.cuda.sparse import is_sparse
from fastce.cuda.targets import DeviceTargets, described_targets
from fastce.cuda.verdicts import check, verdict
from fastce.typing import Reduction, ValueAndGrad


def float_array(value: Any, name: str) -> DeviceArray:
    """An array of floats; integers and booleans are converted to float64."""
    array = value if isinstance(value, DeviceArray) else device_array(value, name)
    return array if array.dtype_name in FLOATS else contiguous(array, "float64")


def real_of(array: DeviceArray) -> np.dtype[Any]:
    """What elements of this array are computed in."""
    return np.dtype(np.float64 if array.dtype_name == "float64" else np.float32)


def readable_rows(array: DeviceArray, axis: int) -> Rows:
    """The rows of an array: where it is, or of a copy if no kernel can read it there."""
    rows = rows_of(array, axis) or rows_of(contiguous(array), axis)
    assert rows is not None
    return rows


class RowsOfLosses(Protocol):
    """A call whose rows have losses."""

    logits: DeviceArray
    lead: tuple[int, ...]
    reduction: Reduction


class CheckedCall(RowsOfLosses, Protocol):
    """One that is ready to be computed."""

    def run(self, upstream: tuple[float, DeviceArray | None], out: DeviceArray | None) -> Any:
        """The value; the gradient goes to ``out`` if that is given."""


def upstream_of(grad_output: Any, call: RowsOfLosses) -> tuple[float, DeviceArray | None]:
    """What row gradients are multiplied by: a number, and one more for each row if there are such."""
    if grad_output is None or not is_on_device(grad_output):
        return _number_of(grad_output), None
    array = device_array(grad_output, "grad_output", call.logits.library)
    if not is_one_number(array.shape) and (call.reduction != "none" or array.shape != call.lead):
        expected = f"{call.lead} or a number" if call.reduction == "none" else "a number"
        raise ValueError(f"grad_output has shape {array.shape}, expected {expected}")
    return 1.0, contiguous(array, "float64")


def size_of_number(grad_output: Any) -> float:
    """What gradients are multiplied by, if that is a number on the host; else 0."""
    return 0.0 if grad_output is None or is_on_device(grad_output) else abs(_number_of(grad_output))


def _number_of(grad_output: Any) -> float:
    """One that is on the host, where it can be but one number."""
    return 1.0 if grad_output is None else float(real_array(grad_output, "grad_output").item())


def other_inputs(given: dict[str, Any], library: Library) -> list[DeviceArray | None]:
    """The arrays that no result may share memory with."""
    return [
        device_array(given[name], name, library)
        for name in ("targets", "weight", "pos_weight", "sample_weight", "grad_output")
        if is_on_device(given.get(name)) and not is_sparse(given[name])
    ]


def options_in_range(given: dict[str, Any], classes: int) -> CheckedOptions:
    """The options of a call of so many classes; refused where float64 has not the range for them."""
    names = ("label_smoothing", "smoothing_over", "logit_scale", "softcap", "z_loss")
    options = checked_options(classes, *(given[name] for name in names))
    check_factors(logit_scale=options.logit_scale, softcap=options.softcap)
    check_factors(z_loss=options.z_loss)
    return options


def has_range(dtype: np.dtype[Any], given: dict[str, Any], options: CheckedOptions) -> bool:
    """Whether a call with these options can be computed in this dtype."""
    scale, softcap, z_loss, *_ = options
    above = size_of_number(given.get("grad_output")) * scale * max(z_loss, 1.0)
    return fits(dtype, scale, softcap) and fits(dtype, z_loss) and fits(dtype, above)


def reduced_loss(targets: DeviceTargets, rows: int, classes: int, reduction: str) -> float:
    """The sum or mean of the losses, or the error of whatever was found wrong; by shares where the sum is too large."""
    return reduced_by(verdict(targets, rows, classes), reduction)


def reduced_by(report: Any, reduction: str) -> float:
    """The sum or mean of the losses by a report in which nothing is wrong."""
    total, of_shares, total_weight = (float(report[k]) for k in (TOTAL_LOSS, TOTAL_OF_SHARES, TOTAL_WEIGHT))
    if math.isfinite(total) or (reduction == "mean" and total_weight == 0.0):
        return reduced(total, reduction, total_weight)
    return of_shares if reduction == "mean" else of_shares / PART


class CrossEntropy:
    """A checked call of cross_entropy, computed in float64 if it ``is_wide``."""

    def __init__(self, given: dict[str, Any], is_wide: bool = False) -> None:
        self.given: DeviceArray = float_array(given["logits"], "logits")
        self.logits: DeviceArray = self.given
        self.axis: int = class_axis(self.logits, given["axis"], "logits")  # type: ignore[arg-type]  # ndim and shape do
        self.lead: tuple[int, ...] = self.logits.shape[: self.axis] + self.logits.shape[self.axis + 1 :]
        self.classes: int = self.logits.shape[self.axis]
        self.reduction: Reduction = reduction_of(given["reduction"])
        self.is_out_given: bool = given.get("out") is not None
        options = options_in_range(given, self.classes)
        self.softcap: float = options.softcap
        self.logit_scale: float = options.logit_scale
        own = real_of(self.logits)
        self.dtype_of_losses = own.name
        if own != np.float64 and (is_wide or not has_range(own, given, options)):
            self.logits = contiguous(self.logits, "float64")
        self.real: np.dtype[Any] = real_of(self.logits)
        self.options: Options = options_of(self.real, *options)
        self.targets: DeviceTargets = described_targets(
            given["targets"],
            self.logits,
            self.axis,
            weight=given["weight"],
            sample_weight=given["sample_weight"],
            ignore_index=integer(given["ignore_index"], "ignore_index"),
            spread=options.spread,
            real=self.real.name,
        )

    def run(
        self,
        upstream: tuple[float, DeviceArray | None],
        out: DeviceArray | None,
        *,
        is_hessian: bool = False,
        by_scale: bool = False,
    ) -> Any:
        """The value; the gradient, or the Hessian's diagonal, goes to ``out`` if that is given.

        With ``by_scale`` it is a pair with the derivative by the scale, of the sum of upstream * value for "none".
        """
        logits, library = self.logits, self.logits.library
        rows, plan, written, room = math.prod(self.lead), None, None, None
        results = empty(library, self.lead, self.dtype_of_losses) if self.reduction == "none" else None
        above = nothing("float64") if upstream[1] is None else upstream[1].flat()
        if rows:
            if out is not None and out.dtype_name == logits.dtype_name:
                written = room = rows_of(out, self.axis)
            if out is not None and written is None:
                room = rows_of(empty(library, out.shape, logits.dtype_name), self.axis)
            job = Job(
                CROSS_ENTROPY, out is not None, self.targets.points, self.targets.dense, self.softcap > 0.0,
                self.real == np.float64, is_hessian, by_scale,
            )  # fmt: skip
            call = Call(job, self.options, self.targets.arrays, self.targets.mass_rows, above)
            plan = plan_of(call, readable_rows(logits, self.axis), room, results is None)
        rooms = check(
            self.targets, rows, self.classes, self.reduction == "mean", upstream[0], out is not None, above,
            *((plan.tickets, plan.numbers) if plan else ()),
        )  # fmt: skip
        if plan:
            plan.run(rooms, None if results is None else results.flat())
        apart = room.array if room is not None and written is None else None  # to be copied to out
        if is_deferred():
            if apart is not None and out is not None:
                copy(apart, out)
            return self._left_there(rooms.report, results, out)
        try:
            report = verdict(self.targets, rows, self.classes)
        except BeyondRange as error:
            if not error.is_written or out is None or written is None or not out.is_same_memory(self.given):
                raise
            raise BeyondRange(error.is_float64, is_written=True, is_in_place=True) from None
        if apart is not None and out is not None:
            copy(apart, out)
        value = results.given if results is not None else reduced_by(report, self.reduction)
        return (value, float(report[TOTAL_OF_SCALE])) if by_scale else value

    def _left_there(self, report: Any, results: DeviceArray | None, out: DeviceArray | None) -> Any:
        """The value on the device; NaN, as results and a gradient that is not the caller's, if anything was wrong."""
        library = self.logits.library
        value = empty(library, (), "float64") if results is None else None
        losses = nothing(self.dtype_of_losses) if results is None else results.flat()
        slopes = nothing(self.given.dtype_name) if out is None or self.is_out_given else out.flat()
        launch(
            conclude, blocks_for(max(losses.size, slopes.size)), THREADS, self.logits,
            report, self.reduction == "mean", nothing("float64") if value is None else value.flat(), losses, slopes,
        )  # fmt: skip
        return (value if results is None else results).given  # type: ignore[union-attr]  # one of them is there


def cross_entropy(**given: Any) -> Any:
    """See `fastce.cross_entropy`."""
    return with_range(lambda is_wide: CrossEntropy(given, is_wide).run((1.0, None), None))


def cross_entropy_value_and_grad(**given: Any) -> ValueAndGrad:
    """See `fastce.cross_entropy_value_and_grad`."""

    def compute(is_wide: bool) -> ValueAndGrad:
        call = CrossEntropy(given, is_wide)
        return value_and_grad_of(call, call.given, given)

    return with_range(compute)


def room_for_gradient(given: dict[str, Any], array: DeviceArray) -> DeviceArray:
    """Where the gradient by this array goes: to ``out``, checked, or to a new one."""
    return checked_out(given["out"], array.shape, array.dtype_name, array, other_inputs(given, array.library))


def value_and_grad_of(call: CheckedCall, array: DeviceArray, given: dict[str, Any]) -> ValueAndGrad:
    """What a checked call comes to, of logits that are this array, with the gradient in ``out``, or a new array."""
    upstream = upstream_of(given["grad_output"], call)
    out = room_for_gradient(given, array)
    return ValueAndGrad(call.run(upstream, out), out.given)
