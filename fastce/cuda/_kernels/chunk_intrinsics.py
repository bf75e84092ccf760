"""Chunks as compiled code: see `fastce.cuda._kernels.primitives`."""

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from fastce.cuda._kernels.emit import (
    CHUNK,
    INDEX,
    VOID,
    WORD,
    WORDS,
    address_of,
    array_of,
    bits_of,
    element_of,
    elements_of,
    extreme,
    int64_arg,
    lane_count,
    parts_of,
    pointer_to,
    ptx,
    real_of,
    real_type,
    words_of,
)

FOUR_WORDS = ir.LiteralStructType([WORD] * WORDS)
MINUS_INFINITY = {
    types.float32: 0xFF800000,
    types.float64: 0xFFF0000000000000,
    types.float16: 0xFC00,
    types.uint16: 0xFF80,  # bfloat16
}


@intrinsic
def load_chunk(typingctx, array, k):
    """Elements k to k + lanes, aligned to 16 bytes, by one load."""

    def generate(context, builder, signature, args):
        address = address_of(context, builder, array, args[0], int64_arg(context, builder, signature, args, 1))
        code = "ld.global.v4.b32 {$0, $1, $2, $3}, [$4];"
        words = ptx(builder, FOUR_WORDS, code, "=r,=r,=r,=r,l,~{memory}", [address])
        return context.make_tuple(builder, CHUNK, parts_of(builder, words, WORDS))

    return CHUNK(array, k), generate


@intrinsic
def load_part(typingctx, array, k, start, stop):
    """Elements k to k + lanes one by one; those that are not in [start, stop) are -inf."""
    element = ir.IntType(bits_of(array))

    def generate(context, builder, signature, args):
        first, begin, end = (int64_arg(context, builder, signature, args, n) for n in (1, 2, 3))
        nothing = ir.Constant(element, MINUS_INFINITY[array.dtype])
        elements = []
        for lane in range(lane_count(array)):
            here = builder.add(first, ir.Constant(INDEX, lane))
            is_there = builder.and_(builder.icmp_signed(">=", here, begin), builder.icmp_signed("<", here, end))
            before = builder.block
            with builder.if_then(is_there):
                loaded = builder.load(pointer_to(context, builder, array, args[0], here))
                inside = builder.block
            elements.append(builder.phi(element))
            elements[-1].add_incoming(nothing, before)
            elements[-1].add_incoming(loaded, inside)
        return context.make_tuple(builder, CHUNK, words_of(builder, elements))

    return CHUNK(array, k, start, stop), generate


@intrinsic
def store_chunk(typingctx, array, k, chunk):
    """Store elements k to k + lanes, aligned to 16 bytes, at once."""

    def generate(context, builder, signature, args):
        address = address_of(context, builder, array, args[0], int64_arg(context, builder, signature, args, 1))
        words = parts_of(builder, args[2], WORDS)
        ptx(builder, VOID, "st.global.v4.b32 [$0], {$1, $2, $3, $4};", "l,r,r,r,r,~{memory}", [address, *words])
        return context.get_dummy_value()

    return types.void(array, k, chunk), generate


@intrinsic
def store_part(typingctx, array, k, start, stop, chunk):
    """Store those of the elements k to k + lanes that are in [start, stop)."""

    def generate(context, builder, signature, args):
        first, begin, end = (int64_arg(context, builder, signature, args, n) for n in (1, 2, 3))
        words = parts_of(builder, args[4], WORDS)
        for lane, element in enumerate(elements_of(builder, words, bits_of(array))):
            here = builder.add(first, ir.Constant(INDEX, lane))
            is_there = builder.and_(builder.icmp_signed(">=", here, begin), builder.icmp_signed("<", here, end))
            with builder.if_then(is_there):
                builder.store(element, pointer_to(context, builder, array, args[0], here))
        return context.get_dummy_value()

    return types.void(array, k, start, stop, chunk), generate


@intrinsic
def reals_of(typingctx, array, chunk):
    """The elements of a chunk of this array."""
    kind = types.UniTuple(real_type(array), lane_count(array))

    def generate(context, builder, signature, args):
        elements = elements_of(builder, parts_of(builder, args[1], WORDS), bits_of(array))
        return context.make_tuple(builder, kind, [real_of(builder, array.dtype, e) for e in elements])

    return kind(array, chunk), generate


@intrinsic
def top_of_chunk(typingctx, array, chunk):
    """The largest element of a chunk of this array, NaN if there is one; halves are compared two at a time."""

    def generate(context, builder, signature, args):
        dtype, values = array.dtype, parts_of(builder, args[1], WORDS)
        if bits_of(array) == 16:
            name = "f16x2" if dtype == types.float16 else "bf16x2"
            code = f"max.NaN.{name} $0, $1, $2;"
            word = _folded(values, lambda a, b: ptx(builder, WORD, code, "=r,r,r", [a, b], stays=False))
            values = [word]
        reals = [real_of(builder, dtype, e) for e in elements_of(builder, values, bits_of(array))]
        return _folded(reals, lambda a, b: extreme(builder, "max", a, b))

    return real_type(array)(array, chunk), generate


def _folded(values, function):
    """function of pairs, and of pairs of those, until one is left."""
    while len(values) > 1:
        values = [function(a, b) for a, b in zip(values[::2], values[1::2], strict=True)]
    return values[0]


@intrinsic
def new_reals(typingctx, array):
    """Room for the elements of a chunk of this array, in registers if it is indexed by constants."""
    kind = types.Array(real_type(array), 1, "C")

    def generate(context, builder, signature, args):
        data = cgutils.alloca_once(builder, context.get_value_type(kind.dtype), size=lane_count(array))
        return array_of(context, builder, kind, data, ir.Constant(INDEX, lane_count(array)))

    return kind(array), generate


@intrinsic
def chunk_of(typingctx, array, reals):
    """A chunk of this array from the first elements of a local array of reals, rounded to its dtype."""

    def generate(context, builder, signature, args):
        data = context.make_array(reals)(context, builder, args[1]).data
        values = [builder.load(builder.gep(data, [ir.Constant(INDEX, k)])) for k in range(lane_count(array))]
        return context.make_tuple(builder, CHUNK, packed(builder, array, values))

    return CHUNK(array, reals), generate


def packed(builder, array, values):
    """Words of reals, rounded to the dtype of an array; halves two at a time."""
    if bits_of(array) != 16:
        return words_of(builder, [element_of(builder, array.dtype, value) for value in values])
    name = "f16x2" if array.dtype == types.float16 else "bf16x2"
    code, pairs = f"cvt.rn.{name}.f32 $0, $1, $2;", zip(values[::2], values[1::2], strict=True)
    return [ptx(builder, WORD, code, "=r,f,f", [high, low], stays=False) for low, high in pairs]
