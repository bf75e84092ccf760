"""cvt: between all the types of numbers."""

import numpy as np

from .closures import Table, elementwise
from .floats import finished, narrow
from .moves import bfloat, flush
from .syntax import DTYPES

OPERATIONS = Table()
ROUNDINGS = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}


def to_bfloat(values):
    """The bits of the nearest bfloat16; float64 values should be exact or rounded to odd."""
    if values.dtype == np.float64:
        # To float32 towards zero with the last bit set for what was lost: then the next rounding is right.
        single = narrow(values, np.dtype(np.float32), "rz").view(np.uint32)
        lost = single.view(np.float32).astype(np.float64) != values
        bits = np.where(lost & ~np.isnan(values), single | np.uint32(1), single)
    else:
        bits = values.astype(np.float32, copy=False).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return np.where(nan, np.uint32(0x7FFF), rounded).astype(np.uint16)


def to_integer(values, dtype, rounding):
    """Saturates; NaN becomes 0."""
    whole = ROUNDINGS[rounding](values.astype(np.float64))
    info = np.iinfo(dtype)
    above, below = whole >= float(info.max) + (1 if dtype.itemsize < 8 else 0), whole <= info.min
    inside = np.where(above | below | np.isnan(whole), 0.0, whole).astype(dtype)
    return np.where(above, dtype.type(info.max), np.where(below, dtype.type(info.min), inside))


def to_float(values, dtype, rounding):
    """From any number to a float of ``dtype``."""
    if rounding == "rn" or (values.dtype.kind == "f" and values.itemsize <= dtype.itemsize):
        return values.astype(dtype)
    if values.dtype.kind != "f" and values.itemsize == 8:
        raise KeyError(rounding)
    return narrow(values.astype(np.float64), dtype, rounding)


@OPERATIONS.of("cvt")
def cvt(program, item):
    parts = item.parts[1:]
    to, of = parts[-2], parts[-1]
    if to in ("f16x2", "bf16x2"):
        return pair(program, item, to)
    rounding = next((p for p in parts if p in ("rn", "rz", "rm", "rp")), "rn")
    whole = next((p for p in parts if p in ROUNDINGS), None)
    source_type, target_type = DTYPES[of], DTYPES[to]
    source = program.read(item.operands[1], source_type)
    target = program.write(item.operands[0], target_type)
    floating = source_type.kind == "f" or of == "bf16"

    def take(a):
        a = bfloat(a) if of == "bf16" else a
        return flush(a) if floating and "ftz" in parts and a.itemsize == 4 else a

    if target_type.kind in "iu" and to != "bf16":
        if floating:
            return elementwise(lambda a: to_integer(take(a), target_type, whole), target, source)
        return elementwise(integers(target_type, "sat" in parts), target, source)
    if to == "bf16":
        if rounding != "rn":
            raise KeyError(rounding)
        return elementwise(lambda a: to_bfloat(take(a)), target, source)

    def function(a):
        a = take(a)
        a = ROUNDINGS[whole](a) if whole else a
        return to_float(a, target_type, rounding)

    return elementwise(finished(function, item) if floating and of != "bf16" else function, target, source)


def integers(dtype, saturate):
    """Between integers: the low bits, or the nearest that there is."""
    if not saturate:
        return lambda a: a.astype(dtype)
    info = np.iinfo(dtype)

    def clip(a):
        low, high = max(info.min, np.iinfo(a.dtype).min), min(info.max, np.iinfo(a.dtype).max)
        return np.clip(a, low, high).astype(dtype)

    return clip


def pair(program, item, to):
    """Two float32 become the two halves of a register, the first the upper one."""
    if "rn" not in item.parts or item.parts[-1] != "f32" or "satfinite" in item.parts:
        raise KeyError(item.opcode)
    up, low = (program.read(o, np.float32) for o in item.operands[1:3])
    relu = "relu" in item.parts

    def bits(a):
        a = np.maximum(a, np.float32(0)) if relu else a
        return (a.astype(np.float16).view(np.uint16) if to == "f16x2" else to_bfloat(a)).astype(np.uint32)

    target = program.write(item.operands[0], np.uint32)
    return elementwise(lambda a, b: bits(a) << np.uint32(16) | bits(b), target, up, low)
