"""Variables with a state: those of shared memory, and the initial values of a module's."""

import numpy as np

from .memory import SHARED, UNSIGNED, Allocation
from .syntax import DTYPES, literal

PHASE = 1 << 20  # between two barriers of the block; the meetings of warps count within
SEVERAL = -2
WIDEST = 16  # bytes of an access


class Shared(Allocation):
    """A variable of shared memory, with what was written to it, and by whom if races are looked for."""

    def __init__(self, name, start, size, races=False, unwritten=True):
        super().__init__(name, start, size)
        self.written = np.zeros(self.bytes.size, np.uint8)
        self.written_views = {width: self.written.view(kind) for width, kind in UNSIGNED.items()}
        self.is_checked = unwritten
        self.all_written = not unwritten  # reads need no check then
        self.phases, self.unit = None, WIDEST
        if races:  # for each unit of bytes: the phase of the last read or write, the thread and the warp
            self.phases = {kind: np.full((3, self.bytes.size // self.unit), -1) for kind in ("read", "written")}

    def split(self, width):
        """A unit has as many bytes as the narrowest access so far: each access takes all of it or nothing."""
        if width < self.unit:
            self.phases = {kind: np.repeat(known, self.unit // width, axis=1) for kind, known in self.phases.items()}
            self.unit = width


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
            place += SHARED if generic and space == "shared" else 0
            at[:] = np.frombuffer(np.uint64(place).tobytes(), np.uint8)
    return allocation


def forget(allocation, offset, width):
    """What a copy is under way to must not be read."""
    allocation.written[offset[:, None] + np.arange(width)] = 0
    allocation.all_written = not allocation.is_checked


def written_now(allocation, offset, width):
    """Note that bytes are there, as ``check_written`` looks for them."""
    allocation.written[offset[:, None] + np.arange(width)] = 1


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
    allocation.split(access.width)
    first, units = offset // allocation.unit, access.width // allocation.unit
    me = block.threads if threads is None else threads
    ours, others = allocation.phases[kind], allocation.phases["written"]
    checks = (others,) if kind == "read" else (others, allocation.phases["read"])
    now, warp = block.phase, me // 32
    for number in range(units):
        at = first + number
        for then, thread, of_warp in checks:
            ordered = (then[at] // PHASE != now // PHASE) | (thread[at] == me)
            ordered |= (of_warp[at] == warp) & (then[at] < block.warp_phase[me])
            if not ordered.all():
                access.fault(block, f"race ({allocation.name})", addresses, threads, ~ordered)
        then, thread, of_warp = ours
        before = then[at] // PHASE == now // PHASE
        earlier, earlier_warp = thread[at], of_warp[at]
        then[at], thread[at], of_warp[at] = now, me, warp
        other = thread[at] != me  # the last one of several stands there
        if kind == "written" and other.any():
            access.fault(block, f"race ({allocation.name})", addresses, threads, other)
        thread[at[other | (before & (earlier != me))]] = SEVERAL
        of_warp[at[(of_warp[at] != warp) | (before & (earlier_warp != warp))]] = SEVERAL
