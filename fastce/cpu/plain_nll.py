"""Plain calls of nll_loss: a matrix of log probabilities and indices of its classes, no weights; see plain.py."""

from typing import Any

import numpy as np

from fastce.arguments.numbers import REDUCTIONS
from fastce.arguments.out import handed_over
from fastce.arguments.reductions import factor_of_rows
from fastce.cpu._kernels.likelihood import LikelihoodTargets, likelihood_rows
from fastce.cpu.plain import are_plain_classes, cube_of, is_one_block, room_for, rows_of, value_of
from fastce.cpu.targets import NO_CUBE, NO_FLOATS


def plain_nll(
    log_probs: Any, targets: Any, axis: Any, ignore_index: Any, reduction: Any, n_threads: Any, out: Any,
    *, want_gradient: bool,
) -> tuple[Any, Any] | None:  # fmt: skip
    """Loss and gradient of what is one block, none of it ignored; or None."""
    if type(log_probs) is not np.ndarray or log_probs.ndim != 2 or type(reduction) is not str:
        return None
    rows = rows_of(log_probs, -1 if axis is None else axis, n_threads)
    if rows is None or not is_one_block(rows.nbytes) or reduction not in REDUCTIONS:
        return None
    count, classes = rows.shape
    if not are_plain_classes(targets, (count,), classes) or type(ignore_index) is not int or ignore_index >= 0:
        return None
    gradient = room_for(rows, out, targets) if want_gradient else None
    if want_gradient and gradient is None:
        return None
    above = np.array([factor_of_rows(reduction, float(count))])
    losses, found = np.empty(count), np.zeros(1, np.int64)
    room = NO_CUBE[rows.dtype] if gradient is None else cube_of(gradient)
    points = LikelihoodTargets(targets, -1, NO_FLOATS, NO_FLOATS)
    likelihood_rows.compiled(rows.dtype)(cube_of(rows), points, above, losses, room, found, False)
    if found[0]:
        return None
    value = value_of(losses, reduction, float(count), rows.dtype)
    return value, None if gradient is None else handed_over(gradient, out, log_probs, [targets])
