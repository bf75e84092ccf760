"""Plain calls: arrays of NumPy that kernels read as they lie, and options that are numbers and words of Python.

There is little to decide about them. For a small call deciding takes as long as computing, or longer; for one of a few
megabytes, whose logits have swept Python from the cache, as long as a thread takes to come and help. So they go to
their kernel at once: the one of the usual way, with the same arguments, so that bits are the same. Functions named so
return None for anything else, for rows that a kernel reports, and for whatever is wrong, of which the usual way
complains; nothing but new arrays has been written then, or an ``out`` that will be written all the same.
"""

from collections import deque
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import reduced, sum_of_terms
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu.pieces import is_long
from fastce.cpu.threads import INLINE_BYTES, LARGEST_BLOCK_BYTES, cut_runs, inline_bytes

SMALL = INLINE_BYTES  # at most: computed on one thread, in one block
LARGEST_PLAIN = LARGEST_BLOCK_BYTES  # bytes; what is decided about more takes no time beside it
ALIGNED, READY = 0x0100, 0x0101  # NumPy's flags of arrays that are aligned, and C contiguous too
INT64 = np.dtype(np.int64)
OF_PYTHON = frozenset({int, float, str, NoneType})  # options that mean what they say, and always the same
NATIVE = np.dtype(np.float32), np.dtype(np.float64)

# What kernels write of the rows of small calls, taken from here and put back by whoever has it, and by no other.
_scratch: deque["Scratch"] = deque(maxlen=4)


class Scratch(NamedTuple):
    """Where kernels put what they find of so many rows."""

    losses: Array
    misfits: Array  # zeros
    of_columns: tuple[Array, Array]  # the same, of one outer


def scratch_for(count: int) -> Scratch:
    """Room for so many rows: the last that was put back, if it is for as many."""
    try:
        scratch = _scratch.pop()
    except IndexError:
        return _new_scratch(count)
    return scratch if len(scratch.losses) == count else _new_scratch(count)


def _new_scratch(count: int) -> Scratch:
    losses, misfits = np.empty(count), np.zeros(count, np.uint8)
    return Scratch(losses, misfits, (losses[None], misfits[None]))


def put_back(scratch: Scratch) -> None:
    """Leave it to the next call: nobody looks at it any more, and there was no misfit."""
    _scratch.append(scratch)


def lies_plainly(array: Array, classes: int) -> bool:
    """Whether kernels can read rows of so many classes as they lie, in one block if these are few, and not too much."""
    if not is_one_block(array) if classes <= NARROW else (array.nbytes > LARGEST_PLAIN or is_long(classes)):
        return False
    return array.flags.num & READY == READY


def is_one_block(array: Array) -> bool:
    """Whether kernels of few classes are given all of it at once."""
    return array.nbytes <= min(LARGEST_PLAIN, inline_bytes(in_columns=True))


def rows_of(array: Any, axis: Any, n_threads: Any) -> Array | None:
    """A matrix of rows that kernels can read as they lie: of more than one class, along the last axis of the array."""
    if type(array) is not np.ndarray or not array.size:
        return None
    if not is_number_of_threads(n_threads):
        return None
    last = array.ndim - 1
    if not ((type(axis) is int and (axis == last or axis == -1)) or (axis is None and last == 0)) or last < 0:
        return None
    classes = array.shape[last]
    if classes == 1 or array.dtype not in NATIVE or not lies_plainly(array, classes):
        return None
    return array if last == 1 else array.reshape(-1, classes)


def is_number_of_threads(value: Any) -> bool:
    """Whether it is one at a glance, or None."""
    return value is None or (type(value) is int and value >= 1)


def value_of(losses: Array, reduction: str, total_weight: float, dtype: np.dtype[Any]) -> Any:
    """What the reduction asks for of losses of logits of this dtype."""
    if reduction == "none":
        return cast(losses, dtype)
    # a sum of losses of float32 has no reason to warn
    total, exponent = sum_of_terms(losses) if dtype.itemsize == 4 else silently(sum_of_terms, losses)
    return reduced(total, reduction, total_weight, exponent)


def is_one_run(rows: Array) -> bool:
    """Whether this thread computes them alone, at once."""
    return rows.nbytes <= min(LARGEST_PLAIN, inline_bytes(in_columns=False))


def in_runs(arrays: tuple[Array, ...], n_threads: int | None) -> list[tuple[Array, ...]]:
    """The arrays in runs of rows, those of the first one, for threads. What is empty stays so."""
    runs = cut_runs(len(arrays[0]), arrays[0].nbytes // len(arrays[0]), n_threads)
    return [tuple([array[start:stop] for array in arrays]) for start, stop in runs]


def cube_of(rows: Array) -> Array:
    """The rows as kernels of columns take them: (outer, classes, rows)."""
    return rows.T[None]


def room_for(like: Array, out: Any, *inputs: Any) -> Array | None:
    """Where results go: ``out`` itself, if a kernel can write it as it lies and it is none of the inputs; else new.

    None for what is too much to be copied into ``out``.
    """
    if (
        type(out) is np.ndarray
        and out.shape == like.shape
        and out.dtype is like.dtype
        and out.flags.carray
        and not any(np.may_share_memory(out, array) for array in (like, *inputs))
    ):
        return out
    return np.empty(like.shape, like.dtype) if out is None or like.nbytes <= SMALL else None


def any_misfit(misfits: Array) -> bool:
    """Whether a kernel has reported a row."""
    return 1 in misfits.tobytes()
