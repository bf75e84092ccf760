"""Where the operands of a program are: variables have addresses, all else has slots."""

from dataclasses import dataclass

import numpy as np

from .memory import VARIABLES
from .syntax import SIZES, Group, Name, Number, PtxError, literal

PARAMETERS = 0x5000_0000_0000
DYNAMIC = 1 << 24  # where dynamic shared memory begins
APART = 256  # bytes at least between two variables of shared or local memory, which a GPU lays side by side
SPECIAL = ("%tid.", "%ntid.", "%ctaid.", "%nctaid.", "%laneid", "%warpid", "%nwarpid", "%lanemask_", "%smid", "%nsmid")
SPECIAL += ("%gridid", "%dynamic_smem_size")


@dataclass
class Frame:
    """One copy of a function: where its variables are and where it returns to."""

    number: int
    function: object
    places: dict
    leave: str | None


class Operands:
    """The slots of a program. A slot says what an array of ``Block.values`` is: a register, a number, a parameter."""

    def __init__(self, module):
        self.module = module
        self.slots, self.numbers = [], {}
        self.registers = {}  # (frame, name) -> bytes of each
        self.shared, self.local = {}, {}  # name -> (address, size)
        self.shared_end = self.local_end = 0
        self.globals, self.places = [], {}
        self.frame = None
        self.lay_out()

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
        if not variable.size:  # all that is as long as the launch says is one
            self.shared["dynamic"] = (DYNAMIC, 0)
            return DYNAMIC
        if key not in self.shared:
            self.shared[key] = (self.shared_end, variable.size)
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
        if dtype.itemsize > size or (dtype.kind == "b") != (self.frame.function.registers[name] == "pred"):
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
