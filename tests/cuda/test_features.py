"""Losses from features on a device: by the simulator, and by compiled kernels that the interpreter of PTX runs; products
are NumPy's in both.
"""

import sys

import dense
import numpy as np
import pytest
from checks import NAMES, dtype_of
from on_device import OnDevice

pytest.importorskip("numba_cuda")

NAN = np.nan
LOSSES = ["siglip_loss", "info_nce", "nt_xent", "sup_con", "linear_cross_entropy"]


@pytest.fixture
def on_device(device, small_blocks, monkeypatch):
    """The functions of fastce by way of the simulator, where the checks find them too."""
    functions = OnDevice(device.to_device)
    monkeypatch.setattr(dense, "fastce", functions)
    return functions


@pytest.fixture
def launched(monkeypatch):
    """The same by way of compiled kernels; ``launched.device`` tells what they did."""
    ptx_device = pytest.importorskip("ptx.device")
    functions = OnDevice(ptx_device.Device.array)
    monkeypatch.setattr(dense, "fastce", functions)
    monkeypatch.setitem(sys.modules, "cupy", np)
    with ptx_device.Device(races=True) as functions.device:
        yield functions


def arguments_of(name, rng, rows=9, columns=7, width=5, dtype=np.float32):
    """Arguments of a loss, and options that it cannot do without."""
    a, b = (rng.normal(size=(n, width)).astype(dtype) for n in (rows, columns))
    return {
        "siglip_loss": (a, b, 3.0, -1.0),
        "info_nce": (a, (a + rng.normal(size=a.shape)).astype(dtype), b),
        "nt_xent": (a, (a + rng.normal(size=a.shape)).astype(dtype)),
        "sup_con": (a, rng.integers(0, 4, rows)),
        "linear_cross_entropy": (a, b, rng.integers(0, columns, rows)),
    }[name], {"targets": rng.integers(0, columns, rows)} if name == "siglip_loss" else {}


# ------------------------------------------------------------------------------------------- against the formulas
@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("dtype", NAMES)
def test_value_and_all_gradients_are_those_of_the_dense_formula(on_device, rng, name, dtype):
    arguments, options = arguments_of(name, rng, dtype=dtype_of(dtype))
    dense.check(name, *arguments, reductions=["mean"], memory_budget=600, **options)


def test_x(on_device, rng):
    pass
