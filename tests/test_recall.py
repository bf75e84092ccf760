"""recall_at_k against ranks in the whole matrix."""

import ml_dtypes
import numpy as np
import pytest
from scipy import sparse

import fastce

DTYPES = [np.float64, np.float32, np.float16, ml_dtypes.bfloat16]
LAYOUTS = {
    "C": lambda x: x,
    "Fortran": np.asfortranarray,
    "every second": lambda x: np.repeat(np.repeat(x, 2, 0), 2, 1)[::2, ::2],
    "reversed": lambda x: x[::-1, ::-1].copy()[::-1, ::-1],
}


def features(rng, rows, width=7, dtype=np.float64):
    """Small integers: products are exact in every dtype, and many are equal."""
    return rng.integers(-3, 4, size=(rows, width)).astype(dtype)


def ranks_of(similarity, positives):
    """The place of the best positive key in a stable sort of each row, -1 without one."""
    ranks = []
    for row, keys in zip(similarity, positives, strict=True):
        order = np.argsort(-row, kind="stable")
        ranks.append(min((int(np.flatnonzero(order == key)[0]) for key in keys), default=-1))
    return np.array(ranks, np.int64)


def check(result, ranks, limits=(1, 5, 10)):
    np.testing.assert_array_equal(result.rank, ranks)
    assert result.rank.dtype == np.int64
    counted = ranks[ranks >= 0]
    assert result.recall == {k: float((counted < k).mean()) for k in limits}
    assert all(type(value) is float for value in result.recall.values())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_ranks_are_those_of_a_stable_sort(rng, dtype, layout):
    query, keys = features(rng, 40, dtype=dtype), features(rng, 40, dtype=dtype)
    similarity = query.astype(float) @ keys.astype(float).T
    ours = fastce.recall_at_k(LAYOUTS[layout](query), LAYOUTS[layout](keys))
    check(ours, ranks_of(similarity, np.arange(40)[:, None]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_ranks_are_those_of_row_stats(rng, dtype):
    query, keys = rng.normal(size=(300, 16)).astype(dtype), rng.normal(size=(500, 16)).astype(dtype)
    labels = rng.integers(500, size=300)
    ours = fastce.recall_at_k(query, keys, labels)
    expected = fastce.row_stats(query @ keys.T, labels, outputs="target_rank")["target_rank"]
    np.testing.assert_array_equal(ours.rank, expected)


def test_cosine_similarities_do_not_depend_on_lengths(rng):
    lengths = rng.uniform(0.1, 10, size=(60, 1))
    query, keys = rng.normal(size=(60, 9)), rng.normal(size=(60, 9))
    unit = keys / np.linalg.norm(keys, axis=1, keepdims=True)
    expected = ranks_of(query @ unit.T, np.arange(60)[:, None])
    check(fastce.recall_at_k(query, keys * lengths, normalize=True), expected)
    assert (fastce.recall_at_k(query, keys * lengths).rank != expected).any()


@pytest.mark.parametrize("budget", [1, 5_000, 20_000, 1 << 28])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_panels_of_any_number_give_the_same_ranks(rng, budget, n_threads):
    query, keys, done = features(rng, 90), features(rng, 130), []
    labels = rng.integers(130, size=90)
    ours = fastce.recall_at_k(
        query, keys, labels, memory_budget=budget, n_threads=n_threads, progress=lambda *counts: done.append(counts)
    )
    check(ours, ranks_of(query @ keys.T, labels[:, None]))
    assert done[-1] == (len(done), len(done))
    assert (len(done) == 1) == (budget == 1 << 28)


def test_equal_keys_come_in_their_order(rng):
    query, keys = features(rng, 6), np.tile(features(rng, 1), (6, 1))
    np.testing.assert_array_equal(fastce.recall_at_k(query, keys).rank, np.arange(6))
    several = sparse.csr_array(np.triu(np.ones((6, 6))))
    np.testing.assert_array_equal(fastce.recall_at_k(query, keys, several).rank, np.arange(6))


@pytest.mark.parametrize("form", ["csr", "csc", "coo", "lil", "dok"])
@pytest.mark.parametrize("budget", [1, 1 << 28])
def test_the_best_of_several_positives_counts(rng, form, budget):
    query, keys = features(rng, 30), features(rng, 150)
    belongs = rng.random((30, 150)) < 0.03
    belongs[[0, 7, 29]] = False
    ours = fastce.recall_at_k(query, keys, sparse.coo_array(belongs).asformat(form), memory_budget=budget)
    check(ours, ranks_of(query @ keys.T, [np.flatnonzero(row) for row in belongs]))


def test_stored_zeros_are_no_positives_and_negative_numbers_are(rng):
    query, keys = features(rng, 2), features(rng, 3)
    stored = sparse.csr_array((np.array([0.0, -1.0, 0.0]), np.array([0, 1, 2]), np.array([0, 2, 3])), shape=(2, 3))
    ours = fastce.recall_at_k(query, keys, stored)
    check(ours, ranks_of(query @ keys.T, [[1], []]))
    assert stored.nnz == 3


def test_queries_that_are_not_counted(rng):
    query, keys = features(rng, 20), features(rng, 30)
    labels = rng.integers(30, size=20)
    labels[::3] = -100
    ours = fastce.recall_at_k(query, keys, labels, k=3)
    check(ours, ranks_of(query @ keys.T, [[key] if key >= 0 else [] for key in labels]), limits=(3,))
    nobody = fastce.recall_at_k(query, keys, np.full(20, -100))
    assert np.isnan(list(nobody.recall.values())).all()
    assert (nobody.rank == -1).all()


def test_a_query_with_nan_is_counted_and_finds_nothing(rng):
    query, keys = features(rng, 4), features(rng, 4)
    query[2, 3] = np.nan
    recall, rank = fastce.recall_at_k(query, keys, k=[4])
    assert rank[2] == -1
    assert (np.delete(rank, 2) >= 0).all()
    assert recall == {4: 0.75}
    several = fastce.recall_at_k(query, keys, sparse.csr_array(np.ones((4, 4))))
    np.testing.assert_array_equal(several.rank, [0, 0, -1, 0])
    keys[1, 0] = np.nan
    assert (fastce.recall_at_k(query, keys).rank == -1).all()
    assert fastce.recall_at_k(query, keys).recall == {1: 0.0, 5: 0.0, 10: 0.0}


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_products_that_float32_does_not_hold(rng, scale):
    query, keys = features(rng, 9), features(rng, 9)
    scaled = [(x * scale).astype(np.float32) for x in (query, keys)]
    expected = fastce.row_stats(
        scaled[0].astype(float) @ scaled[1].astype(float).T, np.arange(9), outputs="target_rank"
    )
    ours = fastce.recall_at_k(*scaled)
    np.testing.assert_array_equal(ours.rank, expected["target_rank"])


def test_few_of_anything():
    for queries, keys in ((0, 0), (0, 3), (3, 0)):
        labels = np.full(queries, -100)
        recall, rank = fastce.recall_at_k(np.ones((queries, 2)), np.ones((keys, 2)), labels)
        assert rank.shape == (queries,)
        assert np.isnan(recall[1])
    assert fastce.recall_at_k(np.ones((0, 2)), np.ones((0, 2)), []).rank.size == 0
    assert fastce.recall_at_k([[1.0]], [[2.0]], k=np.int64(7)).recall == {7: 1.0}
    np.testing.assert_array_equal(fastce.recall_at_k(np.ones((3, 0)), np.ones((3, 0)), normalize=True).rank, [0, 1, 2])


X, Y = np.ones((3, 2)), np.ones((4, 2))


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (ValueError, "query and keys must be as many .* 3 and 4 rows", (X, Y), {}),
        (ValueError, "query and keys differ in width", (X, np.ones((3, 3))), {}),
        (ValueError, "keys must have two dimensions", (X, np.ones(3)), {}),
        (TypeError, "query must hold real numbers", (X * 1j, X), {}),
        (IndexError, "positives in row 1 hold 4, accepted are 0 to 3", (X, Y, [0, 4, -1]), {}),
        (IndexError, "positives in row 2 hold -1", (X, Y, [0, 3, -1]), {}),
        (TypeError, "positives must be integers .* float64", (X, Y, [0.0, 1.0, 2.0]), {}),
        (ValueError, r"positives have shape \(4,\), expected \(3,\)", (X, Y, [0, 1, 2, 3]), {}),
        (ValueError, "sparse positives have shape", (X, Y, sparse.eye_array(3)), {}),
        (TypeError, "sparse positives must hold real", (X, X, sparse.eye_array(3, dtype=complex)), {}),
        (ValueError, "k must be at least 1, got 0", (X, X), {"k": (1, 0)}),
        (ValueError, "k must be an integer or some of them", (X, X), {"k": ()}),
        (ValueError, "k must be an integer or some of them, got 'a'", (X, X), {"k": "a"}),
        (ValueError, "k must be an integer or some of them, got 1.5", (X, X), {"k": 1.5}),
        (TypeError, "k must be an integer, got 1.5", (X, X), {"k": [1.5]}),
        (TypeError, "normalize", (X, X), {"normalize": 2}),
        (ValueError, "memory_budget", (X, X), {"memory_budget": 0}),
        (TypeError, "progress", (X, X), {"progress": 1}),
    ],
)
def test_wrong_arguments(error, words, arguments, options):
    with pytest.raises(error, match=words):
        fastce.recall_at_k(*arguments, **options)


def test_a_sparse_array_of_keys_that_are_not_there_is_refused():
    wrong = sparse.csr_array(np.eye(3))
    wrong.indices[1] = 5
    with pytest.raises(IndexError, match=r"^positives in row 1 hold key 5, accepted are 0 to 2$"):
        fastce.recall_at_k(X, X, wrong)


class OnGpu:
    __cuda_array_interface__ = {"shape": (3, 2), "typestr": "<f8", "data": (1, False), "version": 3}  # noqa: RUF012


def test_arrays_in_two_places_are_refused():
    for arguments in ((OnGpu(), X), (X, OnGpu())):
        with pytest.raises(TypeError, match="GPU"):
            fastce.recall_at_k(*arguments)


def test_arguments_are_not_written_to(rng):
    arrays = features(rng, 5), features(rng, 5), np.arange(5)
    copies = [x.copy() for x in arrays]
    for array in arrays:
        array.setflags(write=False)
    fastce.recall_at_k(*arrays, normalize=True)
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
