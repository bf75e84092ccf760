"""Sums and means of losses on a device where the largest number is near: of a loss, of their sum, of their weights."""

from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import test_range
from test_range import SHAPES

pytest.importorskip("numba_cuda")

CHECKS = test_range  # for the fixtures
LARGE = 1.7e308
ROWS = 300  # more than a block of few classes has


def far_apart(shape, distances):
    """(logits, axis) of rows whose class 1 lies so far below class 0; the others are far below both."""
    axis, classes = SHAPES[shape]
    halves = np.array([float(Fraction(d) / 2) for d in distances])
    logits = np.full((len(halves), classes), -LARGE)
    logits[:, 0], logits[:, 1] = halves, -halves
    return (logits if axis == 1 else logits.T.copy()), axis


def exact_mean(distances, weights):
    pairs = list(zip(distances, weights, strict=True))
    return sum(Fraction(d) * Fraction(w) for d, w in pairs) / sum(Fraction(w) for _, w in pairs)


def check_means(functions, shape, distances, weights=None):
    """The mean of losses of these distances, to a rounding for each halving of their number."""
    logits, axis = far_apart(shape, distances)
    targets, given = np.ones(len(distances), int), [1.0] * len(distances) if weights is None else weights
    options = {"axis": axis} | ({} if weights is None else {"sample_weight": np.array(weights)})
    ours = functions.cross_entropy_value_and_grad(logits, targets, **options)
    expected = float(exact_mean(distances, given))
    assert ours.value == pytest.approx(expected, rel=1e-14)
    assert functions.cross_entropy(logits, targets, **options) == ours.value
    assert np.isfinite(ours.grad).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_means_of_losses_whose_sum_is_beyond_the_largest_number(on_device, shape):
    check_means(on_device, shape, [1e308, 1.5e308, 3.0, 2e307])
    beyond = 2 * Fraction(LARGE)  # a loss that no float64 is
    check_means(on_device, shape, [beyond, 1.0, 2.0, 1e300])
    check_means(on_device, shape, [beyond, beyond, 2.0], [0.25, 1e-300, 7.0])


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_those_of_many_rows(on_device, shape):
    distances = [Fraction(1.1e308) * (k % 3) for k in range(ROWS)]
    check_means(on_device, shape, distances, [1.0 + k % 2 for k in range(ROWS)])


@pytest.mark.parametrize(("shape", "per_group"), [("few", 1), ("rows", 32), ("lone", 1)])
def test_sums_are_added_up_in_groups(on_device, small_blocks, monkeypatch, shape, per_group):
    """Of blocks of 64 rows, or of rows, whose blocks are of 16."""
    from fastce.cuda import run

    monkeypatch.setattr(run, "PER_GROUP", per_group)
    check_means(on_device, shape, [Fraction(1.1e308) * (k % 3) for k in range(75)])
    check_means(on_device, shape, [1000.0 * (1 + k % 3) for k in range(75)])


def test_rows_in_parts(on_device, small_blocks):
    logits = np.full((2, 1100), -LARGE)
    logits[0, 1099], logits[1, 0] = LARGE, LARGE
    assert on_device.cross_entropy(logits, np.zeros(2, int)) == LARGE


@pytest.mark.parametrize("shape", SHAPES)
def test_losses_that_weights_bring_back(on_device, shape):
    """A loss of 3.4e308 has a weight below 1, of its row or of its class."""
    logits, axis = far_apart(shape, [2 * Fraction(LARGE)] * 2)
    targets, quarter = np.ones(2, int), np.full(2, 0.25)
    for options in ({"sample_weight": quarter}, {"weight": np.full(SHAPES[shape][1], 0.25)}):
        each = on_device.cross_entropy(logits, targets, axis=axis, reduction="none", **options)
        np.testing.assert_allclose(each, LARGE / 2, rtol=1e-15)
        total = on_device.cross_entropy(logits, targets, axis=axis, reduction="sum", **options)
        assert total == pytest.approx(LARGE, rel=1e-15)


def test_sums_of_losses_of_either_sign(on_device):
    for shape in SHAPES:
        logits, axis = far_apart(shape, [1.5e308, 1.5e308, 1.5e308, 8.0])
        options = {"axis": axis, "reduction": "sum", "sample_weight": np.array([1.0, 1.0, -1.5, 1.0])}
        ours = on_device.cross_entropy(logits, np.ones(4, int), **options)
        assert ours == pytest.approx(0.75e308, rel=1e-14)


def test_infinite_losses_stay_infinite(on_device):
    logits = np.array([[0.0, -np.inf, 0.0], [1.0, 2.0, 3.0]])
    assert on_device.cross_entropy(logits, np.array([1, 0])) == np.inf
    assert on_device.cross_entropy(logits, np.array([1, 0]), reduction="sum") == np.inf
    far = np.array([[LARGE, -LARGE, 0.0]] * 3)
    assert on_device.cross_entropy(far, np.ones(3, int)) == np.inf
    assert np.isnan(on_device.cross_entropy(far, np.full(3, -100)))
    far[0, 0] = np.nan
    assert np.isnan(on_device.cross_entropy(far, np.ones(3, int)))


def test_other_targets(on_device):
    far = np.array([[LARGE, -LARGE, 0.0], [0.0, 1.0, 2.0]])
    dense = np.array([[0.0, 0.75, 0.25], [0.5, 0.25, 0.25]])
    for targets in (dense, scipy.sparse.csr_array(dense)):
        assert on_device.cross_entropy(far, targets) == pytest.approx(0.875 * LARGE, rel=1e-15)
    smoothed = on_device.cross_entropy(far, np.array([0, 2]), label_smoothing=0.5)  # of 0, 2 and 1 times LARGE
    assert smoothed == pytest.approx(0.25 * LARGE, rel=1e-14)


def test_means_of_a_layer_whose_weighted_losses_add_up_beyond_the_largest_number(on_device):
    features, layer = np.array([[1e145], [1e145], [1e-145]]), np.array([[1e145], [-1e144], [-1e145]])
    options = {"sample_weight": np.array([8e17, 8e17, 1.0])}
    ours = on_device.linear_cross_entropy_value_and_grad(features, layer, np.full(3, 2), **options)
    assert ours.value == pytest.approx(2e290, rel=1e-14)
    assert on_device.linear_cross_entropy(features, layer, np.full(3, 2), **options) == ours.value


def test_a_total_weight_beyond_the_largest_number_is_refused(on_device):
    logits, targets, out = np.eye(3), np.zeros(3, int), np.full((3, 3), 7.0)
    words = r"^on a GPU, the weights that a mean is divided by must add up to less than 1\.8e308 in size$"
    weights = {"sample_weight": np.full(3, 1e308)}
    for given in (logits, logits.astype(np.float32)):
        with pytest.raises(ValueError, match=words):
            on_device.cross_entropy_value_and_grad(given, targets, out=out.astype(given.dtype), **weights)
    with pytest.raises(ValueError, match=words):
        on_device.cross_entropy_value_and_grad(logits, targets, out=out, **weights)
    assert (out == 7.0).all()
    assert on_device.cross_entropy(logits, targets, reduction="none", **weights).shape == (3,)


@pytest.mark.ptx
@pytest.mark.parametrize("shape", ["lone", *(pytest.param(shape, marks=pytest.mark.slow) for shape in ("rows", "few"))])
def test_means_in_compiled_kernels(launched, shape):
    check_means(launched, shape, [2 * Fraction(LARGE), 1.5e308, 3.0, 2e307])
