"""Weights of any sign on a device: the checks of tests/test_signed_weights.py, simulated and compiled."""

import numpy as np
import pytest
import scipy.sparse
import test_signed_weights
from checks import dtype_of
from crosscheck import pairwise

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_signed_weights  # for the fixtures
CASES = pairwise(
    kind=list(test_signed_weights.KINDS), option=["both", "smoothing", "others", "everything"], classes=[2, 7, 70],
    axis=[0, 1], dtype=["float32", "float64"],
)  # fmt: skip


def check(rng, kind, option, classes, axis, dtype, rows=9):
    logits = (rng.normal(size=(rows, classes)) * 4).astype(dtype_of(dtype))
    targets = CHECKS.targets_of(kind, rng, rows, classes)
    if axis == 0:
        logits, targets = logits.T.copy(), targets.T.copy() if kind == "dense" else targets
    CHECKS.assert_right(logits, targets, axis=axis, **CHECKS.OPTIONS[option](rng, rows, classes))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_of_any_sign(rng, on_device, small_blocks, case):
    check(rng, **case)


@pytest.mark.ptx
@pytest.mark.parametrize("kind", CHECKS.KINDS)
@pytest.mark.parametrize(("classes", "axis"), [(7, 1), (70, 1), (7, 0)])
def test_of_any_sign_in_compiled_kernels(rng, launched, kind, classes, axis):
    check(rng, kind, "everything", classes, axis, "float32")


def test_a_mean_is_divided_by_a_negative_total_and_is_nan_without_one(on_device):
    logits, labels = np.float32([[1, 2, 0], [0, 0, 3]]), np.array([0, 2])
    for given, weights in (
        (np.array([-2.0, 0.5]), [-2.0, 0.5]),
        (-1.0, [-1.0, -1.0]),
        (np.array([1.0, -1.0]), [1.0, -1.0]),
        (np.array([-3.0]), [-3.0, -3.0]),  # a number
    ):
        ours = on_device.cross_entropy_value_and_grad(logits, labels, sample_weight=given)
        theirs = fastce.cross_entropy_value_and_grad(logits, labels, sample_weight=weights)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-6)
        np.testing.assert_allclose(ours.grad, theirs.grad, atol=1e-6)


@pytest.mark.parametrize("mass", [-0.5, np.nan, np.inf])
def test_masses_of_sparse_targets_are_finite_and_not_negative(on_device, mass):
    targets = scipy.sparse.csr_array((np.array([0.5, 0.5, mass]), np.array([0, 1, 2]), np.array([0, 1, 1, 3])))
    out = np.full((3, 3), 7.0)
    with pytest.raises(ValueError, match=f"sparse targets must be finite and not negative, got {mass} in row 2"):
        on_device.cross_entropy_value_and_grad(np.zeros((3, 3)), targets, out=out)
    assert (out == 7.0).all()


@pytest.mark.parametrize("weight", [3e38, 1e39, 1e-39, 1e-50, -1e35, 1e280])
def test_class_weights_beyond_float32_are_those_of_float64(on_device, weight):
    logits, targets, weights = np.float32([[1, 2, 0, 3]] * 3), np.array([0, 1, 3]), np.array([1.0, 0.0, 2.0, weight])
    for reduction in ("none", "sum", "mean"):
        ours = on_device.cross_entropy_value_and_grad(logits, targets, weight=weights, reduction=reduction)
        exact = on_device.cross_entropy_value_and_grad(
            logits.astype(float), targets, weight=weights, reduction=reduction
        )
        with np.errstate(over="ignore", under="ignore"):
            np.testing.assert_array_equal(ours.value, np.asarray(exact.value, np.asarray(ours.value).dtype))
            np.testing.assert_array_equal(ours.grad, exact.grad.astype(np.float32))


def test_class_weights_beyond_the_range_of_float64_are_refused(on_device):
    words = r"^on a GPU, sizes of weight must be 0 or between 1e-290 and 1e\+290, got 1e\+300$"
    for dtype in (np.float32, np.float64):
        with pytest.raises(ValueError, match=words):
            on_device.cross_entropy(np.zeros((1, 2), dtype), np.array([0]), weight=np.array([1.0, 1e300]))


def test_sample_weights_of_any_size(on_device):
    logits, targets, weights = np.zeros((2, 4), np.float32), np.array([0, 1]), np.array([1e200, 3e200])
    assert on_device.cross_entropy(logits, targets, sample_weight=weights, reduction="sum") == pytest.approx(
        np.log(4) * 4e200
    )
    ours = on_device.cross_entropy_value_and_grad(logits, targets, sample_weight=weights)
    assert ours.value == pytest.approx(np.log(4))
    np.testing.assert_allclose(ours.grad, [[-0.1875, *[0.0625] * 3], [0.1875, -0.5625, 0.1875, 0.1875]])
    wide = logits.astype(float)
    for size in (1e200, 1e300):
        ours = on_device.cross_entropy_value_and_grad(wide, targets, sample_weight=np.full(2, size), reduction="sum")
        np.testing.assert_allclose(ours.grad[0] / size, [-0.75, 0.25, 0.25, 0.25])
