"""How an instruction without side effects becomes a closure (block, mask); ``mask`` None means all threads."""

import numpy as np

from .syntax import DTYPES


class Table(dict):
    """Opcode -> what builds its closure from (program, instruction)."""

    def of(self, *names):
        def enter(build):
            self.update(dict.fromkeys(names, build))
            return build

        return enter


def kind_of(program, slot):
    """The dtype of a slot."""
    spec = program.slots[slot]
    return np.dtype(spec[1] if spec[0] in ("value", "waste") else spec[2])


def copying(target, source):
    def run(block, mask):
        values = block.values
        if mask is None:
            np.copyto(values[target], values[source], casting="unsafe")
        else:
            np.copyto(values[target], values[source], where=mask, casting="unsafe")

    return run


def elementwise(function, target, *sources, compact=False):
    """Any function of whole arrays. It runs for all threads: what the others have is computed and dropped.

    ``compact`` is for functions that are slow for odd numbers: they get those of the running threads only.
    """

    def run(block, mask):
        values = block.values
        result = function(*[values[s] for s in sources])
        if mask is None:
            np.copyto(values[target], result, casting="unsafe")
        else:
            np.copyto(values[target], result, where=mask, casting="unsafe")

    def run_compact(block, mask):
        if mask is None:
            run(block, mask)
        else:
            values = block.values
            values[target][mask] = function(*[values[s][mask] for s in sources])

    return run_compact if compact else run


def ufunc(program, function, target, *sources):
    """A NumPy ufunc, which writes straight to its target where all threads take part."""
    kinds = {kind_of(program, s) for s in (target, *sources)}
    if len(kinds) > 1 and kind_of(program, target) != np.bool_:
        return elementwise(function, target, *sources)
    if len(sources) == 1:
        (a,) = sources

        def run_one(block, mask):
            values = block.values
            if mask is None:
                function(values[a], values[target])
            else:
                np.copyto(values[target], function(values[a]), where=mask)

        return run_one
    a, b = sources

    def run_two(block, mask):
        values = block.values
        if mask is None:
            function(values[a], values[b], out=values[target])
        else:
            np.copyto(values[target], function(values[a], values[b]), where=mask)

    return run_two


def typed(program, item, function, dtype=None, compact=False):
    """``function`` of the operands, all of the type that the opcode ends with."""
    dtype = dtype or DTYPES[item.parts[-1]]
    sources = [program.read(o, dtype) for o in item.operands[1:]]
    target = program.write(item.operands[0], dtype)
    if isinstance(function, np.ufunc) and len(sources) < 3:
        return ufunc(program, function, target, *sources)
    return elementwise(function, target, *sources, compact=compact)
