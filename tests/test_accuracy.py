"""Section 7 of the contract: the promises with numbers.

The oracle is naive.py in float64 for float32 (its own error is 1e-8 float32 ulp) and mpmath for float64.  The
bounds are the contract's, to the letter.
"""

import mpmath
import naive
import numpy as np
import pytest
from checks import NAMES, assert_gradient, check, dtype_of
from covering import covering

import fastce

EPS = {np.float32: 2.0**-23, np.float64: 2.0**-52}


def ulp_error(actual, exact):
    """Of all elements at once, the largest."""
    return float(np.max(naive.ulp_error(actual, exact), initial=0))


def logsumexp_error(actual, exact):
    """At most 1 means: within 1 ulp, or within 2 eps where the result is near zero (below 1)."""
    eps = EPS[actual.dtype.type]
    absolute = np.abs(actual.astype(exact.dtype) - exact) / (2 * eps)
    ulps = naive.ulp_error(actual, exact)
    return float(np.max(np.where(np.abs(exact) < 1, np.minimum(ulps, absolute), ulps)))


# ------------------------------------------------------------------------------------------- logsumexp
LENGTHS = [*range(1, 20), *(2**k + d for k in range(5, 13) for d in (-1, 0, 1)), 100, 300, 1000, 10_007]
LONG = [2**15, 2**16 + 1, 2**18 + 3, 2**20]


def rows_of(distribution, rows, length, rng):
    x = rng.standard_normal((rows, length))
    if distribution.startswith("normal"):
        return x * float(distribution.split()[1])
    if distribution.startswith("offset"):
        return x + float(distribution.split()[1])
    if distribution == "equal":
        return np.repeat(rng.normal(0, 20, (rows, 1)), length, axis=1)
    if distribution == "dominated":  # one element far above the others, anywhere
        x[np.arange(rows), rng.integers(0, length, rows)] += rng.uniform(10, 100, rows)
        return x
    if distribution == "rising":  # every block needs a new reference
        return np.sort(x * 50, axis=1)
    if distribution == "falling":
        return -np.sort(x * 50, axis=1)
    if distribution == "near zero":  # the sum of the exponentials is close to 1
        return x - naive.row_logsumexp(x)[:, None] + rng.normal(0, 0.1, (rows, 1))
    if distribution == "huge":
        return np.where(rng.random((rows, length)) < 0.5, 3e38, -3e38)
    assert distribution == "subnormal"
    return rng.integers(-1000, 1000, (rows, length)) * 2.0**-149


DISTRIBUTIONS = [
    "normal 1",
    "normal 5",
    "normal 30",
    "offset 1e3",
    "offset -1e3",
    "offset 1e6",
    "offset 1e10",
]
DISTRIBUTIONS += ["equal", "dominated", "rising", "falling", "near zero", "huge", "subnormal"]


def along_both_axes(x):
    """logsumexp of the rows of x, from x and from its transpose in memory: two ways through the kernels."""
    return fastce.logsumexp(x, axis=1), fastce.logsumexp(np.ascontiguousarray(x.T), axis=0)


