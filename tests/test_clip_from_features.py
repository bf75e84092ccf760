"""clip_loss_from_features: the matrix of products never exists, and nobody can tell from the results."""

import dense
import mpmath
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering

import fastce
from fastce.profile.pairs import load_pairs

CLIP = "clip_loss_from_features"
SIZES = [1, 2, 3, 7, 15, 16, 17, 31, 32, 33, 49, 64, 65]  # tiles have 16 rows and columns at most
NAN = np.nan


def pair(rng, n, m=None, width=12, dtype=np.float32):
    """Features of which those that belong together are alike."""
    a, b = rng.normal(size=(n, width)), rng.normal(size=(m or n, width))
    b[: min(n, m or n)] += a[: m or n]
    return a.astype(dtype), b.astype(dtype)


def real_pairs(n, dtype):
    return [side[:n].astype(dtype) for side in load_pairs()]


# ---------------------------------------------------------------------------------- against the formulas
@covering({"dtype": [np.float32, np.float64], "n": SIZES}, strength=1)
def test_value_and_all_gradients_are_those_of_the_dense_formula(small_tiles, rng, n, dtype):
    images, texts = pair(rng, n, dtype=dtype)
    dense.check(CLIP, images, texts, 14.3, normalize=True)
    dense.check(CLIP, images / 4, texts / 4, 1.0, label_smoothing=0.1)


@covering(
    {"dtype": [np.float32, np.float64], "scale": [1.0, 2.5, 14.285714, 50.0, 100.0], "n": [1, 2, 3, 65, 100]}, quick=1
)
def test_real_pairs_at_every_scale(small_tiles, n, scale, dtype):
    dense.check(CLIP, *real_pairs(n, dtype), scale)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_real_pairs_in_tiles_of_their_usual_size(dtype):
    images, texts = real_pairs(300, dtype)  # longer than the smallest edge
    for budget in (1, 1 << 28):
        dense.check(CLIP, images, texts, 50.0, reductions=["mean"], memory_budget=budget)
    dense.check(CLIP, images, texts, 50.0, reductions=["sum"], normalize=True, label_smoothing=0.1, memory_budget=1)


@pytest.mark.parametrize("width", [1, 2, 31, 65])
def test_every_width(small_tiles, rng, width):
    images, texts = pair(rng, 20, width=width, dtype=np.float64)
    dense.check(CLIP, images / np.sqrt(width), texts / np.sqrt(width), 3.0)


@pytest.mark.parametrize("normalize", [False, True])
def test_it_is_clip_loss_of_the_matrix_of_products(rng, normalize):
    images, texts = pair(rng, 40, dtype=np.float64)
    a, b = ((x / np.linalg.norm(x, axis=1)[:, None] if normalize else x) for x in (images, texts))
    for reduction in REDUCTIONS:
        options = dict(logit_scale=3.0, label_smoothing=0.2, reduction=reduction)
        ours = fastce.clip_loss_from_features_value_and_grad(images, texts, normalize=normalize, **options)
        theirs = fastce.clip_loss_value_and_grad(a @ b.T, **options)
        np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-12)
        assert ours.grad_logit_scale == pytest.approx(theirs.grad_logit_scale, rel=1e-11)
        if not normalize:
            np.testing.assert_allclose(ours.grad_image_features, theirs.grad @ b, rtol=1e-11, atol=1e-13)
            np.testing.assert_allclose(ours.grad_text_features, theirs.grad.T @ a, rtol=1e-11, atol=1e-13)


# --------------------------------------------------------------------------------------- finite differences
@covering({"normalize": [False, True], "smoothing": [0.0, 0.3], "several": [False, True]}, quick=1)
def test_gradients_are_the_slopes_of_the_value(rng, several, smoothing, normalize):
    images, texts = pair(rng, 4, 5 if several else 4, width=3, dtype=np.float64)
    targets = scipy.sparse.csr_array([[1, 0, 0.5, 0, 0], [0, 0, 0, 0, 0], [0, 2, 0, 0, 0], [3, 1, 0, 1, 0.0]])
    options = dict(targets=targets if several else None, label_smoothing=smoothing, normalize=normalize)
    ours = fastce.clip_loss_from_features_value_and_grad(images, texts, 2.5, **options)
    for at, gradient in enumerate(ours[1:]):
        slope = dense.differences(CLIP, images, texts, 2.5, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-8, atol=1e-10)


