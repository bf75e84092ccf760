"""Rows of millions of classes: the same promises, whether a row is cut for several threads or not."""

import naive
import numpy as np
import pytest
import scipy.special
from checks import assert_gradient, assert_losses, assert_within, same_bits
from test_accuracy import logsumexp_error

import fastce

THREE, ONE = (3, 1_200_000), (1, 3_000_001)
PEAK = 1_100_003


def rows_with_a_late_peak(shape):
    x = np.random.default_rng(7).standard_normal(shape, np.float32) * 3
    x[0, PEAK] = 200
    return x


@pytest.fixture(
    scope="module",
    params=[(THREE, "hard"), (THREE, "probability"), (ONE, "smoothing"), (ONE, "probability")],
    ids=str,
)
def case(request):
    """Logits, targets, options, and what must come out."""
    shape, kind = request.param
    logits, targets = rows_with_a_late_peak(shape), np.array([PEAK, 0, 1_199_999][: shape[0]])
    if kind == "probability":
        rng = np.random.default_rng(8)
        targets = rng.random(shape, np.float32) / shape[1]
        targets[0] *= rng.random(shape[1]) < 0.01
    options = {"label_smoothing": 0.1} if kind == "smoothing" else {}
    return logits, targets, options, naive.CrossEntropy(logits, targets, **options)


def test_losses_and_gradients(case):
    logits, targets, options, exact = case
    first = None
    for n_threads in (1, 2):
        call = {"reduction": "none", "n_threads": n_threads, **options}
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, **call)
        alone = fastce.cross_entropy(logits, targets, **call)
        if first is None:
            first = value, grad, alone
            for losses in (value, alone):
                assert_losses(losses, exact, logits.dtype, "none", options)
            assert_gradient(grad, exact, logits.dtype, "none", 1.0, options)
        for ours, theirs in zip((value, grad, alone), first, strict=True):
            assert same_bits(ours, theirs)


def test_the_gradient_may_replace_the_logits(case):
    logits, targets, options, exact = case
    work = logits.copy()
    fastce.cross_entropy_value_and_grad(work, targets, reduction="none", out=work, n_threads=2, **options)
    assert_gradient(work, exact, logits.dtype, "none", 1.0, options)


@pytest.mark.parametrize("shape", [THREE, ONE])
def test_a_special_value_affects_its_row_alone(shape):
    logits = rows_with_a_late_peak(shape)
    labels = np.zeros(len(logits), int)
    clean = fastce.cross_entropy(logits, labels, reduction="none")
    for value in (np.nan, np.inf):
        for at in (0, 700_001, logits.shape[1] - 1):
            work = logits.copy()
            work[0, at] = value
            for n_threads in (1, 2):
                losses = fastce.cross_entropy(work, labels, reduction="none", n_threads=n_threads)
                assert np.isnan(losses[0])
                assert same_bits(losses[1:], clean[1:])


def test_masked_classes_and_a_masked_target():
    work = rows_with_a_late_peak(THREE)
    work[:, :1_050_000] = -np.inf
    labels = np.array([PEAK, 1_150_000, 5])
    exact = naive.CrossEntropy(work, labels)
    for n_threads in (1, 2):
        value, grad = fastce.cross_entropy_value_and_grad(work, labels, reduction="none", n_threads=n_threads)
        assert_losses(value, exact, work.dtype, "none", {})
        assert_gradient(grad, exact, work.dtype, "none", 1.0, {})


@pytest.mark.parametrize(("shape", "n_threads"), [(THREE, 1), (THREE, 2), (ONE, 2)])
def test_the_functions_of_scipy(shape, n_threads):
    logits = rows_with_a_late_peak(shape)
    wide = logits.astype(np.float64)
    sums = naive.row_logsumexp(wide)[:, None]
    eps = np.finfo(np.float32).eps
    assert logsumexp_error(fastce.logsumexp(logits, axis=1, n_threads=n_threads), sums[:, 0]) <= 1
    assert logsumexp_error(fastce.logsumexp(logits, n_threads=n_threads), scipy.special.logsumexp(wide)) <= 1
    expected = wide - sums
    bound = 1.5 * np.spacing(np.abs(expected).astype(np.float32)) + 2 * eps
    assert_within(fastce.log_softmax(logits, axis=1, n_threads=n_threads), expected, bound, "log_softmax at")
    distance = wide.max(axis=1, keepdims=True) - wide
    expected = np.exp(expected)
    bound = (4 + distance / 2) * eps * expected + np.finfo(np.float32).smallest_normal
    assert_within(fastce.softmax(logits, axis=1, n_threads=n_threads), expected, bound, "softmax at")


def test_long_rows_along_the_first_axis():
    logits, labels = rows_with_a_late_peak(THREE), np.array([PEAK, 0, 5])
    across = np.ascontiguousarray(logits.T)
    exact = naive.CrossEntropy(across, labels, axis=0)
    value, grad = fastce.cross_entropy_value_and_grad(across, labels, axis=0, reduction="none")
    assert_losses(value, exact, across.dtype, "none", {})
    assert_gradient(grad, exact, across.dtype, "none", 1.0, {})
    assert logsumexp_error(fastce.logsumexp(across, axis=0), naive.row_logsumexp(logits.astype(np.float64))) <= 1
