"""Losses below the normal numbers, which weights, masses or grad_output make normal numbers of: against mpmath."""

import mpmath
import numpy as np
import pytest
import scipy.sparse
from mpmath import mpf

import fastce
from fastce.cpu import pieces

RAISE = ["class", "sample", "masses", "sparse", "grad_output", "smoothed"]
MARGINS = {
    "float16": [95, 120, 160],
    "float32": [85, 100, 118, 128, 131, 160, 200],
    "float64": [700, 709, 725, 740, 749, 753, 900, 1300],
}
FACTORS = [3.0, 300.0, 1e9, 1e30, 1e100, 1e200]


def rows_of(dtype, classes, margin):
    """The target is the first class; the others lie as far below, a part of them farther, or much nearer."""
    x = np.full((4, classes), -margin, float)
    x[:, 0] = 0.0
    x[1, 1:] -= np.arange(classes - 1) % 7
    x[2] += 2.5
    x[3] = np.linspace(1.0, 0.0, classes)
    return x.astype(dtype)


def exact(row, mass):
    """(loss, gradient) of a row whose mass is on its first class."""
    x = [mpf(float(u)) for u in row]
    e = [mpmath.exp(u - x[0]) for u in x[1:]]
    rest = mpmath.fsum(e)
    return mass * mpmath.log1p(rest), [-mass * rest / (1 + rest), *(mass * u / (1 + rest) for u in e)]


def options_for(how, factor, classes, rows):
    """(targets, options, grad_output) that raise a loss by this factor."""
    masses = np.zeros((rows, classes))
    masses[:, 0] = factor
    labels = np.zeros(rows, int)
    if how == "class":
        return labels, {"weight": np.where(np.arange(classes) % 2, 1.0, factor)}, 1.0
    if how == "smoothed":  # the others have no weight
        return labels, {"weight": np.where(np.arange(classes), 0.0, 2.0 * factor), "label_smoothing": 0.5}, 1.0
    if how == "sample":
        return labels, {"sample_weight": np.full(rows, -factor)}, 1.0
    if how == "grad_output":
        return labels, {}, factor
    return masses if how == "masses" else scipy.sparse.csr_array(masses), {}, 1.0


def assert_near(ours, exact, real, digits):
    """Within some units in the last place; a gradient may be 0 where it is below the normal numbers."""
    info = np.finfo(real)
    if abs(exact) < info.max:
        bound = digits * mpf(float(info.eps)) * abs(exact) + 4 * mpf(float(info.smallest_subnormal))
        assert abs(mpf(float(ours)) - exact) <= bound or (ours == 0.0 and abs(exact) < info.tiny), (ours, exact)


def check(logits, how, factor, axis, real):
    rows, classes = logits.shape if axis == 1 else logits.shape[::-1]
    targets, options, above = options_for(how, factor, classes, rows)
    if axis == 0 and not isinstance(targets, scipy.sparse.csr_array) and targets.ndim == 2:
        targets = np.ascontiguousarray(targets.T)
    with np.errstate(all="raise"):
        given = {"axis": axis, "reduction": "none"} | options
        ours = fastce.cross_entropy_value_and_grad(logits, targets, grad_output=above, **given)
        np.testing.assert_array_equal(ours.value, fastce.cross_entropy(logits, targets, **given))
    grad = ours.grad if axis == 1 else ours.grad.T
    size = {"sample": -factor, "smoothed": 2 * factor * (0.5 + 0.5 / classes), "grad_output": 1.0}.get(how, factor)
    for i, row in enumerate(logits if axis == 1 else logits.T):
        loss, slopes = exact(row, mpf(size))
        assert_near(ours.value[i], loss, real, 6)
        places = {1, classes // 2, classes - 1} if how == "grad_output" else {0, 1, classes // 2, classes - 1}
        for c in places:  # what grad_output alone raises at the target is only within eps of the mass
            assert_near(grad[i, c], slopes[c] * mpf(above), real if logits.itemsize > 2 else logits.dtype, 16)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [2, 3, 300])
@pytest.mark.parametrize("name", MARGINS)
@mpmath.workdps(40)
def test_a_weight_makes_a_normal_number_of_a_loss(name, classes, axis):
    dtype = np.dtype(name)
    real = np.float64 if name == "float64" else np.float32
    for n, margin in enumerate(MARGINS[name]):
        for k, how in enumerate(RAISE):
            if axis == 1 or how != "sparse":
                logits = rows_of(dtype, classes, margin)
                logits = logits if axis == 1 else np.ascontiguousarray(logits.T)
                for factor in (FACTORS[(n + k) % 6], FACTORS[(n + k + 3) % 6])[: 1 if classes == 300 else 2]:
                    check(logits, how, min(factor, 1e30) if real == np.float32 else factor, axis, real)


@pytest.mark.parametrize("how", RAISE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@mpmath.workdps(40)
def test_long_rows(monkeypatch, dtype, how):
    monkeypatch.setattr(pieces, "PIECE", 2048)
    for margin, factor in ((740, 1e100), (755, 1e30)) if dtype == np.float64 else ((110, 1e20), (160, 1e30)):
        check(rows_of(dtype, 5000, margin), how, factor, 1, dtype)


def test_the_reported_row():
    for weight in ({"weight": [1e200, 1.0]}, {"sample_weight": [1e200]}):
        for reduction in ("none", "sum"):
            loss = fastce.cross_entropy(np.array([[740.0, 0.0]]), [0], reduction=reduction, **weight)
            assert np.ravel(loss)[0] == pytest.approx(float(1e200 * mpmath.exp(-740)), rel=1e-15)
    mean = fastce.cross_entropy(np.array([[740.0, 0.0]] * 3), [0] * 3, sample_weight=[1e200, 1e200, 1e-200])
    assert mean == float(mpmath.exp(-740))
    loss = fastce.cross_entropy(np.array([[100.0, 0.0]], np.float32), [0], sample_weight=[1e30], reduction="none")
    assert loss[0] == pytest.approx(1e30 * np.exp(-100.0), rel=1e-7)


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray])
def test_sums_over_rows_of_several_axes(layout):
    x = np.zeros((5, 3, 4))
    x[:, 0], x[1:, 0, 2] = 745.0, 720.0
    x, y, v = layout(x), np.zeros((5, 4), int), np.full((5, 4), 1e150)
    with mpmath.workdps(40):
        expected = 2e150 * mpmath.fsum(mpmath.exp(-mpf(float(u))) for u in x[:, 0].ravel())
        assert fastce.cross_entropy(x, y, sample_weight=v, reduction="sum") == pytest.approx(float(expected), rel=1e-14)


@pytest.mark.parametrize("factor", [1e30, 1e250])
def test_derivatives_of_boosters(factor):
    x = np.array([[740.0, 0.0, 5.0], [0.0, 0.0, -740.0]])
    ours = fastce.cross_entropy_grad_and_hess(x, [0, 0], sample_weight=[factor, factor])
    expected = factor * np.array([float(mpmath.exp(d + 700)) for d in (-740, -735)]) * np.exp(-700.0)
    np.testing.assert_allclose(ours.grad[0], [-expected.sum(), *expected], rtol=1e-12)
    np.testing.assert_allclose(ours.hess[0], [expected.sum(), *expected], rtol=1e-12)
    if factor > 1e100:  # left to the kernel of pairs
        np.testing.assert_allclose(ours.grad[1, 2], expected[0] / 2, rtol=1e-12)
        np.testing.assert_allclose(ours.hess[1, 2], expected[0] / 2, rtol=1e-12)
