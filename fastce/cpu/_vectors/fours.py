"""Four elements of as many rows as a vector has lanes, as four vectors whose lanes are the rows; and back.

Each part of a vector takes four elements of a row as they lie in memory: rows k, k + 4, k + 8, ... make vector k.
Within parts, two shuffles a vector transpose them; a square of sixteen would need four.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import element_pointer
from fastce.cpu._vectors.compiler import real_of
from fastce.cpu._vectors.first_lanes import load_first_lanes, store_first_lanes
from fastce.cpu._vectors.half import _narrow, _stored_vector, _widen
from fastce.cpu._vectors.moves import _shuffled
from fastce.cpu._vectors.simd import VECTOR_BYTES, vector_of
from fastce.cpu._vectors.squares import _transposed
from fastce.cpu._vectors.target import vector_bits

FOUR = 4


def _places(builder: Any, context: Any, pointer_type: Any, args: Any, all_there: bool) -> list[Any]:
    """Where each row's elements are; rows that are not there are the last one again.

    Rows are counted from every fourth, by a stride that LLVM cannot look through: it would keep the places of sixteen
    rows from one call to the next, on the stack.
    """
    row, i, stride, rows = args
    lanes = vector_of(real_of(pointer_type.dtype)).lanes
    if not all_there:
        last = builder.sub(rows, ir.Constant(rows.type, 1))
        numbers = [ir.Constant(rows.type, k) for k in range(lanes)]
        numbers = [builder.select(builder.icmp_signed("<", k, rows), k, last) for k in numbers]
        at = [builder.add(i, builder.mul(stride, k)) for k in numbers]
        return [element_pointer(builder, context, pointer_type, row, k) for k in at]
    stride = builder.asm(ir.FunctionType(stride.type, [stride.type]), "", "=r,0", [stride], True)
    first, places = element_pointer(builder, context, pointer_type, row, i), []
    strides = [builder.mul(stride, ir.Constant(stride.type, k)) for k in range(FOUR + 1)]
    for _ in range(0, lanes, FOUR):
        places += [element_pointer(builder, context, pointer_type, first, k) for k in strides[:FOUR]]
        first = element_pointer(builder, context, pointer_type, first, strides[FOUR])
    return places


def _in_128_bits(storage: Any) -> int:
    return min(FOUR, 128 // real_of(storage).bitwidth)


def _as_it_is(builder: Any, vector: Any) -> Any:
    """The vector, which LLVM knows nothing of: it would take parts of those that are transposed, and transpose these.

    A part goes from a register to memory without arithmetic, but not into another register.
    """
    number = VECTOR_BYTES * 8 // vector_bits() if vector_bits() > 128 else 0
    lanes, registers = vector.type.count // max(number, 1), []
    for k in range(number):
        part = _shuffled(builder, vector, vector, list(range(k * lanes, (k + 1) * lanes)))
        register = ir.FunctionType(part.type, [part.type])
        registers.append(builder.asm(register, "", "=v,0" if number == 1 else "=x,0", [part], False))
    return _joined(builder, registers) if number else vector


def _joined(builder: Any, parts: list[Any]) -> Any:
    """One vector of the lanes of all."""
    while len(parts) > 1:
        lanes = list(range(2 * parts[0].type.count))
        parts = [_shuffled(builder, a, b, lanes) for a, b in zip(parts[::2], parts[1::2], strict=True)]
    return parts[0]


def _fours_at(all_there: bool, whole: bool) -> tuple[Any, Any]:
    """Intrinsics that load and store, of as many rows as there are lanes or less, four elements of each or less."""

    @intrinsic
    def load(typingctx, row, i, stride, rows, count):
        vector = vector_of(real_of(row.dtype))
        result = types.UniTuple(vector, FOUR)

        def codegen(context, builder, sig, args):
            *where, count = args
            storage, parts = sig.args[0].dtype, []
            stored = _stored_vector(context, storage, FOUR)
            for place in _places(builder, context, sig.args[0], where, all_there):
                if whole:
                    place = builder.bitcast(place, stored.as_pointer())
                    parts.append(builder.load(place, align=storage.bitwidth // 8, typ=stored))
                else:
                    parts.append(load_first_lanes(builder, place, stored, count))
            vectors = [_widen(builder, storage, _joined(builder, parts[k::FOUR])) for k in range(FOUR)]
            return context.make_tuple(builder, result, _transposed(builder, vectors, _in_128_bits(storage)))

        return result(row, types.int64, types.int64, types.int64, types.int64), codegen

    @intrinsic
    def store(typingctx, row, i, stride, rows, count, vectors):
        def codegen(context, builder, sig, args):
            *where, count, vectors = args
            storage = sig.args[0].dtype
            of_rows = [builder.extract_value(vectors, k) for k in range(FOUR)]
            of_rows = _transposed(builder, of_rows, _in_128_bits(storage))
            of_rows = [_narrow(builder, storage, _as_it_is(builder, vector)) for vector in of_rows]
            places = _places(builder, context, sig.args[0], where, all_there)
            for k, place in reversed(list(enumerate(places))):  # what the last row is in the end is itself
                vector, first = of_rows[k % FOUR], k // FOUR * FOUR
                part = _shuffled(builder, vector, vector, list(range(first, first + FOUR)))
                if whole:
                    place = builder.bitcast(place, part.type.as_pointer())
                    builder.store(part, place, align=storage.bitwidth // 8)
                else:
                    store_first_lanes(builder, place, part, count)

        return types.void(row, types.int64, types.int64, types.int64, types.int64, vectors), codegen

    return load, store


load_four, store_four = _fours_at(True, True)
load_fewer, store_fewer = _fours_at(True, False)
load_of_some, store_of_some = _fours_at(False, False)
