"""What a PTX module consists of, and its numbers."""

import re
import struct
from dataclasses import dataclass, field

import numpy as np

SIZES = {"pred": 1, "b8": 1, "u8": 1, "s8": 1, "b16": 2, "u16": 2, "s16": 2, "f16": 2, "bf16": 2}
SIZES |= {"b32": 4, "u32": 4, "s32": 4, "f32": 4, "f16x2": 4, "bf16x2": 4}
SIZES |= {"b64": 8, "u64": 8, "s64": 8, "f64": 8, "b128": 16}
DTYPES = {"pred": np.bool_, "f16": np.float16, "f32": np.float32, "f64": np.float64}
DTYPES |= {f"{k}{8 * n}": np.dtype(f"{'i' if k == 's' else 'u'}{n}") for k in "bus" for n in (1, 2, 4, 8)}
DTYPES |= {"bf16": np.uint16, "f16x2": np.uint32, "bf16x2": np.uint32}
DTYPES = {name: np.dtype(kind) for name, kind in DTYPES.items()}


class PtxError(Exception):
    """The module cannot be read, or the kernel did something that a GPU would not survive."""


@dataclass(frozen=True)
class Name:
    """A register, special register, label or variable, perhaps with an offset in bytes."""

    name: str
    offset: int = 0


@dataclass(frozen=True)
class Number:
    """A literal, as written."""

    text: str


@dataclass(frozen=True)
class Address:
    """What stands in brackets."""

    base: Name | Number
    offset: int


@dataclass(frozen=True)
class Group:
    """Several operands: ``{a, b}``, ``(a, b)`` or ``a|b``; ``!a`` is a group of one."""

    kind: str
    items: tuple


@dataclass
class Instruction:
    """One instruction: its guard is a predicate and whether that is negated."""

    opcode: str
    operands: list
    text: str
    guard: tuple[str, bool] | None = None
    scope: tuple = ()

    @property
    def parts(self):
        return self.opcode.split(".")


@dataclass
class Variable:
    """A variable of a state space; ``size`` 0 is an array as long as the launch says."""

    name: str
    space: str
    type: str
    align: int
    size: int
    values: list | None = None


@dataclass
class Function:
    """A kernel or device function: ``body`` holds instructions and labels (as plain strings)."""

    name: str
    entry: bool
    results: list
    parameters: list
    body: list = field(default_factory=list)
    registers: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)
    tables: dict = field(default_factory=dict)


@dataclass
class Module:
    """All functions and module variables, by name."""

    functions: dict = field(default_factory=dict)
    variables: dict = field(default_factory=dict)

    @property
    def entries(self):
        return [f.name for f in self.functions.values() if f.entry]


def integer(text):
    return int(text.rstrip("U"), 0) if not re.fullmatch(r"0\d+", text) else int(text, 8)


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
