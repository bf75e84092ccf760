"""Losses on a matrix of logits at every magnitude, against the formula in wide precision."""

import magnitudes
import mpmath
import numpy as np
import pytest
import scipy.special
from covering import covering
from hypothesis import given
from hypothesis import strategies as st

import fastce

pytestmark = pytest.mark.skipif(not magnitudes.is_wide, reason="longdouble is no wider than float64 here")


def row(n, fill, **at):
    """One float32 row of n elements, all ``fill`` but those named _0, _1, ..."""
    x = np.full((1, n), fill, np.float32)
    for name, value in at.items():
        x[0, int(name[1:])] = value
    return x


FAR_APART = row(300, -39142498226.93202, _0=-21086672896.0, _299=39753371648.0)
LATE_PEAK = row(100, -3e5, _0=-169740.265625, _99=386488.21875)


# ------------------------------------------------------------------------------------ the oracle itself
@pytest.mark.parametrize("options", [{}, {"logit_scale": 1e5}, {"logit_scale": 3.0, "softcap": 7.0}], ids=str)
def test_the_oracle_agrees_with_mpmath(options):
    x = magnitudes.sweep(np.dtype(np.float64), 10)[::9]
    ours = magnitudes.Softmax(x, **options)
    scale, cap = options.get("logit_scale", 1.0), options.get("softcap")
    with mpmath.workdps(700):
        for i, of_row in enumerate(x):
            u = [mpmath.mpf(float(z)) * scale for z in of_row]
            u = u if cap is None else [cap * mpmath.tanh(z / cap) for z in u]
            lse = mpmath.log(mpmath.fsum(mpmath.exp(z) for z in u))
            for c, z in enumerate(u):
                if mpmath.isfinite(z):
                    expected = np.longdouble(mpmath.nstr(lse - z, 25))
                    near = 1e-17 * np.abs(ours.x[i]).max(where=np.isfinite(ours.x[i]), initial=0) if cap else 0
                    assert abs(ours.minus_log_p[i, c] - expected) <= 1e-17 * abs(expected) + near


# ------------------------------------------------------------------------- cross entropy of every magnitude
def formula(logits, labels, label_smoothing=0.0, logit_scale=1.0, softcap=None, z_loss=0.0):
    """(losses, gradient, Hessian, and the bounds of the contract for each of them) of the rows of a matrix."""
    real = magnitudes.computed_in(logits.dtype)
    eps, classes, rows = np.finfo(real).eps, logits.shape[1], np.arange(len(logits))
    e, z, scale = (
        np.longdouble(label_smoothing if classes > 1 else 0),
        np.longdouble(z_loss),
        np.longdouble(logit_scale),
    )
    softmax = magnitudes.Softmax(logits, logit_scale, softcap)
    q = (1 - e) * (labels[:, None] == np.arange(classes)) + e / classes
    z_mass = 2 * z * softmax.lse
    losses = magnitudes.times(q, softmax.minus_log_p).sum(1) + z * softmax.lse**2
    grad = softmax.p * (1 + z_mass)[:, None] - q
    top = rows, softmax.top
    grad[top] = softmax.p[top] * (1 - q[top] + z_mass) - q[top] * softmax.remainder[top]
    hess = scale**2 * softmax.p * softmax.remainder
    mass = 1 + np.abs(z_mass)
    x = np.where(np.isfinite(softmax.x), np.abs(softmax.x), 0).max(1)
    of_cap = 0 if softcap is None else 4 * np.finfo(np.float64).eps * x  # all of the cap is computed in float64
    of_losses = 4 * magnitudes.ulp(losses, real) + of_cap * mass + 4 * eps * np.abs(z_mass)
    of_grad = scale * (mass * (4 * eps + of_cap) + 4 * eps * z)[:, None] + np.zeros_like(grad)
    some = (softmax.p > 0) & (softmax.remainder > 0)
    distance = -np.log(np.where(some, np.minimum(softmax.p, softmax.remainder), 1))  # an offset leaves it half an ulp
    of_hess = (16 + distance) * eps * hess + 2 * scale**2 * np.finfo(real).smallest_normal  # exp is 0 below
    for exact, bound in ((grad * softmax.slope, of_grad), (hess, of_hess)):  # and half a unit for the last rounding
        narrow = logits.dtype != real or np.abs(exact) < np.finfo(real).smallest_normal
        bound += np.where(narrow, magnitudes.ulp(exact, logits.dtype) / 2, 0)
    return (losses, grad * softmax.slope, hess), (of_losses, of_grad, of_hess)


