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


SHAPES = {"rows": (64, 300), "few_classes": (1000, 10), "lone_rows": (300, 64), "parts": (3, 20_000)}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_loss_with_its_gradient_is_two_launches_and_one_wait(driver, shape):
    """And two allocations: the gradient, and one for all else; a fill, and a copy to the host."""
    rows, classes = SHAPES[shape]
    x, y = driver.tensor((rows, classes), "float32"), driver.tensor((rows,), "int64")
    weight, axis = driver.tensor((classes,), "float32"), 1
    if shape == "lone_rows":
        x, axis = driver.tensor((classes, rows), "float32"), 0
    kernel = "rows" if shape == "parts" else shape
    for _ in range(2):
        for options in ({}, {"weight": weight}, {"reduction": "sum", "label_smoothing": 0.0}):
            driver.forget()
            fastce.cross_entropy_value_and_grad(x, y, axis=axis, **options)
            assert [name for name, *_ in driver.launches] == ["check", kernel]
            assert driver.counts() == (2, 2, 1, 1, 1)
            assert {len(parameters) for _, _, _, parameters, _ in driver.launches} == {1}
    assert len(driver.loaded) == 2 + (shape == "few_classes")  # of which there is one for losses without weights


@pytest.mark.parametrize("shape", SHAPES)
def test_so_is_a_loss_with_its_derivative_by_the_scale(driver, shape):
    """And one allocation, one more for the losses of rows if these are asked for."""
    rows, classes = SHAPES[shape]
    lead, axis = ((classes, rows), 0) if shape == "lone_rows" else ((rows, classes), 1)
    x, y = driver.tensor(lead, "float32"), driver.tensor((rows,), "int64")
    out, kernel = driver.tensor(lead, "float32"), "rows" if shape == "parts" else shape
    for options, allocations in (({}, 1), ({"reduction": "sum", "out": out}, 1), ({"reduction": "none"}, 2)):
        driver.forget()
        fastce.cross_entropy_value_and_grad_logit_scale(x, y, axis=axis, **options)
        assert [name for name, *_ in driver.launches] == ["check", kernel]
        assert driver.counts() == (2, allocations, 1, 1, 1)


def test_what_else_a_call_launches(driver):
    x, y = driver.tensor((64, 300), "float32"), driver.tensor((64,), "int64")
    for call, launches, counts in (
        (lambda: fastce.cross_entropy(x, y), ["check", "rows"], (2, 1, 1, 1, 1)),
        (lambda: fastce.cross_entropy(x, y, reduction="none"), ["check", "rows"], (2, 2, 1, 1, 1)),
        (lambda: fastce.logsumexp(x, axis=1), ["rows"], (1, 2, 1, 0, 0)),
        (lambda: fastce.softmax(x, axis=1), ["rows"], (1, 2, 1, 0, 0)),
    ):
        driver.forget()
        call()
        assert [name for name, *_ in driver.launches] == launches
        assert driver.counts() == counts


def test_parts_of_rows_wait_for_each_other_if_the_driver_says_that_all_run_at_once(driver):
    """Half of the blocks that it says run on 132 multiprocessors; a row of more parts than that is read twice."""
    y = driver.tensor((2,), "int64")
    for blocks, parts, stages in ((2, 132, 1), (2, 133, 2), (1, 66, 1), (1, 67, 2)):
        driver.blocks = blocks
        driver.forget()
        fastce.cross_entropy_value_and_grad(driver.tensor((2, parts * 8192), "float32"), y)
        assert [name for name, *_ in driver.launches] == ["check"] + ["rows"] * stages
        assert driver.launches[1][1] == (2 * parts, 1, 1)
    assert driver.carveouts == [100]  # of kernels with much shared memory


def test_driver_is_asked_for_the_streams_and_contexts_of_other_gpus(driver, monkeypatch):
    x, y = driver.tensor((64, 300), "float32"), driver.tensor((64,), "int64")
    pushed = []
    from fastce.cuda import driver as ours

    monkeypatch.setattr(ours.api, "cuCtxGetCurrent", lambda: (0, 5), raising=False)
    monkeypatch.setattr(ours.api, "cuCtxPushCurrent", lambda context: (pushed.append(context), (0,))[1], raising=False)
    monkeypatch.setattr(ours.api, "cuCtxPopCurrent", lambda: (pushed.append("back"), (0, 1))[1], raising=False)
    fastce.cross_entropy(x, y)
    assert pushed[:2] == [1, "back"]
    assert pushed == [1, "back"] * (len(pushed) // 2)


def test_errors_of_the_driver_are_ours(driver, monkeypatch):
    from fastce.cuda import driver as ours

    monkeypatch.setattr(ours.api, "cuStreamSynchronize", lambda stream: (719,), raising=False)
    with pytest.raises(RuntimeError, match="the CUDA driver says 719"):
        fastce.cross_entropy(driver.tensor((4, 3), "float32"), driver.tensor((4,), "int64"))


@pytest.mark.parametrize("ignored", [2**63 - 1, 2**63, 2**70, -(2**70)])
def test_an_ignored_class_that_kernels_have_no_number_for_is_none(driver, ignored):
    x, y = driver.tensor((4, 3), "float32"), driver.tensor((4,), "int64")
    for function in (fastce.cross_entropy, fastce.nll_loss, fastce.row_stats):
        driver.forget()
        function(x, y, ignore_index=ignored)
        assert driver.launches
