"""Run kernels from their PTX: all threads of a block at once, as NumPy vectors, and several blocks in turn."""

from functools import lru_cache

import numpy as np

from . import access, atomics, convert, copies, floats, integers, moves, warps
from .block import Block, Launch
from .memory import Allocation, Memory, Pointer
from .operands import PARAMETERS
from .parse import parse
from .program import Program
from .report import Report
from .shared import initial
from .syntax import DTYPES, PtxError

OPERATIONS = {"bar": warps.barrier}
for part in (moves, floats, integers, convert, access, atomics, copies):  # integers know what to leave to floats
    OPERATIONS.update(part.OPERATIONS)


@lru_cache(maxsize=64)
def load(text, name=None):
    """The kernel ``name`` of a module, or its only one, ready to run."""
    module = parse(text)
    if name is None:
        if len(module.entries) != 1:
            raise PtxError(f"which of the kernels? {module.entries}")
        name = module.entries[0]
    return Program(module, name, OPERATIONS, warps.SYNCS)


def flatten(argument, kind):
    """What Numba passes for one argument: (value, dtype) of each parameter of the kernel."""
    if isinstance(argument, np.ndarray):
        numbers = [0, 0, argument.size, argument.itemsize, argument, *argument.shape, *argument.strides]
        return [(n, None) for n in numbers]
    if isinstance(argument, tuple | list):
        return [leaf for part in argument for leaf in flatten(part, kind)]
    if isinstance(argument, bytes):  # a struct
        return [(argument, None)]
    if isinstance(argument, Pointer):
        return [(argument.address, None)]
    return [(argument, argument.dtype if isinstance(argument, np.generic) else None)]


def fill(program, memory, args):
    """The kernel's parameters as bytes."""
    content = Allocation("parameters", PARAMETERS, program.parameter_bytes)
    leaves = [leaf for argument in args for leaf in flatten(argument, None)]
    if len(leaves) != len(program.parameters):
        raise PtxError(f"{program.name} takes {len(program.parameters)} parameters, not {len(leaves)}")
    for (value, given), (at, parameter) in zip(leaves, program.parameters, strict=True):
        if isinstance(value, bytes):
            content.content[at : at + parameter.size] = np.frombuffer(value, np.uint8)[: parameter.size]
            continue
        dtype = DTYPES[parameter.type]
        if isinstance(value, np.ndarray):
            value = memory.address(value)
        bits = given if given is not None else np.dtype("f8" if isinstance(value, float) else "i8")
        if dtype.kind == "f":
            stored = np.array(value, dtype)
        elif bits.kind == "f":  # newer compilers pass floats as .b32 and .b64
            stored = np.array(value, f"f{dtype.itemsize}")
        else:
            stored = np.array(int(value) % (1 << 8 * dtype.itemsize), dtype)
        data = np.frombuffer(stored.tobytes(), np.uint8)
        content.content[at : at + data.size] = data
    return content


def launch(
    text,
    name,
    grid,
    block,
    args,
    dynamic_shared=0,
    *,
    memory=None,
    resident=16,
    turn=4000,
    limit=10**7,
    races=False,
    unwritten=True,
):
    """Run a kernel and return a Report; its arrays are changed in place.

    ``text`` is PTX, ``name`` that of the kernel (None: the only one), ``args`` what the kernel's Python function
    takes: arrays, NumPy scalars (a plain number is an int64 or float64), tuples of them, or Pointers. ``memory`` is
    a Memory in which some arrays were put before. At most ``resident`` blocks run at once, each for ``turn``
    instructions before the next has its turn; after ``limit`` instructions of one block it is said to hang.
    ``races`` looks for accesses to shared memory that no barrier separates (a warp's own barriers count within it);
    ``unwritten`` False lets shared memory be read that was never written.
    """
    program, memory = load(text, name), memory or Memory()
    grid, shape = (tuple((*(v if isinstance(v, tuple) else (v,)), 1, 1)[:3]) for v in (grid, block))
    parameters = fill(program, memory, args)
    report = Report(program.segments)
    state = Launch(program, grid, shape, memory, parameters, dynamic_shared, report, races, unwritten)
    memory.upload()
    extra = [memory.insert(parameters)]
    try:
        for address, variable in program.globals:
            extra.append(memory.insert(initial(address, variable, program)))
        with np.errstate(all="ignore"):
            schedule(state, resident, turn, limit)
    finally:
        memory.download()
        for allocation in extra:
            memory.remove(allocation)
    return report.finish()


def schedule(state, resident, turn, limit):
    """Run the blocks in the order of their indices, a few at once."""
    x, y, z = state.grid
    left = iter([(i, j, k) for k in range(z) for j in range(y) for i in range(x)])
    running = [Block(state, index) for _, index in zip(range(resident), left, strict=False)]
    while running:
        for block in list(running):
            if block.run(turn):
                if block.steps > limit:
                    raise PtxError(f"hangs after {block.steps} instructions: {block.where(0)}")
            elif (index := next(left, None)) is not None:
                block.start(index)
                running.append(running.pop(running.index(block)))  # the youngest comes last
            else:
                running.remove(block)
