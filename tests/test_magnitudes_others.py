"""row_stats, nll_loss, binary cross entropy, probabilities and linear layers at every magnitude, in wide precision."""

import magnitudes
import numpy as np
import pytest
import scipy.sparse
from covering import covering
from hypothesis import given
from hypothesis import strategies as st
from magnitudes import assert_near, times, ulp, wide

import fastce

pytestmark = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")

names = pytest.mark.parametrize("name", magnitudes.DTYPES)
sizes = st.none() | st.floats(-300, 300).map(lambda e: 10.0**e)


def about(rng, size, shape):
    """Weights around this size, None for none."""
    return None if size is None else size * rng.choice([0.5, 1, 2], shape)


def finite_rows(logits):
    return logits[np.isfinite(wide(logits)).all(1)]


def smallest(dtype):
    return np.longdouble(np.finfo(magnitudes.computed_in(dtype)).smallest_normal)


# ------------------------------------------------------------------------------------------- statistics
OUTPUTS = ("logsumexp", "argmax", "max", "entropy", "target_log_prob", "target_rank", "in_top_k")


def check_statistics(logits, labels):
    with np.errstate(all="raise"):
        ours = fastce.row_stats(logits, labels, outputs=OUTPUTS)
    real, rows, x = magnitudes.computed_in(logits.dtype), np.arange(len(logits)), wide(logits)
    softmax = magnitudes.Softmax(logits)
    entropy = times(softmax.p, softmax.minus_log_p).sum(1)
    assert_near(ours["entropy"], entropy, 8 * ulp(entropy, real) + 4 * smallest(logits.dtype), "entropy")
    log_prob = -softmax.minus_log_p[rows, labels]
    assert_near(ours["target_log_prob"], log_prob, 4 * ulp(log_prob, real), "target_log_prob")
    of_lse = 1.2 * ulp(softmax.lse, real) + 2 * np.finfo(real).eps * (np.abs(softmax.lse) < 1)
    assert_near(ours["logsumexp"], softmax.lse, of_lse, "logsumexp")
    np.testing.assert_array_equal(ours["argmax"], x.argmax(1))
    np.testing.assert_array_equal(wide(ours["max"]), x.max(1))
    target = x[rows, labels][:, None]
    before = (x > target) | ((x == target) & (np.arange(x.shape[1]) < labels[:, None]))
    np.testing.assert_array_equal(ours["target_rank"], before.sum(1))
    np.testing.assert_array_equal(ours["in_top_k"], before.sum(1) < 5)


@covering({"name": magnitudes.DTYPES, "classes": [1, 2, 10, 300]}, quick=1)
def test_statistics_of_every_magnitude(name, classes):
    logits = magnitudes.sweep(magnitudes.DTYPES[name], classes)
    check_statistics(logits, magnitudes.labels_of(logits))


@given(magnitudes.matrices(), st.integers(0, 100))
def test_statistics_of_any_rows(logits, seed):
    check_statistics(logits, magnitudes.labels_of(logits, seed))


# --------------------------------------------------------------------------------- weights of every size
WEIGHTS = [
    (None, None), (1e39, None), (1e-60, None), (None, 1e-60), (1e300, None), (None, 8e307), (None, 5e-324),
    (None, 1e-310), (1e30, 1e300), (1e-200, 1e-200), (1e200, 1e-200),
]  # fmt: skip


@np.errstate(over="ignore", under="ignore")
def given_weights(rng, of_classes, of_rows, rows, classes):
    weight, sample_weight = about(rng, of_classes, classes), about(rng, of_rows, rows)
    options = {"weight": weight, "sample_weight": sample_weight}
    return (
        options,
        wide(np.ones(classes) if weight is None else weight),
        wide(np.ones(rows) if sample_weight is None else sample_weight),
    )


def check_nll(logits, labels, of_classes, of_rows, grad_output, reduction):
    rng, rows = np.random.default_rng(3), np.arange(len(logits))
    real = magnitudes.computed_in(logits.dtype)
    options, w, v = given_weights(rng, of_classes, of_rows, *logits.shape)
    with np.errstate(all="raise"):
        alone = fastce.nll_loss(logits, labels, reduction=reduction, **options)
        ours = fastce.nll_loss_value_and_grad(logits, labels, reduction=reduction, grad_output=grad_output, **options)
    np.testing.assert_array_equal(alone, ours.value)
    with np.errstate(all="ignore"):
        masses = w[labels] * v
        losses, total = -times(masses, wide(logits)[rows, labels]), masses.sum() if reduction == "mean" else 1
        if reduction == "none":
            assert_near(ours.value, losses, ulp(losses, real), "losses")
        else:
            bound = 1e-14 * np.abs(losses / total).sum() + len(rows) * np.longdouble(5e-324)
            assert_near(np.float64(ours.value), losses.sum() / total, bound, "value")
        grad = np.zeros(logits.shape, np.longdouble)
        grad[rows, labels] = -masses * np.longdouble(1 if grad_output is None else grad_output) / total
        assert_near(ours.grad, grad, ulp(grad, logits.dtype) + 1e-15 * np.abs(grad), "gradient")


