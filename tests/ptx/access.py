"""Loads and stores, each of them checked as compute-sanitizer's memcheck does."""

import numpy as np

from .closures import Table, copying
from .memory import LOCAL, SHARED, UNSIGNED, MemoryFault
from .moves import together
from .shared import check_written, races
from .syntax import DTYPES, SIZES, Group, Name

OPERATIONS = Table()
SPACES = ("global", "shared", "local", "param", "const")


class Access:
    """One memory instruction: where its address is, and what it does to whom."""

    def __init__(self, program, item, operand, width):
        self.text, self.width, self.alignment = item.text, width, width
        self.space = next((p.split("::")[0] for p in item.parts if p.split("::")[0] in SPACES), "generic")
        self.is_parameter = self.space == "param"  # no memory that bytes are counted of
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
        if np.bitwise_or.reduce(address) & (self.alignment - 1):
            self.fault(block, "misaligned", address, threads, (address & (self.alignment - 1)) != 0)
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
                why = f"out of bounds of {space} memory ({memory.describe(int(here[bad][0]))})"
                self.fault(block, why, address, threads, bad_of_all)
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
            elif space == "global" and not access.is_parameter:
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
        everyone = np.ones(len(addresses), bool)
        access.fault(block, f"write to read-only memory ({allocation.name})", addresses, threads, everyone)
