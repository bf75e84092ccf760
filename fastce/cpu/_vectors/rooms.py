"""Room on the stack for what a kernel needs on its way: no kernel allocates memory."""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.cpu._vectors.compiler import real_of
from fastce.cpu._vectors.simd import VECTOR_BYTES


def _room(pointer: types.CPointer, size: int) -> Any:
    """Code for room of so many elements that this type points to, at a multiple of a vector's bytes."""

    def codegen(context, builder, sig, args):
        element = context.get_data_type(pointer.dtype)
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(element, size))
            room.align = VECTOR_BYTES
        return builder.bitcast(room, element.as_pointer())

    return codegen


def float64_room(size: int) -> Callable[..., Any]:
    """A function without arguments: room for so many float64s."""

    @intrinsic
    def room(typingctx):
        pointer = types.CPointer(types.float64)
        return pointer(), _room(pointer, size)

    return room


def storage_room(size: int) -> Callable[..., Any]:
    """A function of a row or array: room for so many elements as they are stored there."""

    @intrinsic
    def room(typingctx, like):
        pointer = types.CPointer(like.dtype)
        return pointer(like), _room(pointer, size)

    return room


def real_room(size: int) -> Callable[..., Any]:
    """The same in the dtype that they are computed in."""

    @intrinsic
    def room(typingctx, like):
        pointer = types.CPointer(real_of(like.dtype))
        return pointer(like), _room(pointer, size)

    return room
