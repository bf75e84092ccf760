"""Plain calls of row_stats: the largest of few classes, and logsumexp, which ask for no targets; see plain.py."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.silence import cast
from fastce.cpu._kernels.largest import largest_columns
from fastce.cpu.plain import FewClasses, any_misfit, are_plain_classes, few_classes
from fastce.cpu.plain_softmax import plain_logsumexp

_WAYS = frozenset({"argmax", "max", "logsumexp"})
_NOTHING = {name: np.empty((0, 0), dtype) for name, dtype in (("argmax", np.int64), ("max", np.float64))}


def plain_statistics(
    logits: Any, targets: Any, outputs: Any, axis: Any, top_k: Any, ignore_index: Any, n_threads: Any
) -> dict[str, Any] | None:
    """What is asked for, or None."""
    names = (outputs,) if type(outputs) is str else outputs
    if type(names) is not tuple or not names or any(type(name) is not str or name not in _WAYS for name in names):
        return None
    if type(top_k) is not int or top_k < 1 or type(ignore_index) is not int:
        return None
    if type(logits) is not np.ndarray or ("logsumexp" in names and logits.dtype == np.float64):
        return None  # of float64 the quick one is less exact
    axis = 1 if axis is None and logits.ndim > 1 else axis
    few = few_classes(logits, axis, n_threads)
    if few is None or not (targets is None or are_plain_classes(targets, few.lead, logits.shape[few.axis])):
        return None
    results = _largest(logits, few, names)
    if results is None:
        return None
    if "logsumexp" in names:
        results["logsumexp"] = plain_logsumexp(logits, axis, False, n_threads)
    found = {name: results[name] for name in names}
    return None if found.get("logsumexp", 0.0) is None else found


def _largest(logits: Array, few: FewClasses, names: tuple[str, ...]) -> dict[str, Any] | None:
    """The largest classes, their logits, or both, if one is asked for; None for rows that may have a NaN."""
    _, lead, view = few
    rooms = {name: np.empty(view.shape, none.dtype) if name in names else none for name, none in _NOTHING.items()}
    if any(room.size for room in rooms.values()):
        misfits = np.zeros(view.shape, np.uint8)
        largest_columns.compiled(logits.dtype)(view.cube_of(logits), view.narrow, *rooms.values(), misfits)
        if any_misfit(misfits):
            return None
    found = {name: room.reshape(lead) for name, room in rooms.items() if name in names}
    return {name: (cast(part, logits.dtype) if name == "max" else part)[()] for name, part in found.items()}
