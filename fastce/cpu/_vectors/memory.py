"""Loads and stores of vectors, rows as pointers, half precision, prefetch and stores past the cache.

A kernel sees a row as a pointer to its first element and counts from there; the front door has made sure that the
elements of a row are adjacent. float16 arrives as its bits in uint16 and bfloat16 as its bits in int16: Numba knows
neither on the CPU, and the two differ here by type and nowhere else.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from fastce.cpu._vectors.addresses import (
    INDEX,
    ask_for,
    element_pointer,
    elements_missing,
    lanes_mask,
)
from fastce.cpu._vectors.compiler import inline, real_of
from fastce.cpu._vectors.first_lanes import load_first_lanes, store_first_lanes
from fastce.cpu._vectors.half import _narrow, _stored_vector, _widen
from fastce.cpu._vectors.simd import Vector, _splat, vector_of
from fastce.cpu._vectors.target import bytes_ahead, is_zen


@intrinsic
def row_pointer(typingctx, matrix, i):
    """A pointer to the first element of row ``i``, whatever the stride between rows is."""

    def codegen(context, builder, sig, args):
        array = context.make_array(sig.args[0])(context, builder, args[0])
        stride = builder.extract_value(array.strides, 0)
        offset = builder.mul(stride, context.cast(builder, args[1], sig.args[1], types.int64))
        return cgutils.pointer_add(builder, array.data, offset)

    return types.CPointer(matrix.dtype)(matrix, i), codegen


@intrinsic
def pointer(typingctx, array):
    """A pointer to the first element of a one-dimensional array."""

    def codegen(context, builder, sig, args):
        return context.make_array(sig.args[0])(context, builder, args[0]).data

    return types.CPointer(array.dtype)(array), codegen


@intrinsic
def from_element(typingctx, row, i):
    """The pointer to element ``i``, which is anywhere: what lies there need not be the row's."""
    return row(row, types.int64), lambda context, builder, sig, args: element_pointer(
        builder, context, sig.args[0], *args
    )


@intrinsic
def load(typingctx, row, i):
    """The vector that starts at element ``i``."""
    result = vector_of(real_of(row.dtype))

    def codegen(context, builder, sig, args):
        storage = sig.args[0].dtype
        place = element_pointer(builder, context, sig.args[0], *args)
        stored = _stored_vector(context, storage, result.lanes)
        value = builder.load(builder.bitcast(place, stored.as_pointer()), align=storage.bitwidth // 8, typ=stored)
        return _widen(builder, storage, value)

    return result(row, types.int64), codegen


@intrinsic
def load_first(typingctx, row, i, count, fill):
    """The ``count`` elements from ``i`` on in the first lanes, ``fill`` in the others; nothing else is read."""
    real = real_of(row.dtype)
    result = vector_of(real)

    def codegen(context, builder, sig, args):
        row, i, count, fill = args
        storage = sig.args[0].dtype
        place = element_pointer(builder, context, sig.args[0], row, i)
        stored = _stored_vector(context, storage, result.lanes)
        value = _widen(builder, storage, load_first_lanes(builder, place, stored, count))
        return builder.select(lanes_mask(builder, count, result.lanes), value, _splat(builder, fill, result.lanes))

    return result(row, types.int64, types.int64, real), codegen


@intrinsic
def keep_first(typingctx, vector, count):
    """The first ``count`` lanes of a vector, zeros in the others."""

    def codegen(context, builder, sig, args):
        vector, count = args
        mask = lanes_mask(builder, count, vector.type.count)
        return builder.select(mask, vector, ir.Constant(vector.type, None))

    return vector(vector, types.int64), codegen


def _write(context: Any, builder: Any, sig: Any, args: Any, align: int) -> Any:
    """Store a vector, narrowed to the row's dtype, from element ``i`` on; returns the instruction."""
    row, i, vector = args
    value = _narrow(builder, sig.args[0].dtype, vector)
    place = element_pointer(builder, context, sig.args[0], row, i)
    return builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=align)


