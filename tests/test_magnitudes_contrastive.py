"""Contrastive losses of similarities and features of every magnitude, against the formula in wide precision."""

import calls
import dense
import edge_batches
import hypothesis
import magnitudes
import numpy as np
import pytest
import scipy.sparse
from covering import covering
from hypothesis import strategies as st
from magnitudes import DTYPES, assert_near, ulp, wide

import fastce

pytestmark = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")
SHAPES = [(1, 1), (1, 5), (5, 1), (3, 3), (17, 15), (20, 20), (7, 33)]
SCALES = (1e-300, 1e-38, 1e-10, 0.07, 1.0, 100.0, 1e6, 1e14, 1e39, 1e300)


# ------------------------------------------------------------------------------------------------ oracle
def one_direction(similarity, positives, scale, smoothing):
    """(losses, gradient of their sum for x, which rows have positives) of the rows."""
    total = positives.sum(1, keepdims=True)
    present = total[:, 0] > 0
    t = np.where(total > 0, positives / np.where(total > 0, total, 1), 0)
    t = (1 - wide(smoothing)) * t + wide(smoothing) / similarity.shape[1]
    of_rows = magnitudes.Softmax(similarity, scale)
    losses = magnitudes.times(t, of_rows.minus_log_p).sum(1)
    gradient = of_rows.p * (1 - t) - of_rows.remainder * t
    gradient[np.isneginf(similarity).all(1)] = np.nan
    losses[~present], gradient[~present] = 0, 0
    return losses, gradient, present


@np.errstate(over="ignore")
def own_ulp(exact, dtype):
    """The distance of numbers around this one in the dtype itself."""
    size = np.minimum(np.abs(exact), magnitudes.largest(dtype))
    return wide(np.spacing(size.astype(dtype)).astype(np.float64))


@np.errstate(invalid="ignore", over="ignore")
def assert_right(similarity, positives, reduction="mean", logit_scale=1.0, label_smoothing=0.0):
    """4 ulp of the value, 4 eps of the gradients that are added, before scaling; no inputs are written to."""
    targets = scipy.sparse.csr_array(positives)
    options = {"logit_scale": logit_scale, "label_smoothing": label_smoothing, "reduction": reduction}
    before = similarity.tobytes()
    with np.errstate(all="raise"):
        ours = fastce.clip_loss_value_and_grad(similarity, targets, **options)
        alone = fastce.clip_loss(similarity, targets, **options)
    assert np.array_equal(alone, ours.value, equal_nan=True)
    assert similarity.tobytes() == before

    weights = wide(positives)
    rows, of_rows, there = one_direction(similarity, weights, logit_scale, label_smoothing)
    columns, of_columns, there_too = one_direction(similarity.T, weights.T, logit_scale, label_smoothing)
    n, m = (max(there.sum(), 1), max(there_too.sum(), 1)) if reduction == "mean" else (1, 1)
    real = magnitudes.computed_in(similarity.dtype)
    eps, shares = wide(np.finfo(real).eps), (wide(1) / n + wide(1) / m) / 2
    values = (rows + columns) / 2 if reduction == "none" else (rows.sum() / n + columns.sum() / m) / 2
    if reduction == "mean" and not positives.any():
        values = np.nan
    assert_near(ours.value, values, 4 * eps * np.abs(values) + 2 * ulp(values * 0, real), "value")

    slopes = (of_rows / n + of_columns.T / m) / 2
    expected = wide(logit_scale) * slopes
    bound = 4 * eps * shares * wide(logit_scale) + own_ulp(expected, similarity.dtype) / 2
    assert_near(ours.grad, expected, bound, "gradient")
    terms = magnitudes.times(slopes, wide(similarity))
    largest = np.abs(np.where(np.isfinite(terms), wide(similarity), 0)).max(initial=0)
    bound = 4 * eps * shares * largest * sum(similarity.shape)
    assert_near(ours.grad_logit_scale, terms.sum(), bound + ulp(terms.sum(), np.dtype(np.float64)), "of the scale")


# --------------------------------------------------------------------------------- a matrix of similarities
def a_matrix(rng, dtype, shape, m, kind):
    """Similarities of magnitude m; the first row and the last column may be masked but for one element."""
    n, columns = shape
    rows = np.stack([kind(rng, columns, m, int(rng.integers(columns)), dtype) for _ in range(n)])
    if rng.random() < 0.3:
        rows[0, 1:] = rng.choice(magnitudes.masks(dtype))
    if rng.random() < 0.3:
        rows[: n - 1, -1] = rng.choice(magnitudes.masks(dtype))
    return magnitudes.rounded(rows, dtype)


