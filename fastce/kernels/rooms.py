"""Room on the stack for what a kernel needs on its way: no kernel allocates memory."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from fastce.kernels.jit import real_of
from fastce.kernels.simd import VECTOR_BYTES

BLOCK = 2048  # elements of a row that are prepared at a time; fits the smallest first-level cache
TILE = 4096  # elements of a tile
GROUP = 128  # rows in a table at most
FIELDS = 20  # of a group of rows; see states.py
WIDTH = 1024  # rows of a tile at most
LINE = WIDTH + 16  # lines a power of two apart would push each other out of the cache
LINES, SUM_LINES = 7, 6  # of a tile; see lines.py


def _room(pointer: types.CPointer, size: int) -> Any:
    """Code for room of so many elements that this type points to, at a multiple of a vector's bytes."""

    def codegen(context, builder, sig, args):
        element = context.get_data_type(pointer.dtype)
        with builder.goto_entry_block():
            room = builder.alloca(ir.ArrayType(element, size))
            room.align = VECTOR_BYTES
        return builder.bitcast(room, element.as_pointer())

    return codegen


@intrinsic
def scratch_block(typingctx, row):
    """A block of a row, in the dtype that it is computed in."""
    pointer = types.CPointer(real_of(row.dtype))
    return pointer(row), _room(pointer, BLOCK)


@intrinsic
def wide_scratch_block(typingctx):
    """A block of float64s."""
    pointer = types.CPointer(types.float64)
    return pointer(), _room(pointer, BLOCK)


@intrinsic
def new_tile(typingctx, array):
    """A tile of the dtype of the array."""
    pointer = types.CPointer(array.dtype)
    return pointer(array), _room(pointer, TILE)


@intrinsic
def new_running(typingctx, tile):
    """What is known of the rows of a tile, in the dtype that they are computed in; see lines.py."""
    pointer = types.CPointer(real_of(tile.dtype))
    return pointer(tile), _room(pointer, LINES * LINE)


@intrinsic
def new_sums(typingctx):
    """The sums of the rows of a tile; see lines.py."""
    pointer = types.CPointer(types.float64)
    return pointer(), _room(pointer, SUM_LINES * LINE)


@intrinsic
def new_states(typingctx):
    """The states of a group of rows; see states.py."""
    pointer = types.CPointer(types.float64)
    return pointer(), _room(pointer, FIELDS * GROUP)
