"""Chunks, and the shared memory that holds them, as compiled code: see `fastce.cuda._kernels.primitives`."""

import functools

from llvmlite import ir
from numba.cuda import cgutils, types
from numba.cuda.extending import intrinsic

from fastce.cuda._kernels.emit import (
    CHUNK,
    CHUNK_BYTES,
    HALF,
    INDEX,
    SHARED,
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

# Of a block: 32 KiB of shared memory, so that six blocks of 128 threads run on a multiprocessor of 228 KiB. While one
# waits for the other parts of its row (a fence, a count, a look and the states: by count some 2,000 cycles, a tenth of
# the 12 us that its share takes at 4.3 TB/s), five fetch or write. Twice the room would halve these waits, leave three
# blocks, and need shared memory that is not static, of which there are 48 KiB.
ROOM_CHUNKS = 2048
COPY = "cp.async.cg.shared.global"

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


# --- shared memory ---------------------------------------------------------------------------------------------------


@functools.cache
def room_for(chunks: int):
    """Room for so many chunks of a block, in shared memory: its address there."""

    @intrinsic
    def chunk_room(typingctx):
        def generate(context, builder, signature, args):
            name = builder.module.get_unique_name("chunk_room")
            room = ir.GlobalVariable(builder.module, ir.ArrayType(WORD, chunks * WORDS), name, addrspace=SHARED)
            room.linkage, room.align = "internal", CHUNK_BYTES
            room.initializer = ir.Constant(room.type.pointee, ir.Undefined)
            return builder.ptrtoint(room, WORD)

        return types.uint32(), generate

    return chunk_room


def _slot(context, builder, signature, args, first=0):
    """The address of a slot, from two arguments: a room and the slot's number."""
    slot = builder.trunc(int64_arg(context, builder, signature, args, first + 1), WORD)
    return builder.add(args[first], builder.mul(slot, ir.Constant(WORD, CHUNK_BYTES)))


@intrinsic
def fetch(typingctx, room, slot, array, k):
    """Begin to copy elements k to k + lanes, aligned to 16 bytes, into a slot of the room; it passes no register."""

    def generate(context, builder, signature, args):
        source = address_of(context, builder, array, args[2], int64_arg(context, builder, signature, args, 3))
        into = _slot(context, builder, signature, args)
        ptx(builder, VOID, f"{COPY} [$0], [$1], 16;", "r,l,~{memory}", [into, source])
        return context.get_dummy_value()

    return types.void(room, slot, array, k), generate


@intrinsic
def fetch_if(typingctx, is_there, room, slot, array, k):
    """`fetch` of what is there, without a branch, which would cost more than the copy."""

    def generate(context, builder, signature, args):
        source = address_of(context, builder, array, args[3], int64_arg(context, builder, signature, args, 4))
        into = _slot(context, builder, signature, args, 1)
        size = builder.select(builder.trunc(args[0], ir.IntType(1)), *(ir.Constant(WORD, n) for n in (CHUNK_BYTES, 0)))
        ptx(builder, VOID, f"{COPY} [$0], [$1], 16, $2;", "r,l,r,~{memory}", [into, source, size])
        return context.get_dummy_value()

    return types.void(is_there, room, slot, array, k), generate


@intrinsic
def wait_for_fetched(typingctx):
    """Wait until all that this thread has begun to fetch is there."""

    def generate(context, builder, signature, args):
        ptx(builder, VOID, "cp.async.wait_all;", "~{memory}", [])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def hold(typingctx, room, slot, chunk):
    """Put a chunk into a slot of the room."""

    def generate(context, builder, signature, args):
        words = [_slot(context, builder, signature, args), *parts_of(builder, args[2], WORDS)]
        ptx(builder, VOID, "st.shared.v4.b32 [$0], {$1, $2, $3, $4};", "r,r,r,r,r,~{memory}", words)
        return context.get_dummy_value()

    return types.void(room, slot, chunk), generate


@intrinsic
def held(typingctx, room, slot):
    """The chunk in a slot of the room."""

    def generate(context, builder, signature, args):
        code, into = "ld.shared.v4.b32 {$0, $1, $2, $3}, [$4];", [_slot(context, builder, signature, args)]
        words = ptx(builder, FOUR_WORDS, code, "=r,=r,=r,=r,r,~{memory}", into)
        return context.make_tuple(builder, CHUNK, parts_of(builder, words, WORDS))

    return CHUNK(room, slot), generate


def _place(context, builder, signature, args):
    """The address of element k of a room, from the first three arguments."""
    k = builder.trunc(int64_arg(context, builder, signature, args, 2), WORD)
    width = bits_of(signature.args[1]) // 8
    return builder.add(args[0], builder.mul(k, ir.Constant(WORD, width)))


@functools.cache
def get_reals_by(width: int):
    """Elements k to k + width of a room that holds those of an array: 1, or as many as lie aligned to their bytes."""

    @intrinsic
    def get_reals(typingctx, room, array, k):
        kind = types.UniTuple(real_type(array), width)

        def generate(context, builder, signature, args):
            word, letter, count, vector = _words(width * bits_of(array))
            into = ", ".join(f"${n}" for n in range(count))
            code = f"ld.shared{vector}.b{word.width} {into if count == 1 else f'{{{into}}}'}, [${count}];"
            result = word if count == 1 else ir.LiteralStructType([word] * count)
            constraints = f"={letter}," * count + "r,~{memory}"
            loaded = ptx(builder, result, code, constraints, [_place(context, builder, signature, args)])
            words = [loaded] if count == 1 else parts_of(builder, loaded, count)
            elements = words if word == HALF else elements_of(builder, words, bits_of(array))
            return context.make_tuple(builder, kind, [real_of(builder, array.dtype, e) for e in elements])

        return kind(room, array, k), generate

    return get_reals


@functools.cache
def put_reals_by(width: int):
    """Put reals of a local array, from ``first`` on, into a room as elements k to k + width: see `get_reals_by`.

    They are rounded to the dtype of the array.
    """

    @intrinsic
    def put_reals(typingctx, room, array, k, reals, first):
        def generate(context, builder, signature, args):
            word, letter, count, vector = _words(width * bits_of(array))
            data = context.make_array(reals)(context, builder, args[3]).data
            data = builder.gep(data, [int64_arg(context, builder, signature, args, 4)])
            values = [builder.load(builder.gep(data, [ir.Constant(INDEX, n)])) for n in range(width)]
            words = packed(builder, array, values) if word != HALF else [element_of(builder, array.dtype, values[0])]
            given = ", ".join(f"${n + 1}" for n in range(count))
            code = f"st.shared{vector}.b{word.width} [$0], {given if count == 1 else f'{{{given}}}'};"
            operands = [_place(context, builder, signature, args), *words]
            ptx(builder, VOID, code, "r," + f"{letter}," * count + "~{memory}", operands)
            return context.get_dummy_value()

        return types.void(room, array, k, reals, first), generate

    return put_reals


def _words(bits):
    """(type, constraint, number, suffix) of the words that so many bits are loaded and stored as."""
    if bits == 16:
        return HALF, "h", 1, ""
    count = bits // 32
    return WORD, "r", count, "" if count == 1 else f".v{count}"
