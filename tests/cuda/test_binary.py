"""Binary cross entropy on a device: the tests of the CPU's by way of the simulator, and what a device refuses."""

import numpy as np
import pytest
import test_nll_and_binary
from crosscheck import pairwise
from test_nll_and_binary import (  # noqa: F401  (tests)
    test_binary_cross_entropy_at_infinite_huge_and_undefined_logits,
    test_binary_cross_entropy_is_the_cross_entropy_of_two_classes,
    test_binary_cross_entropy_of_half_precision_is_computed_in_float32,
    test_binary_cross_entropy_of_nothing,
    test_binary_of_a_view_is_that_of_its_copy_and_touches_nothing_else,
    test_binary_of_rows_of_one_element_that_are_not_adjacent,
    test_confident_logits_keep_their_digits,
    test_grad_output_scales_the_binary_gradient,
    test_only_an_infinite_loss_makes_the_sum_of_binary_losses_infinite,
    test_the_binary_gradient_goes_into_out_and_may_replace_the_logits,
    test_zero_weight_times_an_infinite_loss_is_zero,
)

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_nll_and_binary  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
FORMULA = pairwise(
    dtype=[np.float32, np.float64], reduction=CHECKS.REDUCTIONS, option=list(CHECKS.BINARY_OPTIONS),
    shape=["1", "17", "5 9", "3 4 5", "300"],
)  # fmt: skip


@pytest.mark.parametrize("case", FORMULA, ids=str)
def test_losses_and_gradients_are_those_of_the_formula(rng, case):
    case = dict(case)
    shape = tuple(map(int, case.pop("shape").split()))
    CHECKS.test_binary_cross_entropy_and_its_gradient_are_those_of_the_formula(rng, shape=shape, **case)


@pytest.mark.parametrize("reduction", ["none", "sum"])
@pytest.mark.parametrize(
    ("shape", "weight", "pos_weight"),
    [((7, 3), None, (3,)), ((30, 7), (30, 1), (7,)), ((3, 4, 10), (4, 1), (10,)), ((2, 3, 5), (3, 5), (2, 1, 1))],
)
def test_weights_that_repeat(rng, reduction, shape, weight, pos_weight):
    CHECKS.test_binary_weights_that_repeat_along_any_axes_are_those_of_the_formula(
        rng, reduction, shape, weight, pos_weight
    )


@pytest.mark.parametrize("name", ["float16", "float32"])
@pytest.mark.parametrize("pos_weight", [None, 1e4])
def test_targets_of_float64_keep_their_digits(rng, name, pos_weight):
    CHECKS.test_targets_of_float64_beside_narrower_logits_keep_their_digits(rng, name, (40, 3), pos_weight)


@pytest.mark.parametrize("weight", [1e-100, 1e-40, 1e40, 1e100, -1e50])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_make_ordinary_numbers_of_what_is_beyond_them(weight, dtype):
    """A loss that exp(-|x|) is nearly all of, far below the normal numbers."""
    x = np.array([-100.0, 90.0, -300.0, 700.0, -900.0], dtype)
    targets = (x > 0) * 1.0
    exponent = -np.abs(x.astype(np.longdouble)) + np.log(np.longdouble(abs(weight)))
    with np.errstate(over="ignore", under="ignore"):
        exact = np.sign(weight) * np.exp(exponent)
        expected = exact.astype(dtype)
        gradient = np.where(x > 0, -exact, exact).astype(dtype)
    ours = fastce_on_device().binary_cross_entropy_with_logits_value_and_grad(
        x, targets, weight=np.array([weight]), reduction="none"
    )
    tiny = np.finfo(dtype).smallest_subnormal
    np.testing.assert_allclose(ours.value, expected, rtol=4e-13 if dtype == np.float64 else 2e-7, atol=tiny)
    np.testing.assert_allclose(ours.grad, gradient, rtol=4e-13 if dtype == np.float64 else 2e-7, atol=tiny)


def fastce_on_device():
    """What `taking_lists` has put in the place of fastce."""
    return CHECKS.fastce


@pytest.mark.parametrize("grad_output", [2.0**30, -1e30, "rows"])
def test_a_large_grad_output_makes_ordinary_gradients_of_small_ones(rng, grad_output):
    x, y = np.float32([-90.0, 100.0, 3.0, -20.0]), np.float32([0.0, 1.0, 1.0, 0.0])
    upstream = rng.normal(size=4) * 1e35 if grad_output == "rows" else grad_output
    ours = fastce_on_device().binary_cross_entropy_with_logits_value_and_grad(
        x, y, reduction="none", grad_output=upstream
    )
    slopes = np.where(x > 0, -1.0, 1.0) / (1.0 + np.exp(np.abs(x.astype(float))))
    np.testing.assert_allclose(ours.grad, upstream * slopes, rtol=4e-7)
    alone = fastce_on_device().binary_cross_entropy_with_logits(x, y, reduction="none")
    np.testing.assert_array_equal(alone, ours.value)


@pytest.mark.parametrize("name", ["weight", "pos_weight"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, 1e-200])
def test_weights_beyond_what_is_accepted_are_errors_and_nothing_is_written(name, value):
    out, weights = np.full((3, 2), 77.0), np.array([1.0, value])
    words = f"{name} must be finite, got {value}" if not np.isfinite(value) else (
        f"on a GPU, sizes of {name} must be 0 or between 1e-145 and 1e.145, got {value}".replace("+", r"\+")
    )  # fmt: skip
    with pytest.raises(ValueError, match=f"^{words}$"):
        fastce_on_device().binary_cross_entropy_with_logits_value_and_grad(
            np.zeros((3, 2)), np.zeros((3, 2)), **{name: weights}, out=out
        )
    assert (out == 77.0).all()


def test_arguments_that_do_not_fit_are_errors_in_the_words_of_the_cpu():
    ours, x = fastce_on_device().binary_cross_entropy_with_logits_value_and_grad, np.zeros((3, 2))
    for options in (
        {"targets": np.zeros(3)}, {"targets": np.zeros((2, 3))}, {"targets": np.zeros((3, 2), complex)},
        {"weight": np.ones(3)}, {"pos_weight": np.ones((3, 3))}, {"weight": np.ones((1, 3, 2))}, {"weight": "much"},
        {"reduction": "some"}, {"grad_output": np.ones(2)}, {"n_threads": 0},
        {"out": np.zeros((2, 3))}, {"out": np.zeros((3, 2), np.float32)},
    ):  # fmt: skip
        arguments = {"targets": x} | options
        with pytest.raises((TypeError, ValueError)) as expected:
            fastce.binary_cross_entropy_with_logits_value_and_grad(x, **arguments)
        with pytest.raises(expected.type) as error:
            ours(x, **arguments)
        if options.keys().isdisjoint({"weight", "targets"}) or "shape" in str(expected.value):
            assert str(error.value) == str(expected.value)
