"""Integer arithmetic and operations on bits; ``OPERATIONS`` for floats take over where the type is a float's."""

import numpy as np

from .closures import Table, elementwise, kind_of, typed, ufunc
from .floats import FLOATS
from .floats import OPERATIONS as FLOAT_OPERATIONS
from .syntax import DTYPES

OPERATIONS = Table()
CARRY = ("register", ("carry", "carry"), "|b1")


def integer(*names):
    """Enters a builder of integer instructions under names that floats use too."""

    def enter(build):
        def choose(program, item):
            if item.parts[-1] in FLOATS:
                return FLOAT_OPERATIONS[item.parts[0]](program, item)
            return build(program, item)

        OPERATIONS.update(dict.fromkeys(names, choose))
        return build

    return enter


def halves(a):
    return a & np.uint64(0xFFFFFFFF), a >> np.uint64(32)


def high(a, b):
    """The upper half of a product."""
    if a.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.itemsize)).astype(a.dtype)
    x, y = a.view(np.uint64), b.view(np.uint64)
    (x0, x1), (y0, y1) = halves(x), halves(y)
    middle = x1 * y0 + (x0 * y0 >> np.uint64(32))
    low, up = halves(middle)
    result = x1 * y1 + up + (x0 * y1 + low >> np.uint64(32))
    if a.dtype.kind == "i":
        result = result - np.where(a < 0, y, 0) - np.where(b < 0, x, 0)
    return result.view(a.dtype)


def quotient(a, b):
    """Division towards zero."""
    if a.dtype.kind == "u":
        return a // b
    result = a // b
    return result + ((result * b != a) & ((a < 0) != (b < 0)))


def carry_slot(program):
    """The carry flag of each thread."""
    program.registers["carry", "carry"] = 1
    return program.slot(*CARRY)


@integer("add", "sub")
def add(program, item):
    if "cc" in item.parts:
        return with_carry(program, item)
    if "sat" in item.parts:
        return typed(program, item, saturating(np.add if item.parts[0] == "add" else np.subtract))
    return typed(program, item, np.add if item.parts[0] == "add" else np.subtract)


def saturating(function):
    def run(a, b):
        info = np.iinfo(a.dtype)
        return np.clip(function(a.astype(np.int64), b.astype(np.int64)), info.min, info.max)

    return run


@OPERATIONS.of("addc", "subc")
def with_carry(program, item):
    """Sums with a carry into or out of them."""
    dtype = np.dtype(f"u{DTYPES[item.parts[-1]].itemsize}")
    flag, target = carry_slot(program), program.write(item.operands[0], dtype)
    a, b = (program.read(o, dtype) for o in item.operands[1:3])
    minus, takes, gives = item.parts[0].startswith("sub"), item.parts[0][-1] == "c", "cc" in item.parts

    def run(block, mask):
        values = block.values
        where = True if mask is None else mask
        x, y = values[a], ~values[b] if minus else values[b]
        # a - b is a + ~b + 1; the flag of a difference is a borrow, the opposite of that sum's carry
        into = (values[flag] ^ minus if takes else np.full(x.size, minus)).astype(dtype)
        total = x + y
        result = total + into
        out = (total < x) | (result < total)
        if gives:
            np.copyto(values[flag], out ^ minus, where=where)
        np.copyto(values[target], result, where=where)

    return run


@integer("mul", "mad")
def mul(program, item):
    dtype = DTYPES[item.parts[-1]]
    sources = [program.read(o, dtype) for o in item.operands[1:3]]
    how = next((p for p in item.parts[1:-1] if p in ("lo", "hi", "wide")), "lo")
    wide = np.dtype(f"{dtype.kind}{2 * dtype.itemsize}") if how == "wide" else dtype
    target = program.write(item.operands[0], wide)
    product = {"lo": np.multiply, "hi": high, "wide": lambda a, b: a.astype(wide) * b.astype(wide)}[how]
    if item.parts[0] == "mul":
        return ufunc(program, product, target, *sources) if how == "lo" else elementwise(product, target, *sources)
    third = program.read(item.operands[3], wide)
    if "cc" not in item.parts:
        return elementwise(lambda a, b, c: product(a, b) + c, target, *sources, third)
    return mad_carry(program, target, sources, third, product, False, True)


@OPERATIONS.of("madc")
def madc(program, item):
    dtype = DTYPES[item.parts[-1]]
    *sources, third = [program.read(o, dtype) for o in item.operands[1:4]]
    target = program.write(item.operands[0], dtype)
    product = high if "hi" in item.parts else np.multiply
    return mad_carry(program, target, sources, third, product, True, "cc" in item.parts)


def mad_carry(program, target, sources, third, product, takes, gives):
    flag = carry_slot(program)
    unsigned = np.dtype(f"u{kind_of(program, target).itemsize}")

    def run(block, mask):
        values = block.values
        where = True if mask is None else mask
        low = product(*(values[s] for s in sources)).view(unsigned)
        total = low + values[third].view(unsigned)
        result = total + values[flag].astype(unsigned) if takes else total
        if gives:
            np.copyto(values[flag], (total < low) | (result < total), where=where)
        np.copyto(values[target], result.view(values[target].dtype), where=where)

    return run


@integer("div")
def div(program, item):
    return typed(program, item, quotient)


@OPERATIONS.of("rem")
def rem(program, item):
    return typed(program, item, np.fmod)


@integer("neg", "abs", "min", "max")
def simple(program, item):
    names = {"neg": np.negative, "abs": np.abs, "min": np.minimum, "max": np.maximum}
    return typed(program, item, names[item.parts[0]])


