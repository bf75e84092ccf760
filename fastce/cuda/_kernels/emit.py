"""How intrinsics write LLVM and PTX."""

from llvmlite import ir
from numba.cuda import types

WORDS = 4  # of a chunk
CHUNK_BYTES = 16

INDEX, WORD, HALF = ir.IntType(64), ir.IntType(32), ir.IntType(16)
FLOAT, DOUBLE, VOID = ir.FloatType(), ir.DoubleType(), ir.VoidType()
CHUNK = types.UniTuple(types.uint32, WORDS)
SHARED = 3  # address space


def bits_of(array):
    return array.dtype.bitwidth


def lane_count(array):
    return CHUNK_BYTES * 8 // bits_of(array)


def real_type(array):
    return types.float64 if array.dtype == types.float64 else types.float32


def int64_arg(context, builder, signature, args, n):
    return context.cast(builder, args[n], signature.args[n], types.int64)


def pointer_to(context, builder, array_type, array, k):
    """Where element k is, as a pointer to an integer of its width."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(builder.bitcast(data, ir.IntType(bits_of(array_type)).as_pointer()), [k])


def address_of(context, builder, array_type, array, k):
    return builder.ptrtoint(pointer_to(context, builder, array_type, array, k), INDEX)


def ptx(builder, result, code, constraints, args, stays=True):
    """One line of PTX; what ``stays`` is neither moved past its like nor merged with it."""
    kind = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(ir.InlineAsm(kind, code, constraints, side_effect=stays), args)


def parts_of(builder, value, count):
    return [builder.extract_value(value, k) for k in range(count)]


def array_of(context, builder, kind, data, size):
    """A one-dimensional array of elements that follow each other."""
    result = context.make_array(kind)(context, builder)
    width = ir.Constant(INDEX, context.get_abi_sizeof(context.get_data_type(kind.dtype)))
    context.populate_array(result, data=data, shape=[size], strides=[width], itemsize=width, meminfo=None)
    return result._getvalue()


def words_of(builder, elements):
    """Four words from 2, 4 or 8 integers, the first in the lowest bits."""
    bits = elements[0].type.width
    if bits == 64:
        halves = ((e, builder.lshr(e, ir.Constant(INDEX, 32))) for e in elements)
        return [builder.trunc(part, WORD) for pair in halves for part in pair]
    if bits == 32:
        return list(elements)
    wide = [builder.zext(e, WORD) for e in elements]
    pairs = zip(wide[::2], wide[1::2], strict=True)
    return [builder.or_(low, builder.shl(high, ir.Constant(WORD, 16))) for low, high in pairs]


def elements_of(builder, words, bits):
    """The reverse."""
    if bits == 64:
        wide = [builder.zext(word, INDEX) for word in words]
        pairs = zip(wide[::2], wide[1::2], strict=True)
        return [builder.or_(low, builder.shl(high, ir.Constant(INDEX, 32))) for low, high in pairs]
    if bits == 32:
        return list(words)
    pairs = ((word, builder.lshr(word, ir.Constant(WORD, 16))) for word in words)
    return [builder.trunc(part, HALF) for pair in pairs for part in pair]


def real_of(builder, dtype, element):
    if dtype == types.float64:
        return builder.bitcast(element, DOUBLE)
    if dtype == types.float32:
        return builder.bitcast(element, FLOAT)
    if dtype == types.float16:
        return ptx(builder, FLOAT, "cvt.f32.f16 $0, $1;", "=f,h", [element], stays=False)
    return builder.bitcast(builder.shl(builder.zext(element, WORD), ir.Constant(WORD, 16)), FLOAT)


def element_of(builder, dtype, real):
    """Rounded to the dtype, to nearest even."""
    if dtype in (types.float32, types.float64):
        return builder.bitcast(real, ir.IntType(dtype.bitwidth))
    name = "f16" if dtype == types.float16 else "bf16"
    return ptx(builder, HALF, f"cvt.rn.{name}.f32 $0, $1;", "=h,f", [real], stays=False)


def extreme(builder, instruction, a, b):
    """The larger (max) or smaller (min) of two reals, NaN if either is, unlike Python's and the device library's."""
    if a.type == FLOAT:
        return ptx(builder, FLOAT, f"{instruction}.NaN.f32 $0, $1, $2;", "=f,f,f", [a, b], stays=False)
    comparison = {"max": ">", "min": "<"}[instruction]
    chosen = builder.select(builder.fcmp_ordered(comparison, a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)
