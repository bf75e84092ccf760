"""Plain calls: arrays of NumPy that kernels read as they lie, and options that are numbers and words of Python.

There is little to decide about them. For a small call deciding takes as long as computing, or longer; for one of a few
megabytes, whose logits have swept Python from the cache, as long as a thread takes to come and help. So they go to
their kernel at once: the one of the usual way, with the same arguments, so that bits are the same. What must be found
out of a call is `remembered`, under all that tells it but the elements of its arrays. Functions named so
return None for anything else, for rows that a kernel reports, and for whatever is wrong, of which the usual way
complains; nothing but new arrays has been written then, or an ``out`` that will be written all the same.
"""

import math
from collections import deque
from collections.abc import Callable
from types import NoneType
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import LEAST, reduced, sum_of_terms
from fastce.arguments.silence import cast, silently
from fastce.cpu._kernels.columns import NARROW
from fastce.cpu._kernels.few_sums import MOST, sum_of_few
from fastce.cpu._kernels.targets import Options
from fastce.cpu.class_indices import are_classes
from fastce.cpu.columns import around
from fastce.cpu.pieces import is_long
from fastce.cpu.threads import INLINE_BYTES, LARGEST_BLOCK_BYTES, cut_runs, inline_bytes

T = TypeVar("T")

SMALL = INLINE_BYTES  # at most: computed on one thread, in one block
LARGEST_PLAIN = LARGEST_BLOCK_BYTES  # bytes; what is decided about more takes no time beside it
IN_ORDER, ALIGNED, READY = 0x0001, 0x0100, 0x0101  # NumPy's flags of arrays that are C contiguous, aligned, and both
INT64 = np.dtype(np.int64)
OF_PYTHON = frozenset({int, float, str, NoneType})  # options that mean what they say, and always the same
NATIVE = np.dtype(np.float32), np.dtype(np.float64)
_FLOAT64 = np.dtype(np.float64)

# What has been found out of calls, by all that tells it but the elements of their arrays.
MOST_REMEMBERED = 512
remembered: dict[tuple[Any, ...], Any] = {}

# What kernels write of the rows of small calls, taken from here and put back by whoever has it, and by no other.
_scratch: deque["Scratch"] = deque(maxlen=4)


class Decided(NamedTuple):
    """What the options of calls of cross_entropy come to."""

    options: Options
    ignored_class: int
    reduction: str
    n_threads: int | None


class Scratch(NamedTuple):
    """Where kernels put what they find of so many rows."""

    losses: Array
    misfits: Array  # zeros
    shape: tuple[int, int]
    in_shape: tuple[Array, Array]  # the same, as (outer, rows)


# What a call has come to: losses, the total of the weights of rows, and the gradient. A plain tuple is made in no time.
Found: TypeAlias = tuple[Scratch, float, Array | None]


def scratch_for(shape: tuple[int, int]) -> Scratch:
    """Room for so many rows, (outer, rows): the last that was put back, if it is for as many."""
    try:
        scratch = _scratch.pop()
    except IndexError:
        return _new_scratch(shape)
    return scratch if scratch.shape == shape else _new_scratch(shape)


def _new_scratch(shape: tuple[int, int]) -> Scratch:
    losses, misfits = np.empty(shape), np.zeros(shape, np.uint8)
    return Scratch(losses.reshape(-1), misfits.reshape(-1), shape, (losses, misfits))


def put_back(scratch: Scratch) -> None:
    """Leave it to the next call: nobody looks at it any more, and there was no misfit."""
    _scratch.append(scratch)


def lies_plainly(array: Array, classes: int) -> bool:
    """Whether kernels can read rows of so many classes as they lie, in one block if these are few, and not too much."""
    if not is_one_block(array.nbytes) if classes <= NARROW else (array.nbytes > LARGEST_PLAIN or is_long(classes)):
        return False
    return array.flags.num & READY == READY


def is_one_block(nbytes: int) -> bool:
    """Whether kernels of few classes are given all of an array at once."""
    return nbytes <= min(LARGEST_PLAIN, inline_bytes(in_columns=True))


class View(NamedTuple):
    """How arrays become (outer, classes, rows), see `columns.Columns`, and (outer, rows)."""

    cube_of: Callable[[Array], Array]
    narrow: bool
    shape: tuple[int, int]


class FewClasses(NamedTuple):
    """How arrays are seen whose classes are few, in softmax and logsumexp."""

    axis: int
    lead: tuple[int, ...]
    view: View


def remember(key: tuple[Any, ...], what: T) -> T:
    """The same, which is found under this key from now on."""
    if len(remembered) >= MOST_REMEMBERED:
        remembered.clear()
    remembered[key] = what
    return what


def view_of(array: Array, axis: int) -> View | None:
    """How arrays that lie as this one become what `columns.columns_of` has, if that is told at a glance."""
    flags, shape = array.flags.num, array.shape
    outer, classes, rows = around(shape, axis)
    if len(shape) == 2 and flags & ALIGNED and array.strides[axis] == array.itemsize:
        turned = (lambda array: array.T[None]) if axis == 1 else (lambda array: array[None])
        return View(turned, True, (1, outer * rows))
    if flags & READY != READY:
        return None
    if axis == len(shape) - 1:
        return View(lambda array: array.reshape(-1, classes).T[None], True, (1, outer))
    cube = outer, classes, rows
    return View(lambda array: array.reshape(cube), False, (outer, rows)) if rows > 1 else None


def few_classes(array: Any, axis: Any, n_threads: Any) -> FewClasses | None:
    """How an array is seen whose classes along this axis are few, if kernels are given all of it at once."""
    if type(array) is not np.ndarray or type(axis) not in OF_PYTHON or type(n_threads) not in OF_PYTHON:
        return None
    key = array.dtype, array.shape, array.strides, array.flags.num, axis, type(axis), n_threads, type(n_threads)
    try:
        return remembered[key]  # type: ignore[no-any-return]
    except KeyError:
        return remember(key, _few_classes(array, axis, n_threads))


def _few_classes(array: Array, axis: Any, n_threads: Any) -> FewClasses | None:
    if not array.size or array.dtype not in NATIVE or not is_number_of_threads(n_threads):
        return None
    axis, dimensions = 0 if axis is None and array.ndim == 1 else axis, array.ndim
    if type(axis) is not int or not -dimensions <= axis < dimensions:
        return None
    axis %= dimensions
    shape = array.shape
    view = view_of(array, axis) if 1 < shape[axis] <= NARROW and is_one_block(array.nbytes) else None
    return None if view is None else FewClasses(axis, shape[:axis] + shape[axis + 1 :], view)


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


def are_plain_classes(targets: Any, shape: tuple[int, ...], classes: int) -> bool:
    """Whether these are class indices of this shape that kernels read as they lie, none of them out of range."""
    if type(targets) is not np.ndarray or targets.dtype is not INT64 or targets.shape != shape:
        return False
    return targets.flags.num & READY == READY and are_classes(targets.reshape(-1), classes)


def is_number_of_threads(value: Any) -> bool:
    """Whether it is one at a glance, or None."""
    return value is None or (type(value) is int and value >= 1)


def value_of(losses: Array, reduction: str, total_weight: float, dtype: np.dtype[Any]) -> Any:
    """What the reduction asks for of losses of logits of this dtype."""
    if reduction == "none":
        return cast(losses, dtype)
    if losses.size <= MOST:
        total: float = sum_of_few.compiled(_FLOAT64)(losses)
        if LEAST < abs(total) < math.inf:
            return reduced(total, reduction, total_weight)
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
