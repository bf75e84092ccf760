"""Atomic operations; threads that meet at one address come in their order."""

import numpy as np

from .access import Access, views_of, writable
from .closures import Table
from .moves import bfloat
from .shared import check_written
from .syntax import DTYPES

OPERATIONS = Table()


def change(name, dtype, kind):
    """(old, given, third) -> new, of one address."""
    if name == "add" and kind == "bf16":
        from .convert import to_bfloat

        return lambda old, x, _: to_bfloat(bfloat(old) + bfloat(x))
    return {
        "add": lambda old, x, _: old + x,
        "min": lambda old, x, _: np.minimum(old, x),
        "max": lambda old, x, _: np.maximum(old, x),
        "and": lambda old, x, _: old & x,
        "or": lambda old, x, _: old | x,
        "xor": lambda old, x, _: old ^ x,
        "exch": lambda old, x, _: x,
        "cas": lambda old, x, new: np.where(old == x, new, old),
        "inc": lambda old, x, _: np.where(old >= x, dtype.type(0), old + dtype.type(1)),
        "dec": lambda old, x, _: np.where((old == 0) | (old > x), x, old - dtype.type(1)),
    }[name]


@OPERATIONS.of("atom", "red")
def atomic(program, item):
    kind = item.parts[-1]
    names = ("add", "min", "max", "and", "or", "xor", "exch", "cas", "inc", "dec")
    name = next(p for p in item.parts if p in names)
    dtype = DTYPES[kind]
    returns = item.parts[0] == "atom"
    target = program.write(item.operands[0], dtype) if returns else None
    address, *given = item.operands[1:] if returns else item.operands
    access = Access(program, item, address, dtype.itemsize)
    slots = [program.read(o, dtype) for o in given[: 2 if name == "cas" else 1]]
    if kind.endswith("x2") or len(given) > 2:
        raise KeyError(item.opcode)
    function = change(name, dtype, kind)

    def run(block, mask):
        values = block.values
        for space, allocation, offset, threads, addresses in access.pieces(block, mask):
            if space == "shared":
                size = dtype.itemsize
                check_written(access, block, allocation, offset, threads, addresses, size, 1)
            elif space == "global":
                writable(access, block, allocation, threads, addresses)
                block.report.atomics[item.opcode] += len(offset)
            view = views_of(block, space, allocation, dtype.itemsize).view(dtype)
            index = offset // dtype.itemsize
            who = block.threads if threads is None else threads
            operands = [values[s][who] for s in slots] * 2
            old = np.empty(len(index), dtype)
            if np.unique(index).size == index.size:
                old[:] = view[index]
                view[index] = function(old, *operands[:2])
            else:  # in the order of the threads
                for i, at in enumerate(index):
                    old[i] = view[at]
                    view[at] = function(old[i : i + 1], operands[0][i : i + 1], operands[1][i : i + 1])[0]
            if target is not None:
                values[target][who] = old

    return run
