"""Small calls of plain arrays, where deciding how to compute takes as long as computing, or longer.

What is common and leaves nothing to decide goes to its kernel at once: the one of the usual way, with the same
arguments, so that bits are the same. Functions named so return None for anything else, for rows that a kernel reports,
and for whatever is wrong, of which the usual way complains; nothing but new arrays has been written then, or an ``out``
that will be written all the same.
"""

from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu.pieces import is_long
from fastce.cpu.threads import INLINE_BYTES, inline_bytes

SMALL = INLINE_BYTES  # at most: the usual way computes them on one thread, in one block
_FLOAT32, _FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def rows_of(array: Any, axis: Any, n_threads: Any) -> Array | None:
    """A matrix of rows that kernels can read as they lie: of more than one class, along the last axis of the array.

    However many threads there may be, there will be one.
    """
    if type(array) is not np.ndarray or not 1 < array.size <= SMALL:
        return None
    if n_threads is not None and (type(n_threads) is not int or n_threads < 1):
        return None
    dtype, flags, last = array.dtype, array.flags, array.ndim - 1
    if (dtype is not _FLOAT32 and dtype is not _FLOAT64) or not (flags.c_contiguous and flags.aligned):
        return None
    if not ((type(axis) is int and (axis == last or axis == -1)) or (axis is None and last == 0)):
        return None
    classes = array.shape[last]
    if classes == 1 or is_long(classes) or array.nbytes > inline_bytes(in_columns=classes <= NARROW):
        return None
    return array if last == 1 else array.reshape(-1, classes)


def cube_of(rows: Array) -> Array:
    """The rows as kernels of columns take them: (outer, classes, rows)."""
    return rows.T[None]


def room_for(like: Array, out: Any, *inputs: Any) -> Array:
    """Where results go: ``out`` itself, if a kernel can write it as it lies and it is none of the inputs; else new."""
    if (
        type(out) is np.ndarray
        and out.shape == like.shape
        and out.dtype is like.dtype
        and out.flags.carray
        and not any(np.may_share_memory(out, array) for array in (like, *inputs))
    ):
        return out
    return np.empty(like.shape, like.dtype)


def any_misfit(misfits: Array) -> bool:
    """Whether a kernel has reported a row."""
    return 1 in misfits.tobytes()
