"""What exp is made of: powers of two out of the bits of a float, a table in a register, scaled coefficients."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.simd import _call_llvm, _splat
from fastce.cpu._vectors.target import has_avx512


@intrinsic
def geometric(typingctx, coefficients, factor, ratio, like):
    """``coefficients[k] * factor * ratio**k``, computed in float64, in the dtype of ``like``."""
    result = types.UniTuple(like, len(coefficients))

    def codegen(context, builder, sig, args):
        values, power, ratio, _ = args
        scaled = []
        for k in range(len(sig.args[0])):
            value = builder.fmul(builder.extract_value(values, k), power)
            scaled.append(context.cast(builder, value, types.float64, like))
            power = builder.fmul(power, ratio)
        return context.make_tuple(builder, result, scaled)

    return result(coefficients, types.float64, types.float64, like), codegen


@intrinsic
def low_bits_to_exponent(typingctx, x):
    """The float whose sign and exponent fields are the lowest bits of ``x``."""

    def codegen(context, builder, sig, args):
        (x,) = args
        element = x.type.element if isinstance(x.type, ir.VectorType) else x.type
        bits, mantissa = (32, 23) if element == ir.FloatType() else (64, 52)
        integer, amount = ir.IntType(bits), ir.Constant(ir.IntType(bits), mantissa)
        if isinstance(x.type, ir.VectorType):
            integer, amount = ir.VectorType(integer, x.type.count), _splat(builder, amount, x.type.count)
        return builder.bitcast(builder.shl(builder.bitcast(x, integer), amount), x.type)

    return x(x), codegen


def _looked_up(builder: Any, floats: Any, numbers: Any) -> Any:
    """``floats[number]`` in each lane, modulo how many they are; one instruction for every vector register."""
    if floats.type.count == 4:
        return _looked_up_in_fours(builder, floats, numbers)
    lanes, element = numbers.type.count, numbers.type.element
    if has_avx512():
        letter = "s" if element.width == 32 else "d"
        return _call_llvm(builder, f"llvm.x86.avx512.permvar.{letter}f.512", floats.type, [floats, numbers])
    low_bits = builder.and_(numbers, ir.Constant(numbers.type, [lanes - 1] * lanes))
    found = ir.Constant(floats.type, ir.Undefined)
    for k in range(lanes):  # nobody waits for this: so the table can be tested on machines that do without it
        lane = ir.Constant(ir.IntType(32), k)
        value = builder.extract_element(floats, builder.extract_element(low_bits, lane))
        found = builder.insert_element(found, value, lane)
    return found


def _looked_up_in_fours(builder: Any, floats: Any, numbers: Any) -> Any:
    parts = []
    fours = builder.shuffle_vector(floats, floats, ir.Constant(_numbers(8), [0, 1, 2, 3] * 2))
    for first in range(0, numbers.type.count, 8):
        eight = builder.shuffle_vector(numbers, numbers, ir.Constant(_numbers(8), list(range(first, first + 8))))
        parts.append(_call_llvm(builder, "llvm.x86.avx.vpermilvar.ps.256", fours.type, [fours, eight]))
    return builder.shuffle_vector(*parts, ir.Constant(_numbers(numbers.type.count), list(range(numbers.type.count))))


def _numbers(lanes: int) -> Any:
    return ir.VectorType(ir.IntType(32), lanes)


@intrinsic
def looked_up_power(typingctx, table, t):
    """table[j] * 2**k, where the lowest bits of ``t`` are k N + j, the table's N constants being normal numbers.

    N is the number of lanes, or 4: one instruction permutes the table. k and j
    are shifted to where the exponent and the mantissa's first bits are; k adds to the exponent, and j has been
    subtracted from the constants before.
    """
    bits, mantissa = (32, 23) if t.dtype == types.float32 else (64, 52)
    size = len(table)

    def codegen(context, builder, sig, args):
        integer = ir.IntType(bits)
        integers, in_table = ir.VectorType(integer, t.lanes), ir.VectorType(integer, size)
        real = context.get_value_type(t.dtype)
        shift = mantissa - (size.bit_length() - 1)
        floats = ir.Constant(ir.VectorType(real, size), ir.Undefined)
        for j in range(size):
            value = context.cast(builder, builder.extract_value(args[0], j), types.float64, t.dtype)
            floats = builder.insert_element(floats, value, ir.Constant(ir.IntType(32), j))
        less_j = ir.Constant(in_table, [j << shift for j in range(size)])
        floats = builder.bitcast(builder.sub(builder.bitcast(floats, in_table), less_j), floats.type)
        low_bits = builder.bitcast(args[1], integers)
        found = _looked_up(builder, floats, low_bits)
        shifted = builder.shl(low_bits, ir.Constant(integers, [shift] * t.lanes))
        return builder.bitcast(builder.add(builder.bitcast(found, integers), shifted), args[1].type)

    return t(table, t), codegen
