"""Options, weights, masses and upstream gradients of every size that float64 has, against mpmath."""

import mpmath
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given
from hypothesis import strategies as st
from mpmath import mpf

import fastce

DIGITS = 60
LARGEST = {np.float32: 128, np.float64: 1024}  # as powers of two


def size():
    """Any size of a float64, subnormal numbers too, or an ordinary one."""
    return st.floats(-323, 308).map(lambda e: 10.0**e) | st.floats(0.01, 100)


def exact_rows(logits, masses, scale, cap, z):
    """For each row (loss, gradient, size of what its gradient is made of, the sum of the terms of its loss)."""
    for x, q in zip(logits.astype(float), masses, strict=True):
        x, slopes, factor = [mpf(u) for u in x], [mpf(scale)] * len(x), mpf(scale)
        if cap is not None:
            t = [mpmath.tanh(u * scale / cap) for u in x]
            slopes = [scale / mpmath.cosh(u * scale / cap) ** 2 if abs(u * scale / cap) < 1e4 else mpf(0) for u in x]
            x, factor = [cap * u for u in t], mpf(1)
        top = x.index(max(x))
        below = [factor * (x[top] - u) for u in x]
        e = [mpmath.exp(-d) if d < 10**6 else mpf(0) for d in below]
        rest = mpmath.fsum(e[:top] + e[top + 1 :])
        log, lse = mpmath.log1p(rest), factor * x[top] + mpmath.log1p(rest)
        loss = mpmath.fsum(m * (d + log) for m, d in zip(q, below, strict=True)) + z * lse**2
        mass, of_z = mpmath.fsum(q), 2 * z * lse
        grad = [
            (p * (mass - m + of_z) - m * (rest - p * (c != top) + (c != top))) / (1 + rest) * slope
            for c, (p, m, slope) in enumerate(zip(e, q, slopes, strict=True))
        ]
        near_cap = 0 if cap is None else factor * max(map(abs, x))
        yield loss, grad, (mass + abs(of_z)) * scale * (1 + near_cap), loss * (1 + near_cap) + z


def assert_near(actual, exact, bound, largest):
    """Within the bound, or the infinity that a number so near rounds to."""
    if np.isinf(actual):
        assert np.sign(actual) * exact + bound >= mpf(2) ** largest * (1 - mpf(2) ** -53), (actual, exact)
    else:
        assert abs(mpf(float(actual)) - exact) <= bound, (actual, exact, bound)


