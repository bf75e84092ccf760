"""Which calls and rows are beyond the range that the fast kernels are made for, and the way for them.

Options tell before anything is computed; float64 logits, and logits beside a `z_loss`, tell while a kernel looks at
them: it leaves such rows alone and reports them. Both are left to one kernel of float64, which nothing can overflow.
"""

import functools
import math
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from fastce.apart import load
from fastce.arguments.arrays import Array
from fastce.arguments.reductions import powers_of
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.targets import Curvature, Options
from fastce.cpu.call import CrossEntropyCall
from fastce.cpu.layout import Rows
from fastce.cpu.targets import TargetRows

_FLOAT64 = np.dtype(np.float64)
_NO_MATRIX = np.empty((0, 0))
_ONE = np.ones(1)
NO_CURVATURE = Curvature(1.0, -np.inf)


@functools.cache
def _kernel() -> Any:
    """Loaded when the first such row comes: rare, and many small functions to make ready."""
    return load(partial(import_module, "fastce.cpu._kernels.extremes")).extreme_rows.compiled(_FLOAT64)


class _Range(NamedTuple):
    """Powers of two that bound what the kernels of a dtype multiply by; zeros are always within."""

    scale: float  # of logit_scale, and of softcap, either way
    spread: float  # the least that label smoothing may give each class
    weight: float  # of class weights, either way
    gradient: float  # of upstream times all weights times scale**degree
    degree: int  # of the polynomial in exp, whose coefficients are multiplied by powers of the scale


_PLAIN = (1.0, 0.0, 0.0)  # logit_scale, softcap, z_loss
LEAST_SPREAD = 2.0**-60  # that float32 is good for
_RANGES = {4: _Range(12.0, LEAST_SPREAD, 30.0, 100.0, 6), 8: _Range(30.0, 2.0**-700, 200.0, 500.0, 11)}


def _is_within(options: Options, limits: _Range, low: float, high: float) -> bool:
    """Whether these options are, and factors of the gradient from 2**low to 2**high with them."""
    scale = abs(math.log2(options.logit_scale))
    most = max(scale, abs(math.log2(options.softcap or 1.0)))
    return (
        most <= limits.scale
        and options.z_loss <= 2.0**30
        and not 0.0 < options.spread < limits.spread
        and max(-low, high) + scale * limits.degree <= limits.gradient
    )


class Factors(NamedTuple):
    """The powers of two from which to which rows may be multiplied beside options and class weights."""

    least: float
    most: float

    def hold(self, low: float, high: float) -> bool:
        """Whether factors from 2**low to 2**high are among them."""
        return self.least <= low and high <= self.most


def factors_in_range(options: Options, itemsize: int, per_class: Array | None) -> Factors | None:
    """Those with which neither losses nor gradients are extreme; None if losses are without any."""
    limits = _RANGES[itemsize]
    low, high = powers_of(per_class)
    if max(-low, high) > limits.weight or not _is_within(options, limits, low, high):
        return None
    room, largest = limits.gradient - abs(math.log2(options.logit_scale)) * limits.degree, _RANGES[8].weight
    return Factors(max(-room - low, -largest), min(room - high, largest))


def is_extreme(options: Options, targets: TargetRows, itemsize: int) -> bool:
    """Whether losses are beyond the range of the kernels that compute in floats of this size."""
    return are_extreme(options, targets, itemsize, None)[0]


def are_extreme(options: Options, targets: TargetRows, itemsize: int, upstream: Array | None) -> tuple[bool, bool]:
    """The same of losses, and of their gradients: what is above these does not change how losses are computed."""
    is_plain = options[:3] == _PLAIN and targets.per_class is None and targets.per_row is None
    is_plain = is_plain and not 0.0 < options.spread < LEAST_SPREAD
    if is_plain and (upstream is None or (upstream.size == 1 and 1e-30 < upstream.item() < 1e30)):
        return False, False  # told quickly
    limits = _RANGES[max(itemsize, 4)]
    of_class, of_row = powers_of(targets.per_class), powers_of(targets.per_row)
    if max(-of_class[0], of_class[1]) > limits.weight or max(-of_row[0], of_row[1]) > _RANGES[8].weight:
        return True, True
    low, high = of_class[0] + of_row[0], of_class[1] + of_row[1]
    if not _is_within(options, limits, low, high):
        return True, True
    if upstream is None:
        return False, False
    above = powers_of(upstream)
    return False, not _is_within(options, limits, low + above[0], high + above[1])


