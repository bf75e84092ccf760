"""The derivative of cross entropy by its logit scale, without a matrix of gradients.

With G the gradient by the logits x and a the scale it is sum_c G_c x_c / a, added up row by row: beside the loss, or of
gradients that are in cache, as slope_products.py has it.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype
from fastce.arguments.reductions import sum_of_terms
from fastce.arguments.silence import silently
from fastce.cpu.call import CrossEntropyCall
from fastce.cpu.cross_entropy import cube_of, one_by_one, row_losses, run
from fastce.cpu.extremes import are_extreme
from fastce.cpu.layout import Rows
from fastce.cpu.row_losses import EACH, RowLosses


def value_and_scale_products(
    call: CrossEntropyCall,
    upstream: Array,
    out: Array | None,
    n_threads: int | None,
    compute: Callable[..., Any] = run,
) -> tuple[Any, Array, float]:
    """(value, the derivative of each row's loss by the scale, times a number; that number).

    Rows come in the order that they are read in. ``out`` receives the gradient by the logits, and may be these. The
    value is what is computed: `run`, or `row_losses`.
    """
    products = np.zeros(call.logits.rows)
    if call.exponent or any(are_extreme(call.options, call.targets, call.logits.dtype.itemsize, upstream)):
        fraction, exponent = math.frexp(call.options.logit_scale)
        above = call._replace(exponent=call.exponent - exponent, reduction=EACH)
        one_by_one(above, upstream, None, n_threads, products)
        return compute(call, upstream, out, n_threads), products, fraction
    dtype = compute_dtype(call.logits.dtype)
    if dtype == call.logits.dtype and (out is None or _can_be_read_again(call, out)):
        value = compute(call, upstream, out, n_threads, products)
    else:
        wider = call._replace(logits=Rows(call.array, call.axis, dtype))  # slopes of halves have too few digits
        compute(wider, upstream, None, n_threads, products)
        value = compute(call, upstream, out, n_threads)
    return value, products, call.options.logit_scale


def _can_be_read_again(call: CrossEntropyCall, out: Array) -> bool:
    """Whether products can be taken of gradients where they are written, with logits that are still there."""
    return cube_of(call) is None and not np.may_share_memory(out, call.array)


def scale_derivative(products: Array, divisor: float, exponents: Array | int = 0) -> float:
    """The sum over the rows, in the order of their numbers, each times 2**exponents."""
    total, exponent = silently(sum_of_terms, products, exponents)
    return float(silently(np.ldexp, total / divisor, exponent))


class ScaleTerms:
    """The derivative by the scale of logits that come a panel at a time."""

    def __init__(self) -> None:
        self.terms: list[Array] = []
        self.exponents: list[Array] = []

    def take(
        self, exponents: Array, call: CrossEntropyCall, upstream: Array, out: Array | None, n_threads: int | None
    ) -> RowLosses:
        """The losses of the rows of a panel, whose terms are to be multiplied by 2**exponents, and `row_losses`."""
        losses, products, divisor = value_and_scale_products(call, upstream, out, n_threads, row_losses)
        self.terms.append(silently(np.divide, products, divisor))
        self.exponents.append(np.broadcast_to(exponents, products.shape))
        return losses  # type: ignore[no-any-return]

    def derivative(self) -> float:
        """By the scale, once all panels are taken."""
        if not self.terms:
            return 0.0
        exponents = np.concatenate(self.exponents)
        return scale_derivative(np.concatenate(self.terms), 1.0, exponents if exponents.any() else 0)
