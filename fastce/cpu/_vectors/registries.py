"""Numba's registries of what it can compile: read once a kernel, and without importing SciPy.

Numba imports thirty modules and looks for new entries in the registries of all whenever it types an intrinsic, some
hundred times a kernel. While a kernel is compiled, entries come to the first registry of a context, where Numba puts
intrinsics, and to the builtin ones, which it reads apart from these. Others are filled when they are imported.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from numba.core.compiler_lock import global_compiler_lock


def _import_without_scipy() -> None:
    """Import what Numba wants SciPy for: only to see whether it is there, which took a quarter of a second.

    Functions that need its routines look for them once more.
    """
    from numba.np import linalg

    def ensure_blas() -> None:
        if find_spec("scipy") is None:
            raise ImportError

    imports_blas, linalg.ensure_blas = linalg.ensure_blas, ensure_blas
    try:
        from numba.np import arraymath
    finally:
        linalg.ensure_blas = imports_blas
    arraymath.ensure_blas = imports_blas


@contextmanager
def _read_once(context: Any) -> Iterator[None]:
    """Replace what a context (of typing, or of LLVM code) reads registries with. What it read before stays."""
    read, is_read = context.load_additional_registries, False

    def read_or_look() -> None:
        nonlocal is_read
        if is_read:
            context.install_registry(next(iter(context._registries)))
        else:
            _import_without_scipy()
            read()
            is_read = True

    context.load_additional_registries = read_or_look
    try:
        yield
    finally:
        context.load_additional_registries = read


@contextmanager
def read_once(target: Any) -> Iterator[None]:
    """Read the registries of a target (a Numba target descriptor) at most once meanwhile, and not if nothing asks."""
    with global_compiler_lock, _read_once(target.typing_context), _read_once(target.target_context):
        yield
