"""What a launch did: instructions by opcode, and the traffic with global memory."""

from collections import Counter, defaultdict

import numpy as np

BATCH = 512  # accesses whose sectors are counted together


class Report:
    """Counts of one launch.

    ``instructions`` and ``warp_instructions`` count, for each opcode, the threads and the warps that executed it
    (also where its guard was false). ``global_bytes_read`` and ``global_bytes_written`` are what the threads asked
    for, ``read_widths`` and ``written_widths`` the same by the bytes of one access; ``sectors_read`` and
    ``sectors_written`` are the 32-byte sectors that each warp touched with one access, ``requests_read`` and
    ``requests_written`` the number of such accesses; ``sectors`` and ``requests`` hold them by ("read", width) and
    ("written", width). Atomics count in ``atomics`` only.
    """

    def __init__(self, segments):
        self.segments = segments
        self.threads, self.warps = [0] * len(segments), [0] * len(segments)
        self.read_widths, self.written_widths, self.atomics = Counter(), Counter(), Counter()
        self.sectors, self.requests = Counter(), Counter()
        self.pending = defaultdict(list)
        self.instructions, self.warp_instructions = Counter(), Counter()

    def access(self, kind, addresses, threads, count, width):
        """Note one access of a block; ``threads`` is None where all take part."""
        widths = self.read_widths if kind == "read" else self.written_widths
        widths[width] += width * len(addresses)
        lanes = np.full(-(-count // 32) * 32, -1)
        lanes[slice(count) if threads is None else threads] = addresses >> 5
        self.pending[kind, width].append(lanes)
        if len(self.pending[kind, width]) >= BATCH:
            self.count((kind, width))

    def count(self, key):
        if self.pending[key]:
            lanes = np.sort(np.concatenate(self.pending[key]).reshape(-1, 32), axis=1)
            fresh = (lanes[:, 1:] != lanes[:, :-1]) & (lanes[:, 1:] >= 0)
            self.sectors[key] += int(np.count_nonzero(fresh) + np.count_nonzero(lanes[:, 0] >= 0))
            self.requests[key] += int(np.count_nonzero(lanes[:, -1] >= 0))
            self.pending[key].clear()

    def finish(self):
        for segment, threads, warps in zip(self.segments, self.threads, self.warps, strict=True):
            for opcode in segment.opcodes if threads else ():
                self.instructions[opcode] += threads
                self.warp_instructions[opcode] += warps
        for key in self.pending:
            self.count(key)
        self.segments = None
        return self

    @property
    def sectors_read(self):
        return sum_of(self.sectors, "read")

    @property
    def sectors_written(self):
        return sum_of(self.sectors, "written")

    @property
    def requests_read(self):
        return sum_of(self.requests, "read")

    @property
    def requests_written(self):
        return sum_of(self.requests, "written")

    @property
    def global_bytes_read(self):
        return sum(self.read_widths.values())

    @property
    def global_bytes_written(self):
        return sum(self.written_widths.values())

    def executed(self, start, warps=False):
        """How often opcodes that begin with ``start`` were executed, by threads or by warps."""
        counts = self.warp_instructions if warps else self.instructions
        return sum(count for opcode, count in counts.items() if opcode.startswith(start))


def sum_of(counts, kind):
    return sum(count for (of, _), count in counts.items() if of == kind)