@names
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_nll_loss_of_every_magnitude(name, reduction):
    logits = finite_rows(magnitudes.sweep(magnitudes.DTYPES[name], 10))
    for of_classes, of_rows in WEIGHTS:
        for grad_output in (None, 1e-200, 1e300) if of_classes is None else (None,):
            check_nll(logits, magnitudes.labels_of(logits), of_classes, of_rows, grad_output, reduction)


@given(magnitudes.matrices(rows=3), sizes, sizes, st.sampled_from(["none", "mean", "sum"]))
def test_nll_loss_of_any_rows(logits, of_classes, of_rows, reduction):
    if len(logits := finite_rows(logits)):
        check_nll(logits, magnitudes.labels_of(logits), of_classes, of_rows, None, reduction)


def check_masses(logits, make, of_classes, of_rows, reduction):
    """Probabilities, in a dense or a sparse matrix."""
    rng, real = np.random.default_rng(3), magnitudes.computed_in(logits.dtype)
    t = rng.random(logits.shape).astype(np.float32) * (rng.random(logits.shape) < 0.4)
    options, w, v = given_weights(rng, of_classes, of_rows, *logits.shape)
    with np.errstate(all="raise"):
        alone = fastce.cross_entropy(logits, make(t), reduction=reduction, **options)
        ours = fastce.cross_entropy_value_and_grad(logits, make(t), reduction=reduction, **options)
    with np.errstate(all="ignore"):
        softmax, eps = magnitudes.Softmax(logits), np.finfo(real).eps
        q = wide(t) * w
        losses, total = v * times(q, softmax.minus_log_p).sum(1), v.sum() if reduction == "mean" else 1
        if reduction == "none":
            bound = 16 * ulp(losses, real) + smallest(logits.dtype)
            assert_near(alone, losses, bound, "losses")
            assert_near(ours.value, losses, bound, "values")
        else:
            assert alone == ours.value
            assert_near(np.float64(alone), losses.sum() / total, 4 * eps * losses.sum() / total, "value")
        mass = q.sum(1, keepdims=True)
        grad, factor = (softmax.p * mass - q) * v[:, None] / total, mass * v[:, None] / total
        assert_near(ours.grad, grad, 6 * eps * factor + ulp(grad, logits.dtype), "gradient")


@covering(
    {"name": magnitudes.DTYPES, "make": [np.asarray, scipy.sparse.csr_array], "reduction": ["none", "mean"]}, quick=1
)
def test_probabilities_at_every_magnitude(name, make, reduction):
    for classes in (3, 300):
        logits = finite_rows(magnitudes.sweep(magnitudes.DTYPES[name], classes))
        for of_classes, of_rows in WEIGHTS if classes == 3 else WEIGHTS[:3]:
            check_masses(logits, make, of_classes, of_rows, reduction)


MASSES = (1e-320, 1e-300, 1e-60, 1e-46, 1e-42, 1e-38, 1e20, 1e38, 1e39, 1e200, 1e290, 1e300)


@covering({"classes": [3, 300, 6200], "dtype": [np.float32, np.float64]}, quick=1)
def test_masses_of_every_magnitude(dtype, classes, rng, monkeypatch):
    """Also those that the dtype of the logits does not hold, in place and in every layout of the masses."""
    monkeypatch.setattr("fastce.cpu.pieces.PIECE", 2048)
    real, x = np.dtype(dtype), (3 * rng.normal(size=(len(MASSES) + 1, classes))).astype(dtype)
    t = rng.random(x.shape) * np.array([*MASSES, 0.0])[:, None]
    with np.errstate(all="ignore"):
        softmax, mass, eps = magnitudes.Softmax(x), wide(t).sum(1, keepdims=True), np.finfo(real).eps
        losses, grad = (wide(t) * softmax.minus_log_p).sum(1), softmax.p * mass - wide(t)
        of_losses, of_grad = 4 * ulp(losses, real), 4 * eps * mass + ulp(grad, real)
    for targets in (t, np.asfortranarray(t), t[::-1][::-1], scipy.sparse.csr_array(t)):
        work = x.copy()
        with np.errstate(all="raise"):
            alone = fastce.cross_entropy(x, targets, reduction="none")
            ours = fastce.cross_entropy_value_and_grad(work, targets, reduction="none", out=work)
            total = fastce.cross_entropy(x[:4], targets[:4], reduction="sum")
        np.testing.assert_array_equal(alone, ours.value)
        assert_near(alone, losses, of_losses, "losses")
        assert_near(work, grad, of_grad, "gradient")
        assert total == pytest.approx(float(losses[:4].sum()), rel=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("of_classes", "of_rows"), WEIGHTS)