def some_positives(rng, shape, kind):
    n, columns = shape
    if kind == "all":
        return rng.uniform(0.5, 2, shape)
    if kind == "none":
        return np.zeros(shape)
    positives = np.zeros(shape)
    positives[np.arange(n), np.arange(n) % columns] = 1
    return positives + (rng.random(shape) < 0.2) * rng.random(shape) if kind == "several" else positives


POSITIVES = ("one", "several", "all", "none")


@covering({"name": DTYPES, "kind": magnitudes.KINDS}, strength=1, rest=pytest.mark.slow)
def test_similarities_of_every_magnitude(rng, kind, name):
    dtype = DTYPES[name]
    for k, m in enumerate(magnitudes.magnitudes(dtype)):
        shape = SHAPES[k % len(SHAPES)]
        similarity = a_matrix(rng, dtype, shape, m, kind)
        positives = some_positives(rng, shape, POSITIVES[k % 3])
        assert_right(similarity, positives)
        assert_right(similarity, positives, "sum", logit_scale=SCALES[k % len(SCALES)])
        assert_right(similarity, positives, label_smoothing=(0.1, 1.0)[k % 2])


@covering({"name": DTYPES, "scale": SCALES}, strength=1)
def test_every_logit_scale(rng, scale, name):
    for m in (1e-3, 1.0, 100.0):
        for shape in ((3, 3), (20, 20)):
            similarity = (rng.normal(size=shape) * m).astype(DTYPES[name])
            for smoothing in (0.0, 0.1):
                assert_right(similarity, np.eye(len(similarity)), "none", scale, smoothing)


@hypothesis.given(st.data())
def test_any_matrix(data):
    dtype = DTYPES[data.draw(st.sampled_from(sorted(DTYPES)))]
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    m = data.draw(st.sampled_from(magnitudes.magnitudes(dtype)) | st.floats(1e-30, magnitudes.largest(dtype)))
    shape = data.draw(st.sampled_from(SHAPES))
    similarity = a_matrix(rng, dtype, shape, m, data.draw(st.sampled_from(magnitudes.KINDS)))
    positives = some_positives(rng, shape, data.draw(st.sampled_from(POSITIVES)))
    reduction = data.draw(st.sampled_from(["mean", "sum", "none"] if shape[0] == shape[1] else ["mean", "sum"]))
    scale = data.draw(st.sampled_from(SCALES) | st.floats(1e-30, 1e30))
    assert_right(similarity, positives, reduction, scale, data.draw(st.sampled_from([0.0, 0.0, 0.1, 1.0])))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [2.0, 37.0, 1e4])
def test_scaled_similarities_beyond_the_largest_number(rng, scale, smoothing):
    """Their losses may be beyond it, too, and a mean over more rows not; or they are equal, and all is well."""
    for n, m in ((3, 2.0**1023), (300, 2.0**1020), (3, 1e307)):
        similarity = np.full((n, n), -m)
        similarity[1:, 0] = -0.5 * m
        similarity[np.arange(n), np.arange(n)] = m
        similarity[0, :2] = -0.9 * m, 0.97 * m
        for reduction in ("mean", "sum", "none"):
            assert_right(similarity, np.eye(n), reduction, scale, smoothing)
        assert_right(np.full((n, n), m), np.eye(n), "mean", scale, smoothing)


@pytest.mark.parametrize("name", DTYPES)
def test_finite_masks_are_as_good_as_infinite_ones(name):
    similarity = np.array([[0.3, 0, 0], [0.2, 0.4, 0.2], [0.1, 0.2, 0.5]]).astype(DTYPES[name])
    losses = []
    for mask in magnitudes.masks(DTYPES[name]):
        similarity[0, 1:] = mask
        assert_right(similarity, np.eye(3), "none", logit_scale=100.0)
        losses.append(fastce.clip_loss(similarity, logit_scale=100.0, reduction="none"))
    assert all(np.array_equal(other, losses[0]) for other in losses)


# ---------------------------------------------------------------------------------------------- features
@covering({"form": calls.CONTRASTIVE, "dtype": [np.float32, np.float64], "power": [-60, -20, 0, 20, 60]}, quick=1)
def test_features_and_scales_of_every_magnitude(small_tiles, rng, power, dtype, form):
    whole = [np.clip(np.rint(2 * a), -3, 3) for a in calls.features_of(form, rng, 20)]  # products are exact
    features = [(a * 2.0**power).astype(dtype) for a in whole]
    exact = [a.astype(np.float64) for a in features]
    name = next(iter(calls.options_of(form)))
    for k in (-400, -100, 0, 5, 30, 45, 100, 400):
        scale = 2.0 ** (k - 2 * power)
        options = calls.options_of(form) | {name: scale if name == "logit_scale" else 1 / scale}
        assert_features(form, features, exact, options | {"normalize": False})


