"""siglip_loss: every pair is a yes-or-no question of its own."""

import dense
import mpmath
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering

import fastce
from fastce.profile.pairs import load_pairs

SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 33, 64, 65]  # tiles have 16 rows and columns at most
NAN = np.nan


def pair(rng, n, m=None, dtype=np.float32, width=12):
    a, b = rng.normal(size=(n, width)), rng.normal(size=(m or n, width))
    b[: min(n, m or n)] += a[: m or n]
    return a.astype(dtype), b.astype(dtype)


def real_pairs(n, dtype):
    return [side[:n].astype(dtype) for side in load_pairs()]


# ---------------------------------------------------------------------------------- against the formulas
@covering({"dtype": [np.float32, np.float64], "n": SIZES}, strength=1)
def test_value_and_all_gradients_are_those_of_the_dense_formula(small_tiles, rng, n, dtype):
    images, texts = pair(rng, n, dtype=dtype)
    dense.check("siglip_loss", images, texts, 10.0, -10.0, normalize=True)
    dense.check("siglip_loss", images / 4, texts / 4, 1.0, 0.5)


@covering(
    {
        "dtype": [np.float32, np.float64],
        "scale, bias": [(1.0, 0.0), (10.0, -10.0), (100.0, -12.0), (117.0, -16.5), (2.0, 3.0)],
    },
    strength=1,
)
def test_real_pairs_at_every_scale(small_tiles, scale, bias, dtype):
    for n in (1, 2, 3, 65):
        dense.check("siglip_loss", *real_pairs(n, dtype), scale, bias)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_pairs_in_tiles_of_their_usual_size(dtype):
    for budget in (1, 1 << 28):
        dense.check("siglip_loss", *real_pairs(270, dtype), 20.0, -5.0, reductions=["mean"], memory_budget=budget)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("several", [False, True])
def test_gradients_are_the_slopes_of_the_value(rng, several, normalize):
    images, texts = pair(rng, 4, 5 if several else 4, width=3, dtype=np.float64)
    targets = scipy.sparse.csr_array([[1, 0, 0.5, 0, 0], [0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [3, 1, 0, 1, 0.0]])
    options = dict(targets=targets if several else None, normalize=normalize)
    ours = fastce.siglip_loss_value_and_grad(images, texts, 2.5, -1.0, **options)
    for at, gradient in enumerate(ours[1:]):
        slope = dense.differences("siglip_loss", images, texts, 2.5, -1.0, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-10)


# -------------------------------------------------------------------------------------------------- targets
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("n", "m"), [(5, 5), (33, 33), (20, 37), (40, 17), (3, 50)])
def test_given_positives(small_tiles, rng, n, m, dtype):
    images, texts = pair(rng, n, m, dtype)
    several = scipy.sparse.csr_array(rng.random((n, m)) * (rng.random((n, m)) < 0.2))
    nobody = scipy.sparse.csr_array((n, m))
    for targets in (rng.integers(0, m, n), several, nobody):
        dense.check("siglip_loss", images, texts, 10.0, -3.0, targets=targets, normalize=True)


def test_all_that_are_not_0_belong_together_whatever_their_weight(rng):
    images, texts = pair(rng, 20)
    belongs = rng.random((20, 20)) < 0.3
    ours = fastce.siglip_loss(images, texts, 2.0, -1.0, targets=scipy.sparse.csr_array(belongs.astype(float)))
    heavy = scipy.sparse.csr_array(belongs * rng.random((20, 20)) * 100)
    assert fastce.siglip_loss(images, texts, 2.0, -1.0, targets=heavy) == ours


def test_targets_that_say_the_diagonal_give_the_bits_of_none(small_tiles, rng):
    images, texts = pair(rng, 40)
    plain = fastce.siglip_loss_value_and_grad(images, texts, 2.0, -1.0)
    for targets in (np.arange(40), scipy.sparse.eye_array(40)):
        ours = fastce.siglip_loss_value_and_grad(images, texts, 2.0, -1.0, targets=targets)
        assert dense.bits(ours) == dense.bits(plain)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nobody_at_all(reduction):
    nobody = np.empty((0, 4), np.float32)
    ours = fastce.siglip_loss_value_and_grad(nobody, nobody, 1.0, 0.0, reduction=reduction)
    assert (ours.grad_image_features.shape, ours.grad_text_features.shape) == ((0, 4), (0, 4))
    assert (ours.grad_logit_scale, ours.grad_logit_bias) == (0, 0)
    if reduction == "none":
        assert (ours.value.shape, ours.value.dtype) == ((0,), np.float32)
    else:
        assert np.isnan(ours.value) if reduction == "mean" else ours.value == 0


