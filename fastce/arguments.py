"""The front door: what callers give is checked here, and every complaint is worded here."""

import functools
import math
import numbers
import operator
from types import EllipsisType
from typing import Any, NamedTuple, TypeAlias, TypeVar, get_args

import numpy as np
from numpy import ma  # now, not at a first call: a fork may come in between

from fastce.dispatch import is_on_device
from fastce.typing import Reduction
from fastce.words import ODD, asked, is_of_handler, shown, unreadable

Array: TypeAlias = np.ndarray[Any, Any]
Choice = TypeVar("Choice", bound=str)

_HALF = ("float16", "bfloat16")
_NATIVE = ("float32", "float64", *_HALF)


# --- arrays ----------------------------------------------------------------------------------------------------------


def plain_array(value: Any, name: str) -> Array:
    """``value`` as a base-class array; masked and device arrays would lose their meaning on the way."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: fill or select its elements first")
    _refuse_on_device(value, name)
    try:
        return np.asarray(value)
    except ODD as error:
        if is_of_handler(error):
            raise
        raise unreadable(value, name, error) from error


def _refuse_on_device(value: Any, name: str) -> None:
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


# --- scalars ---------------------------------------------------------------------------------------------------------


def integer(value: Any, name: str) -> int:
    if type(value) is int:
        return value
    result = None if isinstance(value, (bool, np.bool_)) else asked(operator.index, value)
    if result is None:
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    return result


def number(value: Any, name: str) -> float:
    """A real number, or an array of shape () or (1,) that holds one."""
    if type(value) is float:
        return value
    item = _only_element(value)
    result = None if isinstance(item, (bool, np.bool_, str, bytes)) else asked(float, item)
    if result is None:
        if isinstance(item, numbers.Rational) and not isinstance(item, bool):
            raise ValueError(f"{name} must be a number that float64 can hold, got {shown(value)}")
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    return result


def is_one_number(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape stands for a number."""
    return tuple(shape) in ((), (1,))


def _only_element(value: Any) -> Any:
    """The element of an array of a single one, of any library; None if that is no real number."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not is_one_number(value.shape):
        return value
    if isinstance(value, ma.MaskedArray):
        return None
    is_real = not isinstance(dtype, np.dtype) or dtype.kind in "fiu" or dtype.name == "bfloat16"
    if not is_real:
        return None
    return value.item() if hasattr(value, "item") else value[(0,) * len(value.shape)]


def flag(value: Any, name: str) -> bool:
    if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def finite(value: Any, name: str) -> float:
    result = number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return result


def positive(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result > 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be positive and finite, got {shown(value)}")
    return result


def inverse_temperature(value: Any) -> float:
    """1 / temperature, a logit scale."""
    temperature = positive(value, "temperature")
    if not math.isfinite(1.0 / temperature):
        raise ValueError(f"temperature must not be smaller than {1.0 / np.finfo(np.float64).max}, got {temperature}")
    return 1.0 / temperature


def not_negative(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result >= 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be finite and not negative, got {shown(value)}")
    return result


def fraction(value: Any, name: str) -> float:
    result = number(value, name)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {shown(value)}")
    return result


def choice(value: Any, name: str, choices: tuple[Choice, ...]) -> Choice:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def chosen(values: Any, name: str, choices: tuple[Choice, ...]) -> list[Choice]:
    """One or several of the choices, in the order given."""
    given = [values] if isinstance(values, str) else asked(list, values)
    if not given:
        raise ValueError(f"{name} must name at least one of {', '.join(map(repr, choices))}, got {shown(values)}")
    return [choice(value, f"each of {name}", choices) for value in given]


def reduction_of(value: Any) -> Reduction:
    return choice(value, "reduction", get_args(Reduction))


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


# --- out -------------------------------------------------------------------------------------------------------------


PARTLY_REPLACES = "out overlaps the input in part; it must be the input itself or share no memory with it"
SHARES_MEMORY = "out must not share memory with the targets or the weights"


class Receiver(NamedTuple):
    """What is checked of an ``out``, wherever it is; strides are in bytes."""

    shape: tuple[int, ...]
    dtype: Any
    strides: tuple[int, ...]
    itemsize: int
    is_writable: bool


def check_receiver(out: Receiver, shape: tuple[int, ...], dtype: Any) -> None:
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, expected {shape}")
    if out.dtype != dtype:
        raise ValueError(f"out has dtype {out.dtype}, expected {dtype}")
    if not out.is_writable:
        raise ValueError("out must be writable, got a read-only array")
    if _overlaps_itself(out):
        raise ValueError(f"out must not overlap itself, got an array of strides {out.strides}")


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


def checked_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], may_replace: Array, inputs: list[Any]) -> Array:
    """``out``, or a new array. It may be the input that it replaces; it must not overlap any input otherwise."""
    if out is None:
        return new_like(may_replace, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, (ma.MaskedArray, np.matrix)):
        _refuse_on_device(out, "out")
        raise TypeError(f"out must be a NumPy array or a tensor of PyTorch, got {type(out).__name__}")
    check_receiver(Receiver(out.shape, out.dtype, out.strides, out.itemsize, out.flags.writeable), shape, dtype)
    if not _same_memory(out, may_replace) and overlap(out, may_replace):
        raise ValueError(PARTLY_REPLACES)
    for other in inputs:
        if isinstance(other, np.ndarray) and overlap(out, other):
            raise ValueError(SHARES_MEMORY)
    return out


def _same_memory(a: Array, b: Array) -> bool:
    return a is b or (
        a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
        and a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
    )


def overlap(a: Array, b: Array) -> bool:
    if not np.may_share_memory(a, b):
        return False
    try:
        return bool(np.shares_memory(a, b, max_work=100_000))  # type: ignore[arg-type]  # the stubs know only two
    except np.exceptions.TooHardError:
        return True


def _overlaps_itself(out: Receiver) -> bool:
    """Whether some step along one axis is shorter than what the smaller steps span."""
    span = out.itemsize
    for stride, length in sorted((abs(s), n) for s, n in zip(out.strides, out.shape, strict=True) if n > 1):
        if stride < span:
            return 0 not in out.shape
        span += stride * (length - 1)
    return False


def class_index_error(row: int, index: Any, classes: int) -> IndexError:
    return IndexError(f"targets in row {row} hold class index {index}, accepted are 0 to {classes - 1}")
