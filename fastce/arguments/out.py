"""Where results are to be written: an array that the caller gives, or a new one."""

from typing import Any, NamedTuple

import numpy as np
from numpy import ma

from fastce.arguments.arrays import Array, new_like, refuse_on_device

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
        return new_like(may_replace, dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, (ma.MaskedArray, np.matrix)):
        refuse_on_device(out, "out")
        raise TypeError(f"out must be a NumPy array or a tensor of PyTorch, got {type(out).__name__}")
    check_receiver(Receiver(out.shape, out.dtype, out.strides, out.itemsize, out.flags.writeable), shape, dtype)
    if out is not may_replace and overlap(out, may_replace) and not same_memory(out, may_replace):
        raise ValueError(PARTLY_REPLACES)
    for other in inputs:
        if isinstance(other, np.ndarray) and overlap(out, other):
            raise ValueError(SHARES_MEMORY)
    return out


def handed_over(result: Array, out: Any, may_replace: Array, inputs: list[Any]) -> Array:
    """A result that has been computed: in ``out``, which is checked as by `checked_out`, if that is given."""
    if out is None or result is out:
        return result
    checked_out(out, result.shape, result.dtype, may_replace, inputs)[...] = result
    return out  # type: ignore[no-any-return]


def same_memory(a: Array, b: Array) -> bool:
    """Whether these are the same elements of the same array."""
    return a is b or (
        a.shape == b.shape
        and a.strides == b.strides
        and a.dtype == b.dtype
        and a.__array_interface__["data"][0] == b.__array_interface__["data"][0]
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