@np.errstate(all="raise")
def computed(logits, labels, layout, **options):
    """Losses, their twin, gradient, and Hessian if there is a bound for it; no flag of the processor shows."""
    array, axis = magnitudes.LAYOUTS[layout](logits)
    labels = labels[None] if array.ndim == 3 else labels
    value = fastce.cross_entropy(array, labels, axis=axis, reduction="none", **options)
    twin = fastce.cross_entropy_value_and_grad(array, labels, axis=axis, reduction="none", **options)
    derivatives = fastce.cross_entropy_grad_and_hess(array, labels, axis=axis, **options)
    grads = [magnitudes.rows_again(grad, axis) for grad in (twin.grad, *derivatives)]
    return np.ravel(value), np.ravel(twin.value), *grads


def check(logits, labels, layout="rows", **options):
    ours = computed(logits, labels, layout, **options)
    with np.errstate(all="ignore"):
        (losses, grad, hess), (of_losses, of_grad, of_hess) = formula(logits, labels, **options)
    magnitudes.assert_near(ours[0], losses, of_losses, "loss")
    magnitudes.assert_near(ours[1], losses, of_losses, "value")
    magnitudes.assert_near(ours[2], grad, of_grad, "gradient")
    magnitudes.assert_near(ours[3], grad, of_grad, "gradient of a booster")
    if "softcap" not in options and "z_loss" not in options:
        magnitudes.assert_near(ours[4], hess, of_hess, "Hessian")
    assert not np.isnan(ours[4]).any()


OPTIONS = [
    {},
    {"label_smoothing": 0.1},
    {"label_smoothing": 0.1, "z_loss": 1e-4},
    {"z_loss": 1e30},
    {"logit_scale": 100.0},
    {"logit_scale": 7e9},
    {"logit_scale": 1e300, "label_smoothing": 0.3},
    {"logit_scale": 5e-324},
    {"logit_scale": 1e-38},
    {"softcap": 30.0},
    {"softcap": 1e-46},
    {"softcap": 1e39},
    {"softcap": 1e308, "logit_scale": 1e-5},
    {"softcap": 1e-200, "logit_scale": 1e200},
]


@covering({"options": OPTIONS, "name": magnitudes.DTYPES}, strength=1, rest=pytest.mark.slow)
def test_rows_of_every_magnitude(name, options):
    for classes, layouts in ((1, ["rows"]), (2, ["rows"]), (10, ["rows", "columns"]), (300, ["rows", "columns"])):
        logits = magnitudes.sweep(magnitudes.DTYPES[name], classes)
        for layout in layouts:
            check(logits, magnitudes.labels_of(logits), layout, **options)


@pytest.mark.slow
@covering({"name": magnitudes.DTYPES, "classes": magnitudes.CLASSES, "layout": magnitudes.LAYOUTS})
def test_rows_of_every_magnitude_in_every_layout(name, classes, layout):
    logits = magnitudes.sweep(magnitudes.DTYPES[name], classes, seed=1)
    for options in OPTIONS[:3]:
        check(logits, magnitudes.labels_of(logits), layout, **options)


positive = st.sampled_from([1.0]) | st.floats(-308, 308).map(lambda e: 10.0**e)


@given(
    magnitudes.matrices(),
    st.sampled_from(list(magnitudes.LAYOUTS)),
    st.fixed_dictionaries(
        {},
        optional={"logit_scale": positive, "softcap": positive, "z_loss": positive, "label_smoothing": st.floats(0, 1)},
    ),
    st.integers(0, 100),
)
def test_any_rows_and_any_options(logits, layout, options, seed):
    check(logits, magnitudes.labels_of(logits, seed), layout, **options)


# -------------------------------------------------------------------- the cases that have been reported
@covering(
    {"options": [{}, {"label_smoothing": 0.1, "z_loss": 1.0}, {"softcap": 1e5}], "name": ["float64", "float32"]},
    quick=1,
)
def test_long_rows_of_every_magnitude(name, options, monkeypatch):
    monkeypatch.setattr("fastce.cpu.pieces.PIECE", 2048)
    logits = magnitudes.sweep(magnitudes.DTYPES[name], 6200)[::2]
    check(logits, magnitudes.labels_of(logits), **options)


@pytest.mark.parametrize("scale", [2.0**-200, 2.0**33, 2.0**300])
def test_confident_rows_keep_their_digits_at_any_scale(scale, rng):
    # Half an ulp of a margin of 46 is 23 ulp of its exp, which may be all of the loss.
    logits, labels = rng.normal(size=(200, 3)) * 5, rng.integers(0, 3, 200)
    logits[np.arange(200), labels] += rng.uniform(20, 200, 200)
    check(logits / scale, labels, logit_scale=scale)


