"""The first lanes of a vector, read and written: by masks, or by the bits of their count.

A row ends within a vector, mostly. AVX-512 reads and writes any lanes by one instruction, AVX2 those of 32 and 64 bits;
elsewhere LLVM makes a branch for every lane of 16. There the count has five bits, each of which is a branch: 11 lanes
are 8, 2 and 1.
"""

from typing import Any

from llvmlite import ir

from fastce.cpu._vectors.addresses import _alignment, lanes_mask, store_masked
from fastce.cpu._vectors.moves import _shuffled
from fastce.cpu._vectors.simd import _call_llvm, _llvm_name
from fastce.cpu._vectors.target import has_avx512, vector_bits


def load_first_lanes(builder: Any, place: Any, stored: ir.VectorType, count: Any, other: int = 0) -> Any:
    """The vector at ``place``, of which only the first ``count`` lanes are read; the others are ``other``."""
    others = ir.Constant(stored, [other] * stored.count)
    if not _has_masks(stored):
        return _load_by_bits(builder, place, others, _within(builder, count, stored.count))
    place = builder.bitcast(place, stored.as_pointer())
    name = f"llvm.masked.load.{_llvm_name(stored)}.p0"
    mask = lanes_mask(builder, count, stored.count)
    return _call_llvm(builder, name, stored, [place, _alignment(stored), mask, others])


def store_first_lanes(builder: Any, place: Any, value: Any, count: Any) -> None:
    """Write the first ``count`` lanes."""
    if _has_masks(value.type):
        store_masked(builder, place, lanes_mask(builder, count, value.type.count), value)
    else:
        _store_by_bits(builder, place, value, _within(builder, count, value.type.count))


def _has_masks(stored: ir.VectorType) -> bool:
    """Whether an instruction reads and writes some lanes of such vectors."""
    return has_avx512() or (vector_bits() == 256 and _size(stored) >= 4)


def _size(stored: ir.VectorType) -> int:
    """Of an element, in bytes."""
    return int(_alignment(stored).constant)


def _within(builder: Any, count: Any, lanes: int) -> Any:
    for bound, beyond in ((0, "<"), (lanes, ">")):
        most = ir.Constant(count.type, bound)
        count = builder.select(builder.icmp_signed(beyond, count, most), most, count)
    return count


def _has_bit(builder: Any, count: Any, width: int) -> Any:
    bit = builder.and_(count, ir.Constant(count.type, width))
    return builder.icmp_unsigned("!=", bit, ir.Constant(count.type, 0))


def _piece(builder: Any, place: Any, count: Any, stored: ir.VectorType) -> Any:
    """Where as many lanes as ``stored`` has are that belong to this bit of the count: after those of higher bits."""
    first = builder.and_(count, ir.Constant(count.type, -2 * stored.count))
    place = builder.bitcast(place, stored.element.as_pointer())
    return builder.bitcast(builder.gep(place, [first], source_etype=stored.element), stored.as_pointer())


def _load_by_bits(builder: Any, place: Any, others: ir.Constant, count: Any) -> Any:
    """From the lowest bit on: the lanes of bit w stand before those of lower bits, which fit into w and never move."""
    lanes = others.type.count
    width, result = 1, _shuffled(builder, others, others, [0])
    while width <= lanes:
        joined = list(range(min(2 * width, lanes)))
        stored = ir.VectorType(others.type.element, width)
        with builder.if_else(_has_bit(builder, count, width)) as (there, missing):
            with there:
                piece = _piece(builder, place, count, stored)
                with_piece = builder.load(piece, align=_size(stored), typ=stored)
                with_piece, there_block = _shuffled(builder, with_piece, result, joined), builder.block
            with missing:
                rest = _shuffled(builder, others, others, list(range(width)))
                without, missing_block = _shuffled(builder, result, rest, joined), builder.block
        result = builder.phi(with_piece.type)
        result.add_incoming(with_piece, there_block)
        result.add_incoming(without, missing_block)
        width *= 2
    return result


def _store_by_bits(builder: Any, place: Any, value: Any, count: Any) -> None:
    """From the highest bit on: what is not written yet has at most twice as many lanes as the next bit says."""
    width = value.type.count
    while width:
        is_there, first = _has_bit(builder, count, width), list(range(width))
        with builder.if_then(is_there):
            part = _shuffled(builder, value, value, first)
            builder.store(part, _piece(builder, place, count, part.type), align=_size(part.type))
        if width < value.type.count:
            after = _shuffled(builder, value, value, [width + k for k in first])
            value = builder.select(is_there, after, _shuffled(builder, value, value, first))
        width //= 2
