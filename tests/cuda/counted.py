"""A driver that does nothing but count, for compiled kernels without a GPU: what a call launches, allocates, waits for.

    with Counted() as driver:
        fastce.cross_entropy_value_and_grad(driver.tensor((16, 1000), "float32"), driver.tensor((16,), "int64"))
    assert driver.counts() == {...}

Kernels are compiled for it, and their arguments packed, as for a GPU; what they would compute is 0.
"""

import contextlib
import ctypes
import functools
import itertools
import math
import os
import sys
import types
import weakref
from dataclasses import dataclass, field
from unittest import mock

import numpy as np
from ptx.numba_kernels import ptx_of
from ptx.parse import parse

MULTIPROCESSORS = 132
_OF_DEVICE = {75: 9, 76: 0, 16: MULTIPROCESSORS}  # attributes by their number in the driver
ROOM = 1 << 15  # bytes of shared memory that the rows' kernel takes, and more


class Tensor:
    """What is read of a tensor of PyTorch on a GPU."""

    is_cuda, layout, requires_grad = True, "torch.strided", False

    def __init__(self, pointer, shape, dtype):
        self.pointer, self.shape, self.dtype = pointer, tuple(shape), f"torch.{dtype}"

    def data_ptr(self):
        return self.pointer

    def stride(self):
        return tuple(math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))

    def is_neg(self):
        return False

    def get_device(self):
        return 0


@dataclass
class Counted:
    """As a context: the driver, and PyTorch, whose tensors have addresses and no memory."""

    keeps: bool = False  # compiled kernels, on disk
    kernels: dict = field(default_factory=dict)  # compiled: name and parameters, by the name of the entry
    loaded: list = field(default_factory=list)  # names of entries
    launches: list = field(default_factory=list)  # (name, grid, block, parameters, what they are)
    allocations: list = field(default_factory=list)  # bytes
    fills: list = field(default_factory=list)  # bytes
    copies: list = field(default_factory=list)  # bytes, to the host
    waits: int = 0
    blocks: int = 6  # that run at once on a multiprocessor
    carveouts: list = field(default_factory=list)
    events: list = field(default_factory=list)  # functions of the driver by name, "allocated" and "freed"

    def counts(self):
        """(launches, allocations, fills, copies to the host, waits)"""
        return len(self.launches), len(self.allocations), len(self.fills), len(self.copies), self.waits

    def forget(self):
        """Start counting again; kernels stay loaded."""
        for counted in (self.launches, self.allocations, self.fills, self.copies, self.events):
            counted.clear()
        self.waits = 0

    def tensor(self, shape, dtype):
        """A tensor of the caller's."""
        return Tensor(next(self.addresses), shape, dtype)

    def __enter__(self):
        from fastce.cuda import driver, launching

        self.addresses, compile_it = itertools.count(1 << 40, 1 << 32), launching.compiled

        def compiled(kernel, form, capability):
            code, name, parameters = machine_code(compile_it, kernel, form, capability)
            self.kernels[name] = kernel.__name__, parameters
            return code, name

        self.patches = contextlib.ExitStack()
        for owner, name, stand_in in ((driver, "api", Api(self)), (launching, "compiled", compiled)):
            self.patches.enter_context(mock.patch.object(owner, name, stand_in))
        # not by patch.dict, which would forget all that is imported meanwhile
        real, sys.modules["torch"] = sys.modules.get("torch"), self._torch()
        self.patches.callback(lambda: sys.modules.pop("torch") if real is None else sys.modules.update(torch=real))
        self.patches.enter_context(mock.patch.dict(launching._loaded, clear=True))
        if not self.keeps:
            self.patches.enter_context(mock.patch.dict(os.environ, {"FASTCE_CACHE": "0"}))
        for known in (driver._context, driver.attribute):
            known.cache_clear()
            self.patches.callback(known.cache_clear)
        return self

    def __exit__(self, *error):
        self.patches.close()

    def _torch(self):
        torch = types.ModuleType("torch")
        for name in ("float16", "bfloat16", "float32", "float64", "uint8", "int32", "int64"):
            setattr(torch, name, name)

        def empty(shape, dtype, device):
            itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
            self.allocations.append(math.prod(shape) * itemsize)
            self.events.append("allocated")
            tensor = self.tensor(shape, dtype)
            weakref.finalize(tensor, self.events.append, "freed")
            return tensor

        torch.Tensor, torch.empty = Tensor, empty
        stream = types.SimpleNamespace(cuda_stream=7)
        torch.cuda = types.SimpleNamespace(current_stream=lambda device: stream)
        return torch


@functools.cache
def machine_code(compile_it, kernel, form, capability):
    """What `fastce.cuda.launching.compiled` gives, and the kernel's parameters: once for all drivers of a process."""
    text = ptx_of(kernel, form, capability)
    (entry,) = (function for function in parse(text).functions.values() if function.entry)
    with mock.patch.object(kernel, "ptx", return_value=text):
        return *compile_it(kernel, form, capability), entry.parameters


class Api:
    """The functions of cuda.bindings.driver that fastce calls."""

    CUdevice_attribute = CUfunction_attribute = int

    def __init__(self, counted):
        self.counted = counted

    def __getattribute__(self, name):
        if name.startswith("cu"):
            self.counted.events.append(name)
        return super().__getattribute__(name)

    def cuInit(self, flags):
        return (0,)

    def cuDevicePrimaryCtxRetain(self, device):
        return 0, 1

    def cuCtxGetCurrent(self):
        return 0, 1

    def cuDeviceGetAttribute(self, which, device):
        return 0, _OF_DEVICE[which]

    def cuModuleLoadData(self, code):
        assert code[:4] == b"\x7fELF"
        return 0, code

    def cuModuleGetFunction(self, code, name):
        assert name in code
        self.counted.loaded.append(name.decode())
        return 0, len(self.counted.loaded) - 1

    def cuFuncGetAttribute(self, which, function):
        assert which == 1
        return 0, ROOM if "rows" in self.counted.loaded[function] else 0

    def cuFuncSetAttribute(self, function, which, value):
        assert which == 9
        self.counted.carveouts.append(value)
        return (0,)

    def cuOccupancyMaxActiveBlocksPerMultiprocessor(self, function, threads, shared):
        return 0, self.counted.blocks

    def cuLaunchKernel(self, function, x, y, z, width, height, depth, shared, stream, params, extra):
        assert (stream, shared, extra) == (7, 0, 0)
        assert min(x, y, z, width, height, depth) > 0
        name, parameters = self.counted.kernels.get(self.counted.loaded[function], ("kept", []))
        address = ctypes.c_void_p.from_address(params).value  # of the only one
        packed = ctypes.string_at(address, parameters[0].size) if parameters else b""
        self.counted.launches.append((name, (x, y, z), (width, height, depth), parameters, packed))
        return (0,)

    def cuMemsetD8Async(self, pointer, value, size, stream):
        assert stream == 7
        self.counted.fills.append(size)
        return (0,)

    def cuMemcpyDtoHAsync(self, host, pointer, size, stream):
        ctypes.memset(host, 0, size)
        self.counted.copies.append(size)
        return (0,)

    def cuStreamSynchronize(self, stream):
        self.counted.waits += 1
        return (0,)
