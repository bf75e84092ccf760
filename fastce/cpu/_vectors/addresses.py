"""Where elements are, and which lanes of a vector are read or written: what loads and stores are made of."""

from typing import Any

from llvmlite import ir
from numba import types

from fastce.cpu._vectors.simd import _call_llvm, _llvm_name, _splat

INDEX = ir.IntType(64)


def lanes_mask(builder: Any, count: Any, lanes: int) -> Any:
    """True in the first ``count`` lanes."""
    most = ir.Constant(count.type, lanes)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)
    short = ir.IntType(32)
    numbers = ir.Constant(ir.VectorType(short, lanes), list(range(lanes)))
    return builder.icmp_signed("<", numbers, _splat(builder, builder.trunc(count, short), lanes))


def element_pointer(builder: Any, context: Any, pointer_type: types.CPointer, pointer: Any, i: Any) -> Any:
    """Where element ``i`` is."""
    element = context.get_data_type(pointer_type.dtype)
    return builder.gep(pointer, [i], source_etype=element)


def elements_missing(builder: Any, pointer_type: types.CPointer, place: Any, size: int) -> Any:
    """How many elements lie between this place and the next address that is a multiple of so many bytes."""
    missing = builder.and_(builder.neg(builder.ptrtoint(place, INDEX)), ir.Constant(INDEX, size - 1))
    return builder.sdiv(missing, ir.Constant(INDEX, pointer_type.dtype.bitwidth // 8))


def _alignment(stored: ir.VectorType) -> ir.Constant:
    """That of a single element, in bytes."""
    bits = {ir.FloatType(): 32, ir.DoubleType(): 64}.get(stored.element) or stored.element.width
    return ir.Constant(ir.IntType(32), bits // 8)


def store_masked(builder: Any, place: Any, mask: Any, value: Any) -> None:
    """Write the lanes in the mask."""
    place = builder.bitcast(place, value.type.as_pointer())
    name = f"llvm.masked.store.{_llvm_name(value.type)}.p0"
    _call_llvm(builder, name, ir.VoidType(), [value, place, _alignment(value.type), mask])


def ask_for(builder: Any, context: Any, pointer_type: types.CPointer, pointer: Any, i: Any) -> None:
    """Code that asks for the cache line of element ``i``."""
    place = element_pointer(builder, context, pointer_type, pointer, i)
    place = builder.bitcast(place, ir.IntType(8).as_pointer())
    read, keep, data = (ir.Constant(ir.IntType(32), n) for n in (0, 3, 1))
    _call_llvm(builder, "llvm.prefetch.p0", ir.VoidType(), [place, read, keep, data])
