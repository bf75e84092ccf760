"""The loops that take all the time are whole vectors in the machine code, without a call, a gather or a lone scalar."""

import platform
import re
from collections.abc import Iterator
from importlib import import_module

import pytest
from llvmlite import binding

from fastce.cpu._vectors import compiler, target

FEATURES = binding.get_host_cpu_features()
pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64") or not (FEATURES.get("avx2") and FEATURES.get("fma")),
    reason="reads the machine code of x86-64 with AVX2",
)
HOMES = {
    "cross_entropy_rows": "cross_entropy",
    "cross_entropy_columns": "cross_entropy_columns",
    "logsumexp_rows": "softmax",
    "softmax_rows": "softmax",
}
# kernel, dtype, and where there is AVX-512 the most vector instructions for each exp, in a loop that sums up or writes
LIMITS = [
    ("cross_entropy_rows", "float32", {"sums": 17.0, "writes": 13.0}),
    ("cross_entropy_rows", "float64", {"sums": 21.0, "writes": 17.0}),
    ("cross_entropy_columns", "float32", {"sums": 17.5, "writes": 15.0}),
    ("logsumexp_rows", "float64", {"sums": 19.0}),
    ("softmax_rows", "float32", {"sums": 15.0, "writes": 13.0}),
]

SCALAR = re.compile(r"v(add|sub|mul|div|max|min|sqrt|fn?m(add|sub)\d+)s[sd]")
FMA = re.compile(r"vfn?m(add|sub)\d+p[sd]")
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
    def writes(self) -> bool:
        return any(n.startswith("vmov") and o.endswith(")") and not o.endswith("(%rsp)") for n, o in self)


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


def loops(name: str, dtype: str) -> list[Loop]:
    """The innermost loops of a kernel that hold exp."""
    kernel = getattr(import_module(f"fastce.cpu._kernels.{HOMES[name]}"), name)
    dispatcher = kernel.dispatcher(dtype)
    dispatcher.compile(kernel.signature(compiler._STORAGE[dtype]))
    (assembly,) = dispatcher.inspect_asm().values()
    return [loop for loop in innermost_loops(assembly) if loop.exps]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "dtype", "limits"), LIMITS)
def test_the_loops_over_whole_vectors(name, dtype, limits):
    widest = "%zmm" if target.has_avx512() else "%ymm"
    found = loops(name, dtype)
    for kind, limit in limits.items():
        loop = min((loop for loop in found if loop.writes == (kind == "writes")), key=lambda loop: loop.arithmetic)
        assert all(widest in operands for n, operands in loop if FMA.match(n) or SHIFT.match(n)), loop
        assert not loop.count(SCALAR), loop
        assert not [n for n, _ in loop if n.startswith("call") or "gather" in n], loop
        assert not target.has_avx512() or loop.arithmetic <= limit, loop
    if name.endswith("rows") and "writes" in limits and dtype == "float32":
        assert any(n == "vmovntps" for loop in found for n, _ in loop), "large results go through the cache"
