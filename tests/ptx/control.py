"""How a segment ends: jumps, barriers and the meetings of a warp. Each function here makes one such closure."""

import numpy as np

from .syntax import PtxError


def go(labels, _follow, target):
    number = labels[target]
    return lambda block, mask: number


def branch(labels, _follow, slot, negated, target, other):
    yes, no = labels[target], labels[other]
    if negated:
        yes, no = no, yes

    def end(block, mask):
        chosen = block.values[slot]
        if mask is not None:
            chosen = chosen & mask
        count = np.count_nonzero(chosen)
        if count == block.group:
            return yes
        if count == 0:
            return no
        block.part(mask, no)
        block.pc[chosen] = yes
        return -1

    return end


def table(labels, _follow, slot, targets):
    numbers = np.array([labels[t] for t in targets])

    def end(block, mask):
        block.part(mask, 0)
        mask = slice(None) if mask is None else mask
        block.pc[mask] = numbers[block.values[slot][mask]]
        return -1

    return end


def exit(_labels, _follow):
    def end(block, mask):
        block.exit(mask)
        return -1

    return end


def trap(_labels, _follow, text):
    def end(block, mask):
        thread = 0 if mask is None else int(np.flatnonzero(mask)[0])
        raise PtxError(f"{text}: {block.where(thread)}")

    return end


def barrier(_labels, follow, item, build):
    number, count, finish, arrive = build

    def end(block, mask):
        which, wanted = int(block.values[number][0]), None
        if count is not None:
            wanted = int(block.values[count][0])
        if block.converged and not arrive and wanted in (None, block.group):
            block.passed_barrier()
            finish(block, mask)
            return follow
        block.arrive(mask, which, wanted, follow, None if arrive else finish)
        return -1

    return end


def sync(_labels, follow, members, act, text):
    full = np.uint32(0xFFFFFFFF)

    def end(block, mask):
        if members is None:
            act(block, mask)
            return follow
        wanted = block.values[members]
        if mask is None and (wanted == full).all():
            act(block, None)
            return follow
        ready = block.meeting(mask, wanted, text)
        count = np.count_nonzero(ready)
        if count == block.group:
            act(block, mask)
            return follow
        if count:
            act(block, ready)
        block.part(mask, None)
        here = ~ready if mask is None else mask & ~ready
        block.waiting |= here
        block.pc[ready] = follow
        return -1

    return end
