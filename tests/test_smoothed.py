"""Label smoothing and class weights of few classes with class indices, against extended precision."""

import numpy as np
import pytest
from checks import same_bits

import fastce

CLASSES = [1, 2, 3, 10, 17, 77, 256]


def truth(logits, labels, weight, smoothing):
    """Loss and gradient in long double, with log1p where a class is likely."""
    rows = np.arange(len(logits))
    x = logits.astype(np.longdouble)
    x -= x.max(1, keepdims=True)
    exps, top = np.exp(x), x.argmax(1)
    minus_log_p = np.log(exps.sum(1, keepdims=True)) - x
    exps[rows, top] = 0
    minus_log_p[rows, top] = np.log1p(exps.sum(1))
    q = np.full(x.shape, np.longdouble(smoothing) / x.shape[1])
    q[rows, labels] += 1 - np.longdouble(smoothing)
    if weight is not None:
        q *= weight
    return (q * minus_log_p).sum(1), q.sum(1, keepdims=True) * np.exp(-minus_log_p) - q


def a_case(rng, classes, scale, weighted):
    """Rows of all heights, most of them common ones, in tiles that have to treat them alike."""
    logits = rng.normal(size=(300, classes)) * scale
    logits[::50] += rng.choice([-3000, -40, 40, 3000], size=(6, 1))
    weight = rng.uniform(0.1, 3, classes).astype(np.float32) if weighted else None
    return logits.astype(np.float32), rng.integers(0, classes, 300), weight


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scale", [0.01, 0.3, 5, 100])
@pytest.mark.parametrize("classes", CLASSES)
def test_losses_to_4_ulp_and_gradients_to_4_eps(rng, classes, scale, weighted):
    logits, labels, weight = a_case(rng, classes, scale, weighted)
    options = {"weight": weight, "label_smoothing": 0.1, "reduction": "none"}
    loss, gradient = fastce.cross_entropy_value_and_grad(logits, labels, **options)
    expected, slopes = truth(logits, labels, weight, 0.1)
    assert (np.abs(loss - expected) <= 4 * np.spacing(expected.astype(np.float32))).all()
    assert (np.abs(gradient - slopes) <= 4 * np.finfo(np.float32).eps * (3 if weighted else 1)).all()
    assert same_bits(fastce.cross_entropy(logits, labels, **options), loss)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("classes", CLASSES)
def test_a_row_has_the_same_bits_beside_rows_far_from_it_and_in_every_layout(rng, classes, weighted):
    logits, labels, weight = a_case(rng, classes, 3, weighted)
    options = {"weight": weight, "label_smoothing": 0.1, "reduction": "none"}
    loss, gradient = fastce.cross_entropy_value_and_grad(logits, labels, **options)
    in_columns = fastce.cross_entropy_value_and_grad(np.asfortranarray(logits), labels, **options)
    assert same_bits(in_columns[0], loss)
    assert same_bits(in_columns[1], gradient)
    for start, stop in [(k, k + 1) for k in range(0, 300, 25)] + [(1, 50), (1, 290)]:
        part = fastce.cross_entropy_value_and_grad(logits[start:stop], labels[start:stop], **options)
        assert same_bits(part[0], loss[start:stop])
        assert same_bits(part[1], gradient[start:stop])


@pytest.mark.parametrize("height", [0, 500])
def test_a_class_of_weight_0_may_be_masked_out(rng, height):
    logits, labels, weight = a_case(rng, 7, 2, True)
    logits += np.float32(height)
    logits[:, 3], weight[3], labels[labels == 3] = -np.inf, 0, 4
    options = {"label_smoothing": 0.2, "reduction": "none"}
    loss = fastce.cross_entropy(logits, labels, weight=weight, **options)
    others = [0, 1, 2, 4, 5, 6]
    few = logits[:, others], labels - (labels > 3), weight[others]
    rows = np.arange(300)
    minus_log_p = -fastce.log_softmax(few[0].astype(np.float64), axis=1)
    q = np.full(few[0].shape, 0.2 / 7)
    q[rows, few[1]] += 0.8
    np.testing.assert_allclose(loss, (q * few[2] * minus_log_p).sum(1), rtol=1e-6)


def test_no_mass_of_light_classes_is_lost_beside_a_heavy_target(rng):
    logits = np.full((40, 5), -30, np.float32)
    logits[:, 2] = 30
    weight = np.array([1, 2, 1e20, 3, 4], np.float32)
    loss = fastce.cross_entropy(logits, np.full(40, 2), weight=weight, label_smoothing=0.5, reduction="none")
    expected, _ = truth(logits, np.full(40, 2), weight, 0.5)
    np.testing.assert_allclose(loss, expected.astype(np.float64), rtol=3e-7)