@pytest.mark.parametrize("lengths", [LENGTHS, pytest.param(LONG, marks=pytest.mark.slow)], ids=["short", "long"])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_logsumexp_of_float32_is_within_1_ulp(distribution, lengths, rng):
    for length in lengths:
        rows = 2000 if length in (2, 10, 100) else min(max(2, 4000 // length), 100)
        x = rows_of(distribution, rows, length, rng).astype(np.float32)
        exact = naive.row_logsumexp(x.astype(np.float64))
        for axis, result in zip(("last", "first"), along_both_axes(x), strict=True):
            assert logsumexp_error(result, exact) <= 1, f"rows of length {length}, {axis} axis"


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("padding", [0, 1, 30, 5000])
def test_logsumexp_just_above_zero_keeps_relative_precision(dtype, padding, rng):
    # Rows whose maximum is 0: nothing cancels, so the promise is 1 ulp, however close to 0 the result is; a
    # sum that holds exp(0) = 1 would have lost it.  No exponential above -87 (-700) is subnormal.  Float64: 2
    # ulp, see below.
    smallest = -87 if dtype is np.float32 else -700
    x = np.full((300, 2 + padding), -np.inf, dtype)
    x[:, 0] = 0
    x[:, -1] = np.linspace(-1e-3, smallest, 300)
    exact = np.log1p(np.exp(x[:, -1].astype(np.longdouble)))
    for result in along_both_axes(x):
        assert ulp_error(result, exact) <= (1 if dtype is np.float32 else 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_of_one_element_is_that_element(dtype, rng):
    tiny, huge = np.finfo(dtype).smallest_subnormal, np.finfo(dtype).max
    x = np.array([0.0, 1.5, -2.5, tiny, -tiny, 3 * tiny, huge, -huge, np.inf, -np.inf], dtype)
    np.testing.assert_array_equal(fastce.logsumexp(x[:, None], axis=1), x)
    np.testing.assert_array_equal(fastce.logsumexp(x[None], axis=0), x)


@covering(
    {"distribution": [d for d in DISTRIBUTIONS if d not in ("huge", "subnormal")], "length": [1, 2, 3, 10, 65, 500]},
    quick=1,
)
def test_logsumexp_of_float64_is_within_2_ulp(distribution, length, rng):
    # The contract's 1 ulp is float32's.  In float64 there is no wider type: 1 ulp of the exponential and half
    # of each rounding make 2; and where max + log(sum) cancels, they are ulps of max.
    x = rows_of(distribution, 4, length, rng)
    for row, *results in zip(x, *along_both_axes(x), strict=True):
        exact = naive.logsumexp_exact(row)
        ulp = np.spacing(max(abs(row.max()), abs(float(exact))))
        for result in results:
            assert abs(mpmath.mpf(float(result)) - exact) <= 2 * ulp


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_of_a_long_row_against_mpmath(dtype, rng):
    x = rng.normal(0, 3, 2**14).astype(dtype)
    assert naive.ulp_error(fastce.logsumexp(x), naive.logsumexp_exact(x)) <= (1 if dtype is np.float32 else 2)


# --------------------------------------------------------------------------------------- cross entropy
def confident(rows, classes, margin, rng, others=1.0):
    """float32 logits of rows that are right by about that margin, and their classes."""
    x = rng.normal(0, others, (rows, classes)).astype(np.float32)
    y = rng.integers(0, classes, rows)
    x[np.arange(rows), y] += np.float32(margin)
    return x, y


CASES = {
    "random": dict(margin=0, others=3.0),
    "wide": dict(margin=0, others=30.0),
    "wrong by 20": dict(margin=-20),
    "margin 5": dict(margin=5),
    "margin 16": dict(margin=16),
    "margin 25": dict(margin=25),
    "margin 80": dict(margin=80),
    "margin 25, others equal": dict(margin=25, others=0.0),
    "margin 80, others equal": dict(margin=80, others=0.0),
}
OPTIONS = {
    "plain": {},
    "smoothing over all": dict(label_smoothing=0.1),
    "smoothing over others": dict(label_smoothing=0.1, smoothing_over="others"),
    "a little smoothing": dict(label_smoothing=1e-6),
    "scale": dict(logit_scale=1.7),
}
SHAPES = [(400, 2), (300, 3), (200, 10), (60, 129), (40, 1000), (6, 33_000)]


def hard(logits, y, **options):
    return y


def one_hot(logits, y, **options):
    t = np.zeros_like(logits)
    t[np.arange(len(y)), y] = 1
    return t


@covering({"case": CASES, "options": OPTIONS, "target": [hard, one_hot]}, quick=1)
def test_cross_entropy_of_float32_is_within_4_ulp_per_row(case, options, target, rng):
    for rows, classes in SHAPES:
        x, y = confident(rows, classes, rng=rng, **CASES[case])
        exact = naive.CrossEntropy(x, y, **OPTIONS[options]).rows
        losses = fastce.cross_entropy(x, target(x, y), reduction="none", **OPTIONS[options])
        assert losses.dtype == np.float32
        assert ulp_error(losses, exact) <= 4, f"{classes} classes"


@covering(
    {
        "offset": [1e3, -1e3, 1e6, -1e6, 1e10],
        "options": ["plain", "smoothing over all", "smoothing over others"],
        "target": [hard, one_hot],
    },
    quick=1,
)
def test_cross_entropy_with_a_common_offset_is_within_4_ulp_per_row(offset, options, target, rng):
    for rows, classes in SHAPES:
        for margin in (0, 25):
            x, y = confident(rows, classes, margin, rng, others=5.0)
            x = x + np.float32(offset)  # what is left of x after this rounding is what is asked for
            exact = naive.CrossEntropy(x, y, **OPTIONS[options]).rows
            losses = fastce.cross_entropy(x, target(x, y), reduction="none", **OPTIONS[options])
            assert ulp_error(losses, exact) <= 4, f"{classes} classes"


@pytest.mark.parametrize("margin", [0, 0.1, 0.3, 0.8])
@pytest.mark.parametrize("target", [hard, one_hot])
def test_cross_entropy_with_the_logit_scale_of_clip_is_within_4_ulp_per_row(margin, target, rng):
    for rows, classes in SHAPES:
        x, y = confident(rows, classes, margin, rng, others=0.1)
        exact = naive.CrossEntropy(x, y, logit_scale=100.0).rows
        losses = fastce.cross_entropy(x, target(x, y), logit_scale=100.0, reduction="none")
        assert ulp_error(losses, exact) <= 4, f"{classes} classes"


@covering(
    {
        "name": NAMES,
        "classes": [1, 2, 4, 64, 65, 256, 257, 1000, 5000],
        "cap": [0.5, 5.0, 30.0, 50.0, 1e3, 1e10],
        "axis": [0, 1],
        "label_smoothing": [0.0, 0.1],
        "logit_scale": [1.0, 3.0],
    },
    quick=1,
)
def test_capped_rows_are_within_4_ulp_and_their_gradients_within_4_eps(
    rng, logit_scale, label_smoothing, axis, cap, classes, name
):
    """Logits near the cap are close to each other: what they are rounded to would be seen in their differences."""
    dtype, options = dtype_of(name), {"softcap": cap, "label_smoothing": label_smoothing, "logit_scale": logit_scale}
    for size in (1.0, 20.0, 60.0):
        logits = np.moveaxis(size * rng.normal(size=(20, classes)), -1, axis).astype(dtype)
        labels = rng.integers(0, classes, 20)
        check(logits, labels, axis=axis, reductions=["none", "mean"], **options)
        grad = fastce.cross_entropy_grad_and_hess(logits, labels, axis=axis, **options).grad
        assert_gradient(grad, naive.CrossEntropy(logits, labels, axis=axis, **options), dtype, "none", 1.0, options)


def test_a_confident_row_keeps_its_loss():
    x = np.zeros((1, 1000), np.float32)
    x[0, 17] = 25
    exact = naive.CrossEntropy(x, [17]).rows
    losses = fastce.cross_entropy(x, [17], reduction="none")
    assert losses[0] == pytest.approx(1.387e-8, rel=1e-3)  # the figure in the contract's table
    assert ulp_error(losses, exact) <= 4
    assert fastce.cross_entropy(x, [17]) == pytest.approx(exact[0], rel=4 * EPS[np.float32])


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("axis", [0, 1])
def test_cross_entropy_along_either_axis_is_within_4_ulp(classes, axis, rng):
    x, y = confident(200, classes, 10, rng)
    exact = naive.CrossEntropy(x, y).rows
    array = x if axis == 1 else np.ascontiguousarray(x.T)
    losses = fastce.cross_entropy(array, y, axis=axis, reduction="none")
    assert ulp_error(losses, exact) <= 4


@covering({"margin": [0, 16, 25, 80, 300], "classes": [2, 10, 300]}, quick=1)
def test_cross_entropy_of_float64_is_within_4_ulp_per_row(margin, classes, rng):
    x, y = confident(5, classes, margin, rng)
    x = x + 1e-3 * rng.standard_normal(x.shape)  # float64 with all its digits
    losses = fastce.cross_entropy(x, y, reduction="none")
    for row, label, loss in zip(x, y, losses, strict=True):
        with mpmath.workdps(200):  # e^-300 is 130 digits below 1
            margins = [mpmath.mpf(float(c)) - mpmath.mpf(float(row[label])) for c in row]
            exact = mpmath.log(mpmath.fsum(map(mpmath.exp, margins)))
        assert naive.ulp_error(loss, exact) <= 4


# ------------------------------------------------------------------------------------------- gradients
def value_and_grad(x, targets, **options):
    return fastce.cross_entropy_value_and_grad(x, targets, reduction="sum", **options)


@covering({"case": CASES, "options": OPTIONS, "target": [hard, one_hot]}, quick=1)
def test_gradients_of_float32_are_within_4_eps(case, options, target, rng):
    scale = OPTIONS[options].get("logit_scale", 1.0)
    for rows, classes in SHAPES:
        x, y = confident(rows, classes, rng=rng, **CASES[case])
        exact = naive.CrossEntropy(x, y, **OPTIONS[options])
        value, grad = value_and_grad(x, target(x, y), **OPTIONS[options])
        assert grad.dtype == np.float32
        assert np.max(np.abs(grad - exact.grad)) <= 4 * EPS[np.float32] * scale, f"{classes} classes"
        # a sum of losses within 4 ulp each
        assert value == pytest.approx(exact.rows.sum(), rel=4 * EPS[np.float32])


@pytest.mark.parametrize("offset", [1e3, -1e6, 1e10])
@pytest.mark.parametrize("target", [hard, one_hot])
def test_gradients_with_a_common_offset_are_within_4_eps(offset, target, rng):
    for rows, classes in SHAPES:
        x, y = confident(rows, classes, 3, rng, others=5.0)
        x = x + np.float32(offset)
        grad, exact = value_and_grad(x, target(x, y)).grad, naive.CrossEntropy(x, y).grad
        assert np.max(np.abs(grad - exact)) <= 4 * EPS[np.float32], f"{classes} classes"


@pytest.mark.parametrize("margin", [0, 0.1, 0.8])
@pytest.mark.parametrize("target", [hard, one_hot])
def test_gradients_with_the_logit_scale_of_clip_are_within_4_eps_before_scaling(margin, target, rng):
    for rows, classes in SHAPES:
        x, y = confident(rows, classes, margin, rng, others=0.1)
        grad = value_and_grad(x, target(x, y), logit_scale=100.0).grad
        exact = naive.CrossEntropy(x, y, logit_scale=100.0).grad
        assert np.max(np.abs(grad - exact)) / 100 <= 4 * EPS[np.float32], f"{classes} classes"


@pytest.mark.parametrize("margin", [16, 25, 60])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_gradient_at_a_confident_target_keeps_its_digits(margin, classes, rng):
    # p_y - 1 would be 0 or 6e-8; -s/(s + e_y) is as precise as the loss: 4 ulp, and two roundings more
    x, y = confident(50, classes, margin, rng)
    exact = np.take_along_axis(naive.negative_log_softmax(x.astype(np.float64)), y[:, None], 1)[:, 0]
    grad = value_and_grad(x, y).grad[np.arange(50), y]
    np.testing.assert_allclose(grad, np.expm1(-exact), rtol=6 * EPS[np.float32])


@covering({"margin": [0, 3, 25], "classes": [2, 10, 300], "scale": [1.0, 100.0]}, quick=1)
def test_gradients_of_float64_are_within_4_eps(margin, classes, scale, rng):
    x, y = confident(4, classes, margin / scale, rng, others=1 / scale)
    x = x + 1e-3 * rng.standard_normal(x.shape)
    grad = value_and_grad(x, y, logit_scale=scale).grad
    with mpmath.workdps(60):
        for i in range(4):
            row = [mpmath.mpf(scale) * mpmath.mpf(float(c)) for c in x[i]]
            lse = mpmath.log(mpmath.fsum(map(mpmath.exp, row)))
            exact = [mpmath.exp(c - lse) - (j == y[i]) for j, c in enumerate(row)]
            errors = [abs(mpmath.mpf(float(g)) / scale - e) for g, e in zip(grad[i], exact, strict=True)]
            assert max(errors) <= 4 * EPS[np.float64]


# ------------------------------------------------------------------------------------------- clip_loss
@pytest.mark.parametrize("margin", [0.0, 0.2, 0.8])
def test_clip_loss_and_its_gradient_at_scale_100(margin, rng):
    # value: a mean of losses within 4 ulp each; gradient before scaling: two halves within 4 eps each, over n
    n, eps = 150, EPS[np.float32]
    similarity = (rng.normal(0, 0.1, (n, n)) + margin * np.eye(n)).astype(np.float32)
    value, grad, grad_scale = naive.clip_loss_and_grads(similarity, logit_scale=100.0)
    weight = float(np.abs(similarity).sum()) / n  # grad_scale = sum of grad * similarity / scale
    result = fastce.clip_loss_value_and_grad(similarity, logit_scale=100.0)
    assert result.value == pytest.approx(value, rel=4 * eps)
    assert np.max(np.abs(result.grad - grad)) * n / 100 <= 4 * eps
    assert result.grad_logit_scale == pytest.approx(grad_scale, abs=4 * eps * weight)
