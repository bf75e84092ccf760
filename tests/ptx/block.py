"""A block of threads: its registers, and in which order its threads run."""

from dataclasses import dataclass, field

import numpy as np

from . import warps
from .memory import Allocation, Memory
from .program import Program
from .report import Report
from .shared import PHASE, Shared
from .syntax import PtxError

PATIENCE, AHEAD = 4, 64  # turns without, and then segments with, those threads that others keep from running
GONE = 1 << 40  # the program counter of a thread that has left


@dataclass
class Launch:
    """What all blocks of one launch share."""

    program: Program
    grid: tuple
    shape: tuple
    memory: Memory
    parameters: Allocation
    dynamic: int
    report: Report
    races: bool = False
    unwritten: bool = True
    shared_values: dict = field(default_factory=dict)

    def value(self, number, spec, threads):
        """The array of a slot that is the same for every block."""
        kind, key, *rest = spec
        if kind == "value":
            return np.full(threads, np.frombuffer(rest[0], np.dtype(key))[0])
        if kind == "param":
            dtype = np.dtype(rest[0])
            return np.full(threads, np.frombuffer(self.parameters.content[key:][: dtype.itemsize].tobytes(), dtype)[0])
        name, index, dtype = key, np.arange(threads), rest[0]
        lane = (index % 32).astype(np.uint64)
        x, y, _ = self.shape
        axis = "xyz".find(name[-1])
        one = np.uint64(1)
        masks = {"eq": one << lane, "lt": (one << lane) - one, "le": (one << lane << one) - one}
        masks |= {"ge": ~masks["lt"], "gt": ~masks["le"]}
        if name.startswith("%tid."):
            found = (index % x, index // x % y, index // (x * y))[axis]
        elif name.startswith("%ntid."):
            found = self.shape[axis]
        elif name.startswith("%nctaid."):
            found = self.grid[axis]
        elif name.startswith("%lanemask_"):
            found = masks[name[-2:]]
        else:
            plain = {"%laneid": lane, "%warpid": index // 32, "%nwarpid": -(-threads // 32), "%nsmid": 1, "%gridid": 0}
            found = {**plain, "%dynamic_smem_size": self.dynamic, "%smid": 0}[name]
        return np.broadcast_to(np.asarray(found).astype(np.dtype(dtype)), threads).copy()


class Block:
    """The state of one block of threads. ``values`` has the array of each slot, over the threads."""

    def __init__(self, launch, index):
        self.launch, self.program, self.report = launch, launch.program, launch.report
        self.memory = launch.memory
        count = self.count = int(np.prod(launch.shape))
        self.threads = np.arange(count)
        self.local = np.zeros((count, self.program.local_end), np.uint8)
        self.stack = Memory()
        for name, (at, size) in self.program.local.items():
            self.stack.insert(Allocation(name, at, size))
        self.values = self.bind()
        self.start(index)

    def start(self, index):
        """Begin anew, as another block; registers and local memory keep what the last one left, as on a GPU."""
        self.index = index
        count, launch = self.count, self.launch
        self.alive = np.ones(count, bool)
        self.group = self.living = count
        self.converged, self.at = True, self.program.start
        self.pc = np.zeros(count, np.int64)
        self.waiting, self.held = np.zeros(count, bool), np.full(count, -1)
        self.arrivals = {}
        self.copies, self.committed = [], np.zeros(count, int)  # those under way, and groups of each thread
        self.steps = self.phase = 0
        self.warp_phase = np.zeros(count, np.int64)
        self.rested, self.hungry = False, 0
        self.shared = Memory()
        for name, (at, size) in self.program.shared.items():
            self.shared.insert(Shared(name, at, size or launch.dynamic, launch.races, launch.unwritten))
        for values, (kind, key, *_) in zip(self.values, self.program.slots, strict=True):
            if kind == "special" and key.startswith("%ctaid"):
                values[:] = index["xyz".find(key[-1])]

    def bind(self):
        stores, values = {}, []
        for key, size in self.program.registers.items():
            stores[key] = np.zeros(self.count, f"u{size}" if size < 16 else "V16")
        common = self.launch.shared_values
        for number, (kind, key, *rest) in enumerate(self.program.slots):
            if kind == "register":
                dtype = np.dtype(rest[0])
                values.append(stores[key].view(dtype)[:: stores[key].itemsize // dtype.itemsize])
            elif kind == "part":
                dtype, wide = np.dtype(rest[0]), stores[key]
                values.append(wide.view(dtype)[rest[1] :: wide.itemsize // dtype.itemsize])
            elif kind == "frame":
                dtype = np.dtype(rest[0])
                values.append(self.local[:, key : key + dtype.itemsize].view(dtype)[:, 0])
            elif kind == "waste":
                values.append(np.zeros(self.count, np.dtype(key)))
            elif kind == "special" and key.startswith("%ctaid"):
                values.append(np.zeros(self.count, np.dtype(rest[0])))
            else:
                if number not in common:
                    common[number] = self.launch.value(number, (kind, key, *rest), self.count)
                values.append(common[number])
        return values

    def where(self, thread):
        """Names a thread, for messages."""
        x, y, _ = self.launch.shape
        place = (int(thread % x), int(thread // x % y), int(thread // (x * y)))
        return f"block {self.index}, thread {place} of {self.program.name}"

    # The state of the threads

    def part(self, mask, target):
        """The running group goes on at ``target`` (None: stays); from now on each thread has its own counter."""
        if self.converged:
            self.pc[self.alive] = self.at if target is None else target
            self.converged = False
        elif target is not None:
            self.pc[mask] = target

    def exit(self, mask):
        mask = self.alive.copy() if mask is None else mask
        self.part(mask, None)
        self.alive &= ~mask
        self.pc[mask] = GONE
        self.living = np.count_nonzero(self.alive)
        self.waiting[:] = False  # a warp waits for no thread that has left: look again
        for number in list(self.arrivals):
            self.release(number)

    def arrive(self, mask, number, wanted, follow, finish):
        mask = self.alive.copy() if mask is None else mask.copy()
        self.part(mask, follow)
        if finish is not None:  # it waits; bar.arrive is only counted
            self.held[mask] = number
        self.arrivals.setdefault(number, []).append((mask, wanted, finish))
        self.release(number)

    def release(self, number):
        """Let the threads at a barrier go on if all have come."""
        came = self.arrivals[number]
        wanted = came[0][1]
        total = sum(np.count_nonzero(mask) for mask, _, _ in came)
        if total < (self.living if wanted is None else min(wanted, self.living)):
            return
        del self.arrivals[number]
        everyone = np.logical_or.reduce([mask for mask, _, _ in came])
        for mask, _, finish in came:
            if finish is not None:
                finish(self, mask, everyone)
                self.held[mask] = -1
        self.passed_barrier()

    def passed_barrier(self):
        """What was written before is ordered before what is read after."""
        self.phase = (self.phase // PHASE + 1) * PHASE

    def passed_warp(self, mask):
        """The same for the threads of a warp among each other."""
        self.phase += 1
        self.warp_phase[slice(None) if mask is None else mask] = self.phase

    def meeting(self, mask, wanted, text):
        """Those of the group whose warp has all the threads there that their member mask names."""
        here = self.alive if mask is None else mask
        present, named = warps.ballot(here), warps.ballot(self.alive) & wanted
        lane_bit = np.uint32(1) << (self.threads % 32).astype(np.uint32)
        stranger = here & ((wanted & lane_bit) == 0)
        if stranger.any():
            raise PtxError(f"{text}: not in its own member mask: {self.where(np.flatnonzero(stranger)[0])}")
        return here & ((named & ~present) == 0)

    # Running

    def run(self, budget):
        """Execute about ``budget`` instructions, or until a thread rests or all have left."""
        segments, start = self.program.segments, self.steps
        threads, passes = self.report.threads, self.report.warps
        unlike = AHEAD if self.hungry >= PATIENCE else 0  # see choose
        self.rested, ran = False, np.zeros(self.count, bool)
        while self.living and self.steps - start < budget and not self.rested:
            if self.converged:
                at, self.group = self.at, self.living
                mask = None if self.living == self.count else self.alive
            else:
                at, mask = self.choose(unlike > 0)
                unlike -= 1
                ran |= mask
                if self.converged:
                    continue
            segment = segments[at]
            self.at = at
            for act in segment.operations:
                act(self, mask)
            self.steps += len(segment.opcodes) or 1
            threads[at] += self.group
            passes[at] += -(-self.count // 32) if mask is None else warps.any_in_warp(mask)
            target = segment.end(self, mask)
            if target >= 0:
                if self.converged:
                    self.at = target
                else:
                    self.pc[mask] = target
        starved = not self.converged and (self.alive & (self.held < 0) & ~self.waiting & ~ran).any()
        self.hungry = self.hungry % PATIENCE + 1 if starved else 0
        return bool(self.living)

    def choose(self, last):
        """The group that runs next: of the threads that can run those with the smallest program counter.

        When some did not run for a few turns it is the largest for a while, since threads that spin at a small one
        may wait for others of their own block.
        """
        ready = self.alive & (self.held < 0)
        able = ready & ~self.waiting
        counters = self.pc[able]
        if not counters.size:
            lost = np.flatnonzero(self.alive)
            kinds = sorted({self.program.segments[self.pc[t]].leave[-1] for t in lost if self.waiting[t]})
            at = "at barriers" if not kinds else f"for threads of their warp, at {kinds}"
            raise PtxError(f"deadlock: {lost.size} threads wait {at}, such as {self.where(lost[0])}")
        at = int(counters.max() if last else counters.min())
        mask = ready & (self.pc == at)
        self.waiting[mask] = False
        self.group = np.count_nonzero(mask)
        if self.group == self.living:
            self.converged, self.at = True, at
        return at, mask
