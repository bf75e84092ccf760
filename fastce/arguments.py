"""The front door: what callers give is checked here, and every complaint is worded here."""

import functools
import math
import operator
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.array_utils import normalize_axis_tuple

from fastce.dispatch import is_on_device

Array = np.ndarray[Any, Any]

_HALF = ("float16", "bfloat16")
_NATIVE = ("float32", "float64", *_HALF)


# --- arrays ----------------------------------------------------------------------------------------------------------


def plain_array(value: Any, name: str) -> Array:
    """``value`` as a base-class array; masked and device arrays would lose their meaning on the way."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name} is a masked array, whose mask would be lost: fill or select its elements first")
    if is_on_device(value):
        raise TypeError(f"{name} is on a GPU; this function computes on the CPU only: copy it to a NumPy array first")
    return np.asarray(value)


def real_array(value: Any, name: str) -> Array:
    """``value`` as an array of floats, integers or booleans."""
    array = plain_array(value, name)
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize > 8:
        raise TypeError(f"{name} has dtype {array.dtype}: convert it to float64")
    if kind not in "fiub" and array.dtype.name != "bfloat16":
        raise TypeError(f"{name} must hold real numbers, got dtype {array.dtype}")
    return array


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
    if axis is None:
        index = min(1, logits.ndim - 1)
    else:
        index = integer(axis, "axis")
        if not -logits.ndim <= index < logits.ndim:
            raise np.exceptions.AxisError(index, logits.ndim)
        index %= logits.ndim
    if logits.shape[index] == 0:
        raise ValueError(f"{name} of shape {logits.shape} has no classes along axis {index}")
    return index


def reduced_axes(array: Array, axis: Any) -> tuple[int, ...]:
    """SciPy's rule: all axes, one, or several."""
    return tuple(range(array.ndim)) if axis is None else tuple(normalize_axis_tuple(axis, array.ndim))


# --- scalars ---------------------------------------------------------------------------------------------------------


def _integer(value: Any, name: str) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def integer(value: Any, name: str) -> int:
    return value if type(value) is int else _integer(value, name)


def number(value: Any, name: str) -> float:
    if type(value) is float:
        return value
    if isinstance(value, (bool, np.bool_, str, bytes)) or np.ndim(value) > 0:
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, got {value!r}") from None


def finite(value: Any, name: str) -> float:
    result = number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {value!r}")
    return result


def positive(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result > 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return result


def inverse_temperature(value: Any) -> float:
    """1 / temperature, a logit scale."""
    temperature = positive(value, "temperature")
    if not math.isfinite(1.0 / temperature):
        raise ValueError(f"temperature must not be smaller than {1.0 / np.finfo(np.float64).max}, got {value!r}")
    return 1.0 / temperature


def not_negative(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result >= 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be finite and not negative, got {value!r}")
    return result


def fraction(value: Any, name: str) -> float:
    result = number(value, name)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {value!r}")
    return result


def choice(value: Any, name: str, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")
    return value


REDUCTIONS = ("none", "sum", "mean")


def reduction_of(value: Any) -> str:
    return choice(value, "reduction", REDUCTIONS)


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


def checked_out(out: Any, shape: tuple[int, ...], dtype: np.dtype[Any], may_replace: Array, inputs: list[Any]) -> Array:
    """``out``, or a new array. It may be the input that it replaces; it must not overlap any input otherwise."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a NumPy array, got {type(out).__name__}")
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