def assert_features(form, features, exact, options):
    rest, dtype = calls.rest_of(form, len(features[0])), features[0].dtype
    tolerance = dense.TOLERANCE[dtype.name]
    for reduction in ("none", "mean"):
        with np.errstate(all="ignore"):
            known = {key: np.longdouble(option) if key != "normalize" else option for key, option in options.items()}
            expected = getattr(dense, calls.name_of(form))(*exact, *rest, reduction=reduction, **known)
        with np.errstate(all="raise"):
            ours = calls.call(form, features, reduction=reduction, **options)
            alone = calls.value(form, features, reduction=reduction, **options)
        assert dense.bits(alone) == dense.bits(ours.value)
        value = wide(expected.value)
        assert_near(ours.value, value, tolerance * np.abs(value) + 1e-38, "value")
        for gradient, of_it, size, what in zip(
            ours[1:], expected.gradients, expected.sizes, ours._fields[1:], strict=True
        ):
            if gradient is not None:
                of_it = wide(of_it)
                bound = tolerance * size + ulp(of_it, np.asarray(gradient).dtype)
                assert_near(gradient, of_it, bound, what)


ONE_SIDED = ("sup_con", "nt_xent")
FAR_APART = [
    (600, 600),
    (0, 1020),
    (-400, 1000),
    (1021, 1021),
    (-300, -300),
    (-600, -800),
]  # powers of two of both sides


@pytest.mark.parametrize("form", calls.CONTRASTIVE)
def test_features_whose_products_are_beyond_float64_either_way(rng, form):
    for k, (left, other) in enumerate(FAR_APART):
        right = left if form in ONE_SIDED else other
        for power in (-1020, -700, 0, 1000, -left - right):
            assert_whole_features(form, rng, 6, left, right, power, ("none", "mean", "sum")[k % 3])


@pytest.mark.slow
@hypothesis.given(st.data())
def test_any_features(data):
    """Whole numbers times powers of two: what is exact is the product, whatever its size."""
    form = data.draw(st.sampled_from(calls.CONTRASTIVE))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    dtype = DTYPES[data.draw(st.sampled_from(["float64", *DTYPES]))]
    left, right = (data.draw(st.integers(*POWERS[dtype.name])) for _ in range(2))
    power = data.draw(st.integers(-1000, 1020))
    right = left if form in ONE_SIDED else right
    if data.draw(st.booleans()):
        power = data.draw(st.integers(-10, 0)) - left - right
    reduction = data.draw(st.sampled_from(["none", "mean", "sum"]))
    budget = data.draw(st.sampled_from([1, 1 << 28]))
    zeros = data.draw(st.sampled_from([None, None, None, 0, 1, 2]))
    bias = data.draw(st.sampled_from([-2.0, 0.0, 90.0, -1e300]))
    assert_whole_features(
        form, rng, data.draw(st.integers(1, 20)), left, right, power, reduction, budget, dtype, zeros, bias
    )


POWERS = {"float64": (-1000, 1020), "float32": (-140, 125), "float16": (-22, 13), "bfloat16": (-130, 125)}


def assert_whole_features(
    form, rng, n, left, right, power, reduction, memory_budget=1 << 28, dtype=np.float64, zeros=None, bias=-2.0
):
    """Features times 2**left and 2**right, their products times 2**power; one of the arrays may be all zeros."""
    whole = [np.clip(np.rint(2 * a), -3, 3) for a in calls.features_of(form, rng, n, dtype=np.float64)]
    if zeros is not None:
        whole[zeros % len(whole)] *= 0
    features = [np.ldexp(a, left if k == 0 else right).astype(dtype) for k, a in enumerate(whole)]
    options = edge_batches.scaled_by(form, 2.0 ** min(max(power, -1020), 1020))
    options |= {"normalize": False, "reduction": reduction, "memory_budget": memory_budget}
    options |= {"logit_bias": bias} if form == "siglip_loss" else {}
    edge_batches.check_against_formula(form, [*features, *calls.rest_of(form, n)], **options)


