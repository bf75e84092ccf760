"""info_nce: each query has a positive key, and negative ones that are in the batch, shared by all, or its own."""

import dense
import mpmath
import numpy as np
import pytest
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering

import fastce
from fastce.profile.pairs import load_pairs

SIZES = [1, 2, 3, 15, 16, 17, 33, 64, 65]  # panels have 16 rows at most
FORMS = ["in the batch", "shared", "own"]
NAN = np.nan


def keys(rng, form, n, m=7, width=12, dtype=np.float32):
    """Query, positive and negative keys of this form."""
    query = rng.normal(size=(n, width))
    positive = query + rng.normal(size=(n, width))
    shape = {"in the batch": None, "shared": (m, width), "own": (n, m, width)}[form]
    negative = None if shape is None else rng.normal(size=shape).astype(dtype)
    return query.astype(dtype), positive.astype(dtype), negative


@covering({"dtype": [np.float32, np.float64], "form": FORMS, "n": SIZES}, quick=1)
def test_value_and_all_gradients_are_those_of_the_dense_formula(small_tiles, rng, n, form, dtype):
    query, positive, negative = keys(rng, form, n, dtype=dtype)
    dense.check("info_nce", query, positive, negative)
    scaled = [None if x is None else x / 4 for x in (query, positive, negative)]
    dense.check("info_nce", *scaled, temperature=1.0, normalize=False)


@pytest.mark.parametrize("form", ["shared", "own"])
@pytest.mark.parametrize("m", [1, 2, 15, 16, 17, 40])
def test_any_number_of_negative_keys(small_tiles, rng, m, form):
    dense.check("info_nce", *keys(rng, form, 20, m))
    dense.check("info_nce", *keys(rng, form, 3, m), temperature=0.5)


@pytest.mark.parametrize("form", ["shared", "own"])
def test_without_any_negative_key_a_query_costs_nothing(rng, form):
    query, positive, negative = keys(rng, form, 5, 0)
    ours = fastce.info_nce_value_and_grad(query, positive, negative)
    assert (ours.value, ours.grad_temperature) == (0.0, 0.0)
    assert not ours.grad_query.any()
    assert not ours.grad_positive_key.any()
    assert ours.grad_negative_keys.shape == negative.shape


@covering({"dtype": [np.float32, np.float64], "temperature": [1.0, 0.1, 0.07, 0.01]}, strength=1)
def test_real_pairs_at_every_temperature(small_tiles, temperature, dtype):
    query, key = (side[:50].astype(dtype) for side in load_pairs())
    others = load_pairs()[1][100:160].astype(dtype)
    dense.check("info_nce", query, key, temperature=temperature)
    dense.check("info_nce", query, key, others, temperature=temperature)
    dense.check("info_nce", query[:20], key[:20], others.reshape(20, 3, -1), temperature=temperature)


@pytest.mark.slow
def test_real_pairs_in_panels_of_their_usual_size():
    query, key = (side[:300].astype(np.float32) for side in load_pairs())
    for budget in (1, 1 << 20, 1 << 28):
        dense.check("info_nce", query, key, reductions=["mean"], memory_budget=budget)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_gradients_are_the_slopes_of_the_value(rng, form, normalize):
    arguments = keys(rng, form, 3, 2, width=3, dtype=np.float64)
    options = dict(temperature=0.6, normalize=normalize)
    ours = fastce.info_nce_value_and_grad(*arguments, **options)
    for at, gradient in zip([0, 1, 2, "temperature"], ours[1:], strict=True):
        if gradient is not None:
            slope = dense.differences("info_nce", *arguments, at=at, **options)
            np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


def test_the_three_forms_agree_where_they_say_the_same(rng):
    query, positive, shared = keys(rng, "shared", 20, dtype=np.float64)
    own = np.broadcast_to(shared, (20, *shared.shape))
    one, other = (fastce.info_nce_value_and_grad(query, positive, negative) for negative in (shared, own))
    assert one.value == pytest.approx(other.value, rel=1e-13)
    np.testing.assert_allclose(one.grad_query, other.grad_query, rtol=1e-11, atol=1e-15)
    np.testing.assert_allclose(one.grad_negative_keys, other.grad_negative_keys.sum(0), rtol=1e-11, atol=1e-15)
    in_batch = fastce.info_nce_value_and_grad(query, positive)
    others = np.stack([np.delete(positive, i, 0) for i in range(20)])
    spelled_out = fastce.info_nce_value_and_grad(query, positive, others)
    assert in_batch.value == pytest.approx(spelled_out.value, rel=1e-13)
    np.testing.assert_allclose(in_batch.grad_query, spelled_out.grad_query, rtol=1e-11, atol=1e-15)


