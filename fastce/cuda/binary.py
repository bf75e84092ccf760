"""binary_cross_entropy_with_logits and its gradient for arrays on a GPU."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastce.arguments.arrays import weights
from fastce.arguments.numbers import is_one_number, reduction_of
from fastce.arguments.places import is_on_device
from fastce.cuda._kernels.binary import THREADS, Places, binary_kernel
from fastce.cuda._kernels.checks import PER_BLOCK, Checked, check_two
from fastce.cuda._kernels.jobs import BAD_CLASS_WEIGHT, BAD_ROW_WEIGHT, options_of
from fastce.cuda.arrays import DeviceArray, device_array, empty
from fastce.cuda.broadcasting import broadcast_to, together
from fastce.cuda.cross_entropy import float_array, real_of, reduced_by, value_and_grad_of
from fastce.cuda.flat import nothing
from fastce.cuda.launching import launch
from fastce.cuda.layout import blocks_for, contiguous
from fastce.cuda.rooms import rooms_of
from fastce.cuda.run import add_up_losses
from fastce.cuda.verdicts import number_at, weight_error
from fastce.typing import Reduction, ValueAndGrad

RANGE = 1e-145, 1e145  # of weights, so that float64 holds the product of two
FIELDS = BAD_ROW_WEIGHT, BAD_CLASS_WEIGHT  # of the report: of weight and pos_weight
MOST = 2.0**24  # that gradients whose exponentials are of float32 may be multiplied by


@dataclass(frozen=True)
class Weights:
    """Weights of elements: an array in float64, as it is given and repeated for all of them, or one number."""

    name: str
    given: DeviceArray | None = None
    repeated: DeviceArray | None = None
    number: float = 1.0


def repeated_over(array: DeviceArray, shape: tuple[int, ...]) -> DeviceArray | None:
    """An array that has this shape, or is one number."""
    return broadcast_to(replace(array, shape=(), strides=()) if is_one_number(array.shape) else array, shape)


def _checked_number(value: Any, name: str) -> float:
    number = float(weights(value, name, ()))
    low, high = RANGE
    if number != 0.0 and not low <= abs(number) <= high:
        raise weight_error(name, number, RANGE)
    return number


class BinaryCall:
    """A checked call of binary_cross_entropy_with_logits."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.logits: DeviceArray = float_array(given["logits"], "logits")
        library, shape = self.logits.library, self.logits.shape
        self.lead: tuple[int, ...] = shape  # every element is a row
        labels = device_array(given["targets"], "targets", library)
        if labels.shape != shape:
            raise ValueError(f"targets have shape {labels.shape}, expected the shape of logits, {shape}")
        self.labels: DeviceArray = float_array(labels, "targets")
        self.weights: list[Weights] = [self._weights(given[name], name) for name in ("weight", "pos_weight")]
        self.reduction: Reduction = reduction_of(given["reduction"])
        report, tickets, _ = rooms_of(library, 1, 0)
        self.report: Any = report
        self.tickets: Any = tickets
        real = real_of(self.logits)
        self.is_wide: bool = real == np.float64 or any(given[name] is not None for name in ("weight", "pos_weight"))
        self.losses: DeviceArray | None = empty(library, shape, real.name) if self.reduction == "none" else None

    def _weights(self, value: Any, name: str) -> Weights:
        if not is_on_device(value):
            return Weights(name, number=1.0 if value is None else _checked_number(value, name))
        array = contiguous(device_array(value, name, self.logits.library), "float64")
        repeated = broadcast_to(array, self.lead)
        if repeated is None:
            raise ValueError(f"{name} of shape {array.shape} does not broadcast to {self.lead}")
        return Weights(name, array, repeated)

    def run(self, upstream: tuple[float, DeviceArray | None], out: DeviceArray | None) -> Any:
        """The value; the gradient goes to ``out`` if that is given."""
        self._check(upstream[0])
        above = None if upstream[1] is None else repeated_over(upstream[1], self.lead)
        is_large = above is not None or abs(upstream[0]) > MOST
        if out is None or self.is_wide or not is_large:
            self._launch(self.is_wide, above, self.losses, out, adds_up=self.losses is None)
        else:  # the value is that of the twin
            self._launch(self.is_wide, above, self.losses, None, adds_up=self.losses is None)
            self._launch(True, above, None, out, adds_up=False)
        report = self.report.copy_to_host()
        for one, field in zip(self.weights, FIELDS, strict=True):
            if report[field] > 0.0 and one.given is not None:
                bad = number_at(one.given.flat(), one.given.size - int(report[field]))
                raise weight_error(one.name, bad, RANGE)
        return reduced_by(report, self.reduction) if self.losses is None else self.losses.given

    def _check(self, upstream: float) -> None:
        """Have the device look at the weights; and what all gradients, and shares of losses, are multiplied by."""
        size, is_mean = self.logits.size, self.reduction == "mean"
        numbers = [nothing("float64") if one.given is None else one.given.flat() for one in self.weights]
        blocks = -(-max(1, *(flat.size for flat in numbers)) // PER_BLOCK)
        checked = Checked(size, 0, PER_BLOCK, is_mean, True, upstream, *RANGE, 0.0)
        launch(check_two, blocks, THREADS, self.logits, *numbers, checked, self.report, self.tickets)

    def _launch(
        self, is_wide: bool, above: DeviceArray | None, losses: DeviceArray | None, out: DeviceArray | None, *,
        adds_up: bool,
    ) -> None:  # fmt: skip
        if not self.logits.size:
            return
        given = [self.logits, self.labels, *(one.repeated for one in self.weights), above, losses, out]
        arrays = [array for array in given if array is not None]
        shape, steps = together(arrays)
        blocks = blocks_for(self.logits.size)
        none = nothing("float64")
        totals = empty(self.logits.library, (2 * blocks if adds_up else 1,), "float64")  # and shares
        places = iter((array.origin, *own) for array, own in zip(arrays, steps, strict=True))
        nowhere = (0,) * (len(shape) + 1)
        real = np.dtype(np.float64 if is_wide else np.float32)
        launch(
            binary_kernel(len(shape), is_wide), blocks, THREADS, self.logits,
            *(none if array is None else array.flat() for array in given),
            Places(*(nowhere if array is None else next(places) for array in given)), shape,
            math.prod(shape), *(one.number for one in self.weights), options_of(real), self.report,
            totals.flat() if adds_up else none,
        )  # fmt: skip
        if adds_up:
            add_up_losses(totals, blocks, self.report)


def binary_cross_entropy_with_logits(**given: Any) -> Any:
    """See `fastce.binary_cross_entropy_with_logits`."""
    return BinaryCall(given).run((1.0, None), None)


def binary_cross_entropy_with_logits_value_and_grad(**given: Any) -> ValueAndGrad:
    """See `fastce.binary_cross_entropy_with_logits_value_and_grad`."""
    call = BinaryCall(given)
    return value_and_grad_of(call, call.logits, given)
