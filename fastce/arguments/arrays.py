"""Arrays and axes that callers give: read, checked, and refused in one sentence."""

import functools
from collections.abc import Sequence
from types import EllipsisType
from typing import Any, TypeAlias

import numpy as np
from numpy import ma  # now, not at a first call: a fork may come in between

from fastce.arguments.numbers import integer
from fastce.arguments.places import is_on_device
from fastce.arguments.words import ODD, is_of_handler, shown, unreadable

Array: TypeAlias = np.ndarray[Any, Any]

_HALF = ("float16", "bfloat16")
_NATIVE = ("float32", "float64", *_HALF)


# --- arrays ----------------------------------------------------------------------------------------------------------


def plain_array(value: Any, name: str) -> Array:
    """``value`` as a base-class array; masked and device arrays would lose their meaning on the way."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: fill or select its elements first")
    refuse_on_device(value, name)
    try:
        return np.asarray(value)
    except ODD as error:
        if is_of_handler(error):
            raise
        raise unreadable(value, name, error) from error


def refuse_on_device(value: Any, name: str) -> None:
    if is_on_device(value):
        raise TypeError(f"{name} is on a GPU; this function computes on the CPU only: copy it to a NumPy array first")


def real_array(value: Any, name: str) -> Array:
    """``value`` as an array of floats, integers or booleans."""
    array = plain_array(value, name)
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {array.dtype}: convert it to float64")
    if kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got {kind_of(array)}")
    return array


def kind_of(array: Array) -> str:
    """What was given instead of numbers: the dtype says it, unless this is no array at all."""
    return f"dtype {array.dtype}" if array.ndim or array.dtype.kind in "cmM" else shown(array[()])


@functools.cache  # a dtype's name costs more than a small loss
def kernel_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a kernel is given: native floats as they are, integers and booleans as float64."""
    native = dtype.newbyteorder("=")
    return native if native.name in _NATIVE else np.dtype(np.float64)


@functools.cache
def compute_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that logits of a kernel's dtype are computed in, and that losses have."""
    return np.dtype(np.float32) if dtype.name in _HALF else dtype


def common_dtype(first: np.dtype[Any], second: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that holds both: float16 and bfloat16 have float32 in common."""
    return first if first == second else np.result_type(compute_dtype(first), compute_dtype(second))


# --- axes ------------------------------------------------------------------------------------------------------------


def class_axis(logits: Array, axis: Any, name: str) -> int:
    """PyTorch's rule: the second axis, or the only one."""
    if logits.ndim == 0:
        raise ValueError(f"{name} must have at least one dimension, got a scalar")
    index = min(1, logits.ndim - 1) if axis is None else _checked_axis(integer(axis, "axis"), logits.ndim)
    if logits.shape[index] == 0:
        raise ValueError(f"{name} of shape {logits.shape} has no classes along axis {index}")
    return index


def reduced_axes(array: Array, axis: Any) -> tuple[int, ...]:
    """SciPy's rule: all axes, one, or several; a number has an axis 0, too, which is none."""
    if axis is None:
        return tuple(range(array.ndim))
    if not isinstance(axis, (tuple, list)):
        index = integer(axis, "axis")
        return () if array.ndim == 0 and index in (0, -1) else (_checked_axis(index, array.ndim),)
    axes = tuple(_checked_axis(integer(k, "axis"), array.ndim) for k in axis)
    if len(set(axes)) < len(axes):
        raise ValueError(f"axis must not name the same dimension twice, got {shown(axis)}")
    return axes


def _checked_axis(index: int, dimensions: int) -> int:
    if not -dimensions <= index < dimensions:
        if abs(index) < 1 << 63:
            raise np.exceptions.AxisError(index, dimensions)
        raise np.exceptions.AxisError(f"axis {shown(index)} is out of bounds for an array of dimension {dimensions}")
    return index % dimensions


# --- weights ---------------------------------------------------------------------------------------------------------


def weights(value: Any, name: str, shape: tuple[int, ...]) -> Array:
    """Weights of exactly this shape as float64: a copy, finite, of any sign."""
    array = real_array(value, name)
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, expected {shape}")
    result = np.array(array, dtype=np.float64, order="C")
    is_finite = np.isfinite(result)
    if not is_finite.all():
        raise ValueError(f"{name} must be finite, got {float(result[~is_finite].flat[0])}")
    return result


def weights_like(value: Any, name: str, like: Array) -> Array:
    """Weights broadcast to the shape of ``like``, 1 if there are none; finite, of any sign."""
    array = np.ones(()) if value is None else real_array(value, name)
    checked = weights(array, name, array.shape)
    try:
        return np.broadcast_to(checked, like.shape)
    except ValueError:
        raise ValueError(f"{name} of shape {array.shape} does not broadcast to {like.shape}") from None


def memory_order(array: Array) -> tuple[int, ...]:
    """The axes from outermost to innermost in memory; one along which it is repeated lies nowhere, and stays."""
    order = list(range(array.ndim))
    if not array.flags.c_contiguous:
        places = [k for k in order if array.strides[k] != 0]
        for place, axis in zip(places, sorted(places, key=lambda k: -abs(array.strides[k])), strict=True):
            order[place] = axis
    return tuple(order)


def forwards(array: Array) -> tuple[slice | EllipsisType, ...]:
    """The index that reverses axes along which memory is gone through backwards; a view where there are no axes."""
    return (*(slice(None, None, -1 if stride < 0 else None) for stride in array.strides), ...)


def new_like(array: Array, dtype: np.dtype[Any]) -> Array:
    """A new array without gaps, its axes in memory in the order of the other's."""
    if array.flags.c_contiguous:
        return np.empty(array.shape, dtype)
    order = memory_order(array)
    return np.empty([array.shape[k] for k in order], dtype).transpose(np.argsort(order))


def class_index_error(
    row: int, index: Any, classes: int, argument: str = "targets", column: str = "class index"
) -> IndexError:
    return IndexError(f"{argument} in row {row} hold {column} {index}, accepted are 0 to {classes - 1}")


def not_integers(kind: str, function: str, *, is_float: bool) -> TypeError:
    """The complaint about targets that are no integers where nothing else is taken."""
    way_out = ": give targets.astype(int)" if is_float else ""
    return TypeError(f"targets of {function} must be class indices (integers), got {kind}{way_out}")


def check_widths(arrays: Sequence[Any], names: Sequence[str]) -> None:
    """Refuse arrays, wherever they are, that are no matrices of the same width."""
    for array, name in zip(arrays, names, strict=True):
        if array.ndim != 2:
            raise ValueError(f"{name} must have two dimensions, got shape {array.shape}")
        if array.shape[1] != arrays[0].shape[1]:
            raise ValueError(f"{names[0]} and {name} differ in width: {arrays[0].shape} and {array.shape}")
