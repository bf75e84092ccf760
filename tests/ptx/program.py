"""Decode a kernel: every instruction becomes a Python closure, and straight stretches of them become segments.

A device function is copied into each place that calls it, with registers of its own, so a program knows no stack.
"""

import struct
from dataclasses import dataclass, field

import numpy as np

from . import control
from .memory import LOCAL, SHARED, VARIABLES
from .parse import SIZES, Address, Group, Instruction, Name, Number, PtxError, integer

DTYPES = {"pred": np.bool_, "f16": np.float16, "f32": np.float32, "f64": np.float64}
DTYPES |= {f"{k}{8 * n}": np.dtype(f"{'i' if k == 's' else 'u'}{n}") for k in "bus" for n in (1, 2, 4, 8)}
DTYPES |= {"bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32}
DTYPES = {name: np.dtype(kind) for name, kind in DTYPES.items()}
PARAMETERS = 0x5000_0000_0000
APART = 256  # bytes at least between two variables of shared or local memory, which a GPU lays side by side
SPECIAL = ("%tid.", "%ntid.", "%ctaid.", "%nctaid.", "%laneid", "%warpid", "%nwarpid", "%lanemask_", "%smid", "%nsmid")
SPECIAL += ("%gridid", "%dynamic_smem_size")


def literal(text, dtype):
    """The value of a number as it stands in PTX, for an operand of ``dtype``."""
    negative, digits = text.startswith("-"), text.lstrip("-")
    prefix = digits[:2].lower()
    if prefix == "0f":
        value = np.array(int(digits[2:], 16), np.uint32)
        value = value.view(np.float32) if dtype.itemsize == 4 else value.view(np.float32).astype(np.float64)
    elif prefix == "0d":
        value = np.array(struct.unpack(">d", bytes.fromhex(digits[2:]))[0])
    elif dtype.kind == "f" or ("." in digits and prefix != "0x"):
        value = np.array(float(digits) if "." in digits else integer(digits), np.float64)
        value = value.astype(dtype) if dtype.kind == "f" else value
    elif dtype.kind == "b":
        return np.bool_(integer(digits) != 0)
    else:
        number = (-integer(digits) if negative else integer(digits)) % (1 << 8 * dtype.itemsize)
        return np.array(number, f"u{dtype.itemsize}").view(dtype)[()]
    value = -value if negative else value
    if dtype.kind == "f":
        return value.astype(dtype)[()]
    return np.atleast_1d(value).view(f"u{value.itemsize}").astype(f"u{dtype.itemsize}").view(dtype)[0]


@dataclass
class Segment:
    """Instructions that run one after the other without a jump into or out of them; ``end`` says what follows."""

    operations: list = field(default_factory=list)
    opcodes: list = field(default_factory=list)
    leave: tuple = ()
    end: object = None


@dataclass
class Frame:
    """One copy of a function: where its variables are and where it returns to."""

    number: int
    function: object
    places: dict
    leave: str | None


class Program:
    """A kernel made ready to run: ``segments``, and ``slots``, which say what each operand is an array of."""

    def __init__(self, module, name, operations, syncs):
        self.module, self.operations, self.syncs = module, operations, syncs
        self.slots, self.numbers = [], {}
        self.registers = {}  # (frame, name) -> bytes of each
        self.frames = 0
        self.shared, self.local = {}, {}  # name -> (address, size)
        self.shared_end = self.local_end = 0
        self.globals, self.places = [], {}
        self.opened = None
        self.segments, self.labels = [], {}
        self.lay_out()
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
        for number, segment in enumerate(self.segments):
            kind, *rest = segment.leave
            segment.end = getattr(control, kind)(self.labels, number + 1, *rest)

    # Variables

    def lay_out(self):
        address = VARIABLES
        for variable in self.module.variables.values():
            if variable.space == "shared":
                self.places[variable.name] = ("shared", self.share(variable.name, variable))
            else:
                self.places[variable.name] = ("global", address)
                self.globals.append((address, variable))
                address += -(-(variable.size + APART) // APART) * APART

    def share(self, key, variable):
        """The address in shared memory of a variable, the same in each copy of its function."""
        if key not in self.shared:
            self.shared[key] = (self.shared_end, variable.size)
            if variable.size:
                self.shared_end += -(-(variable.size + APART) // APART) * APART
        return self.shared[key][0]

    def reserve(self, key, variable, checked):
        at = self.local_end
        if checked:
            self.local[key] = (at, variable.size)
            self.local_end = at + -(-(variable.size + APART) // APART) * APART
        else:
            self.local_end = at + -(-variable.size // 16) * 16
        return at

    # Operands

    def slot(self, *spec):
        if spec not in self.numbers:
            self.numbers[spec] = len(self.slots)
            self.slots.append(spec)
        return self.numbers[spec]

    def register(self, name):
        """The size in bytes of a register, or None if ``name`` is none."""
        kind = self.frame.function.registers.get(name)
        return SIZES[kind] if kind else None

    def place(self, name):
        found = self.frame.places.get(name) or self.places.get(name)
        if found is None:
            raise PtxError(f"{self.name}: unknown name {name}")
        return found

    def read(self, operand, dtype):
        """The slot that holds ``operand`` as an array of ``dtype``."""
        dtype = np.dtype(dtype)
        if isinstance(operand, Number):
            value = literal(operand.text, dtype)
            return self.slot("value", dtype.str, np.array(value, dtype).tobytes())
        if isinstance(operand, Name):
            if (size := self.register(operand.name)) is not None:
                return self.of_register(operand.name, size, dtype)
            if operand.name.startswith(SPECIAL):
                return self.slot("special", operand.name, dtype.str)
            if operand.name == "WARP_SZ":
                return self.slot("value", dtype.str, np.array(32, dtype).tobytes())
            space, at = self.place(operand.name)
            at += operand.offset + (PARAMETERS if space == "param" else 0)
            return self.slot("value", dtype.str, np.array(at, np.uint64).astype(dtype).tobytes())
        raise PtxError(f"{self.name}: an operand that cannot be read: {operand}")

    def of_register(self, name, size, dtype):
        if dtype.itemsize > size or (dtype.kind == "b") != (size == 1 and self.frame.function.registers[name] == "pred"):
            raise PtxError(f"{self.name}: {name} is no {dtype}")
        key = (self.frame.number, name)
        self.registers[key] = size
        return self.slot("register", key, dtype.str)

    def write(self, operand, dtype):
        """The slot to write ``dtype`` to; what is narrower than its register is widened: then the slot is wider."""
        dtype = np.dtype(dtype)
        if isinstance(operand, Name) and operand.name == "_":
            return self.slot("waste", dtype.str)
        if not isinstance(operand, Name) or (size := self.register(operand.name)) is None:
            raise PtxError(f"{self.name}: an operand that cannot be written: {operand}")
        if dtype.itemsize < size and dtype.kind in "iu":
            dtype = np.dtype(f"{dtype.kind}{size}")
        return self.of_register(operand.name, size, dtype)

    def predicate(self, operand):
        """The slot of a predicate operand, and whether it is negated."""
        if isinstance(operand, Group) and operand.kind == "!":
            return self.read(operand.items[0], np.bool_), True
        return self.read(operand, np.bool_), False

    def fixed(self, address, dtype):
        """The slot of what a constant address of parameter space holds, or None."""
        if isinstance(address.base, Name) and self.register(address.base.name) is None:
            space, at = self.place(address.base.name)
            if space in ("param", "frame"):
                return self.slot(space, at + address.base.offset + address.offset, np.dtype(dtype).str)
        return None

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
        outer = getattr(self, "frame", None)
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
        guard = self.predicate(Group("!", (Name(item.guard[0]),)) if item.guard[1] else Name(item.guard[0])) if (
            item.guard
        ) else None
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


__all__ = ["DTYPES", "LOCAL", "PARAMETERS", "SHARED", "Address", "Instruction", "Program", "Segment"]
