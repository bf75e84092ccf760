"""Few classes in float32, of which one has all of a target: rows of any distance, and gradients times any number."""

import types

import numpy as np
import pytest

import fastce

pytest.importorskip("numba_cuda")

CHECKS = types.SimpleNamespace(fastce=fastce)  # for the fixtures
LARGEST = float(np.finfo(np.float32).max)
HALVES = [0.0, 1e-3, 0.7, 5.0, 16.0, 33.0, 34.0, 44.0, 51.0, 1e10, 1e30, LARGEST / 2, LARGEST]  # of distances


def rows():
    """(logits, targets): the targets at the top and at the bottom of rows, and in between."""
    each = [[half, -half, -half / 2] for half in HALVES]
    logits = np.float32([row for row in each for _ in range(3)])
    return logits, np.arange(len(logits)) % 3


def exact(logits, targets):
    """(losses, gradients) in float64; with the top left out of the sum, no digit of a confident row is lost."""
    x, i = logits.astype(np.float64), np.arange(len(logits))
    exps, top = np.exp(x - x.max(axis=1, keepdims=True)), x.argmax(axis=1)
    others = exps.copy()
    others[i, top] = 0.0
    rest = others.sum(axis=1)
    gradients = exps / (1.0 + rest)[:, None]
    gradients[i, targets] = np.where(targets == top, -rest / (1.0 + rest), gradients[i, targets] - 1.0)
    return np.log1p(rest) + (x.max(axis=1) - x[i, targets]), gradients


def check(functions, above):
    logits, targets = rows()
    losses, gradients = exact(logits, targets)
    given = {"grad_output": above, "reduction": "none"}
    ours = functions.cross_entropy_value_and_grad(logits, targets, **given)
    with np.errstate(over="ignore", invalid="ignore"):
        expected = losses.astype(np.float32)  # some are infinite
        assert np.all((ours.value == expected) | (abs(ours.value - losses) <= 4 * np.spacing(expected)))
    np.testing.assert_array_equal(functions.cross_entropy(logits, targets, reduction="none"), ours.value)
    np.testing.assert_allclose(ours.grad, gradients * above, rtol=0, atol=4 * np.finfo(np.float32).eps * above)
    total = functions.cross_entropy_value_and_grad(logits, targets, grad_output=above, reduction="sum")
    assert functions.cross_entropy(logits, targets, reduction="sum") == total.value
    np.testing.assert_allclose(total.value, losses.sum(), rtol=4 * np.finfo(np.float32).eps)
    np.testing.assert_array_equal(total.grad, ours.grad)


@pytest.mark.parametrize("above", [1.0, 3e-30, 1e30])
def test_rows_of_any_distance(on_device, above):
    check(on_device, above)


@pytest.mark.ptx
def test_them_in_compiled_kernels(launched):
    check(launched, 3e-30)
    check(launched, 1.0)


def test_a_weight_of_one_changes_nothing_but_roundings(on_device, rng):
    logits, targets = (rng.normal(size=(300, 7)) * 6).astype(np.float32), rng.integers(0, 7, 300)
    plain = on_device.cross_entropy_value_and_grad(logits, targets, reduction="none")
    weighed = on_device.cross_entropy_value_and_grad(logits, targets, reduction="none", sample_weight=np.ones(300))
    np.testing.assert_array_max_ulp(plain.value, weighed.value, 2)
    np.testing.assert_allclose(plain.grad, weighed.grad, rtol=0, atol=2 * np.finfo(np.float32).eps)
