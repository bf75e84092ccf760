"""Statistics of logits in pieces: as of the whole matrix, which test_statistics.py holds against the formulas."""

import itertools
from typing import get_args

import numpy as np
import pytest
from checks import dtype_of, mixture
from covering import covering
from scipy import sparse

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


# ------------------------------------------------------------------------------------ several targets in a row
def several(rng):
    """Targets of two in five rows one, of one none, of two several."""
    belongs = rng.random((ROWS, CLASSES)) < rng.choice([0.0, 1 / CLASSES, 1 / CLASSES, 0.2, 1.0], (ROWS, 1))
    belongs[[0, 7]] = False
    return sparse.csr_array(belongs)


@covering(
    {"dtype": ["float32", "float64", "float16", "bfloat16"], "kind": ["rows", "classes", "matrix", "tiles"]}, quick=1
)
def test_the_best_of_several_targets(dtype, kind, rng):
    x = rng.integers(-3, 4, (ROWS, CLASSES)).astype(dtype_of(dtype))
    x[11, 3], x[12], x[13, 5] = np.nan, -np.inf, np.inf
    targets = several(rng)
    logits, options = given(kind, x)
    found = streaming.row_stats(logits, targets, outputs=OUTPUTS, top_k=3, **options)
    expected = fastce.row_stats(x, targets, outputs=OUTPUTS, top_k=3)
    eps = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    for name in OUTPUTS:
        alone = streaming.row_stats(logits, targets, outputs=name, top_k=3, **options)[name]
        assert found[name].dtype == alone.dtype == expected[name].dtype, name
        np.testing.assert_allclose(found[name], expected[name], rtol=16 * eps, atol=16 * eps, err_msg=name)
        np.testing.assert_allclose(alone, expected[name], rtol=16 * eps, atol=16 * eps, err_msg=name)


def test_several_targets_may_come_with_blocks_of_rows(rng):
    x, targets = rng.normal(size=(ROWS, CLASSES)), several(rng)
    blocks = [(x[:30], targets[:30]), (x[30:], targets[30:])]
    rank = streaming.row_stats(blocks, outputs="target_rank")["target_rank"]
    np.testing.assert_array_equal(rank, fastce.row_stats(x, targets, outputs="target_rank")["target_rank"])


@pytest.mark.parametrize(("outputs", "looks"), [("target_rank", 3), ("target_log_prob", 2), ("argmax", 1)])
def test_how_often_blocks_of_classes_are_looked_at(rng, outputs, looks):
    x, done = rng.normal(size=(ROWS, CLASSES)), []
    blocks, targets = blocks_of(x, "classes"), several(rng)
    streaming.row_stats(blocks, targets, pieces="classes", outputs=outputs, progress=lambda *n: done.append(n))
    assert done[-1] == (looks * len(blocks), looks * len(blocks))
    if looks > 1:
        with pytest.raises(ValueError, match="several targets in a row read blocks of classes twice"):
            streaming.row_stats(iter(blocks), targets, pieces="classes", outputs=outputs)


@pytest.mark.parametrize("outputs", ["target_rank", "argmax"])
@pytest.mark.parametrize("kind", ["rows", "classes", "matrix", "tiles"])
def test_several_targets_that_are_wrong(kind, outputs, rng):
    x, targets = rng.normal(size=(ROWS, CLASSES)), several(rng)
    logits, options = given(kind, x)
    for wrong in (targets[:, :-1], targets[:-1], sparse.csr_array((ROWS, CLASSES + 1))):
        with pytest.raises(ValueError, match=r"targets|block of classes has shape"):
            streaming.row_stats(logits, wrong, outputs=outputs, **options)
    with pytest.raises(ValueError, match="finite and not negative"):
        streaming.row_stats(logits, -targets.astype(float), outputs=outputs, **options)
    with pytest.raises(ValueError, match="ignore_index applies to class indices"):
        streaming.row_stats(logits, targets, outputs=outputs, ignore_index=0, **options)


@pytest.mark.parametrize("targets", [np.empty(0, int), sparse.csr_array((0, 3))])
def test_a_matrix_without_rows(targets):
    for value in streaming.row_stats(np.empty((0, 3)), targets, outputs=OUTPUTS).values():
        assert value.shape == (0,)
