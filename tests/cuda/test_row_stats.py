"""row_stats on a device: the tests of the CPU's by way of the simulator, in all layouts and dtypes."""

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse
import test_several_targets
import test_statistics
from crosscheck import INTEGERS, LAYOUTS, filled, pairwise
from test_statistics import (  # noqa: F401  (tests)
    test_a_target_that_is_masked_has_probability_zero,
    test_one_class_is_certain,
    test_rows_without_probabilities_have_the_documented_values,
    test_the_results_come_in_the_order_asked_for_and_logsumexp_is_the_default,
    test_tiny_entropies_and_log_probabilities_keep_their_digits,
)

import fastce

pytest.importorskip("numba_cuda")

CHECKS = test_statistics  # for the fixtures
pytestmark = pytest.mark.usefixtures("taking_lists", "small_blocks")
KINDS = ["normal", "confident", "two stand out", "common offset", "beyond 2**20", "masked"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [1, 2, 17, 70, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_all_outputs_are_those_of_the_formulas(rng, classes, kind, dtype):
    for scale in (0.0, 1.0, 50.0):
        logits = CHECKS.rows_of(kind, rng, 4, classes, scale).astype(dtype)
        targets = rng.integers(0, classes, 4)
        targets[:2] = logits[:2].argmax(1)
        CHECKS.check(logits, targets)


CASES = pairwise(
    layout=list(LAYOUTS), dtype=["float32", "float64", "float16", "bfloat16", "int32", "bool"],
    classes=[1, 5, 40, 200], targets=INTEGERS, share=[0.0, 1.0],
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_layouts_dtypes_and_targets(rng, case):
    """Each output alone, too; and ignored rows have no target."""
    dtype = np.dtype(ml_dtypes.bfloat16 if case["dtype"] == "bfloat16" else case["dtype"])
    x, axis = filled(case["layout"], lambda shape: 4 * rng.normal(size=shape), 3, case["classes"], dtype)
    lead = tuple(np.delete(x.shape, 1 if axis is None else axis % x.ndim))
    targets = rng.integers(0, min(case["classes"], 100), lead).astype(case["targets"])
    CHECKS.check(x, targets, axis=axis, top_k=2)
    ignored = targets == targets.flat[0]
    ours = CHECKS.fastce.row_stats(x, targets, outputs=CHECKS.OUTPUTS, axis=axis, ignore_index=int(targets.flat[0]))
    plain = CHECKS.fastce.row_stats(x, targets, outputs=CHECKS.OUTPUTS, axis=axis)
    unknown = {"target_log_prob": np.nan, "target_rank": -1, "in_top_k": False}
    for name, value in ours.items():
        np.testing.assert_array_equal(value, np.where(ignored, unknown.get(name, plain[name]), plain[name]), name)
        alone = CHECKS.fastce.row_stats(x, targets, outputs=name, axis=axis)[name]
        np.testing.assert_array_equal(alone, plain[name], name)


@pytest.mark.parametrize(("dtype", "length"), [(d, 4) for d in CHECKS.DTYPES] + [(np.float32, 70), (np.float64, 70)])
def test_special_values_concern_their_row_alone(rng, length, dtype):
    CHECKS.test_special_values_concern_their_row_alone(rng, length, dtype)


def test_no_rows_and_one_row_of_one_dimension():
    ours = CHECKS.fastce.row_stats
    for name, value in ours(np.empty((0, 3), np.float32), np.empty(0, int), outputs=CHECKS.OUTPUTS).items():
        assert value.shape == (0,), name
    stats = ours(np.zeros(2), np.array(1), outputs=("logsumexp", "argmax", "target_rank"))
    assert {name: value.shape for name, value in stats.items()} == dict.fromkeys(stats, ())
    assert (stats["argmax"], stats["target_rank"]) == (0, 1)


@pytest.fixture
def several(monkeypatch):
    """The tests of several targets in a row, by way of the device."""
    monkeypatch.setattr(test_several_targets, "fastce", CHECKS.fastce)
    return test_several_targets


@pytest.mark.parametrize("dtype", CHECKS.DTYPES)
@pytest.mark.parametrize("classes", [1, 3, 40])
@pytest.mark.parametrize("ties", [False, True])
def test_the_best_of_several_counts(rng, several, classes, ties, dtype):
    x = rng.integers(-3, 4, (20, classes)) if ties else rng.normal(size=(20, classes)) * 4
    belongs = several.some_of(rng, x.shape, 0.1 if classes > 3 else 0.5)
    for there in (x.astype(dtype), np.asfortranarray(x.astype(dtype))):
        several.check(there, belongs, targets=scipy.sparse.csr_array(belongs.astype(np.float32)))
    several.check(x.T.astype(dtype), belongs, targets=scipy.sparse.csr_array(belongs.astype(np.float64)), axis=0)


def test_where_a_target_of_several_is_nan_or_stored_as_0(several):
    logits = np.array([[0.0, 1.0, np.nan], [0.0, 1.0, 2.0], [-np.inf, 0.0, -np.inf], [1.0, 2.0, 3.0]])
    parts = (np.array([1.0, 1e-300, 1.0, 1.0, 1.0, 0.0]), np.array([0, 2, 1, 0, 2, 2]), np.array([0, 2, 3, 5, 6]))
    stats = CHECKS.fastce.row_stats(logits, scipy.sparse.csr_array(parts), outputs=several.OF_TARGETS, top_k=2)
    np.testing.assert_array_equal(stats["target_rank"], [-1, 1, 1, -1])
    np.testing.assert_array_equal(stats["in_top_k"], [False, True, True, False])
    np.testing.assert_array_equal(np.isnan(stats["target_log_prob"]), [True, False, False, True])
    assert stats["target_log_prob"][2] == -np.inf


ZEROS = np.zeros((3, 4), np.float32)
SPARSE = scipy.sparse.csr_array(np.eye(3, 4))


@pytest.mark.parametrize(
    ("targets", "options"),
    [
        (None, {"outputs": ("max", "target_rank", "in_top_k")}), (None, {"outputs": ["mean"]}), (None, {"outputs": ()}),
        (None, {"top_k": 0}), (None, {"top_k": 2.0}), (None, {"ignore_index": 1.5}), (None, {"axis": 2}),
        (np.array([0, 1]), {}), (np.array([0, 4, 5]), {}), (np.array([0, 0, -1]), {}),
        (np.array([-100, 0, -1]), {"outputs": "target_rank"}), (np.array([-100, 0, 1]), {"ignore_index": -1}),
        (np.array([0, 0, 2**64 - 1], np.uint64), {}), (np.zeros(3), {}), (np.zeros(3, bool), {}),
        (np.zeros((3, 4), int), {}), (SPARSE, {"ignore_index": 1}), (scipy.sparse.csr_array(np.eye(3)), {}),
        (-SPARSE, {}), (SPARSE, {"n_threads": 0}),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused_in_the_words_of_the_cpu(targets, options):
    with pytest.raises((TypeError, ValueError, IndexError)) as expected:
        fastce.row_stats(ZEROS, targets, **options)
    with pytest.raises(expected.type) as error:
        CHECKS.fastce.row_stats(ZEROS, targets, **options)
    assert str(error.value) == str(expected.value)
