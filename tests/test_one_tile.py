"""Small matrices, of products or given: a way of their own, held against the formulas."""

import dense
import numpy as np
import pytest
from checks import NAMES, dtype_of
from clip_checks import assert_clip
from covering import covering

import fastce
from fastce.arguments.positives import positives_of
from fastce.cpu import one_tile
from fastce.cpu.ends import ends_of
from fastce.cpu.matrix_similarity import MatrixSimilarity
from fastce.losses import plain_features

CLIP, NT_XENT = "clip_loss_from_features", "nt_xent"


@pytest.fixture
def ends_found(monkeypatch):
    """Whether each tile that was read was one that kernels end."""
    found = []

    def watched(*args, **named):
        ends = ends_of(*args, **named)
        found.append(ends is not None)
        return ends

    for module in (one_tile, plain_features):
        monkeypatch.setattr(module, "ends_of", watched)
    return found


def sides(rng, n, width=24):
    a = rng.normal(size=(n, width)) / np.sqrt(width)
    return a.astype(np.float32), (a + 0.4 * rng.normal(size=(n, width)) / np.sqrt(width)).astype(np.float32)


@covering(
    {
        "n": [2, 3, 17, 63, 64, 65, 200],
        "scale": [0.1, 1.0, 14.3],
        "smoothing": [0.0, 0.1, 1.0],
        "normalize": [False, True],
        "targets": ["none", "diagonal", "permuted"],
    }
)
def test_clip_is_the_dense_formula(rng, ends_found, n, scale, smoothing, normalize, targets):
    images, texts = sides(rng, n)
    options = {"label_smoothing": smoothing, "normalize": normalize}
    if targets != "none":
        options["targets"] = np.arange(n) if targets == "diagonal" else rng.permutation(n)
    dense.check(CLIP, images, texts, scale, **options)
    assert ends_found
    assert all(ends_found)


@pytest.mark.parametrize("n", [2, 3, 16, 33, 150])
@pytest.mark.parametrize("normalize", [False, True])
def test_nt_xent_is_the_dense_formula(rng, ends_found, n, normalize):
    dense.check(NT_XENT, *sides(rng, n), temperature=0.3, normalize=normalize)
    assert ends_found
    assert all(ends_found)


@pytest.mark.parametrize("scale", [80.0, 3000.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_comes_near_the_end_of_the_range_is_left_to_the_usual_way(rng, ends_found, scale, smoothing):
    features = np.eye(9, 12, dtype=np.float32) + np.float32(0.01) * rng.normal(size=(9, 12)).astype(np.float32)
    features[4:] *= 3
    dense.check(CLIP, features, features[::-1].copy(), scale, label_smoothing=smoothing)
    assert not any(ends_found)


def test_the_edge_of_what_is_a_small_tile(ends_found):
    for n, is_small in ((724, True), (725, False)):
        features = np.random.default_rng(3).normal(size=(n, 8)).astype(np.float32)
        found = fastce.clip_loss_from_features_value_and_grad(features, features[::-1].copy(), normalize=True)
        exact = dense.clip_loss_from_features(features, features[::-1].copy(), normalize=True)
        assert found.value == pytest.approx(exact.value, rel=1e-6)
        assert ends_found == [True] * is_small
        ends_found.clear()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_and_its_twin_have_the_same_bits_whatever_is_in_them(rng, bad):
    for broken in (False, True):
        images, texts = sides(rng, 20)
        if broken:
            images[3, 2] = bad
        for reduction in ("none", "mean", "sum"):
            alone = fastce.clip_loss_from_features(images, texts, 5.0, reduction=reduction)
            twin = fastce.clip_loss_from_features_value_and_grad(images, texts, 5.0, reduction=reduction).value
            assert np.array_equal(alone, twin, equal_nan=True)


@covering(
    {
        "n": [2, 3, 16, 63, 65, 200],
        "scale": [0.1, 1.0, 14.3],
        "smoothing": [0.0, 0.1, 1.0],
        "name": [name for name in NAMES if name != "float64"],
        "targets": ["none", "permuted"],
    }
)
def test_small_matrices_are_the_formula(rng, n, scale, smoothing, name, targets):
    similarity = rng.normal(size=(n, n)).astype(dtype_of(name))
    chosen = None if targets == "none" else rng.permutation(n)
    assert MatrixSimilarity(similarity, chosen, scale, smoothing, "mean", None).ends is not None
    assert_clip(similarity, chosen, logit_scale=scale, label_smoothing=smoothing)


@pytest.mark.parametrize("fill", [-1e9, -3e38, -np.inf])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_masked_pairs_of_small_matrices(rng, fill, smoothing):
    similarity = rng.normal(size=(30, 30)).astype(np.float32)
    similarity[rng.random((30, 30)) < 0.2] = fill
    np.fill_diagonal(similarity, 1.0)
    found = MatrixSimilarity(similarity, None, 1.0, smoothing, "mean", None)
    assert (found.ends is None) == (smoothing > 0.0 and fill < -1e18)
    if np.isfinite(fill) or not smoothing:
        assert_clip(similarity, label_smoothing=smoothing)


def test_only_matrices_with_one_positive_in_each_row_and_column_are_for_kernels_alone(rng):
    similarity = rng.normal(size=(6, 6)).astype(np.float32)
    for targets, is_one in ((None, True), (np.arange(6)[::-1], True), ([0, 1, 2, 3, 4, 4], False)):
        assert (positives_of(targets, (6, 6)).column_mass.min() == 1.0) == is_one
        assert (MatrixSimilarity(similarity, targets, 1.0, 0.0, "sum", None).ends is not None) == is_one
    assert MatrixSimilarity(similarity.astype(np.float64), None, 1.0, 0.0, "sum", None).ends is None
    assert MatrixSimilarity(similarity[:5], np.arange(5), 1.0, 0.0, "sum", None).ends is None
