"""clip_loss on a device of similarities of every magnitude, against the formula in wide precision."""

import magnitudes
import numpy as np
import pytest
import test_magnitudes_contrastive
from checks import dtype_of
from test_magnitudes_contrastive import assert_right

pytest.importorskip("numba_cuda")

CHECKS = test_magnitudes_contrastive  # for the fixtures
pytestmark = test_magnitudes_contrastive.pytestmark
OFFSETS = {
    "float32": [0.0, -3e5, 3e38], "float64": [0.0, 1e9, 1.7e308, -1.7e308], "float16": [0.0, 6e4],
    "bfloat16": [0.0, -3e38],
}  # fmt: skip


def with_offset(rng, offset, dtype, shape):
    """Similarities some ulp of the offset apart: their differences are all that a loss depends on."""
    step = magnitudes.ulp(np.float64(abs(offset) or 0.25), dtype)
    return (offset - np.sign(offset or 1) * rng.integers(0, 9, shape) * float(step)).astype(dtype), float(step)


def check_offsets(rng, name, offsets, shape=(7, 7), smoothings=(0.1, 1.0)):
    for offset in offsets:
        similarity, step = with_offset(rng, offset, dtype_of(name), shape)
        for smoothing in smoothings:
            scale = 0.3 / step if 1e-289 < 0.3 / step < 1e290 and abs(offset) < 1e20 else 1.0
            assert_right(similarity, np.eye(*shape), "mean", scale, smoothing)


@pytest.mark.parametrize("name", OFFSETS)
def test_differences_of_smoothed_similarities_keep_their_digits(on_device, rng, name):
    check_offsets(rng, name, OFFSETS[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_they_do_in_matrices_of_many_tiles(on_device, rng, name):
    check_offsets(rng, name, OFFSETS[name][1:], (40, 300), (0.1,))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_distances_beyond_the_largest_number(on_device, smoothing):
    """A mean is finite if it is, though losses of rows are not; nothing is lost where all similarities are equal."""
    for n, m in ((3, 2.0**1023), (12, 1.7e308)):
        similarity = np.full((n, n), -m)
        similarity[1:, 0] = -0.5 * m
        similarity[np.arange(n), np.arange(n)] = m
        similarity[0, :2] = -0.9 * m, 0.97 * m
        for reduction in ("mean", "sum", "none")[: 3 if n == 3 else 1]:
            assert_right(similarity, np.eye(n), reduction, 1.0, smoothing)
        assert_right(np.full((n, n), m), np.eye(n), "mean", 1.0, smoothing)
        assert_right(np.full((n, n), -m), np.eye(n), "sum", 1.0, smoothing)


@pytest.mark.parametrize("mask", [-np.inf, -1e30, float(np.finfo(np.float64).min)])
def test_masks_where_a_number_near_the_others_is_looked_for(on_device, rng, mask):
    similarity = rng.normal(size=(12, 12))
    similarity[0, 1:11] = similarity[2:11, 0] = mask
    for smoothing in (0.1, 1.0):
        assert_right(similarity, np.eye(12), "none", 1.0, smoothing)


@pytest.mark.ptx
@pytest.mark.slow
@pytest.mark.parametrize("name", ["float32", "float64"])
def test_differences_keep_their_digits_in_compiled_kernels(launched, rng, name):
    check_offsets(rng, name, OFFSETS[name][1:], (7, 70), (0.1,))
