"""The inner loops of kernels in their machine code, for the CPU that Numba is told to compile for."""

import re
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from llvmlite import binding

from fastce.cpu._vectors import compiler, target

HOMES = {
    "cross_entropy_rows": "cross_entropy",
    "cross_entropy_columns": "cross_entropy_columns",
    "plain_losses": "hard_columns",
    "hard_losses": "hard_columns",
    "hard_gradients": "hard_columns",
    "logsumexp_columns": "softmax_columns",
    "logsumexp_rows": "softmax",
    "softmax_rows": "softmax",
}

SCALAR = re.compile(r"v(add|sub|mul|div|max|min|sqrt|fn?m(add|sub)\d+)s[sd]")
FMA = re.compile(r"vfn?m(add|sub)\d+p[sd]")
FMA32, FMA64 = re.compile(r"vfn?m(add|sub)\d+ps"), re.compile(r"vfn?m(add|sub)\d+pd")
LOGARITHM = 10  # multiplications in float64, at least
SHIFT = re.compile(r"vpsll[dq]")  # one in every exp
MOVES = re.compile(r"vp?mov|vp?broadcast|vp?xor")


class Loop(list[tuple[str, str]]):
    """The instructions of an innermost loop: (name, operands)."""

    def count(self, pattern: re.Pattern[str]) -> int:  # type: ignore[override]
        return sum(bool(pattern.match(name)) for name, _ in self)

    @property
    def exps(self) -> int:
        """How many registers it takes exp of."""
        return self.count(SHIFT) if self.count(FMA) >= 5 * self.count(SHIFT) else 0

    @property
    def arithmetic(self) -> float:
        """Vector instructions for each register, without loads, stores, moves and zeros."""
        return sum(n[0] == "v" and not MOVES.match(n) for n, _ in self) / self.exps

    @property
    def kind(self) -> str:
        """Whether it ends rows, writes results, or sums up: only the first has a logarithm in float64, too."""
        if self.count(FMA32) and self.count(FMA64) >= LOGARITHM:
            return "ends"
        writes = any(n.startswith("vmov") and o.endswith(")") and not o.endswith("(%rsp)") for n, o in self)
        return "writes" if writes else "sums"


def innermost_loops(assembly: str) -> Iterator[Loop]:
    """From every label to a later jump back to it, where no other such jump lies between."""
    lines = [line.split("#")[0].strip() for line in assembly.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for i, line in enumerate(lines):
        name, _, target = line.partition("\t")
        if name.startswith("j") and labels.get(target, i) < i:
            spans.append((labels[target], i))
    for start, end in spans:
        if not any((start, end) != (a, b) and start <= a and b <= end for a, b in spans):
            body = (line.partition("\t") for line in lines[start:end] if line and not line.endswith(":"))
            yield Loop((name, operands) for name, _, operands in body if not name.startswith("."))


def compiled(name: str, dtype: str) -> Any:
    """The dispatcher of a kernel, compiled for this dtype."""
    kernel = getattr(import_module(f"fastce.cpu._kernels.{HOMES[name]}"), name)
    dispatcher = kernel.dispatcher(dtype)
    dispatcher.compile(kernel.signature(compiler._STORAGE[dtype]))
    return dispatcher


def assembly_of(name: str, dtype: str) -> str:
    """The machine code of a kernel, as text."""
    (assembly,) = compiled(name, dtype).inspect_asm().values()
    return str(assembly)


def neon_assembly_of(name: str, dtype: str) -> str:
    """The same for a 64-bit ARM CPU, on any machine; Numba must be told to compile for one without AVX."""
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    (code,) = compiled(name, dtype).inspect_llvm().values()
    code = re.sub(r"target (triple|datalayout) = .*", "", re.sub(r'"target-(cpu|features)"="[^"]*"', "", str(code)))
    machine = binding.Target.from_triple("aarch64-unknown-linux-gnu").create_target_machine("neoverse-n1", opt=3)
    return str(machine.emit_assembly(binding.parse_assembly(code)))


def lane_loads(assembly: str) -> int:
    """How many instructions of an ARM CPU put one more lane into a vector that has some, from memory."""
    return len(re.findall(r"ld1\t\{ v\d+\.[bhsd] \}\[[1-9]", assembly))


def described(name: str, dtype: str, kinds: list[str]) -> dict[str, Any]:
    """Of the leanest loop of each kind (`Loop.kind`): instructions, and what should not be there."""
    widest, assembly = "%zmm" if target.has_avx512() else "%ymm", assembly_of(name, dtype)
    found = [loop for loop in innermost_loops(assembly) if loop.exps]
    result: dict[str, Any] = {"counts references": "NRT_incref" in assembly or "NRT_decref" in assembly}
    for kind in kinds:
        loop = min((loop for loop in found if loop.kind == kind), key=lambda loop: loop.arithmetic)
        narrow = [n for n, operands in loop if (FMA.match(n) or SHIFT.match(n)) and widest not in operands]
        slow = [n for n, _ in loop if n.startswith("call") or "gather" in n or SCALAR.match(n)]
        result[kind] = {"arithmetic": loop.arithmetic, "narrow": narrow, "slow": slow}
    result["past the cache"] = any(n == "vmovntps" for loop in found for n, _ in loop)
    return result