# ---------------------------------------------------------------------------------------------------- dtypes
@covering({"first": NAMES, "second": NAMES}, quick=1)
def test_each_side_has_the_gradient_of_its_own_dtype(small_tiles, rng, first, second):
    images, texts = (x.astype(dtype_of(name)) for x, name in zip(pair(rng, 19), (first, second), strict=True))
    dense.check("siglip_loss", images, texts, 10.0, -3.0, normalize=True)
    dense.check("siglip_loss", images, texts, 0.5, 1.0)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_count_as_float64(small_tiles, rng, dtype):
    images, texts = (rng.integers(0, 3, (20, 5)).astype(dtype) for _ in range(2))
    dense.check("siglip_loss", images, texts, 0.5, -1.0)


# ---------------------------------------------------------------------------------------------- hard numbers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_pairs_keep_their_digits(small_tiles, margin, dtype):
    # z is the margin at the pairs and minus that elsewhere: every question costs softplus(-margin)
    n, bound = 40, 8 * float(np.finfo(dtype).eps)
    features = np.eye(n, dtype=dtype)
    question, slope = (float(f(mpmath.exp(-margin))) for f in (mpmath.log1p, lambda e: e / (1 + e)))
    losses = fastce.siglip_loss(features, features, 2.0 * margin, -margin, reduction="none")
    np.testing.assert_allclose(losses.astype(float), n * question, rtol=bound)
    ours = fastce.siglip_loss_value_and_grad(features, features, 2.0 * margin, -margin)
    assert ours.value == pytest.approx(n * question, rel=bound)
    assert ours.grad_logit_scale == pytest.approx(-slope, rel=bound)
    assert ours.grad_logit_bias == pytest.approx((n - 2) * slope, rel=bound)
    expected = 2 * margin * slope / n * (1 - 2 * np.eye(n))
    np.testing.assert_allclose(ours.grad_image_features.astype(float), expected, rtol=bound)
    np.testing.assert_allclose(ours.grad_text_features.astype(float), expected, rtol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [0.0, 1e5, -1e5])
def test_logits_of_hundred_thousands(small_tiles, rng, bias, dtype):
    images, texts = (rng.integers(-3, 4, (37, 8)).astype(dtype) for _ in range(2))  # products are exact
    dense.check("siglip_loss", images, texts, 2.0**13, bias)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_one_nan_reaches_its_row_only(rng, reduction):
    images, texts = pair(rng, 9)
    clean = fastce.siglip_loss_value_and_grad(images, texts, 2.0, -1.0, reduction="none")
    images[4, 2] = NAN
    ours = fastce.siglip_loss_value_and_grad(images, texts, 2.0, -1.0, reduction=reduction)
    if reduction == "none":
        np.testing.assert_array_equal(np.isnan(ours.value), np.arange(9) == 4)
        np.testing.assert_array_equal(np.delete(ours.value, 4), np.delete(clean.value, 4))
        others = np.delete(ours.grad_image_features, 4, 0)
        np.testing.assert_allclose(others, np.delete(clean.grad_image_features, 4, 0), rtol=1e-6)
    else:
        assert np.isnan(ours.value)
    assert np.isnan(ours.grad_image_features[4]).all()
    assert np.isnan(ours.grad_text_features).all()  # each text meets the row
    assert np.isnan(ours.grad_logit_bias)


def test_duplicates_are_asked_about_twice(small_tiles, rng):
    images, texts = (x.repeat(3, 0) for x in pair(rng, 12))
    dense.check("siglip_loss", images, texts, 10.0, -3.0, normalize=True)


def test_the_results_are_named(rng):
    ours = fastce.siglip_loss_value_and_grad(*pair(rng, 3), 1.0, 0.0)
    names = ("value", "grad_image_features", "grad_text_features", "grad_logit_scale", "grad_logit_bias")
    assert ours._fields == names


@pytest.mark.parametrize(("scale", "bias"), [(1e-46, 0.5), (1e39, -3.0), (2.0, -1e39)])
def test_scales_and_biases_that_float32_does_not_have(rng, scale, bias):
    images, texts = (rng.normal(size=(6, 4)).astype(np.float32) for _ in range(2))
    images *= np.float32(1e-38) if scale > 1e30 else np.float32(1)
    z = scale * (images.astype(float) @ texts.T.astype(float)) + bias
    expected = (np.logaddexp(0, z).sum() - np.trace(z)) / 6
    assert fastce.siglip_loss(images, texts, scale, bias) == pytest.approx(expected, rel=1e-6)