# -------------------------------------------------------------------------------------------------- targets
def make_targets(kind, rng, n, m):
    if kind == "permutation":
        return rng.permutation(max(n, m))[:n] % m
    if kind == "repeated":
        return rng.integers(0, max(m // 3, 1), n)
    weights = rng.random((n, m)) * (rng.random((n, m)) < 2 / m)
    weights[0, :2] = 0.3, 0.6
    if kind == "sparse, every row":
        weights[np.arange(n), rng.integers(0, m, n)] = 0.7
    else:
        weights[n // 2], weights[:, m // 2] = 0, 0
    return scipy.sparse.csr_array(weights)


KINDS = ["permutation", "repeated", "sparse, every row", "sparse, some rows and columns without any"]


@covering(
    {
        "dtype": [np.float32, np.float64],
        "label_smoothing": [0.0, 0.1, 1.0],
        "kind": KINDS,
        "n, m": [(5, 5), (33, 33), (20, 37), (40, 17), (3, 50)],
    },
    quick=1,
)
def test_given_positives_in_both_directions(small_tiles, rng, n, m, kind, label_smoothing, dtype):
    images, texts = pair(rng, n, m, dtype=dtype)
    targets = make_targets(kind, rng, n, m)
    reductions = REDUCTIONS if n == m else ["sum", "mean"]
    options = dict(targets=targets, label_smoothing=label_smoothing, reductions=reductions)
    dense.check(CLIP, images, texts, 5.0, normalize=True, **options)


def test_rows_and_columns_without_positives_are_left_out_of_their_mean(rng):
    images, texts = pair(rng, 3, 4, dtype=np.float64)
    targets = scipy.sparse.csr_array(np.array([[0, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]]))
    x = images @ texts.T
    lse = np.log(np.exp(x).sum(1)), np.log(np.exp(x).sum(0))
    rows = (lse[0][0] - x[0, 1] + lse[0][2] - x[2, 2]) / 2
    columns = (lse[1][1] - x[0, 1] + lse[1][2] - x[2, 2]) / 2
    assert fastce.clip_loss_from_features(images, texts, targets=targets) == pytest.approx((rows + columns) / 2)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_targets_of_any_integer_type(rng, dtype):
    images, texts = pair(rng, 20, 30)
    targets = rng.integers(0, 30, 20)
    ours = fastce.clip_loss_from_features(images, texts, targets=targets.astype(dtype))
    assert ours == fastce.clip_loss_from_features(images, texts, targets=targets)


@pytest.mark.parametrize("n", [5, 40])
def test_targets_that_say_the_diagonal_give_the_bits_of_none(small_tiles, rng, n):
    images, texts = pair(rng, n)
    plain = fastce.clip_loss_from_features_value_and_grad(images, texts, 2.0)
    for targets in (np.arange(n), scipy.sparse.eye_array(n)):
        ours = fastce.clip_loss_from_features_value_and_grad(images, texts, 2.0, targets=targets)
        assert dense.bits(ours) == dense.bits(plain)


def test_without_any_positive_the_mean_is_nan_and_gradients_are_zero(rng):
    images, texts = pair(rng, 4, 6)
    nobody = scipy.sparse.csr_array((4, 6))
    value, *gradients = fastce.clip_loss_from_features_value_and_grad(images, texts, targets=nobody)
    assert np.isnan(value)
    assert all(np.all(gradient == 0) for gradient in gradients)
    assert fastce.clip_loss_from_features(images, texts, targets=nobody, reduction="sum") == 0


def test_a_single_pair_costs_nothing(rng):
    value, of_image, of_text, of_scale = fastce.clip_loss_from_features_value_and_grad(*pair(rng, 1), 20.0)
    assert (value, of_scale) == (0.0, 0.0)
    assert not of_image.any()
    assert not of_text.any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nobody_at_all(reduction):
    nobody = np.empty((0, 4), np.float32)
    ours = fastce.clip_loss_from_features_value_and_grad(nobody, nobody, reduction=reduction)
    assert (ours.grad_image_features.shape, ours.grad_text_features.shape, ours.grad_logit_scale) == ((0, 4), (0, 4), 0)
    if reduction == "none":
        assert (ours.value.shape, ours.value.dtype) == ((0,), np.float32)
    else:
        assert np.isnan(ours.value) if reduction == "mean" else ours.value == 0


# --------------------------------------------------------------------------------------------------- dtypes
@covering({"first": NAMES, "second": NAMES}, quick=1)
def test_each_side_has_the_gradient_of_its_own_dtype(small_tiles, rng, first, second):
    images, texts = (x.astype(dtype_of(name)) for x, name in zip(pair(rng, 19), (first, second), strict=True))
    dense.check(CLIP, images, texts, 10.0, normalize=True)
    dense.check(CLIP, images, texts, 0.5)


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_count_as_float64(small_tiles, rng, dtype):
    images, texts = (rng.integers(0, 3, (20, 5)).astype(dtype) for _ in range(2))
    dense.check(CLIP, images, texts, 0.5)
    dense.check(CLIP, images, np.asarray(texts, np.float32), 2.0, normalize=True)


# ------------------------------------------------------------------------------------------ hard numbers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_pairs_keep_their_digits(small_tiles, margin, dtype):
    n = 40
    features = np.eye(n, dtype=dtype)
    rest = (n - 1) * mpmath.exp(-margin)
    exact = float(mpmath.log1p(rest))
    bound = 8 * float(np.finfo(dtype).eps)
    losses = fastce.clip_loss_from_features(features, features, float(margin), reduction="none")
    np.testing.assert_allclose(losses.astype(float), np.full(n, exact), rtol=bound)
    ours = fastce.clip_loss_from_features_value_and_grad(features, features, float(margin))
    assert ours.value == pytest.approx(exact, rel=bound)
    slope = float(-rest / (1 + rest))  # p - 1 at the pairs: all other similarities are 0
    assert ours.grad_logit_scale == pytest.approx(slope, rel=bound)
    np.testing.assert_allclose(np.diag(ours.grad_image_features).astype(float), margin * slope / n, rtol=bound)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [2.0**-13, 2.0**13])
def test_logits_of_hundred_thousands(small_tiles, rng, scale, dtype):
    images, texts = (rng.integers(-3, 4, (37, 8)).astype(dtype) for _ in range(2))  # products are exact
    dense.check(CLIP, images, texts, scale)
    dense.check(CLIP, images, texts, scale, label_smoothing=0.1)


@pytest.mark.parametrize("power", [40, 60, 100])
def test_pairs_that_belong_together_beyond_all_measure_cost_nothing(power):
    ours = fastce.clip_loss_from_features_value_and_grad(np.eye(20), np.eye(20), 2.0**power)
    assert (ours.value, ours.grad_logit_scale) == (0, 0)
    assert not ours.grad_image_features.any()


@pytest.mark.parametrize("power", [10, 20, 30, 39])
def test_two_that_are_equally_right_share_the_probability_at_any_size(power):
    twice, targets = np.eye(10).repeat(2, 0), np.arange(20) // 2 * 2  # columns of odd numbers belong to nobody
    losses = fastce.clip_loss_from_features(twice, twice, 2.0**power, targets=targets, reduction="none")
    exact = np.log(2) * np.tile([1, 0.5], 10)
    np.testing.assert_allclose(losses, exact, rtol=1e-15)


def test_rows_far_apart_in_size(small_tiles, rng):
    images, texts = pair(rng, 40, dtype=np.float64)
    images *= 10.0 ** rng.integers(-8, 4, (40, 1))
    texts[::5] *= 100
    dense.check(CLIP, images, texts, 1.0)


def test_one_nan_makes_the_value_nan_and_leaves_what_has_nothing_to_do_with_it(rng):
    images, texts = pair(rng, 8, dtype=np.float64)
    images[3, 1] = NAN
    losses = fastce.clip_loss_from_features(images, texts, reduction="none")
    assert np.isnan(losses).all()  # every column meets every row
    assert np.isnan(fastce.clip_loss_from_features(images, texts))


def test_duplicates_share_their_probability(small_tiles, rng):
    image, text = pair(rng, 1, dtype=np.float64)
    images, texts = image.repeat(36, 0), text.repeat(36, 0)
    assert fastce.clip_loss_from_features(images, texts, 20.0, normalize=True) == pytest.approx(np.log(36), rel=1e-12)
    ours = fastce.clip_loss_from_features_value_and_grad(images, texts, 20.0)
    np.testing.assert_allclose(ours.grad_image_features, 0, atol=1e-13)
    images, texts = (x.repeat(3, 0) for x in pair(rng, 12))
    dense.check(CLIP, images, texts, 10.0, normalize=True)


def test_the_results_are_named(rng):
    ours = fastce.clip_loss_from_features_value_and_grad(*pair(rng, 3))
    assert ours._fields == ("value", "grad_image_features", "grad_text_features", "grad_logit_scale")
