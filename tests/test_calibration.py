"""The temperature of least loss, beside SciPy's own search, and where there is none."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

import fastce


def loss_at(logits, targets, scale, weight=None):
    rows = -log_softmax(scale * logits.astype(float), axis=1)[np.arange(len(targets)), targets]
    return np.average(rows, weights=weight)


def sure_of_itself(rng, factor, classes=7, rows=400):
    """Logits from which targets are drawn, times a factor: the best temperature is about that."""
    logits = 2.0 * rng.normal(size=(rows, classes))
    shares = np.exp(log_softmax(logits, axis=1))
    return factor * logits, np.array([rng.choice(classes, p=p) for p in shares])


@pytest.mark.parametrize("factor", [1e-6, 0.3, 1.0, 7.0, 1e6])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_temperature_is_that_of_a_search_over_the_loss(dtype, factor, rng):
    logits, targets = sure_of_itself(rng, factor)
    logits = logits.astype(dtype)
    found = fastce.calibrate_temperature(logits, targets)
    best = minimize_scalar(lambda u: loss_at(logits, targets, math.exp(u)), np.log([0.2, 0.9]) - np.log(factor))
    assert loss_at(logits, targets, 1 / found.temperature) <= best.fun + 1e-12
    assert found.value == pytest.approx(best.fun, rel=4 * float(np.finfo(dtype).eps))
    assert found.value_before == fastce.cross_entropy(logits, targets)
    np.testing.assert_allclose(found.temperature, math.exp(-best.x), rtol=1e-5)
    assert 0.7 < found.temperature / factor < 1.5


@pytest.mark.parametrize("layout", [np.asarray, np.asfortranarray, lambda x: x[:, ::-1]])
def test_layouts_axes_weights_and_ignored_rows(layout, rng):
    logits, targets = sure_of_itself(rng, 3.0)
    logits, weight = layout(logits), rng.random(len(targets))
    weighted = fastce.calibrate_temperature(logits, targets, sample_weight=weight)
    best = minimize_scalar(lambda u: loss_at(logits, targets, math.exp(u), weight), (-2.0, 0.0))
    np.testing.assert_allclose(weighted.temperature, math.exp(-best.x), rtol=1e-5)
    np.testing.assert_allclose(
        fastce.calibrate_temperature(logits.T, targets, axis=0, sample_weight=weight), weighted, rtol=1e-10
    )
    half = np.where(np.arange(len(targets)) % 2, targets, -100)
    few = fastce.calibrate_temperature(logits, half)
    np.testing.assert_allclose(few, fastce.calibrate_temperature(logits[1::2], targets[1::2]), rtol=1e-10)


def test_where_no_temperature_is_best_it_is_the_end_that_the_loss_falls_towards(rng):
    logits = rng.normal(size=(50, 4))
    right = fastce.calibrate_temperature(logits, logits.argmax(axis=1))
    assert (right.temperature, right.value) == (0.0, 0.0)
    wrong = fastce.calibrate_temperature(logits, logits.argmin(axis=1))
    assert wrong.temperature == math.inf
    np.testing.assert_allclose(wrong.value, math.log(4))


def test_what_has_no_finite_loss_is_refused():
    for logits, targets in ((np.zeros((2, 3)), [-100, -100]), (np.array([[0.0, -np.inf]]), [1]), ([[np.nan, 0]], [0])):
        with pytest.raises(ValueError, match="the loss of logits and targets must be finite"):
            fastce.calibrate_temperature(logits, targets)
    with pytest.raises(IndexError):
        fastce.calibrate_temperature(np.zeros((2, 3)), [0, 3])