@intrinsic
def store(typingctx, row, i, vector):
    """Write a vector from element ``i`` on."""
    if not isinstance(vector, Vector):
        return None

    def codegen(context, builder, sig, args):
        _write(context, builder, sig, args, align=sig.args[0].dtype.bitwidth // 8)

    return types.void(row, types.int64, vector), codegen


@intrinsic
def store_whole(typingctx, row, i, vector, past_cache):
    """As `store`; past the cache, at an address that is a multiple of the vector's bytes, without reading it first.

    A plain store to memory that is not in the cache reads the line before it overwrites it: a third more traffic.
    """
    if not isinstance(vector, Vector):
        return None

    def codegen(context, builder, sig, args):
        *written, past_cache = args
        size = sig.args[0].dtype.bitwidth // 8
        with builder.if_else(past_cache) as (past, into):
            with past:
                instruction = _write(context, builder, sig, written, align=vector.lanes * size)
                instruction.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
            with into:
                _write(context, builder, sig, written, align=size)

    return types.void(row, types.int64, vector, types.boolean), codegen


@intrinsic
def store_first(typingctx, row, i, vector, count):
    """Write the first ``count`` lanes from element ``i`` on."""
    if not isinstance(vector, Vector):
        return None

    def codegen(context, builder, sig, args):
        row, i, vector, count = args
        value = _narrow(builder, sig.args[0].dtype, vector)
        place = element_pointer(builder, context, sig.args[0], row, i)
        store_first_lanes(builder, place, value, count)

    return types.void(row, types.int64, vector, types.int64), codegen


@intrinsic
def lanes_of(typingctx, row):
    """How many elements of this row make a vector."""
    lanes = vector_of(real_of(row.dtype)).lanes
    return types.int64(row), lambda context, builder, sig, args: ir.Constant(INDEX, lanes)


@intrinsic
def elements_to_boundary(typingctx, row, i):
    """How many elements lie between element ``i`` and the next address that is a multiple of the vector's bytes."""

    def codegen(context, builder, sig, args):
        storage = sig.args[0].dtype
        vector_bytes = storage.bitwidth // 8 * vector_of(real_of(storage)).lanes
        place = element_pointer(builder, context, sig.args[0], *args)
        return elements_missing(builder, sig.args[0], place, vector_bytes)

    return types.int64(row, types.int64), codegen


@intrinsic
def address(typingctx, row, i):
    """Where element ``i`` is, in bytes."""

    def codegen(context, builder, sig, args):
        return builder.ptrtoint(element_pointer(builder, context, sig.args[0], *args), INDEX)

    return types.int64(row, types.int64), codegen


@intrinsic
def prefetch(typingctx, row, i):
    """Ask for the cache line of element ``i``; harmless at any address."""

    def codegen(context, builder, sig, args):
        ask_for(builder, context, sig.args[0], *args)

    return types.void(row, types.int64), codegen


@intrinsic
def elements_ahead(typingctx, row):
    """How many elements before they are read memory is asked for those of this row."""

    def codegen(context, builder, sig, args):
        return ir.Constant(INDEX, 8 * bytes_ahead() // row.dtype.bitwidth)

    return types.int64(row), codegen


@intrinsic
def sends_beside_stores(typingctx):
    """Whether memory is asked for where little else is done than to write past the cache.

    What is on its way to or from memory waits in the same few buffers of a core. On a Xeon writing takes all of them: a
    gradient takes 10% longer if the next row is asked for meanwhile.
    """
    value = ir.Constant(ir.IntType(1), int(is_zen()))
    return types.boolean(), lambda context, builder, sig, args: value


@intrinsic
def finish_stores(typingctx):
    """Make everything written past the cache visible to the other threads."""

    def codegen(context, builder, sig, args):
        builder.fence("seq_cst")

    return types.void(), codegen


@intrinsic
def element(typingctx, row, i):
    """Element ``i`` as float64."""

    def codegen(context, builder, sig, args):
        storage = sig.args[0].dtype
        one = _stored_vector(context, storage, 1)
        place = element_pointer(builder, context, sig.args[0], *args)
        value = builder.load(builder.bitcast(place, one.as_pointer()), align=storage.bitwidth // 8, typ=one)
        value = builder.extract_element(_widen(builder, storage, value), ir.Constant(ir.IntType(32), 0))
        return context.cast(builder, value, real_of(storage), types.float64)

    return types.float64(row, types.int64), codegen


@intrinsic
def set_element(typingctx, row, i, value):
    """Write a float64 to element ``i``, rounded to the row's dtype."""

    def codegen(context, builder, sig, args):
        storage = sig.args[0].dtype
        value = context.cast(builder, args[2], types.float64, real_of(storage))
        narrow = _narrow(builder, storage, _splat(builder, value, 1))
        place = element_pointer(builder, context, sig.args[0], args[0], args[1])
        builder.store(narrow, builder.bitcast(place, narrow.type.as_pointer()), align=storage.bitwidth // 8)

    return types.void(row, types.int64, types.float64), codegen


@intrinsic
def to_real(typingctx, row, value):
    """A number in the dtype that the row is computed in."""
    real = real_of(row.dtype)
    return real(row, value), lambda context, builder, sig, args: context.cast(builder, args[1], value, real)


@inline
def elements(row, i, count, fill):
    """A vector whose first ``count`` elements are the row's, which has others if ``count`` is a whole vector."""
    return load(row, i) if count == lanes_of(row) else load_first(row, i, count, fill)
