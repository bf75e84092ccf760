"""Tests of kernels: NUMBA_ENABLE_CUDASIM=1 python -m pytest tests/cuda, and without the variable those marked ptx, which
run compiled kernels with the interpreter of tests/ptx. Those marked gpu need a device instead.
"""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

IS_SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM") == "1"  # Numba reads it when it is imported
HAS_NUMBA_CUDA = find_spec("numba_cuda") is not None


def _has_device():
    if not HAS_NUMBA_CUDA or IS_SIMULATED:
        return False
    from numba import cuda

    return cuda.is_available()


def pytest_collection_modifyitems(items):
    has_device = _has_device()
    for item in items:
        if Path(__file__).parent not in item.path.parents:
            continue
        if item.get_closest_marker("gpu"):
            if not has_device:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device and numba-cuda"))
        elif item.get_closest_marker("ptx"):
            if IS_SIMULATED or not HAS_NUMBA_CUDA:
                item.add_marker(pytest.mark.skip(reason="needs numba-cuda, and not its simulator"))
        elif not (IS_SIMULATED and HAS_NUMBA_CUDA):
            item.add_marker(pytest.mark.skip(reason="needs numba-cuda and NUMBA_ENABLE_CUDASIM=1"))