def test_means_over_a_total_weight_that_no_float64_holds(dtype, of_classes, of_rows, rng):
    """They are those of the same weights in other units."""
    x, y = rng.normal(size=(40, 5)).astype(dtype), rng.integers(0, 5, 40)
    with np.errstate(under="ignore"):
        w, v = about(rng, of_classes, 5), about(rng, of_rows, 40)
    units = [None if a is None else wide(a) / wide(a).max() for a in (w, v)]
    with np.errstate(all="raise"):
        ours = fastce.cross_entropy_value_and_grad(x, y, weight=w, sample_weight=v)
    expected = fastce.cross_entropy_value_and_grad(
        x,
        y,
        **{k: None if a is None else a.astype(float) for k, a in zip(("weight", "sample_weight"), units, strict=True)},
    )
    assert ours.value == pytest.approx(expected.value, rel=1e-6)
    np.testing.assert_allclose(ours.grad, expected.grad, rtol=1e-3 if dtype == np.float16 else 1e-5, atol=1e-7)


# ------------------------------------------------------------------------------------------------ binary
def check_binary(logits, weight, pos_weight, grad_output, reduction):
    rng, real, eps = np.random.default_rng(3), magnitudes.computed_in(logits.dtype), None
    t = rng.random(logits.shape).astype(np.float32)
    t[::3] = t[::3] > 0.5
    weight = about(rng, weight, logits.shape[1])
    options = {"weight": weight, "pos_weight": pos_weight, "reduction": reduction}
    with np.errstate(all="raise"):
        alone = fastce.binary_cross_entropy_with_logits(logits, t, **options)
        ours = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, t, grad_output=grad_output, **options)
    np.testing.assert_array_equal(alone, ours.value)
    with np.errstate(all="ignore"):
        eps = np.finfo(real).eps
        x, y, w = wide(logits), wide(t), wide(1.0 if weight is None else weight)
        e, a = np.exp(-np.abs(x)), np.longdouble(1.0 if pos_weight is None else pos_weight)
        losses = w * (times(a * y, np.maximum(-x, 0) + np.log1p(e)) + times(1 - y, np.maximum(x, 0) + np.log1p(e)))
        above, below = np.where(x > 0, 1, e) / (1 + e), np.where(x > 0, e, 1) / (1 + e)
        factor = w * np.longdouble(1.0 if grad_output is None else grad_output)
        factor = factor / (x.size if reduction == "mean" else 1)
        grad, size = factor * ((1 - y) * above - a * y * below), factor * ((1 - y) * above + a * y * below)
        if reduction == "none":
            assert_near(ours.value, losses, 6 * ulp(losses, real) + smallest(logits.dtype), "losses")
        else:
            value = losses.sum() / (x.size if reduction == "mean" else 1)
            assert_near(np.float64(ours.value), value, (1e-14 if real == np.float64 else eps) * value, "value")
        assert_near(ours.grad, grad, 6 * eps * size + ulp(grad, logits.dtype) + 2 * smallest(logits.dtype), "gradient")


BINARY = [
    (None, None, None), (1e39, None, None), (1e-60, None, None), (None, 1e39, None), (None, 1e-60, None),
    (None, None, 1e39), (None, None, 1e-60), (1e-200, None, 1e200), (1e-30, 1e-30, 1e38), (1e-300, 1e300, 1e250),
    (1e300, 1e-300, 1e-300), (1e-320, 1e300, None),
]  # fmt: skip


@covering({"name": magnitudes.DTYPES, "reduction": ["none", "mean"]}, quick=1)
def test_binary_cross_entropy_of_every_magnitude(name, reduction):
    logits = finite_rows(magnitudes.sweep(magnitudes.DTYPES[name], 33))
    for weight, pos_weight, grad_output in BINARY:
        check_binary(logits, weight, pos_weight, grad_output, reduction)
        check_binary(np.asfortranarray(logits), weight, pos_weight, grad_output, reduction)


