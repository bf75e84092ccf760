"""Loads and stores, each of them checked as compute-sanitizer's memcheck does."""

import numpy as np

from .closures import Table, copying
from .memory import LOCAL, SHARED, UNSIGNED, VARIABLES, Allocation, MemoryFault
from .moves import bfloat, together
from .parse import SIZES, Group, Name, PtxError
from .program import DTYPES, literal

OPERATIONS = Table()
PHASE = 1 << 20  # between two barriers of the block; the meetings of warps count within
SPACES = ("global", "shared", "local", "param", "const")


class Shared(Allocation):
    """A variable of shared memory, with what was written to it, and by whom if races are looked for."""

    def __init__(self, name, start, size, races):
        super().__init__(name, start, size)
        self.written = np.zeros(self.bytes.size, np.uint8)
        self.written_views = {width: self.written.view(kind) for width, kind in UNSIGNED.items()}
        self.all_written = False
        self.phases = None
        if races:  # of each byte: the phase of the last write and read, and by which thread (-2: by several)
            self.phases = {kind: np.full((2, self.bytes.size), -1) for kind in ("read", "written")}


def initial(address, variable, program):
    """The allocation of a module's variable."""
    allocation = Allocation(variable.name, address, variable.size, None, variable.space != "const")
    dtype, data = DTYPES[variable.type], allocation.content
    for index, text in enumerate(variable.values or ()):
        at = data[index * dtype.itemsize :][: dtype.itemsize]
        if text.lstrip("-")[0].isdigit():
            at[:] = np.frombuffer(np.array(literal(text, dtype), dtype).tobytes(), np.uint8)
        else:  # the address of another variable
            name, generic = (text[8:-1], True) if text.startswith("generic(") else (text, False)
            space, place = program.places[name]
            at[:] = np.frombuffer(np.uint64(place + (SHARED if generic and space == "shared" else 0)).tobytes(), np.uint8)
    return allocation


class Access:
    """One memory instruction: where its address is, and what it does to whom."""

    def __init__(self, program, item, operand, width):
        self.text, self.width = item.text, width
        self.space = next((p.split("::")[0] for p in item.parts if p.split("::")[0] in SPACES), "generic")
        if self.space in ("const", "param"):
            self.space = "global"
        base = operand.base
        wide = np.int64 if not isinstance(base, Name) or program.register(base.name) in (None, 8) else np.uint32
        self.base, self.offset = program.read(base, wide), operand.offset

    def fault(self, block, why, address, threads, bad):
        first = int(np.flatnonzero(bad)[0])
        thread = first if threads is None else int(threads[first])
        count = int(np.count_nonzero(bad))
        raise MemoryFault(
            f"{why}: {self.text}, {self.width} bytes at {int(address[first]):#x}, {block.where(thread)}"
            + (f" and {count - 1} more threads" if count > 1 else "")
        )

    def pieces(self, block, mask):
        """Yields (space, allocation, offsets in its bytes, threads, addresses) until all threads are served."""
        threads = None if mask is None else np.flatnonzero(mask)
        address = block.values[self.base]
        if threads is not None:
            address = address[threads]
        if address.dtype != np.int64:
            address = address.astype(np.int64)
        if self.offset:
            address = address + self.offset
        if np.bitwise_or.reduce(address) & (self.width - 1):
            self.fault(block, "misaligned", address, threads, (address & (self.width - 1)) != 0)
        yield from self.spaces(block, address, threads)

    def spaces(self, block, address, threads):
        if self.space != "generic":
            yield from self.allocations(block, self.space, address, threads)
            return
        windows = address >> 40  # SHARED and LOCAL begin at multiples of 2**40
        for number in np.unique(windows):
            space, start = {SHARED >> 40: ("shared", SHARED), LOCAL >> 40: ("local", LOCAL)}.get(number, ("global", 0))
            chosen = windows == number
            if chosen.all():
                yield from self.allocations(block, space, address - start, threads)
            else:
                which = np.flatnonzero(chosen)
                yield from self.allocations(
                    block, space, address[which] - start, which if threads is None else threads[which]
                )

    def allocations(self, block, space, address, threads):
        memory = {"global": block.memory, "shared": block.shared, "local": block.stack}[space]
        low, high = int(np.minimum.reduce(address)), int(np.maximum.reduce(address))
        found = memory.allocation_of(low, high, self.width)
        if found is not None:
            offset = address - found.base
            if space == "local":
                offset = address + (block.threads if threads is None else threads) * block.local.shape[1]
            yield space, found, offset, threads, address
            return
        owner = np.searchsorted(memory.starts, address, "right") - 1
        for number in np.unique(owner):
            chosen = owner == number
            here = address[chosen]
            found = memory.allocations[number] if number >= 0 else None
            bad = np.ones(here.size, bool) if found is None else here + self.width > found.end
            if bad.any():
                bad_of_all = np.zeros(address.size, bool)
                bad_of_all[np.flatnonzero(chosen)[bad]] = True
                at = int(here[bad][0])
                self.fault(block, f"out of bounds of {space} memory ({memory.describe(at)})", address, threads, bad_of_all)
            which = np.flatnonzero(chosen)
            yield from self.allocations(block, space, here, which if threads is None else threads[which])


def views_of(block, space, allocation, width):
    return block.local.reshape(-1).view(UNSIGNED[width]) if space == "local" else allocation.views[width]


def operands_of(item, operand):
    return list(operand.items) if isinstance(operand, Group) else [operand]


