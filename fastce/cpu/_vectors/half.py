"""Half precision in registers: float16 arrives as its bits in uint16, bfloat16 as its bits in int16."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils

from fastce.cpu._vectors import target


def _stored_vector(context: Any, storage: types.Type, lanes: int) -> ir.VectorType:
    return ir.VectorType(context.get_data_type(storage), lanes)


def _widen(builder: Any, storage: types.Type, stored: Any) -> Any:
    """float16 or bfloat16 bits to float32, exactly; float32 and float64 as they are."""
    if isinstance(storage, types.Float):
        return stored
    lanes = stored.type.count
    floats = ir.VectorType(ir.FloatType(), lanes)
    if storage == types.uint16 and not target.has_half():
        return _half_to_float(builder, stored)
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
    if storage == types.uint16 and not target.has_half():
        return _float_to_half(builder, value)
    if storage == types.uint16:
        return builder.bitcast(builder.fptrunc(value, ir.VectorType(ir.HalfType(), lanes)), shorts)
    if lanes == _LANES_AT_ONCE and target.has_bfloat():
        return _rounded_at_once(builder, value)
    return _rounded_in_integers(builder, value)


# --- bfloat16 --------------------------------------------------------------------------------------------------------


class _BFloat(ir.Type):
    """LLVM's type, which llvmlite lacks; only ever an operand."""

    def __str__(self) -> str:
        return "bfloat"


_LANES_AT_ONCE = 16
_SUBNORMAL = 0x20


def _rounded_at_once(builder: Any, value: Any) -> Any:
    """By the instruction, which takes subnormal numbers for 0: vectors that have one are rounded in integers."""
    at_once = builder.fptrunc(value, ir.VectorType(_BFloat(), _LANES_AT_ONCE))
    at_once = builder.bitcast(at_once, ir.VectorType(ir.IntType(16), _LANES_AT_ONCE))
    bits = ir.IntType(_LANES_AT_ONCE)
    subnormal = _fpclass(builder, value)
    start = builder.block
    with builder.if_then(
        builder.icmp_unsigned("!=", builder.bitcast(subnormal, bits), ir.Constant(bits, 0)), likely=False
    ):
        in_integers, end = _rounded_in_integers(builder, value), builder.block
    result = builder.phi(at_once.type)
    result.add_incoming(at_once, start)
    result.add_incoming(in_integers, end)
    return result


def _fpclass(builder: Any, value: Any) -> Any:
    mask = ir.VectorType(ir.IntType(1), _LANES_AT_ONCE)
    function_type = ir.FunctionType(mask, [value.type, ir.IntType(32)])
    function = cgutils.get_or_insert_function(builder.module, function_type, "llvm.x86.avx512.fpclass.ps.512")
    return builder.call(function, [value, ir.Constant(ir.IntType(32), _SUBNORMAL)])


def _rounded_in_integers(builder: Any, value: Any) -> Any:
    lanes = value.type.count
    shorts = ir.VectorType(ir.IntType(16), lanes)
    words = ir.VectorType(ir.IntType(32), lanes)
    repeat = lambda number: ir.Constant(words, [number] * lanes)  # noqa: E731
    bits = builder.bitcast(value, words)
    lowest_kept = builder.and_(builder.lshr(bits, repeat(16)), repeat(1))
    rounded = builder.add(builder.add(bits, repeat(0x7FFF)), lowest_kept)
    quiet_nan = builder.or_(bits, repeat(0x400000))  # rounding could carry a NaN into infinity
    is_nan = builder.fcmp_unordered("uno", value, value)
    return builder.trunc(builder.lshr(builder.select(is_nan, quiet_nan, rounded), repeat(16)), shorts)


# --- float16 where no instruction converts it ------------------------------------------------------------------------


def _half_to_float(builder: Any, stored: Any) -> Any:
    """The exponent is moved by 112, of infinities and NaN by as much again; subnormals are m * 2**-24."""
    lanes = stored.type.count
    words, floats = ir.VectorType(ir.IntType(32), lanes), ir.VectorType(ir.FloatType(), lanes)
    repeat = lambda number: ir.Constant(words, [number] * lanes)  # noqa: E731
    bits = builder.zext(stored, words)
    size = builder.and_(bits, repeat(0x7FFF))
    moved = builder.add(builder.shl(size, repeat(13)), repeat(112 << 23))
    not_finite = builder.or_(moved, repeat(0x7F800000))
    quiet = builder.or_(not_finite, repeat(0x400000))
    not_finite = builder.select(builder.icmp_unsigned(">", size, repeat(0x7C00)), quiet, not_finite)
    result = builder.select(builder.icmp_unsigned("<", size, repeat(0x7C00)), moved, not_finite)
    subnormal = builder.fmul(builder.sitofp(size, floats), ir.Constant(floats, [2.0**-24] * lanes))
    result = builder.select(builder.icmp_unsigned("<", size, repeat(0x400)), builder.bitcast(subnormal, words), result)
    sign = builder.shl(builder.and_(bits, repeat(0x8000)), repeat(16))
    return builder.bitcast(builder.or_(result, sign), floats)


def _float_to_half(builder: Any, value: Any) -> Any:
    """Rounded in integers; below 2**-14 by adding 0.5, whose last place is that of a subnormal."""
    lanes = value.type.count
    words, shorts = ir.VectorType(ir.IntType(32), lanes), ir.VectorType(ir.IntType(16), lanes)
    repeat = lambda number: ir.Constant(words, [number] * lanes)  # noqa: E731
    bits = builder.bitcast(value, words)
    size = builder.and_(bits, repeat(0x7FFFFFFF))
    lowest_kept = builder.and_(builder.lshr(size, repeat(13)), repeat(1))
    rounded = builder.add(builder.add(size, repeat(0xFFF - (112 << 23) & 0xFFFFFFFF)), lowest_kept)
    result = builder.lshr(rounded, repeat(13))
    half = ir.Constant(value.type, [0.5] * lanes)
    subnormal = builder.sub(
        builder.bitcast(builder.fadd(builder.bitcast(size, value.type), half), words), repeat(0x3F000000)
    )
    result = builder.select(builder.icmp_unsigned("<", size, repeat(0x38800000)), subnormal, result)
    result = builder.select(builder.icmp_unsigned(">=", size, repeat(0x47800000)), repeat(0x7C00), result)
    payload = builder.or_(builder.and_(builder.lshr(size, repeat(13)), repeat(0x3FF)), repeat(0x7E00))
    result = builder.select(builder.icmp_unsigned(">", size, repeat(0x7F800000)), payload, result)
    sign = builder.and_(builder.lshr(bits, repeat(16)), repeat(0x8000))
    return builder.trunc(builder.or_(result, sign), shorts)
