"""Binary cross entropy, run over blocks: which kernel, and which dtype, holds what there is."""

import math
from functools import partial
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array, compute_dtype, kernel_dtype
from fastce.arguments.reductions import powers_of
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.binary import binary_lines, binary_rows
from fastce.cpu._vectors.compiler import storage_view
from fastce.cpu.binary_extremes import fill_in_pairs
from fastce.cpu.layout import Rows, goes_past_cache
from fastce.cpu.merged import Merged, cut_merged, factor_of, first_of, is_one_number, merged_into, rows_together
from fastce.cpu.threads import for_each

FLOAT32, FLOAT64 = (30.0, 100.0), (400.0, 900.0)  # powers of two that these may be multiplied by: of one, of all
# powers of two that both weights may have, and exp(-|x|) be below all numbers even with what exp has to spare
LOST32, LOST64, FAR = 36.0, 7.0, 740.0
LARGEST = 2.0**64  # logit that such factors cannot make too large


def fill_losses_and_gradient(
    x: Array,
    y: Array,
    factors: list[Array],
    exponent: int,
    of_losses: Array | None,
    of_gradient: Array | None,
    n_threads: int | None,
) -> tuple[float, int]:
    """Compute losses and gradient, if there is room for them; the sum of all losses is returned, as a pair.

    ``factors`` are weights, weights of positives and what is above, which is to be multiplied by 2**exponent, all in
    the shape of the logits x.
    """
    powers = [powers_of(_without_repeats(factor)) for factor in factors]
    is_plain = not exponent and not _is_beyond_float32(powers)
    together = of_gradient is not None and is_plain and not _is_lost(x, factors, of_gradient)
    if together:
        total, more = _fill(x, y, factors, powers, [of_losses, of_gradient], n_threads)
    else:  # the value is that of the twin
        plain = [*factors[:2], np.broadcast_to(1.0, x.shape)]
        total, more = _fill(x, y, plain, [*powers[:2], (0.0, 0.0)], [of_losses, None], n_threads)
    if of_gradient is not None and not together:
        if exponent:
            fill_in_pairs(x, y, factors, [None, of_gradient], n_threads, exponent)
        else:
            _fill(x, y, factors, powers, [None, of_gradient], n_threads)
    return total, more


def _fill(
    x: Array,
    y: Array,
    factors: list[Array],
    powers: list[tuple[float, float]],
    outputs: list[Array | None],
    n_threads: int | None,
) -> tuple[float, int]:
    """Compute losses and gradient, into those outputs that are there, by the way that holds what there is.

    ``powers`` are those of the factors, see `powers_of`. The sum of all losses is returned, as a pair.
    """
    dtype, wide = compute_dtype(kernel_dtype(x.dtype)), np.dtype(np.float64)
    real = wide if _is_beyond_float32(powers) else dtype
    is_lost = real == wide and _power_of_weights(powers) > LOST64 and _largest(_heard(x, factors[0])) > FAR
    if not is_lost and not _are_beyond(FLOAT64, powers):
        total = _fill_by_kernel(x, y, factors, outputs, real, n_threads=n_threads)
        is_replaced = outputs[1] is not None and np.may_share_memory(outputs[1], x)
        if math.isfinite(total) or is_replaced or not all(_is_finite(_heard(a, factors[0])) for a in (x, y)):
            return total, 0
        if real != wide:  # losses beyond float32 have a sum in float64, and so have products that a weight makes small
            return _fill_by_kernel(x, y, factors, [outputs[0], None], wide, n_threads=n_threads), 0
        outputs = [outputs[0], None]  # the size of a logit does not matter for its gradient
    return fill_in_pairs(x, y, factors, outputs, n_threads)


def _is_lost(x: Array, factors: list[Array], of_gradient: Array) -> bool:
    """Whether logits that losses may have to be computed from once more are replaced by their gradient."""
    if not np.may_share_memory(x, of_gradient):
        return False
    has_weights = not all(is_one_number(factor) and first_of(factor) == 1.0 for factor in factors[:2])
    return (has_weights or x.dtype.itemsize == 8) and not _largest(_heard(x, factors[0])) < LARGEST


def _heard(array: Array, weight: Array) -> Array:
    """The same with 0 where the weight is: what is there does not matter."""
    return array if is_one_number(weight) or weight.all() else np.where(weight == 0.0, 0.0, array)