def test_both_directions_make_clip_loss(rng):
    a, b, _ = keys(rng, "in the batch", 30, dtype=np.float64)
    both = fastce.info_nce(a, b, temperature=0.25) + fastce.info_nce(b, a, temperature=0.25)
    assert fastce.clip_loss_from_features(a, b, 4.0, normalize=True) == pytest.approx(both / 2, rel=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_queries_keep_their_digits(small_tiles, margin, form, dtype):
    n, bound = 20, 8 * float(np.finfo(dtype).eps)
    features = np.eye(n, dtype=dtype)
    others = np.stack([np.delete(features, i, 0) for i in range(n)])
    negative = {"in the batch": None, "shared": np.zeros((n - 1, n), dtype), "own": others}[form]
    rest = (n - 1) * mpmath.exp(-margin)
    exact, slope = float(mpmath.log1p(rest)), float(-rest / (1 + rest))
    options = dict(temperature=1 / margin, normalize=False)
    losses = fastce.info_nce(features, features, negative, reduction="none", **options)
    np.testing.assert_allclose(losses.astype(float), exact, rtol=bound)
    ours = fastce.info_nce_value_and_grad(features, features, negative, **options)
    assert ours.value == pytest.approx(exact, rel=bound)
    np.testing.assert_allclose(np.diag(ours.grad_positive_key).astype(float), margin * slope / n, rtol=bound)
    assert ours.grad_temperature == pytest.approx(-(margin**2) * slope, rel=bound)


# ---------------------------------------------------------------------------------------------------- dtypes
@covering({"form": FORMS, "first": NAMES, "second": NAMES}, quick=1)
def test_each_side_has_the_gradient_of_its_own_dtype(small_tiles, rng, form, first, second):
    query, positive, negative = keys(rng, form, 19)
    query, positive = query.astype(dtype_of(first)), positive.astype(dtype_of(second))
    dense.check("info_nce", query, positive, negative)
    if negative is not None:
        dense.check("info_nce", query, positive, negative.astype(dtype_of(second)), temperature=0.5)


def test_integers_count_as_float64(rng):
    query, positive = (rng.integers(0, 3, (20, 5)) for _ in range(2))
    dense.check("info_nce", query, positive, temperature=2.0, normalize=False)
    dense.check("info_nce", query, positive, rng.normal(size=(4, 5)).astype(np.float32), temperature=2.0)


# ---------------------------------------------------------------------------------------------- hard numbers
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_hundred_thousands(small_tiles, rng, form, dtype):
    arguments = [None if x is None else np.clip(np.rint(2 * x), -3, 3) for x in keys(rng, form, 37, dtype=dtype)]
    dense.check("info_nce", *arguments, temperature=2.0**-13, normalize=False)


@pytest.mark.parametrize("form", FORMS)
def test_one_nan_in_a_query_reaches_its_row_only(rng, form):
    query, positive, negative = keys(rng, form, 9)
    clean = fastce.info_nce_value_and_grad(query, positive, negative, reduction="none")
    query[4, 2] = NAN
    ours = fastce.info_nce_value_and_grad(query, positive, negative, reduction="none")
    np.testing.assert_array_equal(np.isnan(ours.value), np.arange(9) == 4)
    np.testing.assert_array_equal(np.delete(ours.value, 4), np.delete(clean.value, 4))
    assert np.isnan(ours.grad_query[4]).all()
    assert np.isfinite(np.delete(ours.grad_query, 4, 0)).all()
    for reduction in ("mean", "sum"):
        assert np.isnan(fastce.info_nce(query, positive, negative, reduction=reduction))
    assert np.isnan(ours.grad_temperature)


def test_a_key_that_is_there_many_times_shares_its_probability(small_tiles, rng):
    query, positive = (x.repeat(3, 0) for x in keys(rng, "in the batch", 12)[:2])
    dense.check("info_nce", query, positive)
    same = np.ones((5, 4))
    assert fastce.info_nce(same, same, np.ones((8, 4))) == pytest.approx(np.log(9), rel=1e-13)


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("form", FORMS)
def test_nobody_at_all(form, reduction):
    nobody = np.empty((0, 4), np.float32)
    negative = {"in the batch": None, "shared": np.ones((3, 4)), "own": np.empty((0, 3, 4))}[form]
    ours = fastce.info_nce_value_and_grad(nobody, nobody, negative, reduction=reduction)
    assert (ours.grad_query.shape, ours.grad_positive_key.shape) == ((0, 4), (0, 4))
    assert ours.grad_temperature == 0
    if negative is not None:
        np.testing.assert_array_equal(ours.grad_negative_keys, np.zeros_like(negative))
    if reduction == "none":
        assert ours.value.shape == (0,)
    else:
        assert np.isnan(ours.value) if reduction == "mean" else ours.value == 0


def test_the_results_are_named(rng):
    ours = fastce.info_nce_value_and_grad(*keys(rng, "shared", 3))
    names = ("value", "grad_query", "grad_positive_key", "grad_negative_keys", "grad_temperature")
    assert ours._fields == names


@pytest.mark.parametrize("shape", [None, (0, 0), (0, 3, 0)])
def test_nothing_at_all_has_no_mean(shape):
    nothing = np.zeros((0, 0))
    assert np.isnan(fastce.info_nce(nothing, nothing, None if shape is None else np.zeros(shape)))
