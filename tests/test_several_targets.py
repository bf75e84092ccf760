"""row_stats of rows with several targets: the best of them counts, found here by looking at each in turn."""

import ml_dtypes
import naive
import numpy as np
import pytest
from covering import covering
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

import fastce
from fastce.arguments.statistics import OUTPUTS
from fastce.cpu import best_positive

INF, NAN = np.inf, np.nan
DTYPES = [np.float32, np.float64, np.float16, ml_dtypes.bfloat16]
OF_TARGETS = ("target_log_prob", "target_rank", "in_top_k")
LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "backwards": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
    "misaligned": lambda x: np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(x.dtype).reshape(x.shape),
    "byte-swapped": lambda x: x if x.dtype == ml_dtypes.bfloat16 else x.astype(x.dtype.newbyteorder()),
}


def expected_of(rows, belongs, top_k=5):
    """The definitions, a row and a target at a time: the least of their ranks, the largest of their probabilities."""
    x = naive.widened(rows)
    log_p = -naive.negative_log_softmax(x)
    broken, n = np.isnan(x).any(1), len(x)
    rank, log_prob = np.full(n, -1), np.full(n, NAN)
    for i, classes in enumerate(map(np.flatnonzero, belongs)):
        if classes.size:
            order = np.argsort(-x[i], kind="stable")  # of equal ones the first comes first
            places = [int(np.flatnonzero(order == c)[0]) for c in classes]
            rank[i] = -1 if broken[i] else min(places)
            log_prob[i] = NAN if broken[i] else max(log_p[i, classes])
    return {"target_log_prob": log_prob, "target_rank": rank, "in_top_k": (rank >= 0) & (rank < top_k)}


def check(logits, belongs, targets=None, axis=None, top_k=5, **options):
    targets = sparse.csr_array(belongs) if targets is None else targets
    rows, shape = naive.as_rows(logits, axis)
    actual = fastce.row_stats(logits, targets, outputs=OF_TARGETS, axis=axis, top_k=top_k, **options)
    expected = expected_of(rows, belongs, top_k)
    for name, value in actual.items():
        assert value.shape == shape
        exact = expected[name].reshape(shape)
        if name == "target_log_prob":
            assert np.all(naive.ulp_error(value, exact) <= naive.allowed(4, value.dtype))
        else:
            np.testing.assert_array_equal(value, exact, err_msg=name)
    for name in OF_TARGETS:  # each alone, too
        alone = fastce.row_stats(logits, targets, outputs=name, axis=axis, top_k=top_k, **options)[name]
        np.testing.assert_array_equal(alone, actual[name])


def some_of(rng, shape, density=0.1):
    """Whether a class is a target of a row; rows without any are among them."""
    belongs = rng.random(shape) < density
    belongs[::7] = False
    return belongs


# ------------------------------------------------------------------------------------- against the definitions
@covering({"dtype": DTYPES, "layout": [*LAYOUTS], "classes": [1, 3, 40, 300], "ties": [False, True]}, quick=1)
def test_the_best_of_several_counts(rng, dtype, layout, classes, ties):
    x = rng.integers(-3, 4, (50, classes)) if ties else rng.normal(size=(50, classes)) * 4
    logits = LAYOUTS[layout](x.astype(dtype))
    check(logits, some_of(rng, x.shape, 0.1 if classes > 3 else 0.5))


@pytest.mark.parametrize("dtype", [np.int8, np.int64, bool])
def test_logits_that_are_integers(rng, dtype):
    check(rng.integers(0, 9, (30, 12)).astype(dtype), some_of(rng, (30, 12), 0.3))


def test_integers_are_compared_as_float64():
    large = np.array([[2**53, 2**53 + 1, 0]])  # the second is the first, as float64
    assert fastce.row_stats(large, sparse.csr_array([[1, 1, 0]]), outputs="target_rank")["target_rank"] == 0
    assert fastce.row_stats(large, sparse.csr_array([[0, 1, 0]]), outputs="target_rank")["target_rank"] == 1


@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), None), ((5, 7), None), ((7, 5), 0), ((2, 7, 3), None), ((2, 3, 7), -1), ((7, 2, 3), 0)]
)
def test_any_axis_may_be_the_class_axis(rng, shape, axis):
    logits = rng.normal(size=shape)
    rows = logits.size // 7
    check(logits, rng.random((rows, 7)) < 0.4, axis=axis)


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("dtype", [bool, np.uint8, np.int64, np.float32])
def test_targets_of_any_form_and_dtype(rng, form, dtype):
    belongs = some_of(rng, (20, 15), 0.2)
    check(
        rng.integers(0, 5, (20, 15)).astype(np.float32), belongs, sparse.coo_array(belongs).astype(dtype).asformat(form)
    )
    check(rng.normal(size=(20, 15)), belongs, sparse.coo_matrix(belongs.astype(dtype)).asformat(form))


