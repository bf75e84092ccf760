"""Compiled kernels on disk, so that a fresh process has them in milliseconds and not in seconds.

They lie in the folder of the CPU's kernels (FASTCE_CACHE_DIR; FASTCE_CACHE=0 turns it off), by its rules: nobody else
may write there, and whatever is amiss costs a compilation and one line in the log. A kernel is filed under all that it
is made of: the source of all kernels, the values that it and what it calls refer to, the form of its arguments, the
GPU's compute capability, and what compiles it.
"""

import functools
import hashlib
import os
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from fastce.cpu._vectors import cache, sources

COMPILERS = "numba", "llvmlite", "numba-cuda", "cuda-core", "cuda-bindings"
TOOLKITS = "nvidia-cuda-nvcc", "nvidia-cuda-nvcc-cu12", "nvidia-nvvm", "nvidia-nvjitlink", "nvidia-nvjitlink-cu12"
KERNELS = "fastce.cuda._kernels"


class Kept:
    """Where the machine code of a kernel is kept, for arguments of a form; nowhere, if that cannot be."""

    def __init__(self, kernel: Any, form: Any, capability: tuple[int, int]) -> None:
        self.path: Path | None = None
        folder = cache.cache_folder()
        if folder is None:
            return
        try:
            folder = (folder / f"cuda-{_stamp()}").resolve()
            cache._make(folder)
            cache._refuse_what_others_may_write(folder)
            self.path = folder / f"{kernel.__name__}-{_digest_of(kernel, form, capability)}"
        except (OSError, RuntimeError) as error:  # the latter of links that go round
            cache.report(error, folder)

    def read(self) -> tuple[bytes, str] | None:
        """The code and the kernel's name there; None if they are not there, or damaged."""
        if self.path is None:
            return None
        try:
            digest, _, rest = self.path.read_bytes().partition(b"\n")
            if digest != hashlib.sha256(rest).hexdigest().encode():
                raise OSError(f"{self.path.name} is damaged")
        except FileNotFoundError:
            return None
        except OSError as error:
            cache.report(error, self.path.parent)
            return None
        name, _, code = rest.partition(b"\n")
        return code, name.decode()

    def write(self, code: bytes, name: str) -> None:
        """Keep it: whole or not at all, whatever other processes do."""
        if self.path is None:
            return
        rest = name.encode() + b"\n" + code
        digest = hashlib.sha256(rest).hexdigest().encode()
        try:
            with tempfile.NamedTemporaryFile(dir=self.path.parent, delete=False) as file:
                file.write(digest + b"\n" + rest)
            os.replace(file.name, self.path)
        except OSError as error:
            cache.report(error, self.path.parent)


# --- what a kernel is made of ----------------------------------------------------------------------------------------


def _digest_of_source() -> str:
    found = hashlib.sha256()
    sources._add(KERNELS, found)
    return found.hexdigest()


_AT_IMPORT = _digest_of_source()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@functools.cache
def _stamp() -> str:
    """A digest of the source of all kernels, and of what compiles them."""
    if _digest_of_source() != _AT_IMPORT:
        raise OSError("the installed package has changed since it was imported")
    from numba.cuda.cudadrv.nvvm import NVVM

    compilers = [_version(package) for package in COMPILERS + TOOLKITS]
    return hashlib.sha256(repr((_AT_IMPORT, compilers, NVVM().get_version())).encode()).hexdigest()[:16]


def _digest_of(kernel: Any, form: Any, capability: tuple[int, int]) -> str:
    """Of what is compiled: see `described`."""
    content = described(kernel.py_func), kernel.bounds, described(form), capability
    return hashlib.sha256(repr(content).encode()).hexdigest()[:32]


def described(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """A value as compiled code depends on it: functions with all that they refer to, the same in every process."""
    for wrapper in ("py_func", "_defn"):  # of Numba's functions
        value = getattr(value, wrapper, value)
    if isinstance(value, FunctionType):
        if id(value) in seen:
            return value.__qualname__
        return value.__module__, value.__qualname__, _references(value, seen | {id(value)})
    if isinstance(value, ModuleType | type):
        return value.__name__
    if isinstance(value, tuple | list):
        return (type(value).__name__, *[described(part, seen) for part in value])
    text = repr(value)
    return type(value).__name__ if " at 0x" in text else (type(value).__name__, text)


def _references(function: FunctionType, seen: frozenset[int]) -> list[Any]:
    """What a function, and those within it, refer to: by name in its module, and of the functions around it."""
    closed = [] if function.__closure__ is None else [cell.cell_contents for cell in function.__closure__]
    names = sorted(_names_in(function.__code__) & function.__globals__.keys())
    found = [*zip(function.__code__.co_freevars, closed, strict=True)]
    found += [(name, function.__globals__[name]) for name in names]
    return [(name, described(value, seen)) for name, value in found]


def _names_in(code: CodeType) -> set[str]:
    inner = (_names_in(part) for part in code.co_consts if isinstance(part, CodeType))
    return set(code.co_names).union(*inner)
