"""The shared memory that holds chunks, as compiled code: see `fastce.cuda._kernels.primitives`."""

import functools

from llvmlite import ir
from numba.cuda import types
from numba.cuda.extending import intrinsic

from fastce.cuda._kernels.chunk_intrinsics import FOUR_WORDS, packed
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
    bits_of,
    element_of,
    elements_of,
    int64_arg,
    parts_of,
    ptx,
    real_of,
    real_type,
)

# Of a block: 32 KiB of shared memory, so that six blocks of 128 threads run on a multiprocessor of 228 KiB. While one
# waits for the other parts of its row (a fence, a count, a look and the states: by count some 2,000 cycles, a tenth of
# the 12 us that its share takes at 4.3 TB/s), five fetch or write. Twice the room would halve these waits, leave three
# blocks, and need shared memory that is not static, of which there are 48 KiB.
ROOM_CHUNKS = 2048
COPY = "cp.async.cg.shared.global"


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
