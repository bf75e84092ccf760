"""Cross entropy and its derivative by the logit scale for arrays on a GPU: by the kernels of the loss, in its read."""

from typing import Any

from fastce.cuda.cross_entropy import CrossEntropy, room_for_gradient, upstream_of
from fastce.cuda.precision import with_range
from fastce.typing import ValueAndGradLogitScale


def cross_entropy_value_and_grad_logit_scale(**given: Any) -> ValueAndGradLogitScale:
    """See `fastce.cross_entropy_value_and_grad_logit_scale`."""

    def compute(is_wide: bool) -> ValueAndGradLogitScale:
        call = CrossEntropy(given, is_wide)
        upstream = upstream_of(given["grad_output"], call)
        out = None if given["out"] is None else room_for_gradient(given, call.given)
        return ValueAndGradLogitScale(*call.run(upstream, out, by_scale=True))

    return with_range(compute)
