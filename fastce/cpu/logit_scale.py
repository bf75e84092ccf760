"""The derivative of cross entropy by its logit scale, without a matrix of gradients.

With G the gradient by the logits x and a the scale it is sum_c G_c x_c / a, added up row by row: of gradients that are
in cache, as slope_products.py has it.
"""

import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.reductions import sum_of_terms
from fastce.arguments.silence import silently
from fastce.cpu.call import CrossEntropyCall
from fastce.cpu.cross_entropy import cube_of, one_by_one, run
from fastce.cpu.extremes import are_extreme
from fastce.cpu.layout import Rows
from fastce.cpu.row_losses import EACH


def value_and_scale_products(
    call: CrossEntropyCall, upstream: Array, out: Array | None, n_threads: int | None
) -> tuple[Any, Array, float]:
    """(value, the derivative of each row's loss by the scale, times a number; that number).

    Rows come in the order that they are read in. ``out`` receives the gradient by the logits, and may be these.
    """
    products = np.zeros(call.logits.rows)
    if call.exponent or any(are_extreme(call.options, call.targets, call.logits.dtype.itemsize, upstream)):
        fraction, exponent = math.frexp(call.options.logit_scale)
        above = call._replace(exponent=call.exponent - exponent, reduction=EACH)
        one_by_one(above, upstream, None, n_threads, products)
        return run(call, upstream, out, n_threads), products, fraction
    dtype = compute_dtype(call.logits.dtype)
    if dtype == call.logits.dtype and (out is None or _can_be_read_again(call, out)):
        value = run(call, upstream, out, n_threads, products)
    else:
        wider = call._replace(logits=Rows(call.array, call.axis, dtype))  # slopes of halves have too few digits
        run(wider, upstream, None, n_threads, products)
        value = run(call, upstream, out, n_threads)
    return value, products, call.options.logit_scale


def _can_be_read_again(call: CrossEntropyCall, out: Array) -> bool:
    """Whether products can be taken of gradients where they are written, with logits that are still there."""
    return cube_of(call) is None and not np.may_share_memory(out, call.array)


def scale_derivative(products: Array, divisor: float) -> float:
    """The sum over the rows, in the order of their numbers."""
    total, exponent = silently(sum_of_terms, products)
    return float(silently(np.ldexp, total / divisor, exponent))