@pytest.mark.parametrize("temperature", [1.0, 1e-100, 1e100])
@pytest.mark.parametrize("kind", ["batch", "shared", "own"])
def test_a_mean_of_queries_is_finite_where_a_loss_is_not(kind, temperature):
    query = np.full((4, 1), 1e154 * temperature)
    keys = np.array([1.5e154, -1.5e154, 0.0, 0.0])[:, None]
    negative = {"batch": None, "shared": keys, "own": np.broadcast_to(keys, (4, 4, 1))}[kind]
    options = {"temperature": temperature, "normalize": False}
    with np.errstate(all="raise"):
        mean = fastce.info_nce(query, keys, negative, **options)
        twin = fastce.info_nce_value_and_grad(query, keys, negative, **options)
    assert mean == twin.value == pytest.approx(1.5e308)
    np.testing.assert_allclose(twin.grad_query[1], [0.25 * 3e154 / temperature])
    assert fastce.info_nce(query, keys, negative, reduction="sum", **options) == np.inf


def test_a_scale_below_the_normal_numbers_keeps_the_digits_of_its_gradient(rng):
    images, texts = (rng.integers(1, 4, (5, 6)).astype(float) for _ in range(2))
    ours = fastce.clip_loss_from_features_value_and_grad(images, texts, 5e-324)
    slope = dense.clip_loss_from_features(images, texts, np.longdouble(5e-324)).gradients[2]
    assert ours.grad_logit_scale == pytest.approx(float(slope), rel=1e-14)


def test_features_of_zeros_have_no_say_in_what_the_others_need(rng):
    """They counted as of size 1, beside which products of the others were below float64."""
    for dtype in (np.float64, np.float32):
        query, key = (np.ldexp(rng.integers(1, 4, (3, 5)), -560 if dtype == np.float64 else -140) for _ in range(2))
        for negative in (np.zeros((2, 5)), np.zeros((0, 5)), np.zeros((3, 2, 5))):
            arguments = [a.astype(dtype) for a in (query, key, negative)]
            options = {"normalize": False, "temperature": 2.0**-1022 if dtype == np.float64 else 2.0**-300}
            edge_batches.check_against_formula("info_nce", arguments, reduction="sum", **options)
            ours = fastce.info_nce_value_and_grad(*arguments, **options).grad_temperature
            options["temperature"] = np.longdouble(options["temperature"])
            exact = dense.info_nce(*(a.astype(float) for a in arguments), **options).gradients[3]
            assert ours == pytest.approx(float(exact), rel=1e-6)


@pytest.mark.parametrize(("left", "right", "scale"), [(8, -102, 2.0**-60), (-80, -80, 1.0), (-140, -20, 2.0**60)])
def test_products_too_small_for_float32_have_a_gradient_of_the_scale(rng, left, right, scale):
    images, texts = (rng.integers(1, 4, (4, 5)).astype(np.float32) for _ in range(2))
    features = [np.ldexp(images, left), np.ldexp(texts, right)]
    for name, options in (("siglip_loss", {"logit_scale": scale, "logit_bias": 90.0}),
                          ("clip_loss_from_features", {"logit_scale": scale})):  # fmt: skip
        ours = getattr(fastce, f"{name}_value_and_grad")(*features, **options)
        exact = getattr(dense, name)(*(a.astype(float) for a in features), **options)
        assert ours.grad_logit_scale == pytest.approx(float(exact.gradients[2]), rel=1e-5)


def test_a_bias_of_zeros_has_no_say_in_what_products_need(rng):
    left, right = (rng.integers(1, 4, shape).astype(float) for shape in ((4, 5), (3, 5)))
    targets, options = np.array([0, 1, 2, 1]), {"logit_scale": 2.0**1023, "reduction": "sum"}
    features = np.ldexp(left, -530), np.ldexp(right, -500)
    ours = fastce.linear_cross_entropy_value_and_grad(*features, targets, linear_bias=np.zeros(3), **options)
    theirs = fastce.linear_cross_entropy_value_and_grad(*features, targets, **options)
    exact = fastce.linear_cross_entropy(np.ldexp(left, -7), right, targets, reduction="sum")
    assert ours.value == pytest.approx(exact, rel=1e-14)
    for one, other in zip(ours[1:3], theirs[1:3], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [3.0, 100.0, 1e5, 1e8])
def test_equal_similarities_smoothed_lose_no_digit_to_the_scale(dtype, scale):
    for value in np.linspace(1.0, 1.6, 40, dtype=dtype):
        similarity = np.full((2, 2), value)
        for label_smoothing in (0.1, 1.0):
            losses = fastce.clip_loss(similarity, logit_scale=scale, label_smoothing=label_smoothing, reduction="none")
            np.testing.assert_allclose(losses, np.log(2.0), rtol=4 * np.finfo(dtype).eps)
