"""The memory of the device: one flat space of 64-bit addresses, in which every access is checked."""

import ctypes
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np

from .syntax import PtxError

SHARED, LOCAL = 0x0100_0000_0000, 0x0200_0000_0000  # where generic addresses find shared and local memory
GLOBAL, VARIABLES = 0x7000_0000_0000, 0x6000_0000_0000
WINDOW = 1 << 32
GAP = 1 << 20  # between two allocations, so that what runs over the end of one never meets another
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class MemoryFault(PtxError):
    """An access that memcheck would report."""


class Allocation:
    """Bytes at an address; ``views`` are of unsigned integers of each width, from a multiple of 256 on."""

    def __init__(self, name, start, size, source=None, writable=True):
        self.name, self.start, self.size, self.source, self.writable = name, start, size, source, writable
        self.base = start & ~255
        self.bytes = np.zeros((start - self.base + size + 31) & ~15, np.uint8)
        self.views = {width: self.bytes.view(kind) for width, kind in UNSIGNED.items()}
        self.content = self.bytes[start - self.base :][:size]
        self.keep = None

    @property
    def end(self):
        return self.start + self.size

    def __repr__(self):
        return f"{self.name} at {self.start:#x}, {self.size} bytes"


@dataclass(frozen=True)
class Pointer:
    """An address in device memory, to be passed as a kernel's argument of 64 bits."""

    address: int


def extent(array):
    """The first byte of an array's memory and the one after its last."""
    low, high = np.lib.array_utils.byte_bounds(array)
    return (low, high) if array.size else (low, low)


class Memory:
    """The allocations of a device. What a kernel writes comes back to the NumPy arrays after each launch."""

    def __init__(self):
        self.allocations = []
        self.starts = []
        self.next = GLOBAL

    def insert(self, allocation):
        at = bisect_right(self.starts, allocation.start)
        self.allocations.insert(at, allocation)
        self.starts.insert(at, allocation.start)
        return allocation

    def remove(self, allocation):
        at = self.allocations.index(allocation)
        del self.allocations[at], self.starts[at]

    def holds(self, array):
        """The allocation that an array was put into, or one that it is a view of; or None."""
        low, high = extent(array)
        for known in self.allocations:
            if known.source and known.source[0] <= low and high <= known.source[1] and high > low:
                return known
        return None

    def put(self, array, offset=0, name=None):
        """Allocate the memory of ``array``, its first element ``offset`` elements after a multiple of 256 bytes.

        An array within one that was put before is found there; so put the base first and pass its views.
        """
        low, high = extent(array)
        if (known := self.holds(array)) is not None:
            if offset:
                raise PtxError(f"{known.name} is there already, with an offset of its own")
            return Pointer(known.start + low - known.source[0])
        for known in self.allocations:
            if known.source and known.source[0] < high and low < known.source[1]:
                raise PtxError(f"this array overlaps {known.name}: put their common base first")
        start = self.next + offset * array.itemsize
        label = name or f"array {len(self.allocations)} {array.dtype}{list(array.shape)}"
        allocation = self.insert(Allocation(label, start, high - low, (low, high), array.flags.writeable))
        allocation.keep = array  # an address is only good as long as the array lives
        self.next = (allocation.end + GAP + 255) & ~255
        return Pointer(start)

    def address(self, array):
        """The address of an array's first element."""
        low = extent(array)[0]
        return self.put(array).address + (array.__array_interface__["data"][0] - low)

    def source(self, allocation):
        low, high = allocation.source
        return np.frombuffer((ctypes.c_uint8 * (high - low)).from_address(low), np.uint8)

    def upload(self):
        """Take over what NumPy did to the arrays since the last launch."""
        for allocation in self.allocations:
            if allocation.source and allocation.size:
                allocation.content[:] = self.source(allocation)

    def download(self):
        """Give back what the kernel wrote."""
        for allocation in self.allocations:
            if allocation.source and allocation.size and allocation.writable:
                self.source(allocation)[:] = allocation.content

    def find(self, address):
        """The allocation with the greatest start not above ``address``, or None."""
        at = bisect_right(self.starts, address)
        return self.allocations[at - 1] if at else None

    def allocation_of(self, low, high, width):
        """The one allocation that holds accesses of ``width`` bytes from ``low`` to ``high``, or None."""
        found = self.find(low)
        return found if found is not None and high + width <= found.end else None

    def describe(self, address):
        """What is near an address, for messages."""
        found = self.find(address)
        if found is None:
            return "below every allocation"
        if address < found.end:
            return f"byte {address - found.start} of {found}"
        return f"{address - found.end} bytes after the end of {found}"