@pytest.mark.parametrize("name", ["float32", "float64"])
def test_weights_raise_binary_losses_that_are_subnormal_numbers(name, rng):
    """exp(-|x|) has lost its digits where a weight makes a normal number of it."""
    real = np.dtype(name)
    lowest = 150.0 if real.itemsize == 4 else 1040.0
    x = -np.linspace(80.0, lowest, 999).astype(real)
    for weight, pos_weight in (
        (1e3, 1.0),
        (2.0**29, 2.0**29),
        (1e-3, 1e20),
        (2.0**70, 1.0),
        (2.0**399, 1.0),
        (1.0, 1e300),
    ):
        w = np.minimum([weight, pos_weight], float(np.finfo(real).max) / 2).astype(real)
        for sign in (1.0, -1.0):
            y = np.full(x.shape, 0.0 if sign > 0 else 1.0, real)
            with np.errstate(all="ignore"):
                expected = wide(w[0]) * (wide(w[1]) if sign < 0 else 1) * np.log1p(np.exp(wide(x)))
            ours = fastce.binary_cross_entropy_with_logits(sign * x, y, weight=w[0], pos_weight=w[1], reduction="none")
            assert_near(ours, expected, 6 * ulp(expected, real), "losses")


def test_binary_products_that_leave_float64_and_come_back():
    assert fastce.binary_cross_entropy_with_logits([1.7e308], [0.0], weight=[0.5]) == 0.85e308
    assert fastce.binary_cross_entropy_with_logits([-1e308], [1.0], weight=[1e-5], pos_weight=1e3) == pytest.approx(
        1e306
    )
    x, y = np.full(3, 1e38, np.float32), np.zeros(3, np.float32)
    assert fastce.binary_cross_entropy_with_logits(x, y, weight=1e5) == pytest.approx(1e43)
    assert fastce.binary_cross_entropy_with_logits_value_and_grad(x, y, weight=1e5, out=x).value == pytest.approx(1e43)
    x, y = np.array([1e308, -1e308, 3.0]), np.array([0.0, 1.0, 0.5])
    options = {"weight": [1e-10, 1e-10, 1.0], "pos_weight": 1e9}
    apart = fastce.binary_cross_entropy_with_logits_value_and_grad(x, y, **options)
    inside = fastce.binary_cross_entropy_with_logits_value_and_grad(x, y, out=x, **options)
    assert apart.value == inside.value == pytest.approx((1e298 + 1e307) / 3)
    np.testing.assert_array_equal(apart.grad, inside.grad)


@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_a_logit_of_no_dimensions_beside_a_target_of_another_dtype(dtype):
    x = np.array(2.5, dtype)
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        x, np.float64(0.25), weight=1e40, grad_output=1e-40
    )
    assert value == pytest.approx(1e40 * (0.75 * 2.5 + np.log1p(np.exp(-2.5))), rel=1e-6)
    assert grad == pytest.approx(1 / (1 + np.exp(-2.5)) - 0.25, rel=1e-3)


def test_a_binary_mean_is_finite_where_the_sum_is_not():
    x, y = np.full(9, 1e308), np.zeros(9)
    assert fastce.binary_cross_entropy_with_logits(x, y) == pytest.approx(1e308)
    assert fastce.binary_cross_entropy_with_logits_value_and_grad(x, y).value == pytest.approx(1e308)
    assert fastce.binary_cross_entropy_with_logits(x, y, reduction="sum") == np.inf


# ---------------------------------------------------------------------------------------- linear layers
def exact_layer(features, weight, bias, labels, options, grad_output):
    """(mean loss; gradients of features, weights and bias; the largest that an element of that of logits can be)."""
    softmax = magnitudes.Softmax(wide(features) @ wide(weight).T + bias, options.get("logit_scale", 1.0))
    rows, e = np.arange(len(labels)), np.longdouble(options.get("label_smoothing", 0.0))
    q = (1 - e) * (labels[:, None] == np.arange(len(weight))) + e / len(weight)
    v = wide(options.get("sample_weight", np.ones(len(labels))))
    slopes, top = softmax.p - q, (rows, softmax.top)
    slopes[top] = softmax.p[top] * (1 - q[top]) - q[top] * softmax.remainder[top]
    factor = v[:, None] * softmax.slope / v.sum() * np.longdouble(grad_output)
    slopes = slopes * factor
    value = (v * times(q, softmax.minus_log_p).sum(1)).sum() / v.sum()
    return value, (slopes @ wide(weight), slopes.T @ wide(features), slopes.sum(0)), np.abs(factor).max()


