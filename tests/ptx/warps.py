"""Instructions by which the threads of a warp or block meet: shuffles, votes, matches and barriers."""

import numpy as np

from .closures import Table
from .syntax import DTYPES, Group

SYNCS = Table()
NOTHING = np.uint32(0x7FC0DEAD)  # a NaN, also as the upper half of a float64
BITS = np.uint32(1) << np.arange(32, dtype=np.uint32)


def by_warp(values, fill=0):
    """Values of threads as (warps, 32); missing lanes of the last warp have ``fill``."""
    missing = -values.size % 32
    if missing:
        values = np.concatenate([values, np.full(missing, fill, values.dtype)])
    return values.reshape(-1, 32)


def per_thread(values, count):
    """A value of each warp for its threads."""
    return np.repeat(values, 32)[:count]


def ballot(flags):
    """For each thread the bits of its warp's lanes whose flag is set."""
    words = np.packbits(by_warp(flags), axis=1, bitorder="little").view(np.uint32)[:, 0]
    return per_thread(words, flags.size)


def any_in_warp(flags):
    """The number of warps with a flag set."""
    return int(np.count_nonzero(by_warp(flags).any(axis=1)))


def everyone(block, mask):
    return np.ones(block.count, bool) if mask is None else mask


def store(block, mask, slot, values):
    np.copyto(block.values[slot], values, where=True if mask is None else mask, casting="unsafe")


@SYNCS.of("shfl")
def shfl(program, item):
    targets = item.operands[0].items if isinstance(item.operands[0], Group) else (item.operands[0],)
    target = program.write(targets[0], np.uint32)
    valid = program.write(targets[1], np.bool_) if len(targets) > 1 else None
    source, lane_operand, clamp_operand, members = (program.read(o, np.uint32) for o in item.operands[1:5])
    mode = item.parts[2]

    def run(block, mask):
        values = block.values
        lane = (block.threads % 32).astype(np.int64)
        by, clamp = (values[lane_operand] & 31).astype(np.int64), values[clamp_operand].astype(np.int64)
        segment = clamp >> 8 & 31
        top = (lane & segment) | (clamp & 31 & ~segment)
        bottom = lane & segment
        if mode == "up":
            other = lane - by
            inside = other >= top
        else:
            other = {"down": lane + by, "bfly": lane ^ by, "idx": bottom | (by & ~segment)}[mode]
            inside = other <= top
        other = np.where(inside, other, lane)
        thread = np.minimum(block.threads - lane + other, block.count - 1)
        result = values[source][thread]
        if mask is not None:  # what a thread that does not take part gives is not defined
            result = np.where(mask[thread], result, NOTHING)
        if valid is not None:
            store(block, mask, valid, inside)
        store(block, mask, target, result)

    return members, run


@SYNCS.of("vote")
def vote(program, item):
    mode, dtype = item.parts[2], np.uint32 if item.parts[2] == "ballot" else np.bool_
    target = program.write(item.operands[0], dtype)
    source, negated = program.predicate(item.operands[1])
    members = program.read(item.operands[2], np.uint32)

    def run(block, mask):
        here = everyone(block, mask)
        flags = block.values[source] ^ negated
        wanted = block.values[members] & ballot(here)
        yes = ballot(flags & here) & wanted
        results = {"ballot": yes, "all": yes == wanted, "any": yes != 0, "uni": (yes == wanted) | (yes == 0)}
        store(block, mask, target, results[mode])

    return members, run


@SYNCS.of("match")
def match(program, item):
    dtype = DTYPES[item.parts[-1]]
    targets = item.operands[0].items if isinstance(item.operands[0], Group) else (item.operands[0],)
    target, source = program.write(targets[0], np.uint32), program.read(item.operands[1], dtype)
    same = program.write(targets[1], np.bool_) if len(targets) > 1 else None
    members = program.read(item.operands[2], np.uint32)
    every = item.parts[1] == "all"

    def run(block, mask):
        here = ballot(everyone(block, mask)) & block.values[members]
        values = by_warp(block.values[source])
        equal = values[:, :, None] == values[:, None, :]
        found = (equal * BITS).sum(axis=2, dtype=np.uint32).reshape(-1)[: block.count] & here
        if every:
            found = np.where(found == here, here, np.uint32(0))
        if same is not None:
            store(block, mask, same, found == here)
        store(block, mask, target, found)

    return members, run


@SYNCS.of("redux")
def redux(program, item):
    dtype = DTYPES[item.parts[-1]]
    target, source = program.write(item.operands[0], dtype), program.read(item.operands[1], dtype)
    members = program.read(item.operands[2], np.uint32)
    name = item.parts[2]
    functions = {"add": np.add, "min": np.minimum, "max": np.maximum}
    functions |= {n: getattr(np, f"bitwise_{n}") for n in ("and", "or", "xor")}
    function = functions[name]
    info = np.iinfo(dtype)
    neutral = {"min": info.max, "max": info.min, "and": np.array(-1).astype(dtype)[()]}.get(name, 0)

    def run(block, mask):
        # Groups of one warp with masks of their own are reduced apart.
        here, wanted = everyone(block, mask), block.values[members]
        for members_here in np.unique(wanted[here]):
            chosen = here & (wanted == members_here)
            lanes = by_warp(np.where(chosen, block.values[source], dtype.type(neutral)), neutral)
            result = per_thread(function.reduce(lanes, axis=1, dtype=dtype), block.count)
            store(block, chosen, target, result)

    return members, run


@SYNCS.of("elect")
def elect(program, item):
    targets = item.operands[0].items if isinstance(item.operands[0], Group) else (item.operands[0],)
    lane_slot = program.write(targets[0], np.uint32)
    chosen_slot = program.write(targets[1], np.bool_)
    members = program.read(item.operands[1], np.uint32)

    def run(block, mask):
        wanted = block.values[members]
        lowest = wanted & (~wanted + np.uint32(1))
        lane = np.bitwise_count(lowest - np.uint32(1))
        store(block, mask, lane_slot, lane)
        store(block, mask, chosen_slot, lane == block.threads % 32)

    return members, run


@SYNCS.of("bar")
def bar_warp(program, item):
    """``bar.warp.sync``; the barriers of blocks are in ``barrier``."""

    def run(block, mask):
        block.passed_warp(mask)

    return program.read(item.operands[0], np.uint32), run


def barrier(program, item):
    """The slots of a barrier's number and count of threads, what each thread does as it leaves, if it only arrives."""
    operands, reduction = list(item.operands), "red" in item.parts
    target = source = None
    if reduction:
        name = next(p for p in item.parts if p in ("popc", "and", "or"))
        target = program.write(operands.pop(0), np.uint32 if name == "popc" else np.bool_)
        source, negated = program.predicate(operands.pop())
    number = program.read(operands[0], np.uint32)
    count = program.read(operands[1], np.uint32) if len(operands) > 1 else None

    def finish(block, mask, came=None):
        if reduction:
            came = came if came is not None else everyone(block, mask)
            flags = (block.values[source] ^ negated)[came]
            result = {"popc": np.count_nonzero(flags), "and": flags.all(), "or": flags.any()}[name]
            store(block, mask, target, result)

    return number, count, finish, "arrive" in item.parts
