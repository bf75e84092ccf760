"""clip_loss and its gradient for arrays on a GPU."""

from typing import Any

from fastce.arguments.numbers import fraction, positive, reduction_of
from fastce.arguments.positives import check_similarity
from fastce.cuda.arrays import DeviceArray, checked_out, device_array, empty, is_sparse
from fastce.cuda.cross_entropy import float_array, real_of
from fastce.cuda.layout import contiguous, copy
from fastce.cuda.positives import device_positives
from fastce.cuda.precision import check_factors, fits
from fastce.cuda.similarity import Similarity
from fastce.typing import ClipValueAndGrad


def clip_loss(**given: Any) -> Any:
    """See `fastce.clip_loss`."""
    _, array, call = _checked_call(given)
    call.read(array)
    call.take_sides()
    return call.value()[0]


def clip_loss_value_and_grad(**given: Any) -> ClipValueAndGrad:
    """See `fastce.clip_loss_value_and_grad`."""
    given_array, array, call = _checked_call(given)
    targets = given["targets"]
    inputs: list[DeviceArray | None] = []
    if targets is not None and not is_sparse(targets):
        inputs.append(device_array(targets, "targets", array.library))
    out = checked_out(given["out"], given_array.shape, given_array.dtype_name, given_array, inputs)
    call.read(array)
    call.take_sides()
    slopes = out if out.dtype_name == array.dtype_name else empty(array.library, array.shape, array.dtype_name)
    call.write_gradient(array, slopes)
    if slopes is not out:
        copy(slopes, out)
    value, grad_logit_scale = call.value()
    return ClipValueAndGrad(value, out.given, grad_logit_scale)


def _checked_call(given: dict[str, Any]) -> tuple[DeviceArray, DeviceArray, Similarity]:
    """(the array as it is given, as it is computed, the call)."""
    array = float_array(given["similarity"], "similarity")
    reduction = reduction_of(given["reduction"])
    check_similarity(array.shape, given["targets"], reduction)
    shape = (array.shape[0], array.shape[1])
    positives = device_positives(given["targets"], shape, array.library)
    scale, smoothing = (
        positive(given["logit_scale"], "logit_scale"),
        fraction(given["label_smoothing"], "label_smoothing"),
    )
    check_factors(logit_scale=scale)
    real = real_of(array)
    computed = array if fits(real, scale) else contiguous(array, "float64")
    return array, computed, Similarity(
        array.library, shape, computed.dtype_name, positives, scale, smoothing, reduction, of_losses=real.name
    )  # fmt: skip