@given(st.data())
@mpmath.workdps(DIGITS)
def test_any_options(data):
    """Value, twin and gradient, whatever the options and grad_output multiply."""
    draw = data.draw
    dtype, classes, rows = draw(st.sampled_from([np.float32, np.float64])), draw(st.integers(1, 4)), 2
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = (rng.normal(size=(rows, classes)) * draw(st.floats(-30, 37).map(lambda e: 10.0**e))).astype(dtype)
    options = {
        name: draw(size())
        for name in ("logit_scale", "softcap", "z_loss", "weight", "sample_weight")
        if draw(st.booleans())
    }
    for name, number in (("weight", classes), ("sample_weight", rows)):
        if name in options:
            options[name] = np.array([options[name], *(draw(size()) for _ in range(number - 1))])
    e = draw(st.sampled_from([0.0, 1e-300, 0.1, 1.0]))
    reduction, above = draw(st.sampled_from(["none", "sum", "mean"])), draw(size() | st.none())
    hard = draw(st.booleans())
    labels = rng.integers(0, classes, rows)
    t = np.eye(classes)[labels] if hard else rng.random((rows, classes)) * draw(size() | st.just(1.0))
    t = np.minimum(t, np.finfo(float).max)
    targets, layout = labels if hard else t, draw(st.sampled_from([np.asarray, np.asfortranarray]))
    with np.errstate(all="raise"):
        given = {"label_smoothing": e, "reduction": reduction} | options
        value = fastce.cross_entropy(layout(logits), targets, **given)
        ours = fastce.cross_entropy_value_and_grad(layout(logits), targets, grad_output=above, **given)
    np.testing.assert_array_equal(value, ours.value)

    w, v = options.get("weight", np.ones(classes)), options.get("sample_weight", np.ones(rows))
    keep, spread = (1 - mpf(e), mpf(e) / classes) if classes > 1 else (mpf(1), mpf(0))
    masses = [[(keep * mpf(c) + spread) * mpf(b) for c, b in zip(row, w, strict=True)] for row in t]
    total = mpf(1)
    if reduction == "mean":
        total = mpmath.fsum(mpf(a) * (mpf(w[y]) if hard else 1) for a, y in zip(v, labels, strict=True))
    eps, tiny = mpf(float(np.finfo(dtype).eps)), mpf(float(np.finfo(dtype).tiny))
    cap = options.get("softcap")
    exact = list(
        exact_rows(
            logits, masses, mpf(options.get("logit_scale", 1.0)), cap and mpf(cap), mpf(options.get("z_loss", 0.0))
        )
    )
    losses, sizes = ([mpf(a) * row[k] for a, row in zip(v, exact, strict=True)] for k in (0, 3))
    if reduction == "none":
        for number, loss, of_terms in zip(value, losses, sizes, strict=True):
            assert_near(number, loss, 8 * eps * of_terms + tiny, LARGEST[dtype])
    else:
        bound = (8 * eps * mpmath.fsum(sizes) + tiny * mpmath.fsum(map(mpf, v))) / total + mpf(5e-324)
        assert_near(value, mpmath.fsum(losses) / total, bound, 1024)
    for numbers, (_, grad, of_terms, _), a in zip(ours.grad, exact, v, strict=True):
        factor = mpf(a) * (1 if above is None else mpf(above)) / total
        for number, slope in zip(numbers, grad, strict=True):
            bound = 8 * eps * factor * (of_terms + mpf(options.get("z_loss", 0.0)) * options.get("logit_scale", 1.0))
            assert_near(number, factor * slope, bound + eps * abs(factor * slope) + eps * tiny, LARGEST[dtype])


# ------------------------------------------------------------------------------------------- cases that were wrong
@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray])
@pytest.mark.parametrize("classes", [3, 300])
@pytest.mark.parametrize("above", [5e-324, 1e-310, 1e-200, 1e200, 1e308])
def test_a_value_has_the_bits_of_its_twin_whatever_the_upstream_is(rng, classes, layout, above):
    x, y = layout(rng.normal(size=(40, classes)).astype(np.float32)), rng.integers(0, classes, 40)
    for reduction in ("none", "mean"):
        twin = fastce.cross_entropy_value_and_grad(x, y, reduction=reduction, grad_output=above)
        np.testing.assert_array_equal(twin.value, fastce.cross_entropy(x, y, reduction=reduction))


def test_an_upstream_that_leaves_float64_on_the_way_and_comes_back():
    x = np.zeros((3, 2))
    small = fastce.cross_entropy_value_and_grad(x, [0, 0, 0], grad_output=5e-324, logit_scale=1e300)
    np.testing.assert_allclose(small.grad[:, 1], 5e-324 * 1e300 / 6, rtol=1e-14)
    large = fastce.cross_entropy_value_and_grad(x, [0, 0, 0], sample_weight=np.full(3, 1e-15), grad_output=1e300)
    np.testing.assert_allclose(large.grad[:, 1], 1e300 / 6, rtol=1e-14)
    features = np.full((3, 1), 1e300)
    layer = fastce.linear_cross_entropy_value_and_grad(features, np.zeros((2, 1)), [0, 0, 0], grad_output=5e-324)
    np.testing.assert_allclose(layer.grad_linear_weight[1], 5e-324 * 1e300 / 2, rtol=1e-14)
    binary = fastce.binary_cross_entropy_with_logits_value_and_grad(
        np.zeros(7), np.zeros(7), weight=1e300, grad_output=5e-324
    )
    np.testing.assert_allclose(binary.grad, 5e-324 * 1e300 / 14, rtol=1e-14)
    nll = fastce.nll_loss_value_and_grad(-np.ones((2, 1)), [0, 0], sample_weight=[1e-12, 1e-12], grad_output=1.5e308)
    np.testing.assert_allclose(nll.grad, -0.75e308)


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray])
@pytest.mark.parametrize("copies", [1, 200])
def test_masses_that_float32_does_not_hold(layout, copies):
    x = layout(np.tile(np.array([[3e38, -3e38]], np.float32), (2, copies)))
    targets, weight = np.zeros((2, 2 * copies)), np.zeros(2 * copies)
    weight[1], targets[:, 1] = 1.0, 1e-46
    np.testing.assert_allclose(
        fastce.cross_entropy(x, layout(targets), weight=weight, reduction="none"), 6e-8, rtol=1e-6
    )
    targets[:, 0], targets[:, 1] = 1e100, 0.5  # the first counts for nothing
    ours = fastce.cross_entropy_value_and_grad(x, layout(targets), weight=weight, reduction="none")
    np.testing.assert_allclose(ours.value, 3e38, rtol=1e-6)
    np.testing.assert_allclose(ours.grad[:, 1], -0.5)
    smoothed = fastce.cross_entropy(x, layout(targets), label_smoothing=1.0, reduction="none")
    np.testing.assert_allclose(smoothed, 3e38, rtol=1e-6)


