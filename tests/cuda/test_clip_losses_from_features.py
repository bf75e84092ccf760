"""clip_loss_from_features on a device: by the simulator, and by compiled kernels that the interpreter of PTX runs;
products are NumPy's in both.
"""

import dense
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from clip_checks import make_targets

import fastce

pytest.importorskip("numba_cuda")

CHECKS = dense  # for the fixtures
CLIP = "clip_loss_from_features"
SEVERAL_PANELS = 300  # bytes


@pytest.fixture
def on_gpu(on_gpu):
    """Products on a GPU are CuPy's."""
    pytest.importorskip("cupy")
    return on_gpu


def pair(rng, n, m=None, width=6, dtype=np.float32):
    """Features of which those that belong together are alike."""
    a, b = rng.normal(size=(n, width)), rng.normal(size=(m or n, width))
    b[: min(n, m or n)] += a[: m or n]
    return a.astype(dtype), b.astype(dtype)


def check_everything(rng):
    """Dtypes, targets, smoothing, scales, reductions, one panel and several in a few calls."""
    for name, (n, m), kind, smoothing, normalize, budget in [
        ("float32", (13, 13), None, 0.0, True, 1 << 28),
        ("float32", (13, 13), None, 0.1, False, SEVERAL_PANELS),
        ("float64", (9, 9), None, 0.2, True, SEVERAL_PANELS),
        ("bfloat16", (12, 17), "permutation", 0.0, False, SEVERAL_PANELS),
        ("float16", (12, 7), "repeated", 0.1, True, 1),
        ("float32", (10, 21), "sparse, with empty rows", 0.3, True, SEVERAL_PANELS),
        ("float64", (1, 1), None, 0.0, False, 1 << 28),
    ]:
        targets = None if kind is None else make_targets(kind, rng, n, m)
        options = {"targets": targets, "label_smoothing": smoothing, "memory_budget": budget}
        reduction = rng.choice(REDUCTIONS if n == m else REDUCTIONS[1:])
        features = pair(rng, n, m, dtype=dtype_of(name))
        dense.check(CLIP, *features, 3.0, normalize=normalize, reductions=[reduction], **options)


# ------------------------------------------------------------------------------------------- in the simulator
def test_dtypes_targets_and_options(on_device, rng):
    check_everything(rng)


def test_each_side_has_the_gradient_of_its_own_dtype(on_device, rng):
    for names in [("float32", "float64"), ("bfloat16", "float32"), ("float16", "bfloat16")]:
        images, texts = (x.astype(dtype_of(name)) for x, name in zip(pair(rng, 5), names, strict=True))
        dense.check(CLIP, images, texts, 2.0, normalize=True, reductions=["mean"])


def test_panels_change_nothing_but_the_order_of_sums(on_device, rng):
    images, texts = pair(rng, 20, dtype=np.float64)
    one, several = (
        on_device.clip_loss_from_features_value_and_grad(images, texts, 2.0, memory_budget=budget)
        for budget in (1 << 28, SEVERAL_PANELS)
    )
    assert several.value == pytest.approx(one.value, rel=1e-15)
    for ours, expected in zip(several[1:], one[1:], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-14)


def test_confident_pairs_keep_their_digits(on_device):
    n, margin, eps = 9, 25.0, float(np.finfo(np.float32).eps)
    features = np.eye(n, dtype=np.float32)
    rest = (n - 1) * np.exp(-margin)
    ours = on_device.clip_loss_from_features_value_and_grad(features, features, margin)
    assert ours.value == pytest.approx(np.log1p(rest), rel=8 * eps)
    slope = -rest / (1 + rest)
    assert ours.grad_logit_scale == pytest.approx(slope, rel=8 * eps)
    np.testing.assert_allclose(np.diag(ours.grad_image_features), margin * slope / n, rtol=8 * eps)


def test_without_any_positive_or_anybody(on_device, rng):
    images, texts = pair(rng, 4, 6)
    nobody = scipy.sparse.csr_array((4, 6))
    value, *gradients = on_device.clip_loss_from_features_value_and_grad(images, texts, targets=nobody)
    assert np.isnan(value)
    assert all(np.all(gradient == 0) for gradient in gradients)
    assert on_device.clip_loss_from_features(images, texts, targets=nobody, reduction="sum") == 0
    for n, m in ((0, 0), (0, 5), (4, 0)):
        targets = scipy.sparse.csr_array((n, m))
        ours = on_device.clip_loss_from_features_value_and_grad(images[:n], texts[:m], targets=targets)
        assert np.isnan(ours.value)
        assert [gradient.shape for gradient in ours[1:3]] == [(n, 6), (m, 6)]
        assert not ours.grad_image_features.any()
        assert ours.grad_logit_scale == 0
        assert on_device.clip_loss_from_features(images[:n], texts[:m], targets=targets, reduction="sum") == 0


def test_errors_are_those_of_the_cpu(on_device, rng):
    images, texts = pair(rng, 4, 5)
    for arguments, options in [
        ((images, texts), {}),
        ((images, texts), {"targets": np.zeros(4, int), "reduction": "none"}),
        ((images, texts), {"targets": np.array([0, 1, 5, 2])}),
        ((images, texts[:, :3]), {"targets": np.zeros(4, int)}),
        ((images[0], texts), {}),
        ((images, images, -1.0), {}),
        ((images, images), {"memory_budget": 0}),
    ]:
        with pytest.raises((IndexError, ValueError, TypeError)) as expected:
            fastce.clip_loss_from_features(*arguments, **options)
        with pytest.raises(expected.type) as ours:
            on_device.clip_loss_from_features_value_and_grad(*arguments, **options)
        assert str(ours.value) == str(expected.value)


def test_progress_counts_panels(on_device, rng):
    steps = []
    images, texts = pair(rng, 13)
    budget = {"memory_budget": SEVERAL_PANELS, "progress": lambda done, total: steps.append((done, total))}
    on_device.clip_loss_from_features_value_and_grad(images, texts, **budget)
    total = steps[0][1]
    assert total > 2
    assert steps == [(k, total) for k in range(1, total + 1)]


# ------------------------------------------------------------------------------------------- compiled kernels
@pytest.mark.ptx
@pytest.mark.parametrize("name", NAMES)
def test_compiled_panels_of_several_tiles(launched, rng, name):
    images, texts = pair(rng, 40, 300, dtype=dtype_of(name))
    targets = make_targets("repeated", rng, 40, 300)
    dense.check(CLIP, images, texts, 5.0, targets=targets, normalize=True, reductions=["mean"], memory_budget=1 << 15)


# ------------------------------------------------------------------------------------------- on a GPU
@pytest.mark.gpu
def test_a_gpu_takes_dtypes_targets_and_options(on_gpu, rng):
    check_everything(rng)


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_takes_many_features(on_gpu, rng, name):
    images, texts = pair(rng, 3000, 2500, width=64, dtype=dtype_of(name))
    targets = make_targets("repeated", rng, 3000, 2500)
    for budget in (1 << 20, 1 << 28):
        options = {"normalize": True, "reductions": ["mean"], "memory_budget": budget}
        dense.check(CLIP, images, texts, 20.0, targets=targets, **options)
