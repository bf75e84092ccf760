"""Batches whose matrix of products is one small tile: a way of their own, held against the formulas."""

import dense
import numpy as np
import pytest
from covering import covering

import fastce
from fastce.cpu.one_tile import OneTile

CLIP, NT_XENT = "clip_loss_from_features", "nt_xent"


@pytest.fixture
def ends_found(monkeypatch):
    """Whether each tile that was read was one that kernels end."""
    found, read = [], OneTile.read

    def watched(self, place, tile):
        read(self, place, tile)
        found.append(self.ends is not None)

    monkeypatch.setattr(OneTile, "read", watched)
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