@OPERATIONS.of("shl", "shr")
def shift(program, item):
    dtype = DTYPES[item.parts[-1]]
    source, by = program.read(item.operands[1], dtype), program.read(item.operands[2], np.uint32)
    function = np.left_shift if item.parts[0] == "shl" else np.right_shift
    if program.slots[by][0] == "value":  # NumPy, too, gives 0 or the sign for all that is too far
        far = min(int(np.frombuffer(program.slots[by][2], np.uint32)[0]), 64)
        far = program.slot("value", dtype.str, np.array(far, dtype).tobytes())
        return ufunc(program, function, program.write(item.operands[0], dtype), source, far)
    far = np.uint32(64)
    target = program.write(item.operands[0], dtype)
    return elementwise(lambda a, n: function(a, np.minimum(n, far).astype(a.dtype)), target, source, by)


@OPERATIONS.of("shf")
def funnel(program, item):
    low, up, by = (program.read(o, np.uint32) for o in item.operands[1:4])
    left, wrap = item.parts[1] == "l", item.parts[2] == "wrap"

    def function(low, up, by):
        n = (by & 31 if wrap else np.minimum(by, 32)).astype(np.uint64)
        both = up.astype(np.uint64) << np.uint64(32) | low
        return (both << n >> np.uint64(32) if left else both >> n).astype(np.uint32)

    return elementwise(function, program.write(item.operands[0], np.uint32), low, up, by)


@OPERATIONS.of("cnot")
def cnot(program, item):
    return typed(program, item, lambda a: (a == 0).astype(a.dtype))


@OPERATIONS.of("popc", "clz", "bfind", "brev")
def counts(program, item):
    dtype, name = DTYPES[item.parts[-1]], item.parts[0]
    bits = 8 * dtype.itemsize
    target = program.write(item.operands[0], dtype if name == "brev" else np.uint32)

    def leading(a):
        """The number of bits up to the highest that is set."""
        a = a.astype(np.uint64)
        for step in (1, 2, 4, 8, 16, 32):
            a = a | a >> np.uint64(step)
        return np.bitwise_count(a).astype(np.uint32)

    def find(a):
        if a.dtype.kind == "i":
            a = np.where(a < 0, ~a, a).view(f"u{a.itemsize}")
        place = leading(a) - np.uint32(1)
        if "shiftamt" in item.parts:
            place = np.where(a == 0, place, np.uint32(bits - 1) - place)
        return place

    def reverse(a):
        flipped = np.unpackbits(a[::-1].copy().view(np.uint8), bitorder="little")[::-1]
        return np.packbits(flipped, bitorder="little").view(a.dtype)

    functions = {
        "popc": np.bitwise_count,
        "clz": lambda a: np.uint32(bits) - leading(a),
        "bfind": find,
        "brev": reverse,
    }
    return elementwise(functions[name], target, program.read(item.operands[1], dtype))


@OPERATIONS.of("bfe")
def bfe(program, item):
    dtype = DTYPES[item.parts[-1]]
    bits = 8 * dtype.itemsize

    def function(a, start, length):
        start, length = np.minimum(start & 255, bits), np.minimum(length & 255, bits)
        length = np.minimum(length, bits) if dtype.kind == "u" else np.minimum(length, bits - start)
        up = np.maximum(bits - start.astype(np.int64) - length, 0).astype(dtype)
        kept = (bits - np.maximum(length, 1)).astype(dtype)
        if dtype.kind == "u":
            mask = np.where(
                length >= bits, dtype.type(2**bits - 1), (dtype.type(1) << length.astype(dtype)) - dtype.type(1)
            )
            return a >> start.astype(dtype) & mask
        sign = a >> dtype.type(bits - 1)  # stands for all that is above the number
        return np.where(length == 0, np.where(start >= bits, sign, 0), (a << up) >> kept)

    sources = [program.read(item.operands[1], dtype), *(program.read(o, np.uint32) for o in item.operands[2:4])]
    return elementwise(function, program.write(item.operands[0], dtype), *sources)


@OPERATIONS.of("bfi")
def bfi(program, item):
    dtype = np.dtype(f"u{DTYPES[item.parts[-1]].itemsize}")
    one = dtype.type(1)

    def function(a, b, start, length):
        mask = ((one << (length & 255).astype(dtype)) - one) << (start & 255).astype(dtype)
        return (b & ~mask) | (a << (start & 255).astype(dtype) & mask)

    sources = [program.read(o, k) for o, k in zip(item.operands[1:5], (dtype, dtype, "u4", "u4"), strict=True)]
    return elementwise(function, program.write(item.operands[0], dtype), *sources)


@OPERATIONS.of("prmt")
def prmt(program, item):
    if item.parts[1] != "b32":
        raise KeyError(item.parts[1])

    def function(a, b, selector):
        both = b.astype(np.uint64) << np.uint64(32) | a
        result = np.zeros_like(a)
        for place in range(4):
            chosen = selector >> np.uint32(4 * place) & 15
            byte = (both >> ((chosen & 7).astype(np.uint64) * np.uint64(8)) & np.uint64(255)).astype(np.uint32)
            sign = np.where(byte & 128, np.uint32(255), np.uint32(0))
            result |= np.where(chosen & 8, sign, byte) << np.uint32(8 * place)
        return result

    return typed(program, item, function)


@OPERATIONS.of("lop3")
def lop3(program, item):
    table = int(item.operands[4].text.rstrip("U"), 0)
    sources = [program.read(o, np.uint32) for o in item.operands[1:4]]

    def function(a, b, c):
        result = np.zeros_like(a)
        for row in range(8):
            if table >> row & 1:
                result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
        return result

    return elementwise(function, program.write(item.operands[0], np.uint32), *sources)