def test_products_of_masses_and_weights_beyond_float64():
    ours = fastce.cross_entropy_value_and_grad([[1.0, 0.0]], [[1e200, 0.0]], weight=[1e200, 1.0], reduction="none")
    np.testing.assert_array_equal(ours.value, [np.inf])
    np.testing.assert_array_equal(ours.grad, [[-np.inf, np.inf]])
    ours = fastce.cross_entropy_value_and_grad(
        [[1.0, 0.0]], [[1e200, 0.0]], weight=[1e200, 1.0], grad_output=1e-300, sample_weight=[1e-100], reduction="none"
    )
    np.testing.assert_allclose(ours.grad, [[-1 / (1 + np.e), 1 / (1 + np.e)]])


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_least_smoothing_counts_beside_a_masked_class(dtype):
    x = np.array([[1.0, 2.0, -np.inf]], dtype)
    for e in (1e-300, 1e-40):
        assert fastce.cross_entropy(x, [1], label_smoothing=e) == np.inf
    far = fastce.cross_entropy(np.array([[8e3, 7e2, 3e3]], dtype), [0], label_smoothing=1e-300)
    assert far == pytest.approx(1e-300 / 3 * (7300 + 5000), rel=2e-3 if dtype == np.float16 else 1e-6)


def test_a_mean_over_weights_of_all_sizes():
    """Row weights that were divided by the total lost their digits."""
    x = np.zeros((3, 2))
    options = {"weight": [8.0, 1e141], "sample_weight": [0.4, 5.166795354190869e-216, 2.6718486233312146e219]}
    ours = fastce.cross_entropy_value_and_grad(x, [0, 1, 0], **options)
    total = 8.0 * 2.6718486233312146e219
    np.testing.assert_allclose(ours.grad[1, 0], 5.166795354190869e-216 * 1e141 / total / 2, rtol=1e-13)
    subnormal = fastce.nll_loss([[-7e-35]], [0], weight=[1e-290], sample_weight=[3.7])
    assert subnormal == pytest.approx(7e-35, rel=1e-14)


def test_rows_of_a_layer_whose_weights_are_far_apart(rng):
    features, weight = rng.normal(size=(3, 2)), rng.normal(size=(4, 2))
    rows = np.array([1e-300, 1.0, 1e300])
    ours = fastce.linear_cross_entropy_value_and_grad(
        features, weight, [0, 1, 2], sample_weight=rows, reduction="none", grad_output=[1e200, 1.0, 1e-100]
    )
    plain = fastce.linear_cross_entropy_value_and_grad(features, weight, [0, 1, 2], reduction="none")
    np.testing.assert_allclose(ours.grad_features, plain.grad_features * np.array([[1e-100], [1.0], [1e200]]))
    small, large = np.array([1.0, 1.0, 1e-250, 1.0]), np.array([1.0, 1e250, 1.0, 1.0])
    ours = fastce.linear_cross_entropy_value_and_grad(
        features, weight, [0, 1, 2], weight=small * large, reduction="none"
    )
    np.testing.assert_allclose(ours.grad_features, plain.grad_features * np.array([[1.0], [1e250], [1e-250]]))