def test_one_target_in_each_row_is_as_its_class_index(rng):
    logits, labels = rng.normal(size=(300, 70)).astype(np.float32), rng.integers(0, 70, 300)
    labels[::5] = -100
    here = np.flatnonzero(labels >= 0)
    targets = sparse.csr_array((rng.uniform(0.1, 9, here.size), (here, labels[here])), shape=logits.shape)
    for outputs in (OUTPUTS, *OUTPUTS):
        one, several = (fastce.row_stats(logits, t, outputs=outputs) for t in (labels, targets))
        assert list(one) == list(several)
        for name in one:
            np.testing.assert_array_equal(several[name], one[name])


def test_all_classes_are_targets(rng):
    logits = rng.integers(0, 4, (40, 30)).astype(np.float32)
    stats = fastce.row_stats(logits, sparse.csr_array(np.ones((40, 30))), outputs=("target_rank", "argmax", "in_top_k"))
    assert (stats["target_rank"] == 0).all()
    assert stats["in_top_k"].all()


@given(
    st.tuples(st.integers(1, 40), st.integers(1, 60)), st.integers(0, 2**32 - 1), st.floats(0, 1), st.integers(1, 8),
    st.sampled_from([1, 7, 1 << 14]),
)  # fmt: skip
def test_no_target_alone_has_a_better_rank_and_one_of_them_has_it(shape, seed, density, values, at_a_time):
    rng = np.random.default_rng(seed)
    logits, belongs = rng.integers(0, values, shape).astype(np.float32), rng.random(shape) < density
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best_positive, "POINTS_AT_A_TIME", at_a_time)
        stats = fastce.row_stats(logits, sparse.csr_array(belongs), outputs=OF_TARGETS)
    alone = np.full(shape, shape[1] + 1)
    log_probs = np.full(shape, -INF, np.float32)
    for c in range(shape[1]):
        of_class = fastce.row_stats(logits, np.full(shape[0], c), outputs=OF_TARGETS)
        alone[:, c] = np.where(belongs[:, c], of_class["target_rank"], shape[1] + 1)
        log_probs[:, c] = np.where(belongs[:, c], of_class["target_log_prob"], -INF)
    some = belongs.any(1)
    np.testing.assert_array_equal(stats["target_rank"], np.where(some, alone.min(1), -1))
    np.testing.assert_array_equal(stats["target_log_prob"], np.where(some, log_probs.max(1), NAN))
    np.testing.assert_array_equal(stats["in_top_k"], some & (alone.min(1) < 5))


# ------------------------------------------------------------------------------------------ special values
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [np.ascontiguousarray, np.asfortranarray])
def test_special_values_concern_their_row_alone(dtype, make):
    logits = np.array(
        [
            [NAN, 1, 2, 3], [1, NAN, 2, 3], [-INF, -INF, 2, 3], [-INF] * 4, [INF, 1, 2, 3], [1, INF, INF, 0],
            [-INF, 1, 2, 3], [NAN] * 4, [3, 2, 1, 0], [0, 0, 0, 0],
        ]
    ).astype(dtype)  # fmt: skip
    belongs = np.zeros(logits.shape, bool)
    belongs[:, :2] = True
    check(make(logits), belongs)
    check(make(logits), ~belongs)
    stats = fastce.row_stats(make(logits), sparse.csr_array(belongs), outputs=OF_TARGETS)
    np.testing.assert_array_equal(stats["target_rank"], [-1, -1, 2, 0, 0, 0, 2, -1, 0, 0])
    assert stats["target_log_prob"][2] == -INF
    np.testing.assert_array_equal(np.isnan(stats["target_log_prob"]), [1, 1, 0, 1, 1, 1, 0, 1, 0, 0])


def test_what_is_no_target(rng):
    """Stored zeros, duplicates that add up to nothing, rows without any."""
    logits = np.array([[3.0, 2.0, 1.0]] * 4)
    rows, columns, masses = [0, 0, 1, 1, 1, 2, 2], [0, 2, 0, 0, 2, 1, 1], [0.0, 1.0, 1.0, -1.0, 0.5, 0.25, 0.25]
    targets = sparse.coo_array((masses, (rows, columns)), shape=(4, 3))
    stats = fastce.row_stats(logits, targets, outputs=OUTPUTS)
    np.testing.assert_array_equal(stats["target_rank"], [2, 2, 1, -1])
    np.testing.assert_array_equal(stats["in_top_k"], [True, True, True, False])
    np.testing.assert_array_equal(np.isnan(stats["target_log_prob"]), [False, False, False, True])
    np.testing.assert_array_equal(stats["argmax"], [0] * 4)
    assert targets.nnz == 7


