"""Functions that have kernels of their own, as these are compiled: right, with every access to memory checked."""

import numpy as np
import pytest
import test_nll_and_binary
from checks import dtype_of

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx

CHECKS = test_nll_and_binary  # for the fixtures


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", ["plain", "all_together"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 7), None), ((7, 40), 0), ((2, 7, 3, 4), None)])
def test_nll_loss(rng, launched, shape, axis, option, dtype):
    CHECKS.test_nll_loss_and_its_gradient_are_those_of_the_formula(rng, shape, axis, option, "mean", dtype_of(dtype))
    assert {one.kernel.__name__ for one in launched.device.launches} >= {"likelihood_rows", "likelihood_gradients"}


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nll_loss_of_half_precision(rng, launched, dtype):
    CHECKS.test_nll_loss_of_half_precision_is_a_float32(rng, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", ["plain", "pos_weight", "both"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_binary_cross_entropy(rng, launched, option, reduction, dtype):
    CHECKS.test_binary_cross_entropy_and_its_gradient_are_those_of_the_formula(
        rng, (7, 50), option, reduction, dtype_of(dtype)
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_binary_cross_entropy_of_half_precision(rng, launched, dtype):
    CHECKS.test_binary_cross_entropy_of_half_precision_is_computed_in_float32(rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_at_infinite_huge_and_undefined_logits(launched, dtype):
    logits = np.array([np.inf, -np.inf, np.inf, 3e38, -3e38, np.nan, 0.0], dtype)
    targets = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    losses, grad = launched.binary_cross_entropy_with_logits_value_and_grad(logits, targets, reduction="none")
    np.testing.assert_allclose(losses, np.array([np.inf, 0, 0, 3e38, 0, np.nan, np.log(2)], dtype), rtol=1e-6)
    np.testing.assert_allclose(grad, [1, 0, 0, 1, 0, np.nan, -0.5], atol=1e-6)
