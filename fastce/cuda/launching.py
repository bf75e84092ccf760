"""Launches of kernels, and what is remembered of them: a kernel is compiled and loaded once for each form of arguments.

All arguments are packed into one buffer, as `fastce.cuda._kernels.entries` unpacks them.
"""

import contextlib
import re
import threading
from ctypes import create_string_buffer
from struct import Struct
from typing import Any, NamedTuple

import numpy as np
from numba import config

from fastce.cuda import driver
from fastce.cuda.flat import Flat
from fastce.cuda.libraries import Library

_compiling = threading.Lock()
_loaded: dict[tuple[Any, tuple[Any, ...], int], "Loaded"] = {}
_NUMBERS = {  # the names of Numba's types of them
    bool: "boolean",
    int: "int64",
    float: "float64",
    np.bool_: "boolean",
    np.int32: "int32",
    np.int64: "int64",
    np.float32: "float32",
    np.float64: "float64",
}


class Loaded(NamedTuple):
    """A kernel on a GPU, and the struct of its arguments."""

    function: int
    struct: Struct


def blocks_at_once(kernel: Any, threads: int, where: Any, *args: Any) -> int:
    """How many blocks of so many threads surely run at once, on the whole GPU; the simulator runs one.

    Half of what the driver says: in another stream, another call's blocks may wait for each other, too.
    """
    if config.ENABLE_CUDASIM:
        return 1
    form, _ = form_of(args)
    with where.library.on_device():
        function, _ = _on(where.library.device, kernel, form)
        per_multiprocessor = driver.blocks_of_multiprocessor(function, threads)
    return per_multiprocessor * driver.attribute(driver.MULTIPROCESSORS, where.library.device) // 2


def launch(kernel: Any, blocks: int, threads: int | tuple[int, int], where: Any, *args: Any) -> None:
    """Launch a kernel on the device and in the stream of the library of an array (or of what else has one).

    Arguments are arrays (`DeviceArray.flat`), numbers of Python or NumPy, and tuples of such.
    """
    block = threads if isinstance(threads, tuple) else (threads, 1)
    if config.ENABLE_CUDASIM:
        kernel[blocks, block](*args)
    else:
        start(where.library, kernel, blocks, block, args)


def start(library: Library, kernel: Any, blocks: int, block: tuple[int, int], args: tuple[Any, ...]) -> None:
    """Launch a compiled kernel."""
    form, values = form_of(args)
    with library.on_device():
        function, struct = _on(library.device, kernel, form)
        params = create_string_buffer(struct.size)
        struct.pack_into(params, 0, *values)
        driver.launch(function, blocks, block, library.stream_pointer, params)


def form_of(args: tuple[Any, ...]) -> tuple[tuple[Any, ...], list[Any]]:
    """What a kernel is compiled for, and the numbers that it is told.

    The form of an array is its dtype, that of a number its type, that of a tuple its type and the forms of its items.
    """
    values: list[Any] = []
    return tuple([_form(arg, values) for arg in args]), values


def _form(arg: Any, values: list[Any]) -> Any:
    kind = type(arg)
    if kind is Flat:
        values += (arg.pointer, arg.size)
        return arg.dtype
    if isinstance(arg, tuple):
        return (kind, *[_form(part, values) for part in arg])
    values.append(arg)
    return kind


def kinds_of(form: tuple[Any, ...]) -> tuple[Any, ...]:
    """Numba's types of arguments of this form."""
    from numba.cuda import types

    from fastce.cuda._kernels.entries import array_kind, tuple_kind

    def kind(one: Any) -> Any:
        if isinstance(one, np.dtype):
            return array_kind(one)
        return tuple_kind(kinds_of(one[1:]), one[0]) if isinstance(one, tuple) else getattr(types, _NUMBERS[one])

    return tuple([kind(one) for one in form])


def struct_of(form: tuple[Any, ...]) -> Struct:
    """How numbers of this form are packed: as a struct of C lies in memory."""
    from fastce.cuda._kernels.entries import format_of

    return Struct(f"@{format_of(kinds_of(form))}0q")


def _on(device: int, kernel: Any, form: tuple[Any, ...]) -> Loaded:
    """The kernel for arguments of this form, on the GPU that is worked on; compiled if that has not been done."""
    if (known := _loaded.get((kernel, form, device))) is not None:
        return known
    with _compiling:
        if (kernel, form, device) not in _loaded:
            function = _function(kernel, form, driver.capability(device))
            _loaded[kernel, form, device] = Loaded(function, struct_of(form))
    return _loaded[kernel, form, device]


def _function(kernel: Any, form: tuple[Any, ...], capability: tuple[int, int]) -> int:
    """The kernel's handle, of code from disk if the driver takes that."""
    from fastce.cuda.kept import Kept

    kept = Kept(kernel, form, capability)
    if (found := kept.read()) is not None:
        with contextlib.suppress(RuntimeError):  # of an older driver
            return driver.load(*found)
    code, name = compiled(kernel, form, capability)
    kept.write(code, name)
    return driver.load(code, name)


def compiled(kernel: Any, form: tuple[Any, ...], capability: tuple[int, int]) -> tuple[bytes, str]:
    """The machine code of a kernel for arguments of this form, as a cubin, and its name there."""
    from cuda.core import Linker, LinkerOptions, ObjectCode

    text = kernel.ptx(kinds_of(form), capability)
    (name,) = re.findall(r"\.entry\s+(\w+)", text)
    major, minor = capability
    linker = Linker(ObjectCode.from_ptx(text.encode()), options=LinkerOptions(arch=f"sm_{major}{minor}"))
    return bytes(linker.link("cubin").code), name