@covering(
    {
        "grad_output": [1.0, 1e-250, 1e250],
        "options": [{}, {"label_smoothing": 0.1, "sample_weight": np.geomspace(1e-200, 1e250, 6)}],
        "dtype, powers": [
            (np.float32, (100, 100)),
            (np.float32, (-120, -100)),
            (np.float32, (120, -120)),
            (np.float64, (1000, 1000)),
            (np.float64, (-1000, -900)),
            (np.float64, (1019, -1000)),
            (np.float64, (-700, 1019)),
        ],
    },
    quick=1,
)
def test_layers_whose_products_are_beyond_their_dtype(dtype, powers, options, grad_output, rng):
    """Integers times powers of two have exact products, also in the oracle."""
    features, weight = (
        np.ldexp(rng.integers(-3, 4, (n, 2)).astype(dtype), p) for n, p in ((6, powers[0]), (40, powers[1]))
    )
    bias = np.ldexp(
        rng.integers(-3, 4, 40).astype(dtype),
        int(np.clip(sum(powers), *((-120, 120) if dtype == np.float32 else (-1000, 1000)))),
    )
    labels, largest = rng.integers(0, 40, 6), wide(np.finfo(dtype).max)
    for scale in (1.0, 2.0 ** np.clip(-sum(powers), -1000, 1000)):
        given = options | {"logit_scale": float(scale)}
        with np.errstate(all="ignore"):
            value, grads, size = exact_layer(features, weight, wide(bias), labels, given, grad_output)
        with np.errstate(all="raise"):
            alone = fastce.linear_cross_entropy(features, weight, labels, linear_bias=bias, **given)
            ours = fastce.linear_cross_entropy_value_and_grad(
                features, weight, labels, linear_bias=bias, grad_output=grad_output, memory_budget=3000, **given
            )
        assert alone == ours.value
        eps = 100 * np.finfo(dtype).eps
        assert_near(np.float64(alone), value, eps * value, "value")
        for name, grad, exact, other in zip(ours._fields[1:], ours[1:], grads, (weight, features, 1), strict=True):
            bound = eps * (np.abs(exact) + size * np.abs(wide(other)).max()) + 4 * smallest(np.dtype(dtype))
            assert not np.isnan(grad).any()
            if (bound < largest).all():  # else terms of a sum are beyond the dtype
                assert_near(grad, exact, bound, name)


def test_the_mean_of_a_layer_is_finite_where_the_sum_is_not():
    features, weight = np.full((4, 1), 1e154), np.array([[1.5e154], [-1.5e154], [0.0]])
    assert fastce.linear_cross_entropy(features, weight, [0, 1, 2, 2]) == pytest.approx(1.5e308)
    assert fastce.linear_cross_entropy(features, weight, [2] * 4) == pytest.approx(1.5e308)
    ours = fastce.linear_cross_entropy_value_and_grad(features, weight, [2] * 4)
    assert ours.value == pytest.approx(1.5e308)
    np.testing.assert_allclose(ours.grad_features, np.full((4, 1), 1.5e154 / 4))
    np.testing.assert_allclose(ours.grad_linear_weight, [[1e154], [0], [-1e154]])


@covering(
    {
        "options": [{}, {"logit_scale": 1e14}, {"softcap": 1e39}, {"label_smoothing": 0.1}],
        "dtype, powers": [(np.float32, (0, 40, 60)), (np.float64, (0, 200, 500))],
    },
    quick=1,
)
def test_linear_layers_of_every_magnitude(dtype, powers, options, rng):
    """Integers times powers of two have exact products: the losses are those of the logits."""
    for power in powers:
        features, weight = rng.integers(-3, 4, (9, 4)).astype(dtype), rng.integers(-3, 4, (300, 4)).astype(dtype)
        features, labels = features * dtype(2.0**power), rng.integers(0, 300, 9)
        logits = features @ weight.T
        for of_classes, of_rows in WEIGHTS[:6]:
            with np.errstate(under="ignore"):
                given = options | {"weight": about(rng, of_classes, 300), "sample_weight": about(rng, of_rows, 9)}
            expected = fastce.cross_entropy_value_and_grad(logits, labels, **given)
            with np.errstate(all="raise"):
                ours = fastce.linear_cross_entropy_value_and_grad(features, weight, labels, memory_budget=3000, **given)
                alone = fastce.linear_cross_entropy(features, weight, labels, memory_budget=3000, **given)
            assert ours.value == alone == pytest.approx(expected.value, rel=1e-6)
            grad = wide(expected.grad) @ wide(weight)
            bound = 1e-5 * float(np.abs(expected.grad).max())
            np.testing.assert_allclose(wide(ours.grad_features), grad, rtol=1e-5, atol=bound)
