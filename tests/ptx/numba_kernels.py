"""Kernels of numba-cuda as PTX: the compiler needs no GPU and no driver."""

from functools import cache
from types import SimpleNamespace
from unittest import mock

import numpy as np

from .machine import launch


@cache
def compile_kernel(function, *kinds, **options):
    """The PTX of a function or kernel for arguments of these Numba types; ``cc`` is (9, 0) unless told.

    A kernel's own launch bounds hold.

    What Numba links in from C++, such as the operators of float16, is not there; conversions of float16 are.
    """
    from numba import cuda, types

    options = {"cc": (9, 0)} | options
    with on_capability(options["cc"]):
        if bounds := getattr(function, "targetoptions", {}).get("launch_bounds"):
            options = {"launch_bounds": bounds} | options
        function = getattr(function, "py_func", function)
        return cuda.compile(function, types.void(*kinds), device=False, abi="numba", **options)[0]


def on_capability(cc):
    """Device functions, alone, are compiled for the device of this machine, which there may not be."""
    from numba import cuda

    device = SimpleNamespace(compute_capability=cc)
    return mock.patch.object(cuda.dispatcher, "get_current_device", return_value=device)


@cache
def ptx_of(kernel, form, cc):
    """The PTX of a kernel of fastce for arguments of this form (`fastce.cuda.launching`)."""
    from fastce.cuda.launching import kinds_of

    with on_capability(cc):
        return kernel.ptx(kinds_of(form), cc)


@cache
def kept_ptx_of(kernel, form, cc):
    """The same, on disk for other processes, where fastce keeps machine code and by its rules."""
    from fastce.cuda.kept import Kept

    if not kernel.py_func.__module__.startswith("fastce."):  # its source is not among those that code is filed under
        return ptx_of(kernel, form, cc)
    kept = Kept(kernel, ("PTX", form), cc)
    if (found := kept.read()) is not None:
        return found[0].decode()
    text = ptx_of(kernel, form, cc)
    kept.write(text.encode(), kernel.__name__)
    return text


def kind_of(argument):
    """The Numba type of an argument: arrays are C-contiguous or have any strides."""
    from numba import types

    if isinstance(argument, tuple):
        return types.Tuple([kind_of(part) for part in argument])
    kind = kind_of_dtype(np.asarray(argument).dtype)
    if not isinstance(argument, np.ndarray):
        return kind
    return types.Array(kind, argument.ndim, "C" if argument.flags.c_contiguous else "A")


def kind_of_dtype(dtype):
    """The Numba type of an element."""
    from numba import types
    from numba.cuda.types import float16

    return float16 if dtype == np.float16 else getattr(types, "boolean" if dtype.kind == "b" else dtype.name)


def run(function, grid, block, *args, dynamic_shared=0, **options):
    """Compile a kernel for these arguments and launch it; ``options`` are those of ``launch``."""
    text = compile_kernel(function, *(kind_of(a) for a in args))
    return launch(text, None, grid, block, args, dynamic_shared, **options)
