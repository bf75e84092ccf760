"""Tests of kernels: NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda. Those marked ptx run compiled kernels with the
interpreter of tests/ptx, without the variable; those marked gpu need a device instead.
"""

import os
import sys
import zlib
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from devices import LIBRARIES

IS_SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"  # Numba reads it when it is imported
HAS_NUMBA_CUDA = find_spec("numba_cuda") is not None

if IS_SIMULATED and HAS_NUMBA_CUDA:  # before any kernel is imported
    from turns import take_turns

    take_turns()


def _has_device():
    if not HAS_NUMBA_CUDA or IS_SIMULATED:
        return False
    from numba import cuda

    return cuda.is_available()


def pytest_collection_modifyitems(items):
    has_device, here = _has_device(), str(Path(__file__).parent)
    for item in items:
        if not str(item.path).startswith(here):
            continue
        if item.get_closest_marker("gpu"):
            if not has_device:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device and numba-cuda"))
        elif item.get_closest_marker("ptx"):
            if IS_SIMULATED or not HAS_NUMBA_CUDA:
                item.add_marker(pytest.mark.skip(reason="needs numba-cuda, and not its simulator"))
        elif not (IS_SIMULATED and HAS_NUMBA_CUDA):
            item.add_marker(pytest.mark.skip(reason="needs numba-cuda and NUMBA_ENABLE_CUDASIM=1"))


@pytest.fixture
def device():
    """Where a test runs."""
    from devices import Simulator

    return Simulator()


@pytest.fixture
def on_device(request, device, monkeypatch):
    """The functions of fastce by way of the simulator, where the CHECKS of a test's module find them too."""
    from on_device import OnDevice

    functions = OnDevice(device.to_device)
    monkeypatch.setattr(request.module.CHECKS, "fastce", functions)
    return functions


@pytest.fixture
def taking_lists(request, device, monkeypatch):
    """The same, and lists of numbers are arrays there, too."""
    from on_device import TakingLists

    functions = TakingLists(device.to_device)
    monkeypatch.setattr(request.module.CHECKS, "fastce", functions)
    return functions


@pytest.fixture
def launched(request, monkeypatch):
    """The same by way of compiled kernels, with products of NumPy; ``launched.device`` tells what they did."""
    from on_device import OnDevice
    from ptx.device import Device

    functions = OnDevice(Device.array)
    monkeypatch.setattr(request.module.CHECKS, "fastce", functions)
    monkeypatch.setitem(sys.modules, "cupy", np)
    with Device(races=True) as functions.device:
        yield functions


@pytest.fixture(params=LIBRARIES)
def on_gpu(request, monkeypatch):
    """The same by way of a GPU and the arrays of a library."""
    from on_device import OnDevice

    gpu = LIBRARIES[request.param]()
    functions = OnDevice(gpu.to_device, gpu.to_host)
    monkeypatch.setattr(request.module.CHECKS, "fastce", functions)
    return functions


@pytest.fixture
def start(monkeypatch):
    """Starts devices of the interpreter; the contract's `checks` find the functions of fastce there."""
    import checks
    from on_device import OnDevice
    from ptx.device import Device

    monkeypatch.setattr(checks, "fastce", OnDevice(Device.array))
    devices = []

    def start(**options):
        devices.append(Device(**{"races": True} | options))
        return devices[-1].__enter__()

    yield start
    for device in reversed(devices):
        device.__exit__()


@pytest.fixture
def data_of_its_own(request):
    """The data of a test depend on its name alone, not on the tests before it."""
    from compiled import RNG

    RNG.bit_generator.state = np.random.default_rng(zlib.crc32(request.node.name.encode())).bit_generator.state


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of 64 threads, which hold 128 chunks: rows of a few hundred classes take all of a block, or several.

    Statistics of 300 classes are those of two parts.
    """
    threads, chunks = 64, 128
    kernels = ("_kernels.checks", "_kernels.rows", "_kernels.sums")
    names = (*kernels, "binary", "groups", "layout", "nll", "run", "verdicts")
    modules = [import_module(f"fastce.cuda.{name}") for name in names]
    for module in modules:
        for name in ("THREADS", "SUM_THREADS", "LONE_THREADS"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, threads)
        if hasattr(module, "ROOM_CHUNKS"):
            monkeypatch.setattr(module, "ROOM_CHUNKS", chunks)
    monkeypatch.setattr(import_module("fastce.cuda.groups"), "CLASSES_OF_WARP", 2 * threads)
    monkeypatch.setattr(import_module("fastce.cuda.statistics"), "MOST_OF_BLOCK", 250)
    run = import_module("fastce.cuda.run")
    monkeypatch.setattr(run, "CHUNKS_OF_THREAD", chunks // threads)
    monkeypatch.setattr(run, "ROWS_OF_BLOCK", threads)