@pytest.mark.parametrize("side", [0, 1])
def test_layers_with_a_side_of_zeros_keep_the_gradient_of_that_side(side):
    zeros, other = np.zeros((2, 1)), np.array([[3e-314], [-3e-314]])
    features, weight = (zeros, other) if side == 0 else (other, zeros)
    ours = fastce.linear_cross_entropy_value_and_grad(features, weight, [1, 0], grad_output=1e300)
    expected = 3e-314 * 1e300 * 0.5
    np.testing.assert_allclose(ours[1 + side], [[expected], [-expected]], rtol=1e-14)


# ---------------------------------------------------------------------------------------------------- features
@pytest.mark.parametrize("kind", ["batch", "shared", "own"])
@pytest.mark.parametrize(("left", "right"), [(2.0**-1060, 2.0**980), (2.0**980, 2.0**-1060)])
def test_features_of_which_one_side_is_subnormal(kind, left, right):
    """Sums of gradients, which have the size of the other side, had lost their digits."""
    query, key = np.array([[3.0], [1.0]]), np.array([[1.0], [2.0]])
    keys = {
        "batch": key.T.repeat(2, 0),
        "shared": np.array([[4.0, 2.0]] * 2),
        "own": np.array([[5.0, 7.0], [9.0, 2.0]]),
    }
    products, given = query * keys[kind], {"batch": None, "shared": keys["shared"][0][:, None], "own": keys["own"]}
    if kind == "own":
        given["own"] = given["own"][:, :, None]
    if kind != "batch":
        products = np.concatenate([query * key, products], 1)
    own = np.diagonal(products) if kind == "batch" else products[:, 0]
    negative = None if given[kind] is None else given[kind] * right
    ours = fastce.info_nce_value_and_grad(query * left, key * right, negative, temperature=1.0, normalize=False)
    exact = float((own - products.mean(1)).mean()) * left * right  # all are nearly as likely
    assert ours.grad_temperature == pytest.approx(exact, rel=1e-13)


def test_normalized_rows_whose_length_has_no_inverse_beside_a_tiny_scale(rng):
    images, texts = rng.integers(1, 9, (2, 3, 2)).astype(float)
    small = fastce.clip_loss_from_features_value_and_grad(images * 2.0**-1060, texts, 2.0**-1000, normalize=True)
    plain = fastce.clip_loss_from_features_value_and_grad(images, texts, 2.0**-30, normalize=True)
    assert np.isfinite(small.grad_image_features).all()
    bound = 1e-6 * np.abs(plain.grad_image_features).max() * 2.0**90
    np.testing.assert_allclose(small.grad_image_features, plain.grad_image_features * 2.0**90, rtol=1e-6, atol=bound)


# ------------------------------------------------------------------------------------------------ what does not count
@pytest.mark.parametrize("options", [{}, {"z_loss": 1e-4}, {"softcap": 1e-40}, {"logit_scale": 1e200}], ids=str)
@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1.7e308])
def test_garbage_in_rows_that_do_not_count_changes_no_bit(rng, options, garbage):
    features, weight, labels = rng.normal(size=(9, 3)), rng.normal(size=(5, 3)), rng.integers(0, 5, 9)
    rows, above, ignored = rng.uniform(1, 2, 9), rng.uniform(1, 2, 9), np.arange(9) % 3 == 0
    masked = np.where(ignored, 0.0, rows)
    for how in ({"sample_weight": masked}, {}):
        targets = labels if how else np.where(ignored, -100, labels)
        results = []
        for junk in (1.0, garbage):
            x, up = features.copy(), above.copy()
            x[ignored], up[ignored] = junk, junk
            given = how | options | {"reduction": "none", "grad_output": up}
            with np.errstate(all="raise"):
                layer = fastce.linear_cross_entropy_value_and_grad(x, weight, targets, **given)
                logits = features @ weight.T
                logits[ignored] = junk
                dense = fastce.cross_entropy_value_and_grad(logits, targets, **given)
            results.append([*layer[:3], *dense])
        for plain, ours in zip(*results, strict=True):
            np.testing.assert_array_equal(plain, ours)


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1.7e308])
@pytest.mark.parametrize("factor", [1.0, 1e25, 1e100])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_garbage_beside_a_binary_weight_of_zero_changes_no_bit(rng, dtype, factor, garbage):
    x, t = rng.normal(size=(6, 7)).astype(dtype), rng.random((6, 7))
    weight = (rng.random((6, 7)) < 0.7) * factor
    with np.errstate(over="ignore"):
        junk = np.where(weight == 0.0, garbage, x).astype(dtype), np.where(weight == 0.0, garbage, t)
    for reduction in ("none", "mean"):
        plain, ours = (
            fastce.binary_cross_entropy_with_logits_value_and_grad(*a, weight=weight, reduction=reduction)
            for a in ((x, t), junk)
        )
        np.testing.assert_array_equal(plain.value, ours.value)
        np.testing.assert_array_equal(plain.grad, ours.grad)


