"""Losses on a device for which nothing waits: the same numbers, and NaN where there would be an error."""

import types

import numpy as np
import pytest
from counted import Counted

import fastce

pytest.importorskip("numba_cuda")

CHECKS = types.SimpleNamespace(fastce=fastce)  # for the fixture
X = np.random.default_rng(3).normal(size=(40, 5)).astype(np.float32)
Y = np.arange(40) % 5
SHAPES = {"few": (X, 1), "lone": (X.T.copy(), 0), "rows": (np.tile(X, 8), 1)}


def host(value):
    return np.asarray(value)[()]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("weight", [np.linspace(0.0, 2.0, 40), 0.75], ids=["of rows", "of all"])
def test_the_same_numbers(on_device, shape, reduction, weight):
    x, axis = SHAPES[shape]
    options = {"axis": axis, "reduction": reduction, "sample_weight": weight}
    expected = on_device.cross_entropy_value_and_grad(x, Y, **options)
    with fastce.deferred():
        value = on_device.cross_entropy(x, Y, **options)
        ours = on_device.cross_entropy_value_and_grad(x, Y, **options)
    for one in (value, ours.value):
        assert host(one).shape == np.shape(expected.value)
        np.testing.assert_array_equal(host(one), expected.value)
    np.testing.assert_array_equal(ours.grad, expected.grad)


def test_sums_beyond_the_largest_number(on_device):
    large, targets = np.array([[8.5e307, -8.5e307]] * 3), np.ones(3, int)
    for reduction, expected in (("mean", 1.7e308), ("sum", np.inf)):
        with fastce.deferred():
            ours = host(on_device.cross_entropy(large, targets, reduction=reduction))
        assert ours == on_device.cross_entropy(large, targets, reduction=reduction)
        assert ours == pytest.approx(expected)


def test_nan_for_what_would_be_an_error(on_device):
    wrong, weight = np.where(np.arange(40) == 7, 5, Y), np.full(5, np.inf)
    for targets, options in ((wrong, {}), (Y, {"weight": weight}), (Y, {"sample_weight": np.full(40, np.nan)})):
        with pytest.raises(ValueError if options else IndexError):
            on_device.cross_entropy(X, targets, **options)
        out = np.full_like(X, 7.0)
        with fastce.deferred():
            ours = on_device.cross_entropy_value_and_grad(X, targets, **options)
            rows = on_device.cross_entropy(X, targets, reduction="none", **options)
            on_device.cross_entropy_value_and_grad(X, targets, out=out, **options)
        for numbers in (host(ours.value), ours.grad, rows):
            assert np.isnan(numbers).all()
        assert (out == 7.0).all()


def test_nan_for_means_of_nothing_and_for_what_float32_has_no_range_for(on_device):
    with fastce.deferred():
        assert np.isnan(host(on_device.cross_entropy(X, np.full(40, -100))))
        assert host(on_device.cross_entropy(X, np.full(40, -100), reduction="sum")) == 0.0
        assert host(on_device.cross_entropy(X[:0], Y[:0], reduction="sum")) == 0.0
        beyond = on_device.cross_entropy_value_and_grad(X, Y, sample_weight=np.full(40, 1e39), reduction="sum")
    assert np.isnan(host(beyond.value))
    assert np.isnan(beyond.grad).all()


def test_functions_that_wait_are_refused(on_device):
    with fastce.deferred(), pytest.raises(TypeError, match=r"^nll_loss of arrays on a GPU waits for them: call it out"):
        on_device.nll_loss(X, Y)
    assert np.isfinite(on_device.nll_loss(X, Y))
    with fastce.deferred():
        assert fastce.nll_loss(X, Y) == on_device.back(fastce.nll_loss(X, Y))  # of the CPU


@pytest.mark.ptx
def test_nothing_waits():
    with Counted() as driver:
        x, y = driver.tensor((64, 300), "float32"), driver.tensor((64,), "int64")
        with fastce.deferred():
            for options, allocations in (({}, 3), ({"reduction": "none"}, 3)):
                driver.forget()
                ours = fastce.cross_entropy_value_and_grad(x, y, **options)
                assert type(ours.value) is type(x)
                assert [name for name, *_ in driver.launches] == ["check", "rows", "conclude"]
                assert driver.counts() == (3, allocations, 1, 0, 0)


IN_A_GRAPH = {"cuLaunchKernel", "cuMemsetD8Async"}  # what a CUDA graph keeps; all in the current stream
BESIDE_IT = {"cuCtxGetCurrent", "cuOccupancyMaxActiveBlocksPerMultiprocessor"}  # what asks nothing of a stream
OF_GPU = {"few": (1000, 10), "lone": (300, 64), "rows": (64, 300), "parts": (3, 20_000)}


@pytest.mark.ptx
@pytest.mark.parametrize("shape", OF_GPU)
def test_a_graph_can_keep_all_that_a_second_call_asks_for(shape):
    """And what the call has allocated is given back after the last launch that is told of it."""
    with Counted() as driver, fastce.deferred():
        rows, classes = OF_GPU[shape]
        axis = int(shape != "lone")
        x = driver.tensor((rows, classes) if axis else (classes, rows), "float32")
        y, weight = driver.tensor((rows,), "int64"), driver.tensor((rows,), "float32")
        out, above = driver.tensor(x.shape, "float32"), driver.tensor((), "float64")
        calls = [
            lambda: fastce.cross_entropy(x, y, axis=axis),
            lambda: fastce.cross_entropy_value_and_grad(x, y, axis=axis),
            lambda: fastce.cross_entropy_value_and_grad(x, y, axis=axis, sample_weight=0.75),
            lambda: fastce.cross_entropy_value_and_grad(x, y, axis=axis, reduction="none", sample_weight=weight),
            lambda: fastce.cross_entropy_value_and_grad(x, y, axis=axis, reduction="sum", grad_output=above, out=out),
        ]
        for call in calls:
            call()  # compiles and loads
        for call in calls:
            driver.forget()
            results = call()
            events = list(driver.events)
            assert set(events) <= IN_A_GRAPH | BESIDE_IT | {"allocated", "freed"}
            launches = [k for k, name in enumerate(events) if name == "cuLaunchKernel"]
            assert len(launches) >= 3
            assert "freed" not in events[: launches[-1]]
            assert events.count("freed") < events.count("allocated")  # the results are there
            del results
