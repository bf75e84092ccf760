"""Machine code for compute capabilities 7 to 9, as far as counting needs it: kinds, branches, ways through.

An instruction is 16 bytes: its kind in bits 0 to 11, its guard in bits 12 to 15; of a branch, how far it goes from the
next instruction on, in words, in bits 16 to 23 and from 34 on, and a second guard in bits 87 to 91.
"""

import heapq
import struct
import subprocess
from typing import NamedTuple

BRANCH, EXIT, RETURN, INDIRECT = 0x947, 0x94D, 0x950, 0x949
LDGSTS, LDG, STG, LDS, STS, MUFU, SHFL = 0xFAE, 0x981, 0x986, 0x984, 0x388, 0x308, 0xF89
BARRIER, I2FP, MEMBAR, CCTL = 0xB1D, 0x245, 0x992, 0x98F
ALWAYS = 7


class Instruction(NamedTuple):
    """Its kind, whether it moves 16 bytes at once, and which instructions may come after it."""

    kind: int
    is_wide: bool
    follow: tuple


def assembled(ptxas, text, folder, cc=(9, 0)):
    """The instructions of a kernel's PTX."""
    source, target = folder / "kernel.ptx", folder / "kernel.cubin"
    source.write_text(text)
    subprocess.run([ptxas, f"-arch=sm_{cc[0]}{cc[1]}", source, "-o", target], check=True)
    (code,) = (code for name, code in sections(target.read_bytes()) if name.startswith(".text."))
    count = len(code) // 16
    return [decoded(k, *struct.unpack_from("<QQ", code, 16 * k), count) for k in range(count)]


def sections(data):
    """(name, content) of those of an ELF file."""
    (start,) = struct.unpack_from("<Q", data, 40)
    size, count, of_names = struct.unpack_from("<HHH", data, 58)
    heads = [struct.unpack_from("<IIQQQQ", data, start + size * k) for k in range(count)]
    for head in heads:
        name = data[heads[of_names][4] + head[0] :].partition(b"\0")[0]
        yield name.decode(), data[head[4] : head[4] + head[5]]


def decoded(k, low, high, count):
    """Instruction k of so many."""
    kind, guard = low & 0xFFF, low >> 12 & 15
    follow = [k + 1] if guard != ALWAYS or kind not in (EXIT, RETURN, INDIRECT, BRANCH) else []
    if kind == BRANCH:
        far = (low >> 34 | high << 30) & (1 << 48) - 1
        words = (far - (far >> 47 << 48)) << 8 | low >> 16 & 255
        follow.append(k + 1 + words // 4)
        if guard == ALWAYS and high >> 23 & 31 != ALWAYS:
            follow.append(k + 1)
    return Instruction(kind, high >> 9 & 7 == 6, tuple(n for n in follow if n < count))


def fewest(code, needs, start=0, end=None):
    """The fewest instructions on a way from one to another (or out), forwards, with so many of each kind; None if none.

    A kind may come as (kind, True): only those that move 16 bytes count.
    """
    kinds = list(needs)

    def met(k, before):
        one = code[k]
        return tuple(
            min(needs[kind], n + (one.kind == kind or (one.kind, one.is_wide) == kind))
            for kind, n in zip(kinds, before, strict=True)
        )

    first = (start, met(start, [0] * len(kinds)))
    ways, best = [(1, *first)], {first: 1}
    while ways:
        count, k, so_far = heapq.heappop(ways)
        is_end = k == end if end is not None else code[k].kind == EXIT
        if is_end and so_far == tuple(needs.values()):
            return count
        for n in code[k].follow:
            if k < n and (end is None or n <= end):
                state = (n, met(n, so_far))
                if count + 1 < best.get(state, 1 << 30):
                    best[state] = count + 1
                    heapq.heappush(ways, (count + 1, *state))
    return None


def fewest_of_a_turn(code, needs):
    """The same of a turn of a loop: of the shortest loop that has them."""
    turns = [fewest(code, needs, n, k) for k, one in enumerate(code) for n in one.follow if n <= k]
    return min(count for count in turns if count is not None)
