"""How kernels are launched, counted with a driver that does nothing else."""

import numpy as np
import pytest
from counted import Counted

import fastce

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx


@pytest.fixture
def driver():
    with Counted() as counted:
        yield counted


def test_all_arguments_of_a_kernel_are_one_parameter(driver):
    from fastce.cuda._kernels.primitives import kernel
    from fastce.cuda.arrays import device_array
    from fastce.cuda.launching import launch

    @kernel(64, 1)
    def put(out, flags, numbers, is_set):
        out[0] = numbers[0] if is_set and flags[0] else numbers[1][1]

    x, flags = driver.tensor((5, 3), "float32"), driver.tensor((7,), "bool")
    arrays = [device_array(array, "x") for array in (x, flags)]
    for _ in range(2):
        launch(put, 3, 64, arrays[0], *(array.flat() for array in arrays), (np.float32(0.5), (2, 3.5)), True)
    assert len(driver.kernels) == 1
    for name, grid, block, parameters, packed in driver.launches:
        assert (name, grid, block, len(parameters)) == ("put", (3, 1, 1), (64, 1, 1), 1)
        one = np.dtype("u8, u8, u8, u8, f4, i8, f8, ?", align=True)
        assert parameters[0].size == one.itemsize
        assert np.frombuffer(packed, one)[0].tolist() == (x.pointer, 15, flags.pointer, 7, 0.5, 2, 3.5, True)
    launch(put, 3, 64, arrays[0], *(array.flat() for array in arrays), (0.5, (2, 3.5)), True)
    assert len(driver.kernels) == 2  # for another form of arguments


def test_a_call_launches_what_was_loaded(driver):
    x, y = driver.tensor((64, 300), "float32"), driver.tensor((64,), "int64")
    fastce.cross_entropy_value_and_grad(x, y)
    loaded, times = len(driver.kernels), driver.counts()
    assert loaded == len({name for name, *_ in driver.launches})
    driver.forget()
    fastce.cross_entropy_value_and_grad(driver.tensor((64, 300), "float32"), y)
    assert (len(driver.kernels), driver.counts()) == (loaded, times)
    for _, _, _, parameters, _ in driver.launches:
        assert len(parameters) == 1


def test_errors_of_the_driver_are_ours(driver, monkeypatch):
    from fastce.cuda import driver as ours

    monkeypatch.setattr(ours.api, "cuStreamSynchronize", lambda stream: (719,), raising=False)
    with pytest.raises(RuntimeError, match="the CUDA driver says 719"):
        fastce.cross_entropy(driver.tensor((4, 3), "float32"), driver.tensor((4,), "int64"))
