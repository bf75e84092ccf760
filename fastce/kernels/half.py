"""Half precision in registers: float16 arrives as its bits in uint16, bfloat16 as its bits in int16."""

from typing import Any

from llvmlite import ir
from numba import types


def _stored_vector(context: Any, storage: types.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(context.get_data_type(storage), lanes)


def _widen(builder: Any, storage: types.Type, stored: Any) -> Any:
    """float16 or bfloat16 bits to float32, exactly; float32 and float64 as they are."""
    if isinstance(storage, types.Float):
        return stored
    lanes = stored.type.count
    floats = ir.VectorType(ir.FloatType(), lanes)
    if storage == types.uint16:
        return builder.fpext(builder.bitcast(stored, ir.VectorType(ir.HalfType(), lanes)), floats)
    words = ir.VectorType(ir.IntType(32), lanes)
    sixteen = ir.Constant(words, [16] * lanes)
    return builder.bitcast(builder.shl(builder.zext(stored, words), sixteen), floats)


def _narrow(builder: Any, storage: types.Type, value: Any) -> Any:
    """The inverse of `_widen`, rounding to nearest, ties to even."""
    if isinstance(storage, types.Float):
        return value
    lanes = value.type.count
    shorts = ir.VectorType(ir.IntType(16), lanes)
    if storage == types.uint16:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes)), shorts)
    words = ir.VectorType(ir.IntType(32), lanes)
    repeat = lambda number: ir.Constant(words, [number] * lanes)  # noqa: E731
    bits = builder.bitcast(value, words)
    lowest_kept = builder.and_(builder.lshr(bits, repeat(16)), repeat(1))
    rounded = builder.add(builder.add(bits, repeat(0x7FFF)), lowest_kept)
    quiet_nan = builder.or_(bits, repeat(0x400000))  # rounding could carry a NaN into infinity
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.lshr(builder.select(is_nan, quiet_nan, rounded), repeat(16)), shorts)
