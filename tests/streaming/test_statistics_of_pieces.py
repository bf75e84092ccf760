"""Statistics of logits in pieces: as of the whole matrix, which test_statistics.py holds against the formulas."""

import itertools
from typing import get_args

import numpy as np
import pytest
from checks import dtype_of, mixture
from covering import covering

import fastce
from fastce import streaming
from fastce.typing import Statistic

OUTPUTS = get_args(Statistic)
ROWS, CLASSES = 70, 40


def blocks_of(x, pieces):
    cuts = [0, 1, 1, 21, 39, 40] if pieces == "classes" else [0, 5, 5, 6, 70]
    axis = 1 if pieces == "classes" else 0
    return [np.take(x, range(a, b), axis) for a, b in itertools.pairwise(cuts)]


def given(kind, x):
    if kind in ("rows", "classes"):
        return blocks_of(x, kind), {"pieces": kind}
    return (np.asfortranarray(x) if kind == "tiles" else x), {"memory_budget": 1_500}


@covering(
    {"dtype": ["float32", "float64", "float16", "bfloat16"], "kind": ["rows", "classes", "matrix", "tiles"]}, quick=1
)
def test_all_outputs(dtype, kind, rng):
    x, targets = mixture(rng, ROWS, CLASSES, dtype_of(dtype))
    x[5], x[6, ::3] = 2.5, x[6].max()  # ties
    logits, options = given(kind, x)
    found = streaming.row_stats(logits, targets, outputs=OUTPUTS, top_k=3, **options)
    expected = fastce.row_stats(x, targets, outputs=OUTPUTS, top_k=3)
    assert list(found) == list(expected)
    eps = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    for name in OUTPUTS:
        assert found[name].dtype == expected[name].dtype, name
        if name in ("logsumexp", "entropy", "target_log_prob"):
            atol = 16 * eps if name == "logsumexp" else 0.0
            np.testing.assert_allclose(found[name], expected[name], rtol=16 * eps, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def test_only_ranks_look_twice(rng):
    x, targets = mixture(rng, ROWS, CLASSES, np.dtype("f4"))
    blocks = blocks_of(x, "classes")
    found = streaming.row_stats(iter(blocks), targets, pieces="classes", outputs=("target_log_prob", "entropy"))
    assert list(found) == ["target_log_prob", "entropy"]
    with pytest.raises(ValueError, match="ranks of targets read blocks of classes twice"):
        streaming.row_stats(iter(blocks), targets, pieces="classes", outputs="target_rank")


def test_targets_may_come_with_blocks_of_rows(rng):
    x, targets = mixture(rng, ROWS, CLASSES, np.dtype("f4"))
    blocks = [(x[:30], targets[:30]), (x[30:], targets[30:])]
    rank = streaming.row_stats(blocks, outputs="target_rank")["target_rank"]
    np.testing.assert_array_equal(rank, fastce.row_stats(x, targets, outputs="target_rank")["target_rank"])


@pytest.mark.parametrize("kind", ["rows", "classes", "matrix", "tiles"])
def test_targets_that_are_missing_or_wrong(kind, rng):
    x, targets = mixture(rng, ROWS, CLASSES, np.dtype("f4"))
    logits, options = given(kind, x)
    with pytest.raises(ValueError, match="'target_rank' need targets, got None"):
        streaming.row_stats(logits, outputs=("max", "target_rank"), **options)
    targets[66] = 40
    with pytest.raises(IndexError, match="class index 40, accepted are 0 to 39"):
        streaming.row_stats(logits, targets, outputs="target_log_prob", **options)
    with pytest.raises(ValueError, match="must be one of"):
        streaming.row_stats(logits, outputs="mode", **options)
    with pytest.raises(ValueError, match="top_k must be at least 1"):
        streaming.row_stats(logits, top_k=0, **options)


@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("kind", ["rows", "classes", "matrix", "tiles"])
def test_ignored_rows(kind, ignore_index, rng):
    x, targets = mixture(rng, ROWS, CLASSES, np.dtype("f8"))
    targets[::3], targets[1] = ignore_index, (ignore_index + 1) % CLASSES
    logits, options = given(kind, x)
    for y in (targets, np.full(ROWS, ignore_index)):
        found = streaming.row_stats(logits, y, outputs=OUTPUTS, ignore_index=ignore_index, **options)
        expected = fastce.row_stats(x, y, outputs=OUTPUTS, ignore_index=ignore_index)
        assert np.isnan(found["target_log_prob"][::3]).all()
        for name in OUTPUTS:
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-14, atol=1e-14, err_msg=name)
    targets[66], targets[67] = CLASSES, -1
    with pytest.raises(IndexError, match=r"row (66|60|2) hold class index 40, accepted are 0 to 39"):
        streaming.row_stats(logits, targets, outputs="target_rank", ignore_index=ignore_index, **options)
