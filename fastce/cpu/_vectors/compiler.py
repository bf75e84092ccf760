"""The only call of numba.njit: flags, lazy compilation and the cache on disk, for every kernel alike.

A kernel is compiled when it is first called with a dtype, never at import. It runs without the GIL, and is called
through its compiled entry point: the front door has fixed the type of every argument, so there is nothing to resolve.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from llvmlite.binding import ffi
from numba import config, njit, types
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import overload

from fastce.apart import load, not_cut_by_forks
from fastce.cpu._vectors import cache
from fastce.cpu._vectors.pipeline import PartCompiler, is_as_expected
from fastce.cpu._vectors.registries import read_once

_STORAGE = {
    "float32": types.float32,
    "float64": types.float64,
    "float16": types.uint16,
    "bfloat16": types.int16,
}
_VIEW = {"float16": np.dtype(np.uint16), "bfloat16": np.dtype(np.int16)}

# A child of a fork cannot compile if one of these was held by another thread: Numba's, and llvmlite's around each call.
_llvm_lock = ffi.lib._lock._lock
not_cut_by_forks(global_compiler_lock._lock, _llvm_lock)

# LLVM calls Numba back from within; a signal handler that runs there finds it half-way, and would end the process.
IN_THE_MIDDLE_OF_LLVM = (
    "fastce cannot compile while a signal handler has interrupted LLVM: compile beforehand, with fastce.warmup"
)


# Kernels own nothing: their caller holds the arrays. Numba would count references to these for every group of rows, by
# instructions that wait for all stores before them: a third of the gradients of rows that are taken one by one.
_EVERYWHERE = {"error_model": "numpy", "_nrt": False}
_PART = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, **_EVERYWHERE}
if is_as_expected():
    _PART["pipeline_class"] = PartCompiler  # in a Numba that is built otherwise: slower to compile


def _part(function: Callable[..., Any], **options: Any) -> Any:
    dispatcher = njit(**_PART, **options)(function)
    call_template = getattr(dispatcher, "get_call_template", None)
    if call_template is not None:  # else NUMBA_DISABLE_JIT is set
        # A loop's counter is first typed as the literal 0, then as an integer: two functions, one of them for nothing.
        dispatcher.get_call_template = lambda args, keywords: call_template(
            tuple(types.unliteral(a) for a in args), {name: types.unliteral(a) for name, a in keywords.items()}
        )
    return dispatcher


def inline(function: Callable[..., Any]) -> Any:
    """A function that exists only inside kernels; LLVM inlines every call."""
    return _part(function, forceinline=True)


def outlined(function: Callable[..., Any]) -> Any:
    """A function that exists only inside kernels and is called there: off the hot path, or once per block.

    Not told otherwise, it would be inlined wherever its caller is: Numba hands that option down.
    """
    return _part(function, forceinline=False)


def by_type(stub: Callable[..., Any]) -> Any:
    """Register an implementation, chosen by the types of its arguments, of a function that exists only in kernels."""
    return overload(stub, jit_options={**_PART, "forceinline": True}, strict=False)


class Kernel:
    """A function compiled once for each dtype of logits.

    ``signature(storage)`` gives the Numba types of its arguments for logits stored so; see `storage_view`.
    """

    def __init__(self, function: Callable[..., Any], signature: Callable[[Any], tuple[Any, ...]]) -> None:
        self.function = function
        self.signature = signature
        self._entry_points: dict[np.dtype[Any], Callable[..., Any]] = {}

    def compiled(self, dtype: np.dtype[Any]) -> Callable[..., Any]:
        """The entry point for logits of this dtype; compiles it or reads it from the cache the first time."""
        entry_point = self._entry_points.get(dtype)
        if entry_point is None:
            if global_compiler_lock.is_locked():  # by this thread: a signal handler has interrupted Numba, and calls us
                if _llvm_lock._is_owned():
                    raise RuntimeError(IN_THE_MIDDLE_OF_LLVM)
                return self._compile(dtype)
            entry_point = load(partial(self._compile, dtype))
        return entry_point

    def if_compiled(self, dtype: np.dtype[Any]) -> Callable[..., Any] | None:
        """The same if that is done already."""
        return self._entry_points.get(dtype)

    def _compile(self, dtype: np.dtype[Any]) -> Callable[..., Any]:
        if dtype in self._entry_points:  # another thread was first
            return self._entry_points[dtype]
        name = dtype.name
        dispatcher = self.dispatcher(name)
        cache.attach(dispatcher, name)
        with read_once(dispatcher.targetdescr):
            entry_point: Callable[..., Any] = dispatcher.compile(self.signature(_STORAGE[name]))
        self._entry_points[dtype] = entry_point
        return entry_point

    def dispatcher(self, name: str) -> Any:
        """A fresh Numba dispatcher for this dtype, not compiled yet."""
        if config.DISABLE_JIT:
            raise RuntimeError("fastce needs Numba's compiler: unset NUMBA_DISABLE_JIT")
        return njit(nogil=True, no_cfunc_wrapper=True, **_EVERYWHERE)(self.function)


def kernel(signature: Callable[[Any], tuple[Any, ...]]) -> Callable[[Callable[..., Any]], Kernel]:
    """Make a kernel of a function that takes arrays and numbers, and returns nothing or a number."""
    return lambda function: Kernel(function, signature)


def storage_view(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The array as kernels see it: half precision as its bits, in the integer type that stands for it."""
    if array.dtype.char in "fd":
        return array
    view = _VIEW.get(array.dtype.name)
    return array if view is None else array.view(view)


def real_of(storage: Any) -> Any:
    """The Numba dtype that a storage dtype is computed in."""
    return storage if isinstance(storage, types.Float) else types.float32


def matrix(dtype: Any) -> Any:
    """Rows with adjacent elements, any stride between the rows."""
    return types.Array(dtype, 2, "A")


def vector(dtype: Any) -> Any:
    return types.Array(dtype, 1, "C")


def structure(named_tuple: Any, *fields: Any) -> Any:
    return types.NamedTuple(fields, named_tuple)
