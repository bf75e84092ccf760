"""Plain calls of binary_cross_entropy_with_logits: no weights, and targets of the dtype of the logits; see plain.py."""

import functools
import math
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.numbers import REDUCTIONS
from fastce.arguments.out import handed_over
from fastce.arguments.reductions import factor_of_rows, reduced
from fastce.arguments.silence import silently
from fastce.cpu._kernels.binary import binary_rows
from fastce.cpu.merged import Number, rows_together
from fastce.cpu.plain import NATIVE, READY, is_number_of_threads, is_one_run, room_for

_NONE = {dtype: np.empty((0, 0), dtype) for dtype in NATIVE}


def plain_binary(
    logits: Any, targets: Any, reduction: Any, n_threads: Any, out: Any, *, want_gradient: bool
) -> tuple[Any, Array | None] | None:
    """Loss and gradient of what is one block, or None."""
    if not _lie_alike(logits, targets) or type(reduction) is not str or reduction not in REDUCTIONS:
        return None
    if not is_number_of_threads(n_threads):
        return None
    gradient = room_for(logits, out, targets) if want_gradient else None
    if want_gradient and gradient is None:
        return None
    dtype, size = logits.dtype, logits.size
    together = rows_together(logits.shape, [])
    lines = (1, size) if together is None else (-1, logits.shape[-1])
    x = logits.reshape(lines)
    above = factor_of_rows(reduction, float(size))
    one, upstream = (_factor(number, dtype, together, len(x)) for number in (1.0, above))
    losses = np.empty(logits.shape, dtype) if reduction == "none" else None
    rooms = [_NONE[dtype] if room is None else room.reshape(lines) for room in (losses, gradient)]
    of_rows = np.empty(len(x))
    # so little is not written past the cache
    binary_rows.compiled(dtype)(
        x, targets.reshape(lines), _NONE[dtype], one, one, upstream, of_rows, *rooms, losses is None, False
    )
    total = float(silently(np.add.reduce, of_rows))
    if not math.isfinite(total):
        return None
    value = reduced(total, reduction, float(size)) if losses is None else losses
    return value, gradient if gradient is None or out is None else handed_over(gradient, out, logits, [targets])


def _lie_alike(logits: Any, targets: Any) -> bool:
    """Whether a kernel reads both as they lie, at once."""
    if type(logits) is not np.ndarray or type(targets) is not np.ndarray or not logits.ndim or not logits.size:
        return False
    if logits.shape != targets.shape or logits.dtype not in NATIVE or logits.dtype != targets.dtype:
        return False
    return is_one_run(logits) and logits.flags.num & targets.flags.num & READY == READY


@functools.lru_cache(64)
def _factor(number: float, dtype: np.dtype[Any], together: int | None, rows: int) -> Array:
    """What so many rows are multiplied by."""
    return Number(np.array(number), dtype, together).block(0, rows)