def _are_beyond(limits: tuple[float, float], powers: list[tuple[float, float]]) -> bool:
    """Whether weights, or what the gradient is multiplied by, are beyond these powers: of one, and of all together."""
    of_one, of_all = limits
    low, high = zip(*powers, strict=True)
    small, large = sum(min(power, 0.0) for power in low), sum(max(power, 0.0) for power in high)  # in any order
    return bool(max(high) > of_one or min(low[:2]) < -of_one or large > of_all or small < -of_all)


def _is_beyond_float32(powers: list[tuple[float, float]]) -> bool:
    return _are_beyond(FLOAT32, powers) or _power_of_weights(powers) > LOST32


def _power_of_weights(powers: list[tuple[float, float]]) -> float:
    """Of both together, as far as they make a loss larger."""
    return sum(max(high, 0.0) for _, high in powers[:2])


def _largest(array: Array) -> float:
    """The size of the largest element, NaN if there is one."""
    return max(abs(float(array.max(initial=0.0))), abs(float(array.min(initial=0.0))))


def _is_finite(array: Array) -> bool:
    return math.isfinite(_largest(array))


def _without_repeats(array: Array) -> Array:
    """The elements that are there, where an axis has been broadcast."""
    return array[tuple(slice(0, 1) if stride == 0 else slice(None) for stride in array.strides)]


def _labels_and_rest(labels: Array, none: Array) -> tuple[Array, Array]:
    """(labels, 1 - labels) in the dtype of ``none``, which stands for the second where the first have all their digits.

    In float32 the difference would be that of what is left of a float64.
    """
    if labels.dtype == none.dtype:
        return labels, none
    rest = np.empty(labels.shape, none.dtype)
    silently(partial(np.subtract, out=rest, casting="same_kind"), 1.0, labels)
    return cast(labels, none.dtype), rest


def _fill_by_kernel(
    logits: Array,
    labels: Array,
    factors: list[Array],
    outputs: list[Array | None],
    real: np.dtype[Any],
    *,
    n_threads: int | None,
) -> float:
    """Compute losses and gradient in this dtype, into those outputs that are there; return the sum of all losses.

    Rows are those of the last axis; short ones are merged, by shape alone.
    """
    dtype = kernel_dtype(logits.dtype)
    dtype = dtype if compute_dtype(dtype) == real else real
    varies = not all(map(is_one_number, factors[:2]))
    axis = -1 if logits.ndim > 1 else ()
    together = rows_together(logits.shape, factors[:2])
    layout = Rows if together == 1 else partial(Merged, together=together)
    has_more_digits = labels.dtype.kind == "f" and labels.dtype.itemsize > real.itemsize
    x, y = layout(logits, axis, dtype), layout(labels, axis, np.dtype(np.float64) if has_more_digits else real)
    by = [factor_of(a, axis, real, together) for a in factors]
    written = [None if a is None else layout(a, axis, of) for a, of in zip(outputs, (real, dtype), strict=True)]
    absent = [np.empty((0, 0), real), storage_view(np.empty((0, 0), dtype))]
    blocks = cut_merged(x.rows, x.row_bytes, together) if logits.size else []
    sums = np.empty(len(blocks))
    plain = not varies and outputs[0] is None and all(first_of(a) == 1.0 for a in factors[:2])
    past_cache = any(a is not None and goes_past_cache(a) for a in outputs)
    kernel = (binary_lines if x.lies_in_lines or y.lies_in_lines else binary_rows).compiled(dtype)

    def work(first: int, end: int) -> None:
        for k in range(first, end):
            start, stop = blocks[k]
            row_losses = np.empty(merged_into(stop - start, together))
            rooms = [none if a is None else a.room(start, stop) for a, none in zip(written, absent, strict=True)]
            kernel(
                x.lines(start, stop),
                *_labels_and_rest(y.block(start, stop) if has_more_digits else y.lines(start, stop), absent[0]),
                *(a.block(start, stop) for a in by),
                row_losses,
                *rooms,
                plain,
                past_cache,
            )
            sums[k] = silently(np.add.reduce, row_losses)
            for rows, room in zip(written, rooms, strict=True):
                if rows is not None:
                    silently(rows.put_back, start, stop, room)

    for_each([(k, k + 1) for k in range(len(blocks))], work, n_threads)
    return float(silently(np.add.reduce, sums))