def test_positives_whose_weights_add_up_beyond_float64(rng):
    """A sum that overflowed left them without any share."""
    similarity = rng.normal(size=(2, 3))
    large = scipy.sparse.csr_array([[1e308, 1e308, 1e-300], [0.0, 1.5e308, 1e-320]])
    plain = scipy.sparse.csr_array([[1.0, 1.0, 0.0], [0.0, 1.5, 0.0]])
    with np.errstate(all="raise"):
        rows = [fastce.clip_loss_value_and_grad(similarity[:, :2], a[:, :2]) for a in (large, plain)]
        assert rows[0].value == pytest.approx(rows[1].value, rel=1e-14)
        np.testing.assert_allclose(rows[0].grad, rows[1].grad, rtol=1e-13)
        assert np.isfinite(fastce.clip_loss(similarity, large))


def test_a_little_smoothing_over_similarities_whose_scaled_distance_overflows():
    similarity = np.array([[1.0, -3e175], [-2e202, 2.0]])
    losses = fastce.clip_loss(similarity, logit_scale=1e128, label_smoothing=1e-300, reduction="none")
    np.testing.assert_allclose(losses, 1e-300 / 4 * (3e175 + 2e202) * 1e128, rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_factors_that_are_far_apart(dtype):
    """A small factor of a large exponential was 0 beside a large one of a small."""
    largest = 1e30 if dtype == np.float32 else 1e300
    x, b = np.array([[2e4, 1.0, 0.0]], dtype), np.array([[1 / largest, largest, -largest]], dtype)
    with np.errstate(all="raise"):
        value, sign = fastce.logsumexp(x, axis=1, b=b, return_sign=True)
        assert (value[0], sign[0]) == (pytest.approx(2e4 - np.log(largest), rel=1e-6), 1)
        assert fastce.logsumexp(x, axis=1, b=-b, return_sign=True)[1][0] == -1
        equal = np.full((1, 3), largest, dtype)
        value, sign = fastce.logsumexp(equal, axis=1, b=np.array([[0.1, -largest, 0.0]], dtype), return_sign=True)
        assert (value[0], sign[0]) == (dtype(largest), -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [2, 3, 300])
def test_class_weights_may_leave_the_target_to_another_class_which_dominates(dtype, axis, classes):
    for margin in (0.5, 3.0, 20.0, 32.0, 40.0):
        for label_smoothing in (1.0, 0.5, 0.1):
            row = np.zeros((20, classes), dtype)
            row[:, 0] = margin
            weight = np.zeros(classes)
            weight[0] = 1.0
            logits = row if axis == 1 else np.ascontiguousarray(row.T)
            losses = fastce.cross_entropy(
                logits, np.ones(20, int), axis=axis, weight=weight, label_smoothing=label_smoothing, reduction="none"
            )
            exact = label_smoothing / classes * np.log1p((classes - 1) * np.exp(-margin))
            np.testing.assert_allclose(losses, exact, rtol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("axis", [0, 1])
def test_smoothing_may_leave_the_target_to_the_other_of_two_classes(dtype, axis):
    for margin in (0.5, 3.0, 20.0, 32.0, 50.0):
        logits = np.repeat(np.array([[margin, 0.0]], dtype), 20, 0)
        losses = fastce.cross_entropy(
            logits if axis == 1 else np.ascontiguousarray(logits.T), np.ones(20, int), axis=axis, label_smoothing=1.0,
            smoothing_over="others", reduction="none",
        )  # fmt: skip
        np.testing.assert_allclose(losses, np.log1p(np.exp(-margin)), rtol=4 * np.finfo(dtype).eps)
