"""Gradients from the exps that the first look has kept, and of rows and factors that they do not serve."""

import numpy as np
import pytest

import fastce

ROWS = 5


def exact_gradient(logits, targets):
    x = logits.astype(np.longdouble)
    x = x - x.max(axis=1, keepdims=True)
    p = np.exp(x)
    p /= p.sum(axis=1, keepdims=True)
    p[np.arange(len(x)), targets] = 0
    p[np.arange(len(x)), targets] = -p.sum(axis=1)
    return p


def logits_of(kind, classes, rng):
    x = rng.normal(size=(ROWS, classes)) * 3
    if kind == "rising":  # every vector has a new largest element
        x.sort(axis=1)
    if kind == "outgrown":  # far above the guess from the row's first elements
        x[:, classes // 2] += 500
    if kind == "offset":
        x += 1e4
    return x


# up to 65,536 float32 and half as many float64 are kept
@pytest.mark.parametrize("classes", [257, 2049, 32_768, 32_769, 65_536, 65_537])
@pytest.mark.parametrize("kind", ["normal", "rising", "outgrown", "offset"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_gradients_of_all_lengths(dtype, kind, classes, rng):
    logits = logits_of(kind, classes, rng).astype(dtype)
    targets = np.array([0, 15, 16, classes // 2, classes - 1])
    exact = exact_gradient(logits, targets)
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="sum")
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(grad.astype(np.longdouble), exact, rtol=4 * eps, atol=max(1e-30, np.finfo(dtype).tiny))
    assert value == fastce.cross_entropy(logits, targets, reduction="sum")
    in_place = logits.copy()
    assert fastce.cross_entropy_value_and_grad(in_place, targets, reduction="sum", out=in_place).value == value
    np.testing.assert_array_equal(in_place, grad)


@pytest.mark.parametrize("classes", [257, 2049, 32_768, 65_537])
@pytest.mark.parametrize("kind", ["normal", "rising", "outgrown", "offset"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_softmax_of_all_lengths(dtype, kind, classes, rng):
    logits = logits_of(kind, classes, rng).astype(dtype)
    exact = np.exp(logits.astype(np.longdouble) - logits.max(axis=1, keepdims=True).astype(np.longdouble))
    exact /= exact.sum(axis=1, keepdims=True)
    found = fastce.softmax(logits, axis=1)
    info = np.finfo(dtype)
    np.testing.assert_allclose(found.astype(np.longdouble), exact, rtol=4 * info.eps, atol=info.smallest_normal)
    assert found.max() <= 1
    np.testing.assert_array_equal(fastce.softmax(logits, axis=1, out=logits), found)


@pytest.mark.parametrize("size", [1e-37, 1e-30, 1e-20, 1.0, 1e20, 1e30, 1e37])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gradients_of_all_sizes(dtype, size, rng):
    logits = rng.normal(size=(ROWS, 3000)).astype(dtype)
    logits[:, ::2] -= -0.9 * np.log(np.finfo(dtype).tiny)  # p of these is hardly a normal number
    targets = rng.integers(0, 3000, ROWS)
    grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="sum", grad_output=size).grad
    exact = exact_gradient(logits, targets) * size
    np.testing.assert_allclose(grad, exact.astype(float), rtol=8 * np.finfo(dtype).eps, atol=2 * np.finfo(dtype).tiny)
