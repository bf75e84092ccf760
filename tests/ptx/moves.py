"""Instructions that move, choose and compare."""

import numpy as np

from .closures import Table, copying, elementwise, typed, ufunc
from .memory import LOCAL, SHARED, WINDOW
from .syntax import DTYPES, SIZES, Group, Name, PtxError

OPERATIONS = Table()
COMPARE = {"eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater}
COMPARE |= {"ge": np.greater_equal, "lo": np.less, "ls": np.less_equal, "hi": np.greater, "hs": np.greater_equal}
# For floats NumPy's comparisons are the ordered ones, but not_equal holds for NaN.
FLOATS = {
    **{name: COMPARE[name] for name in ("eq", "lt", "le", "gt", "ge")},
    "ne": lambda a, b: (a < b) | (a > b),
    "equ": lambda a, b: ~((a < b) | (a > b)),
    "neu": np.not_equal,
    "ltu": lambda a, b: ~(a >= b),
    "leu": lambda a, b: ~(a > b),
    "gtu": lambda a, b: ~(a <= b),
    "geu": lambda a, b: ~(a < b),
    "num": lambda a, b: (a == a) & (b == b),
    "nan": lambda a, b: (a != a) | (b != b),
}
BOOLEAN = {"and": np.logical_and, "or": np.logical_or, "xor": np.logical_xor}
WINDOWS = {"shared": SHARED, "local": LOCAL}
IGNORED = ("membar", "fence", "prefetch", "prefetchu", "applypriority", "discard", "griddepcontrol", "nop")


def together(*acts):
    def run(block, mask):
        for act in acts:
            act(block, mask)

    return run


def bfloat(bits):
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def flush(values):
    """Subnormal numbers become zeros of the same sign."""
    return np.where(np.abs(values) < np.finfo(values.dtype).tiny, np.copysign(values.dtype.type(0), values), values)


@OPERATIONS.of("mov")
def mov(program, item):
    target, source = item.operands
    size = SIZES[item.parts[-1]]
    if isinstance(target, Group) and target.kind == "{":
        return together(*pieces(program, target.items, source, size, unpack=True))
    if isinstance(source, Group) and source.kind == "{":
        return together(*pieces(program, source.items, target, size, unpack=False))
    dtype = DTYPES["pred" if item.parts[-1] == "pred" else f"u{8 * size}"] if size < 16 else None
    if dtype is None:
        halves = [
            [program.slot("part", (program.frame.number, o.name), "<u8", i) for o in item.operands] for i in (0, 1)
        ]
        return together(*(copying(*pair) for pair in halves))
    if isinstance(source, Name) and source.name.startswith(("%clock", "%globaltimer")):
        return clock(program.write(target, dtype))
    return copying(program.write(target, dtype), program.read(source, dtype))


def pieces(program, narrow, wide, size, unpack):
    """The copies between a register and the narrower ones that make it up."""
    each = np.dtype(f"u{size // len(narrow)}")
    program.registers[program.frame.number, wide.name] = program.register(wide.name)
    for index, operand in enumerate(narrow):
        part = program.slot("part", (program.frame.number, wide.name), each.str, index)
        if unpack and operand != Name("_"):
            yield copying(program.write(operand, each), part)
        elif not unpack:
            yield copying(part, program.read(operand, each))


def clock(target):
    def run(block, mask):
        np.copyto(block.values[target], block.steps, where=True if mask is None else mask, casting="unsafe")

    return run


@OPERATIONS.of("cvta")
def cvta(program, item):
    dtype = DTYPES[item.parts[-1]]
    target, source = program.write(item.operands[0], dtype), program.read(item.operands[1], dtype)
    window = next((WINDOWS[p] for p in item.parts if p in WINDOWS), 0)
    if not window:
        return copying(target, source)
    base = np.uint64((1 << 64) - window if "to" in item.parts else window)
    return elementwise(lambda a: a + base, target, source)


@OPERATIONS.of("isspacep")
def isspacep(program, item):
    target, source = program.write(item.operands[0], np.bool_), program.read(item.operands[1], np.uint64)
    if item.parts[1] in WINDOWS:
        low = np.uint64(WINDOWS[item.parts[1]])
        return elementwise(lambda a: (a - low) < WINDOW, target, source)
    if item.parts[1] != "global":
        raise KeyError(item.parts[1])
    return elementwise(lambda a: a >= LOCAL + WINDOW, target, source)


@OPERATIONS.of("selp")
def selp(program, item):
    dtype = DTYPES[item.parts[-1]]
    a, b = (program.read(o, dtype) for o in item.operands[1:3])
    chosen, negated = program.predicate(item.operands[3])
    if negated:
        a, b = b, a
    return elementwise(np.where, program.write(item.operands[0], dtype), chosen, a, b)


@OPERATIONS.of("slct")
def slct(program, item):
    dtype, by = DTYPES[item.parts[-2]], DTYPES[item.parts[-1]]
    a, b = (program.read(o, dtype) for o in item.operands[1:3])
    sign = program.read(item.operands[3], by)
    return elementwise(lambda a, b, c: np.where(c >= 0, a, b), program.write(item.operands[0], dtype), a, b, sign)


def comparison(program, item, kind, first):
    """The comparison of two operands as a function of arrays, and the slots of these."""
    dtype = DTYPES[kind]
    a, b = (program.read(o, dtype) for o in item.operands[first : first + 2])
    function = (FLOATS if dtype.kind == "f" or kind == "bf16" else COMPARE)[item.parts[1]]
    if kind == "bf16":
        return (lambda a, b: function(bfloat(a), bfloat(b))), a, b
    if "ftz" in item.parts:
        return (lambda a, b: function(flush(a), flush(b))), a, b
    return function, a, b


@OPERATIONS.of("setp")
def setp(program, item):
    targets = item.operands[0].items if isinstance(item.operands[0], Group) else (item.operands[0],)
    function, a, b = comparison(program, item, item.parts[-1], 1)
    slots = [program.write(t, np.bool_) for t in targets]
    combine = next((BOOLEAN[p] for p in item.parts[2:-1] if p in BOOLEAN), None)
    if combine is None and len(slots) == 1:
        if isinstance(function, np.ufunc):
            return ufunc(program, function, slots[0], a, b)
        return elementwise(function, slots[0], a, b)
    other, negated = program.predicate(item.operands[3]) if combine else (None, False)

    def run(block, mask):
        values = block.values
        yes = function(values[a], values[b])
        results = [yes, ~yes]
        if combine:
            third = ~values[other] if negated else values[other].copy()
            results = [combine(r, third) for r in results]
        for slot, result in zip(slots, results, strict=False):
            np.copyto(values[slot], result, where=True if mask is None else mask)

    return run


@OPERATIONS.of("set")
def set_(program, item):
    function, a, b = comparison(program, item, item.parts[-1], 1)
    dtype = DTYPES[item.parts[-2]]
    if len(item.operands) > 3:
        raise KeyError("set with a predicate")
    true = dtype.type(1) if dtype.kind == "f" else np.array(-1).astype(dtype)[()]
    target = program.write(item.operands[0], dtype)
    return elementwise(lambda a, b: np.where(function(a, b), true, dtype.type(0)), target, a, b)


@OPERATIONS.of("and", "or", "xor", "not")
def bitwise(program, item):
    function = getattr(np, {"not": "invert"}.get(item.parts[0], f"bitwise_{item.parts[0]}"))
    if item.parts[-1] == "pred" and any(isinstance(o, Group) for o in item.operands):
        raise PtxError(f"a negated operand: {item.text}")
    return typed(program, item, function)


@OPERATIONS.of(*IGNORED)
def nothing(_program, _item):
    """Memory is always in order here."""
    return lambda block, mask: None


@OPERATIONS.of("createpolicy")
def policy(program, item):
    return elementwise(np.zeros_like, (target := program.write(item.operands[0], np.uint64)), target)


@OPERATIONS.of("nanosleep")
def nanosleep(_program, _item):
    def run(block, _mask):
        block.rested = True  # the next block has its turn

    return run


@OPERATIONS.of("activemask")
def activemask(program, item):
    from .warps import ballot

    target = program.write(item.operands[0], np.uint32)

    def run(block, mask):
        found = ballot(np.ones(block.count, bool) if mask is None else mask)
        np.copyto(block.values[target], found, where=True if mask is None else mask)

    return run