@pytest.mark.parametrize("shape", [(0, 3), (3, 1), (1, 1)])
def test_few_of_anything(shape):
    for targets in (sparse.csr_array(shape, dtype=bool), sparse.csr_array(np.ones(shape))):
        stats = fastce.row_stats(np.ones(shape), targets, outputs=OUTPUTS)
        expected = 0 if targets.nnz else -1
        np.testing.assert_array_equal(stats["target_rank"], np.full(shape[0], expected))


def test_no_warning_and_no_change_of_what_was_given(rng):
    logits = rng.normal(size=(9, 20)).astype(np.float16)
    logits[3, 4], logits[5] = NAN, -INF
    logits.setflags(write=False)
    targets = sparse.csr_array(rng.random((9, 20)) < 0.3)
    before = targets.copy()
    for array in (targets.data, targets.indices, targets.indptr):
        array.setflags(write=False)
    with np.errstate(all="raise"):
        fastce.row_stats(logits, targets, outputs=OF_TARGETS)
    assert (targets != before).nnz == 0


# ------------------------------------------------------------------------------------------------- threads
@pytest.mark.parametrize("at_a_time", [1, 100, 1 << 14])
def test_neither_threads_nor_how_many_points_are_looked_at_together_change_a_bit(rng, monkeypatch, at_a_time):
    logits = rng.integers(-9, 9, (1500, 300)).astype(np.float32)
    targets = sparse.csr_array(some_of(rng, logits.shape))
    expected = expected_of(logits, targets.toarray())
    monkeypatch.setattr(best_positive, "POINTS_AT_A_TIME", at_a_time)
    one = fastce.row_stats(logits, targets, outputs=OF_TARGETS, n_threads=1)
    np.testing.assert_array_equal(one["target_rank"], expected["target_rank"])
    for n_threads in (2, 3, None):
        for name, value in fastce.row_stats(logits, targets, outputs=OF_TARGETS, n_threads=n_threads).items():
            np.testing.assert_array_equal(value, one[name])


# -------------------------------------------------------------------------------------------------- errors
ZEROS = np.zeros((3, 4), np.float32)
EYE = sparse.eye_array(3, 4, format="csr")


@pytest.mark.parametrize(
    ("error", "message", "targets", "options"),
    [
        (ValueError, r"sparse targets have shape \(3, 3\), expected \(3, 4\): one row per row", EYE[:, :3], {}),
        (ValueError, r"sparse targets have shape \(2, 4\), expected \(3, 4\)", EYE[:2], {}),
        (TypeError, "sparse targets must hold real numbers, got dtype complex128", EYE.astype(complex), {}),
        (ValueError, "must be finite and not negative, got -1.0 in row 0", -EYE, {}),
        (ValueError, "must be finite and not negative, got nan in row 0", EYE * NAN, {}),
        (ValueError, "ignore_index applies to class indices, got 3 with sparse targets", EYE, {"ignore_index": 3}),
        (ValueError, "n_threads must be at least 1", EYE, {"n_threads": 0}),
    ],
)
@pytest.mark.parametrize("outputs", ["target_rank", "argmax"])
def test_what_makes_no_sense_is_refused_by_name(error, message, targets, options, outputs):
    with pytest.raises(error, match=message):
        fastce.row_stats(ZEROS, targets, outputs=outputs, **options)


def test_a_class_that_is_not_there_is_refused():
    wrong = EYE.copy()
    wrong.indices[1] = 9
    with pytest.raises(IndexError, match=r"^targets in row 1 hold class index 9, accepted are 0 to 3$"):
        fastce.row_stats(ZEROS, wrong)


@pytest.mark.parametrize("dtype", [bool, int, np.float32])
def test_a_dense_matrix_of_targets_is_told_how_to_become_sparse(dtype):
    dense = EYE.toarray().astype(dtype)
    with pytest.raises(ValueError, match=r"shape \(3, 4\).*scipy\.sparse\.csr_array\(targets\)"):
        fastce.row_stats(ZEROS, dense)
    fastce.row_stats(ZEROS, sparse.csr_array(dense), outputs="target_rank")
    assert fastce.row_stats(np.zeros((3, 1, 1)), np.zeros((3, 1), int), outputs="target_rank")["target_rank"].sum() == 0
