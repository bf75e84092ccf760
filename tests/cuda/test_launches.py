"""How kernels are launched, as far as that needs no GPU."""

import contextlib

import numpy as np
import pytest
from ptx.device import Device

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx


def test_few_blocks_are_no_warning_of_ours_and_stay_one_of_others(monkeypatch):
    from numba import config, cuda
    from numba.cuda import dispatcher

    from fastce.cuda._kernels.sums import sum_up
    from fastce.cuda.arrays import device_array
    from fastce.cuda.layout import launch

    launched = []
    monkeypatch.setattr(
        dispatcher._LaunchConfiguration, "__call__", lambda self, *args: launched.append((self.griddim, args))
    )
    monkeypatch.setattr(cuda, "gpus", [contextlib.nullcontext()])
    where = device_array(Device.array(np.zeros(3)), "x")
    launch(sum_up, 1, 64, where, "of one block")  # warnings are errors
    assert launched == [((1, 1, 1), ("of one block",))]
    assert config.CUDA_LOW_OCCUPANCY_WARNINGS == 1
    with pytest.warns(Warning, match="Grid size 2 will likely"):
        sum_up[2, 64]
