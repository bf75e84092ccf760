"""The law of imports: they go one way down, from room to room."""

import ast
import graphlib
from pathlib import Path

import pytest

import fastce

PACKAGE = Path(fastce.__file__).parent
BELOW = {  # what each room may import, besides itself and what everybody may
    "__main__": {"profile", "__init__", "configuration"},
    "profile": {"__init__", "configuration", "dask", "products", "cpu", "arguments"},
    "__init__": {
        "configuration",
        "objectives",
        "losses",
        "streaming",
        "dask",
        "torch",
        "jax",
        "engine",
        "cpu",
        "arguments",
    },
    "configuration": {"__init__", "cpu", "cpu._vectors", "arguments"},
    "dask": {"streaming", "losses", "products", "cpu", "arguments"},
    "torch": {"losses", "products", "cpu", "arguments"},
    "jax": {"losses", "products", "arguments"},
    "streaming": {"losses", "products", "engine", "cpu", "arguments"},
    "objectives": {"losses", "arguments"},
    "losses": {"products", "engine", "cpu", "arguments"},
    "products": {"engine", "cpu", "arguments"},
    "engine": {"cpu", "cuda", "arguments", "dask"},  # those of Dask stand above: their tasks call the functions again
    "cpu": {"cpu._kernels", "cpu._vectors", "arguments"},
    "cpu._kernels": {"cpu._vectors"},
    "cpu._vectors": set(),
    "cuda": {"cuda._kernels", "cpu._vectors", "arguments"},  # of the vectors only where compiled code is kept
    "cuda._kernels": set(),
    "arguments": set(),
}
EVERYBODYS = {"typing", "apart"}  # these import nothing else of fastce


def name_of(path):
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module):
    first, *rest = module.split(".")
    return f"{first}.{rest[0]}" if rest and rest[0] in ("_kernels", "_vectors") else first


def names_in(nodes):
    """What imports among these nodes name, and calls of import_module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            yield from (word.value for word in node.args if isinstance(word, ast.Constant))


def imports_of(module, at_the_top=False):
    """The modules of fastce that this one imports anywhere, or only when it is imported itself."""
    tree = ast.parse(MODULES[module].read_text())
    for name in names_in(tree.body if at_the_top else ast.walk(tree)):
        first, *rest = name.split(".")
        if first == "fastce":
            yield ".".join(rest) if ".".join(rest) in MODULES else ".".join(rest[:-1]) or "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module):
    room = room_of(module)
    if room in EVERYBODYS:
        assert {room_of(other) for other in imports_of(module)} <= {room}
        return
    allowed = BELOW[room] | EVERYBODYS | {room}
    wrong = {(module, other) for other in imports_of(module) if room_of(other) not in allowed}
    assert not wrong


@pytest.mark.parametrize("module", MODULES)
def test_nothing_imports_the_benchmarks(module):
    names = names_in(ast.walk(ast.parse(MODULES[module].read_text())))
    assert not [name for name in names if name.partition(".")[0] == "bench"]


def test_there_is_no_circle():
    order = graphlib.TopologicalSorter({m: {*imports_of(m, at_the_top=True)} - {m} for m in MODULES})
    assert len(list(order.static_order())) >= len(MODULES)  # a circle raises
