"""LogSumExp of blocks on a device, whose states are kept on the host."""

import pickle

import numpy as np
import pytest
from checks import assert_as_scipy, dtype_of, narrowed
from scipy import special

import fastce

pytest.importorskip("numba_cuda")

pytestmark = pytest.mark.usefixtures("small_blocks")
EDGES = [-np.inf, np.inf, np.nan, 0.0, -40.0, 1.0, 700.0, -3e38, 3e38, 1e-30]


@pytest.fixture
def running(device):
    def running(*blocks, axis=None):
        result = fastce.LogSumExp()
        for block in blocks:
            result.update(device.to_device(block), axis)
        return result

    return running


@pytest.mark.parametrize("name", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("cuts", [[], [1], [0, 300], [3, 3, 40]])
def test_blocks_of_classes_in_any_cut_are_one_logsumexp(running, name, cuts, rng):
    x = narrowed(rng.normal(size=(5, 320)) * 4, dtype_of(name))
    result = running(*np.split(x, cuts, axis=1), axis=1).result()
    assert result.dtype == x.dtype
    assert_as_scipy("logsumexp", result, x, 1, ulps=2.0 if name == "float32" else None)


@pytest.mark.parametrize("axis", [None, 0, 2, (0, 2), (), -1])
def test_any_axes_of_any_dimensions(running, axis, rng):
    x = rng.normal(size=(4, 5, 6))
    twice = running(x, x + 1.0, axis=axis).result()
    expected = np.logaddexp(*(special.logsumexp(part, axis=axis) if axis != () else part for part in (x, x + 1.0)))
    assert np.shape(twice) == np.shape(expected)
    np.testing.assert_allclose(twice, expected, rtol=1e-14)


def test_one_dominating_term_leaves_the_digits_of_the_others(running):
    for dtype, rtol in ((np.float64, 1e-15), (np.float32, 1e-6)):
        row = np.array([-40.0, 0.0, -41.0], dtype)
        expected = np.log1p(np.exp(-40.0) + np.exp(-41.0))
        for blocks in ([row], [row[:1], row[1:]], [row[:2], row[2:]]):
            np.testing.assert_allclose(running(*blocks).result(), expected, rtol=rtol)


def test_special_values_are_scipys(running):
    pairs = np.array([[a, b] for a in EDGES for b in EDGES])
    with np.errstate(all="ignore"):
        expected = special.logsumexp(pairs, axis=1)
    for blocks in ([pairs], [pairs[:, :1], pairs[:, 1:]], [pairs[:, :0], pairs]):
        np.testing.assert_allclose(running(*blocks, axis=1).result(), expected, rtol=1e-15)


def test_states_of_a_device_and_of_the_host_merge(running, rng):
    x = rng.normal(size=(3, 90))
    ours = running(x[:, :30], axis=1).update(x[:, 30:60], axis=1).merge(fastce.LogSumExp().update(x[:, 60:], axis=1))
    np.testing.assert_allclose(pickle.loads(pickle.dumps(ours)).result(), special.logsumexp(x, axis=1), rtol=1e-15)


def test_errors_are_those_of_the_cpu(running, device, rng):
    state = running(rng.normal(size=(3, 9)), axis=1)
    before = state.result()
    wrong = {
        r"^block has results of shape \(4,\), expected \(3,\) as before": (np.zeros((4, 2)), 1, {}),
        "^block must hold real numbers": (np.zeros((3, 2), complex), 1, {}),
        "^axis must": (np.zeros((3, 2)), (0, 0), {}),
        "^n_threads must": (np.zeros((3, 2)), 1, {"n_threads": 0}),
    }
    for match, (block, axis, options) in wrong.items():
        for given in (block, device.to_device(block)):
            with pytest.raises((TypeError, ValueError), match=match):
                state.update(given, axis, **options)
    with fastce.deferred(), pytest.raises(TypeError, match=r"^LogSumExp.update of arrays on a GPU waits for them"):
        state.update(device.to_device(np.zeros((3, 2))), axis=1)
    np.testing.assert_array_equal(state.result(), before)
