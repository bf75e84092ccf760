"""Decode a kernel: every instruction becomes a Python closure, and straight stretches of them become segments.

A device function is copied into each place that calls it, with registers of its own, so a program knows no stack.
"""

from dataclasses import dataclass, field

import numpy as np

from . import control
from .operands import Frame, Operands
from .order import order
from .syntax import Group, Name, PtxError


@dataclass
class Segment:
    """Instructions that run one after the other without a jump into or out of them; ``end`` says what follows."""

    operations: list = field(default_factory=list)
    opcodes: list = field(default_factory=list)
    leave: tuple = ()
    end: object = None


class Program(Operands):
    """A kernel made ready to run: ``segments``, and ``slots``, which say what each operand is an array of."""

    def __init__(self, module, name, operations, syncs):
        super().__init__(module)
        self.operations, self.syncs = operations, syncs
        self.frames = 0
        self.opened = None
        self.segments, self.labels = [], {}
        entry = module.functions[name]
        self.name, self.parameters = name, []
        at, places = 0, {}
        for parameter in entry.parameters:
            at = -(-at // parameter.align) * parameter.align
            places[parameter.name] = ("param", at)
            self.parameters.append((at, parameter))
            at += parameter.size
        self.parameter_bytes = -(-at // 16) * 16 + 16
        self.copy(entry, places, None, ())
        self.local_end = -(-self.local_end // 16) * 16
        self.arrange()

    def arrange(self):
        """Give each segment its place and its end."""
        ways = [self.ways(number, *segment.leave) for number, segment in enumerate(self.segments)]
        places = order(set(range(len(ways))), ways)
        where = {number: place for place, number in enumerate(places)}
        labels = {name: where[number] for name, number in self.labels.items()}
        for number, segment in enumerate(self.segments):
            kind, *rest = segment.leave
            segment.end = getattr(control, kind)(labels, where.get(number + 1), *rest)
        self.start = where[0]
        self.segments = [self.segments[number] for number in places]

    def ways(self, number, kind, *rest):
        """The segments that can follow one."""
        if kind in ("exit", "trap"):
            return []
        if kind in ("barrier", "sync"):
            return [number + 1]
        names = {"go": rest, "branch": rest[2:], "table": rest[-1]}[kind]
        return [self.labels[name] for name in names]

    # Code

    def label(self, name):
        """A new segment begins."""
        if self.opened is not None:
            self.close("go", name)
        self.labels[name] = len(self.segments)
        self.opened = Segment()
        self.segments.append(self.opened)

    def close(self, *leave):
        self.opened.leave = leave
        self.opened = None

    def fresh(self):
        name = f"@{len(self.segments)}"
        self.label(name)
        return name

    def current(self):
        if self.opened is None:
            self.fresh()
        return self.opened

    def copy(self, function, places, leave, callers):
        if function.name in callers:
            raise PtxError(f"recursion is not supported: {function.name}")
        outer = self.frame
        self.frames += 1
        self.frame = Frame(self.frames, function, dict(places), leave)
        for variable in function.variables.values():
            key = f"{function.name}.{variable.name}"
            if variable.space == "shared":
                self.frame.places[variable.name] = ("shared", self.share(key, variable))
            else:
                local = variable.space == "local"
                at = self.reserve(f"{key}#{self.frames}", variable, local)
                self.frame.places[variable.name] = ("local" if local else "frame", at)
        for item in function.body:
            if isinstance(item, str):
                if item not in function.tables:
                    self.label((self.frame.number, item))
            else:
                self.instruction(item, (*callers, function.name))
        if self.opened is not None:
            self.close(*(("go", leave) if leave else ("exit",)))
        self.frame = outer

    def instruction(self, item, callers):
        base = item.parts[0]
        guard = (self.read(Name(item.guard[0]), np.bool_), item.guard[1]) if item.guard else None
        jump = base in ("bra", "brx", "exit", "ret", "call", "bar", "barrier", "trap", "brkpt")
        sync = base in self.syncs or ".sync" in item.opcode
        self.current().opcodes.append(item.opcode)
        if base == "bra":
            target = (self.frame.number, item.operands[0].name)
            return self.branch(guard, target) if guard else self.close("go", target)
        after = None
        if guard and (jump or sync):  # jumps around, so that what follows needs no guard
            after = f"@after{len(self.segments)}"
            self.branch((guard[0], not guard[1]), after)
            self.current()
        if base == "brx":
            targets = self.frame.function.tables[item.operands[1].name]
            self.close("table", self.read(item.operands[0], np.int32), [(self.frame.number, t) for t in targets])
        elif base in ("exit", "ret"):
            leave = self.frame.leave if base == "ret" else None
            self.close(*(("go", leave) if leave else ("exit",)))
        elif base in ("trap", "brkpt"):
            self.close("trap", item.text)
        elif base == "call":
            self.call(item, callers)
        elif "cluster" in item.parts:
            raise PtxError(f"unknown instruction: {item.text}")
        elif base in ("bar", "barrier") and "warp" not in item.parts:
            self.close("barrier", item, self.operations["bar"](self, item))
        elif sync:
            members, act = self.build(self.syncs, item)
            segment = self.current()
            if segment.operations or len(segment.opcodes) > 1:
                segment.opcodes.pop()
                self.fresh()
                self.opened.opcodes.append(item.opcode)
            self.close("sync", members, act, item.text)
        else:
            act = self.build(self.operations, item)
            self.current().operations.append(guarded(act, *guard) if guard else act)
        if after:
            self.label(after)
        return None

    def build(self, table, item):
        try:
            return table[item.parts[0]](self, item)
        except (KeyError, IndexError, StopIteration) as error:
            raise PtxError(f"unknown instruction: {item.text} ({error!r})") from error

    def branch(self, guard, target):
        follow = f"@next{len(self.segments)}"
        self.close("branch", *guard, target, follow)
        self.label(follow)

    def call(self, item, callers):
        groups = [o for o in item.operands if isinstance(o, Group)]
        name = next(o.name for o in item.operands if isinstance(o, Name))
        function = self.module.functions.get(name)
        if function is None:
            raise PtxError(f"{self.name}: {name} is called but has no body here")
        given = groups if len(groups) == 2 or not function.results else [*groups, Group("(", ())]
        results = given[0].items if function.results else ()
        arguments = given[-1].items if function.parameters else ()
        places = {}
        for variables, operands in ((function.results, results), (function.parameters, arguments)):
            for variable, operand in zip(variables, operands, strict=True):
                places[variable.name] = self.place(operand.name)
        back = f"@back{self.frames}"
        self.close("go", f"@into{self.frames}")
        self.label(f"@into{self.frames}")
        self.copy(function, places, back, callers)
        self.label(back)


def guarded(act, slot, negated):
    """``act`` for those threads only whose predicate says so."""

    def run(block, mask):
        chosen = block.values[slot]
        if negated:
            chosen = ~chosen
        if mask is not None:
            chosen = chosen & mask
        count = np.count_nonzero(chosen)
        if count:
            act(block, None if count == chosen.size else chosen)

    return run
