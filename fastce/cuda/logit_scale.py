"""Cross entropy and its derivative by the logit scale for arrays on a GPU: by the kernels of the loss, in its read."""

from typing import Any

from fastce.cuda.arrays import checked_out
from fastce.cuda.cross_entropy import CrossEntropy, other_inputs, upstream_of
from fastce.cuda.precision import with_range
from fastce.typing import ValueAndGradLogitScale


def cross_entropy_value_and_grad_logit_scale(**given: Any) -> ValueAndGradLogitScale:
    """See `fastce.cross_entropy_value_and_grad_logit_scale`."""

    def compute(is_wide: bool) -> ValueAndGradLogitScale:
        call, out = CrossEntropy(given, is_wide), None
        array, upstream = call.given, upstream_of(given["grad_output"], call)
        if given["out"] is not None:
            inputs = other_inputs(given, array.library)
            out = checked_out(given["out"], array.shape, array.dtype_name, array, inputs)
        return ValueAndGradLogitScale(*call.run(upstream, out, by_scale=True))

    return with_range(compute)