@OPERATIONS.of("ld", "ldu")
def load(program, item):
    kind = item.parts[-1]
    size = SIZES[kind]
    targets, address = operands_of(item, item.operands[0]), item.operands[1]
    dtype = np.dtype(DTYPES[kind]) if kind != "b128" else None
    if kind == "b128":
        dtype, size, targets = np.dtype(np.uint64), 8, [(targets[0], 0), (targets[0], 1)]
    elif "param" in item.parts or "param::entry" in item.parts or "param::func" in item.parts:
        copies = [program.fixed(address_at(address, i * size), dtype) for i in range(len(targets))]
        if copies[0] is not None:
            return together(*(copying(program.write(t, dtype), c) for t, c in zip(targets, copies, strict=True)))
    access = Access(program, item, address, size * len(targets))
    slots = [wide_part(program, *t) if isinstance(t, tuple) else program.write(t, dtype) for t in targets]
    shift, width, raw = np.int64(size.bit_length() - 1), access.width, UNSIGNED[size]

    def run(block, mask):
        values = block.values
        for space, allocation, offset, threads, addresses in access.pieces(block, mask):
            if space == "shared":
                check_written(access, block, allocation, offset, threads, addresses, size, len(slots))
                races(access, block, allocation, offset, threads, addresses, "read")
            elif space == "global":
                block.report.access("read", addresses, threads, block.count, width)
            index = offset >> shift
            view = views_of(block, space, allocation, size)
            for number, slot in enumerate(slots):
                found = view.take(index + number if number else index).view(dtype)
                if threads is None:
                    values[slot][...] = found
                else:
                    values[slot][threads] = found

    assert raw
    return run


def address_at(address, more):
    return type(address)(address.base, address.offset + more)


def wide_part(program, operand, index):
    """Half of a register of 128 bits."""
    program.registers[program.frame.number, operand.name] = 16
    return program.slot("part", (program.frame.number, operand.name), "<u8", index)


def check_written(access, block, allocation, offset, threads, addresses, size, count):
    if allocation.all_written:
        return
    if allocation.written[: allocation.size].all():
        allocation.all_written = True
        return
    for number in range(count):
        flags = allocation.written_views[size].take((offset // size) + number)
        bad = flags != np.array(0x0101010101010101 & (256**size - 1), flags.dtype)
        if bad.any():
            access.fault(block, f"read of shared memory never written ({allocation.name})", addresses, threads, bad)


def races(access, block, allocation, offset, threads, addresses, kind):
    """Two threads touch a byte between two barriers and at least one of them writes."""
    if allocation.phases is None:
        return
    me = block.threads if threads is None else threads
    ours, others = allocation.phases[kind], allocation.phases["written"]
    checks = (others,) if kind == "read" else (others, allocation.phases["read"])
    now = block.phase
    for byte in range(access.width):
        at = offset + byte
        for phases in checks:
            then, by = phases[0][at], phases[1][at]
            apart = (by != me) & ((then // PHASE == now // PHASE) | (then < 0)) & (then >= 0)
            same_warp = (by >= 0) & (by // 32 == me // 32) & (phases[0][at] < block.warp_phase[me])
            bad = apart & ~same_warp
            if bad.any():
                access.fault(block, f"race ({allocation.name})", addresses, threads, bad)
        before = (ours[0][at] // PHASE == now // PHASE) & (ours[0][at] >= 0) & (ours[1][at] != me)
        ours[0][at] = now
        ours[1][at] = np.where(before, -2, me)
        several = np.bincount(at - at.min())[at - at.min()] > 1
        if several.any():
            if kind == "written":
                access.fault(block, f"race ({allocation.name})", addresses, threads, several)
            ours[1][at] = np.where(several, -2, ours[1][at])


@OPERATIONS.of("st")
def store(program, item):
    kind = item.parts[-1]
    size = SIZES[kind]
    address, sources = item.operands[0], operands_of(item, item.operands[1])
    dtype = np.dtype(DTYPES[kind]) if kind != "b128" else None
    if kind == "b128":
        dtype, size, sources = np.dtype(np.uint64), 8, [(sources[0], 0), (sources[0], 1)]
    elif "param" in item.parts or "param::func" in item.parts:
        copies = [program.fixed(address_at(address, i * size), dtype) for i in range(len(sources))]
        if copies[0] is not None:
            return together(*(copying(c, program.read(s, dtype)) for s, c in zip(sources, copies, strict=True)))
    access = Access(program, item, address, size * len(sources))
    slots = [wide_part(program, *s) if isinstance(s, tuple) else program.read(s, dtype) for s in sources]
    shift, width, raw = np.int64(size.bit_length() - 1), access.width, UNSIGNED[size]

    def run(block, mask):
        values = block.values
        for space, allocation, offset, threads, addresses in access.pieces(block, mask):
            index = offset >> shift
            if space == "shared":
                races(access, block, allocation, offset, threads, addresses, "written")
                for number in range(len(slots)):
                    allocation.written_views[size][index + number] = 0x0101010101010101 & (256**size - 1)
            elif space == "global":
                writable(access, block, allocation, threads, addresses)
                block.report.access("written", addresses, threads, block.count, width)
            view = views_of(block, space, allocation, size)
            for number, slot in enumerate(slots):
                data = values[slot] if threads is None else values[slot][threads]
                view[index + number if number else index] = data.view(raw) if data.dtype != raw else data

    return run


def writable(access, block, allocation, threads, addresses):
    if not allocation.writable:
        access.fault(block, f"write to read-only memory ({allocation.name})", addresses, threads, np.ones(len(addresses), bool))


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


__all__ = ["OPERATIONS", "VARIABLES", "PtxError", "Shared", "initial"]
