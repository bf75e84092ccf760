"""Asynchronous copies from global to shared memory: the bytes are there after the wait of their thread, not before."""

import copy
from dataclasses import dataclass

import numpy as np

from .access import Access
from .closures import Table
from .shared import forget, races, written_now
from .syntax import Number

OPERATIONS = Table()


@dataclass
class Copy:
    """One instruction under way: pieces of its source and destination, and for each thread the group it is in."""

    into: Access
    width: int
    sources: list  # (allocation, offsets, threads, bytes of each)
    targets: list  # (allocation, offsets, threads, addresses)
    group: np.ndarray  # -1: not of this copy, or arrived

    def arrive(self, block, chosen):
        """Bring the bytes of these threads; what the instruction did not read is 0."""
        data = np.zeros((block.count, self.width), np.uint8)
        for allocation, offset, threads, size in self.sources:
            data[threads, :size] = allocation.bytes[offset[:, None] + np.arange(size)]
        for allocation, offset, threads, addresses in self.targets:
            here = chosen[threads]
            if here.any():
                offset, threads = offset[here], threads[here]
                races(self.into, block, allocation, offset, threads, addresses[here], "written")
                written_now(allocation, offset, self.width)
                allocation.bytes[offset[:, None] + np.arange(self.width)] = data[threads]
        self.group[chosen] = -1


def wait(block, mask, latest):
    """Let all copies of these threads arrive whose group is at most ``latest``, a number of each thread."""
    for item in block.copies:
        chosen = (item.group >= 0) & (item.group <= latest)
        if mask is not None:
            chosen &= mask
        if chosen.any():
            item.arrive(block, chosen)
    block.copies = [item for item in block.copies if (item.group >= 0).any()]


@OPERATIONS.of("cp")
def asynchronous(program, item):
    return {"wait_all": wait_all, "wait_group": wait_group, "commit_group": commit_group, "ca": begin, "cg": begin}[
        item.parts[2]
    ](program, item)


def wait_all(program, item):
    def run(block, mask):
        wait(block, mask, np.iinfo(int).max)

    return run


def wait_group(program, item):
    count = program.read(item.operands[0], np.int32)

    def run(block, mask):
        wait(block, mask, block.committed - 1 - block.values[count])

    return run


def commit_group(program, item):
    def run(block, mask):
        block.committed[slice(None) if mask is None else mask] += 1

    return run


def begin(program, item):
    target, source, count, *given = item.operands
    if not isinstance(count, Number) or int(count.text) not in ((16,) if item.parts[2] == "cg" else (4, 8, 16)):
        raise KeyError(item.opcode)
    width = int(count.text)
    into, where = Access(program, item, target, width), Access(program, item, source, width)
    into.space, where.space = "shared", "global"
    size = program.read(given[0], np.uint32) if given else None

    def run(block, mask):
        everyone = np.ones(block.count, bool) if mask is None else mask
        sizes = np.full(block.count, width) if size is None else np.minimum(block.values[size], width)
        targets = [(a, o, all_of(block, t), at) for _, a, o, t, at in into.pieces(block, mask)]
        for allocation, offset, threads, addresses in targets:
            races(into, block, allocation, offset, threads, addresses, "written")
            forget(allocation, offset, width)
        sources = []
        for bytes_read in np.unique(sizes[everyone & (sizes > 0)]):
            part = copy.copy(where)
            part.width = int(bytes_read)
            for _, allocation, offset, threads, addresses in part.pieces(block, everyone & (sizes == bytes_read)):
                sources.append((allocation, offset, all_of(block, threads), part.width))
                block.report.access("read", addresses, threads, block.count, part.width)
        group = np.where(everyone, block.committed, -1)
        block.copies.append(Copy(into, width, sources, targets, group))

    return run


def all_of(block, threads):
    return block.threads if threads is None else threads
