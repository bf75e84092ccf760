"""Gradient and Hessian on a device: the tests of the CPU's by way of the simulator, in all layouts and dtypes."""

import ml_dtypes
import numpy as np
import pytest
import test_boosting
from crosscheck import LAYOUTS, filled, pairwise, targets_of
from test_boosting import (  # noqa: F401  (tests)
    test_an_ignored_row_may_hold_anything_and_one_class_is_certain,
    test_arguments_are_checked_as_in_cross_entropy,
    test_the_absolute_hessian_is_the_size_of_the_gradient,
    test_the_conventions_are_the_boosters_formulas,
    test_ties_far_apart_and_beyond_the_range_of_exp,
)

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_boosting  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
DERIVATIVES = pairwise(kind=["hard", "probability", "sparse"], option=list(CHECKS.OPTIONS))
LAYOUT_CASES = pairwise(
    layout=list(LAYOUTS), dtype=["float32", "float64", "float16", "bfloat16", "int32"], classes=[1, 5, 40, 200],
    kind=["int64", "uint8", "probabilities", "sparse"], option=["plain", "weight_smoothing", "all_together"],
    hessian=[*CHECKS.CONVENTIONS, "absolute"], out=[None, "new", "in place"],
)  # fmt: skip


@pytest.mark.parametrize("case", DERIVATIVES, ids=str)
def test_both_are_the_derivatives_of_the_loss(rng, case):
    CHECKS.test_gradient_and_hessian_are_the_derivatives_of_the_loss(rng, **case)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 17, 70])
def test_one_minus_p_keeps_its_digits(rng, classes, dtype):
    CHECKS.test_one_minus_p_keeps_its_digits(rng, classes, dtype)


@pytest.mark.parametrize("hessian", CHECKS.CONVENTIONS)
@pytest.mark.parametrize("length", [4, 150])
def test_special_values_concern_their_row_alone(rng, length, hessian):
    CHECKS.test_special_values_concern_their_row_alone(rng, length, hessian)


@pytest.mark.parametrize("option", ["weight", "softcap", "z_loss", "all_together"])
@pytest.mark.parametrize("hessian", CHECKS.CONVENTIONS)
def test_every_option_goes_with_every_convention(rng, hessian, option):
    CHECKS.test_every_option_goes_with_every_convention(rng, hessian, option)


@pytest.mark.parametrize("case", LAYOUT_CASES, ids=str)
def test_layouts_dtypes_and_targets_are_those_of_the_cpu(rng, case):
    """The CPU's own tests hold it to the formula; both round, so that they may differ by what each may be off."""
    dtype = np.dtype(ml_dtypes.bfloat16 if case["dtype"] == "bfloat16" else case["dtype"])
    x, axis = filled(case["layout"], lambda shape: 3 * rng.normal(size=shape), 3, case["classes"], dtype)
    at = (1 if axis is None else axis) % x.ndim
    targets, lead = targets_of(case["kind"], rng, x.shape, at, x.dtype), tuple(np.delete(x.shape, at))
    options = {"axis": axis, "hessian": case["hessian"]}
    if case["option"] != "plain":
        options |= {"weight": rng.random(case["classes"]), "label_smoothing": 0.1}
    if case["option"] == "all_together":
        options |= {"sample_weight": rng.random(lead), "logit_scale": 1.5, "softcap": 8.0, "z_loss": 0.01}
    expected = fastce.cross_entropy_grad_and_hess(np.array(x), targets, **options)
    out = [None, None] if case["out"] is None else [np.full(x.shape, 77, expected.grad.dtype) for _ in range(2)]
    if case["out"] == "in place" and x.dtype == expected.grad.dtype and x.flags.writeable:
        out[0] = x
    ours = CHECKS.fastce.cross_entropy_grad_and_hess(x, targets, out=tuple(out), **options)
    eps = float(ml_dtypes.finfo(expected.grad.dtype).eps)
    for one, other, room in zip(ours, expected, out, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        np.testing.assert_allclose(
            one.astype(float), other.astype(float), rtol=2 * eps, atol=1e-5 if eps > 1e-10 else 1e-14
        )
        if room is not None:
            np.testing.assert_array_equal(room, one)


BASE = np.zeros((3, 3, 4))


@pytest.mark.parametrize(
    ("error", "message", "out"),
    [
        (TypeError, "out must be a pair", (BASE[1],)),
        (ValueError, "out has shape", (BASE[1], BASE[2, :2])),
        (ValueError, "out has dtype float32", (None, np.zeros((3, 4), np.float32))),
        (ValueError, "the Hessian, must share no memory", (BASE[1], BASE[1])),
        (ValueError, "the Hessian, must share no memory", (BASE[0], BASE[0])),
        (ValueError, "overlaps the input in part", (None, BASE.reshape(9, 4)[2:5])),
        (ValueError, "overlaps the input in part", (BASE.reshape(9, 4)[2:5], None)),
    ],
)
def test_an_out_that_cannot_be_is_refused_unwritten(error, message, out):
    with pytest.raises(error, match=message):
        CHECKS.fastce.cross_entropy_grad_and_hess(BASE[0], np.array([0, 1, 2]), out=out)
    assert not BASE.any()


def test_class_indices_may_be_floats_if_they_are_whole():
    ours, logits = CHECKS.fastce.cross_entropy_grad_and_hess, np.random.default_rng(3).normal(size=(4, 3))
    for dtype in (np.float32, np.float64, ml_dtypes.bfloat16):
        grad, hess = ours(logits, np.array([0, 2, -100, 1], dtype))
        expected = fastce.cross_entropy_grad_and_hess(logits, [0, 2, -100, 1])
        np.testing.assert_allclose(grad, expected.grad, atol=1e-15)
        np.testing.assert_allclose(hess, expected.hess, atol=1e-15)
    for bad in (0.5, np.nan, np.inf, -1e-3):
        with pytest.raises(
            ValueError, match=f"^targets that are class indices must be whole numbers, got {bad} in row 1"
        ):
            ours(logits, np.array([0.0, bad, 1.0, 0.25]))
    out = np.full((4, 3), 7.0), np.full((4, 3), 7.0)
    for bad in (3.0, 1e300, -1.0):
        with pytest.raises(IndexError, match="row 1 hold class index"):
            ours(logits, np.array([0.0, bad, 1.0, 0.0]), out=out)
    assert (np.stack(out) == 7.0).all()


@pytest.mark.parametrize("logit_scale", [1e-20, 1e25])
def test_a_square_of_the_scale_that_float32_does_not_hold_is_computed_in_float64(logit_scale):
    logits, targets = np.float32([[1.0, 2.0, 0.5]]) / np.float32(logit_scale), np.array([1])
    grad, hess = CHECKS.fastce.cross_entropy_grad_and_hess(logits, targets, logit_scale=logit_scale)
    wide = fastce.cross_entropy_grad_and_hess(logits.astype(float), targets, logit_scale=logit_scale)
    with np.errstate(over="ignore", under="ignore"):
        np.testing.assert_allclose(grad, wide.grad.astype(np.float32), rtol=1e-6)
        np.testing.assert_allclose(hess, wide.hess.astype(np.float32), rtol=1e-6)