class Extremes:
    """The extreme rows of one call, and where their results go."""

    def __init__(
        self, logits: Rows, targets: TargetRows, options: Options, upstream: Array | None,
        outputs: tuple[Rows | None, Rows | None] = (None, None), curvature: Curvature = NO_CURVATURE, exponent: int = 0,
        products: Array | None = None,
    ) -> None:  # fmt: skip
        self.logits: Rows = logits.in_dtype(_FLOAT64)
        self.targets: TargetRows = targets.in_float64()
        self.options = options
        self.upstream: Array = _ONE if upstream is None else upstream
        self.exponent = exponent  # of the upstream, as a power of two
        self.outputs = outputs
        self.products = products  # of the gradient and the logits of each row, where they go
        self.curvature = curvature

    def compute(self, start: int, stop: int, logits: Array | None = None) -> tuple[Array, Array]:
        """(losses, exponents) of these rows, each loss times 2**exponent; derivatives are stored.

        ``logits`` are those rows in float64, if something else stands in their place by now.
        """
        block = self.logits.block(start, stop) if logits is None else logits
        losses, exponents = np.empty(stop - start), np.empty(stop - start, np.int32)
        asked = self.outputs[0] is not None or self.products is not None, self.outputs[1] is not None
        rooms = [np.empty(block.shape) if is_asked else _NO_MATRIX for is_asked in asked]
        targets = self.targets.block(start, stop)
        above = self.upstream[start:stop] if self.upstream.size > 1 else self.upstream
        _kernel()(
            block,
            targets,
            self.options,
            self.curvature,
            losses,
            exponents,
            above,
            self.exponent,
            *rooms,
        )
        if self.products is not None:
            weight = targets.row_weight if targets.row_weight.size else _ONE
            factor = silently(np.ldexp, above * weight, self.exponent)
            self.products[start:stop] = silently(slope_products, block, rooms[0], self.options, factor)
        for rows, room in zip(self.outputs, rooms, strict=True):
            if rows is not None:
                rows.put(slice(start, stop), cast(room, rows.dtype))
        return losses, exponents

    def store(self, start: int, stop: int) -> None:
        """Only store the derivatives of these rows."""
        self.compute(start, stop)

    def losses_of(self, numbers: Array, logits: Array) -> tuple[Array, Array]:
        """(losses, exponents) of single rows, of which this is a copy; their derivatives are stored."""
        parts = [
            self.compute(int(i), int(i) + 1, of_row[None].astype(_FLOAT64))
            for i, of_row in zip(numbers, logits, strict=True)
        ]
        losses, exponents = map(np.concatenate, zip(*parts, strict=True))
        return losses, exponents


def extremes_of(call: CrossEntropyCall, upstream: Array | None, out: Array | None, products: Array | None) -> Extremes:
    """Those of a call of cross_entropy, whose gradient goes to ``out``."""
    return Extremes(
        call.logits, call.targets, call.options, upstream, (None if out is None else Rows(out, call.axis), None),
        exponent=call.exponent, products=products,
    )  # fmt: skip


def slope_products(logits: Array, slopes: Array, options: Options, factor: Array) -> Array:
    """The sum of slope * logit of each row, as slope_products.py has it, whose differences may be beyond float64.

    The factor is what the gradients of rows are multiplied by, or of all of them.
    """
    near = np.zeros((len(logits), 1)) if options.softcap > 0.0 else logits.max(axis=1, keepdims=True, initial=-np.inf)
    halves = 0.5 * logits - 0.5 * near
    is_none = (slopes == 0.0) | (halves == 0.0)  # even of an infinite slope at the largest logit
    products: Array = 2.0 * np.add.reduce(np.where(is_none, 0.0, slopes * halves), axis=1)
    if options.z_loss > 0.0 and options.softcap == 0.0:
        scale, near = options.logit_scale, near[:, 0]
        log_sums = scale * near + np.log(np.add.reduce(np.exp(2.0 * scale * halves), axis=1))
        common = near * (2.0 * options.z_loss * scale * factor * log_sums)
        products += np.where(factor == 0.0, 0.0, common)
    return products