def test_rows_whose_elements_are_far_apart():
    """x - offset in float32 is exact only if the offset is an element of the row."""
    assert fastce.cross_entropy(FAR_APART, [5]) == pytest.approx(7.88958e10, rel=1e-6)
    np.testing.assert_array_equal(fastce.softmax(FAR_APART, axis=1)[0, [0, 299]], [0, 1])
    assert fastce.logsumexp(FAR_APART) == np.float32(39753371648.0)
    assert fastce.log_softmax(LATE_PEAK, axis=1)[0, 99] == 0.0
    assert scipy.special.log_softmax(LATE_PEAK, axis=1)[0, 99] == 0.0


def test_no_probability_is_above_1_where_the_peak_comes_late():
    grad, hess = fastce.cross_entropy_grad_and_hess(LATE_PEAK, [1])
    np.testing.assert_array_equal(grad[0], [0.0, -1.0, *[0.0] * 97, 1.0])
    np.testing.assert_array_equal(hess, 0.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"logit_scale": 7e9}, 7e9),
        ({"logit_scale": 1e14}, 1e14),
        ({"logit_scale": 1e-38}, np.log(3.0)),
        ({"softcap": 1e39}, 1.4076059644443804),
        ({"softcap": 1e-46}, np.log(3.0)),
    ],
    ids=str,
)
def test_options_that_float32_does_not_hold(dtype, options, expected):
    assert fastce.cross_entropy(np.array([[1, 2, 0]], dtype), [0], **options) == pytest.approx(expected, rel=1e-7)


@pytest.mark.parametrize("classes", [3, 300])
def test_smoothing_over_masks_of_the_lowest_number(classes):
    """The loss is finite: K times finfo.min / K, whose sum of K overflows on the way."""
    lowest = np.finfo(np.float64).min
    x = np.full((1, classes), lowest)
    x[0, 0] = 1.0
    loss = fastce.cross_entropy(x, [0], label_smoothing=0.1)
    assert loss == pytest.approx(-0.1 * (classes - 1) / classes * lowest, rel=1e-15)


@pytest.mark.parametrize("classes", [2, 300, 6200])
def test_a_mean_is_finite_where_a_loss_is_not(classes, monkeypatch):
    monkeypatch.setattr("fastce.cpu.pieces.PIECE", 2048)
    x = np.zeros((4, classes))
    x[0, :2] = 1.5e308, -1.5e308
    assert fastce.cross_entropy(x, [1, 0, 0, 0]) == pytest.approx(7.5e307)
    assert fastce.cross_entropy_value_and_grad(x, [1, 0, 0, 0]).value == pytest.approx(7.5e307)
    assert fastce.cross_entropy(x, [1, 0, 0, 0], reduction="sum") == np.inf


def test_a_mean_is_finite_where_the_sum_is_not():
    x = np.array([[1e308, 0.0]] * 5)
    assert fastce.cross_entropy(x, [1] * 5) == pytest.approx(1e308)
    assert fastce.cross_entropy(x, [1] * 5, reduction="sum") == np.inf
    assert fastce.nll_loss(-x, [0] * 5) == pytest.approx(1e308)


@covering(
    {
        "dtype": [np.float32, np.float64],
        "label_smoothing": [0.0, 0.1],
        "size": [1e-30, 1e-60, 1e-290, 1e35, 1e60, 1e290],
    }
)
def test_weights_of_any_size_drop_out_of_the_mean(dtype, label_smoothing, size, rng):
    x, y = rng.normal(size=(6, 5)).astype(dtype), np.arange(6) % 5
    expected = fastce.cross_entropy_value_and_grad(x, y, label_smoothing=label_smoothing)
    for options in ({"weight": np.full(5, size)}, {"sample_weight": np.full(6, size)}):
        ours = fastce.cross_entropy_value_and_grad(x, y, label_smoothing=label_smoothing, **options)
        assert ours.value == pytest.approx(expected.value, rel=1e-6)
        np.testing.assert_allclose(ours.grad, expected.grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [1e-300, 1e-40, 1e-5, 1e5, 1e30, 1e39, 1e300])
def test_grad_output_of_any_size(dtype, size, rng):
    x, y = rng.normal(size=(6, 5)).astype(dtype), np.arange(6) % 5
    plain = fastce.cross_entropy_value_and_grad(x.astype(np.float64), y, reduction="none").grad
    with np.errstate(all="raise"):
        ours = fastce.cross_entropy_value_and_grad(x, y, reduction="none", grad_output=np.full(6, size)).grad
    bound = magnitudes.ulp(plain * np.longdouble(size), x.dtype)
    with np.errstate(all="ignore"):
        bound += 4 * np.finfo(magnitudes.computed_in(x.dtype)).eps * np.longdouble(size)
    magnitudes.assert_near(ours, plain * np.longdouble(size), bound, "gradient")
