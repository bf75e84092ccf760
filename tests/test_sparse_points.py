"""Sparse targets that name a class of a row many times, in any order: its mass is the sum in float64."""

import numpy as np
import pytest
import scipy.sparse
from checks import check, same_bits
from covering import covering

import fastce

FORMS = ("csr_array", "csr_matrix", "csc_array", "coo_array")
KINDS = ("bool", "int8", "uint8", "int16", "int64", "float32", "float64")


def masses_of(rng, kind, size):
    if np.dtype(kind).kind in "iub":
        return rng.integers(0, 2 if kind == "bool" else 120, size).astype(kind)
    return rng.choice([0.1, 0.3, 1e-3, 1.0], size).astype(kind)


def as_given(form, masses, rows, columns, shape):
    """The matrix with its points as they are: SciPy's own conversions would add them up, in the dtype of the masses."""
    if form.startswith("coo"):
        return scipy.sparse.coo_array((masses, (rows, columns)), shape=shape)
    major, minor, number = (columns, rows, shape[1]) if form.startswith("csc") else (rows, columns, shape[0])
    order = np.argsort(major, kind="stable")
    first = np.searchsorted(major[order], np.arange(number + 1))
    return getattr(scipy.sparse, form)((masses[order], minor[order], first), shape=shape)


@covering({"form": FORMS, "kind": KINDS, "name": ["float32", "float64"], "classes": [1, 2, 10, 64, 65]}, quick=1)
@pytest.mark.parametrize("number", [0, 2, 3, 200])
def test_masses_of_one_class_are_added_in_float64(rng, form, kind, name, classes, number):
    logits = (rng.normal(size=(50, classes)) * 4).astype(name)
    rows, columns = rng.integers(0, 50, 50 * number), rng.integers(0, classes, 50 * number)
    columns[rng.random(columns.size) < 0.5] = classes // 2
    targets = as_given(form, masses_of(rng, kind, rows.size), rows, columns, logits.shape)
    check(logits, targets)
    check(logits, targets, label_smoothing=0.1, weight=rng.random(classes) + 0.5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", [32, 1000])
def test_many_float32_masses_of_one_class_keep_their_digits(form, number):
    masses, zeros = np.full(number, 0.1, np.float32), np.zeros(number, int)
    targets = as_given(form, masses, zeros, zeros + 1, (1, 10))
    check(np.arange(10, dtype=np.float32)[None], targets)


@pytest.mark.parametrize("classes", [1, 2, 10, 64])
@pytest.mark.parametrize("name", ["float32", "float64"])
@pytest.mark.parametrize("integers", ["int32", "int64"])
@pytest.mark.parametrize("points", [1, 2])
def test_as_many_points_in_every_row_are_the_dense_probabilities_bit_for_bit(rng, points, classes, name, integers):
    """One-hot and mixup: such rows are read a vector at a time, the one with one more and its neighbours are not."""
    size = 1000 * points + 1
    logits, columns = rng.normal(size=(1000, classes)).astype(name), rng.integers(0, classes, size)
    rows = np.insert(np.repeat(np.arange(1000), points), 401 * points, 400)
    targets = as_given("csr_array", rng.random(size).astype(np.float32), rows, columns, logits.shape)
    targets.indices, targets.indptr = targets.indices.astype(integers), targets.indptr.astype(integers)
    dense = targets.astype(float).toarray().astype(name)
    for options in ({"reduction": "none"}, {"weight": rng.random(classes) + 0.5}, {"z_loss": 0.1}):
        expected = fastce.cross_entropy_value_and_grad(logits, dense, **options)
        found = fastce.cross_entropy_value_and_grad(logits, targets, **options)
        assert same_bits(found.value, expected.value)
        assert same_bits(found.grad, expected.grad)
        assert same_bits(fastce.cross_entropy(logits, targets, **options), expected.value)


def test_rows_beside_one_with_duplicates_keep_their_bits(rng):
    logits, columns = rng.normal(size=(40, 7)).astype(np.float32), rng.integers(0, 7, (40, 2)) // 2
    columns[:, 1] += 3
    plain = as_given(
        "csr_array", rng.random(80).astype(np.float32), np.repeat(np.arange(40), 2), columns.ravel(), (40, 7)
    )
    mixed = scipy.sparse.vstack(
        [plain, as_given("csr_array", np.ones(3, "f4"), np.zeros(3, int), np.ones(3, int), (1, 7))]
    )
    expected = fastce.cross_entropy_value_and_grad(logits, plain, reduction="none")
    found = fastce.cross_entropy_value_and_grad(np.concatenate([logits, logits[:1]]), mixed, reduction="none")
    assert same_bits(found.value[:-1], expected.value)
    assert same_bits(found.grad[:-1], expected.grad)


@pytest.mark.parametrize(("form", "name"), [("csr_array", "indptr"), ("csc_array", "indptr"), ("coo_array", "row")])
@pytest.mark.parametrize("classes", [3, 100])
def test_places_beyond_the_matrix_are_refused_before_memory_is_asked_for(form, name, classes):
    zeros = np.zeros(4, np.int64)
    targets = as_given(form, np.ones(4), zeros, zeros + 1, (5, classes))
    getattr(targets, name)[1:] = 10**15
    with pytest.raises(ValueError, match="sparse targets are inconsistent"):
        fastce.cross_entropy(np.zeros((5, classes)), targets)


@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array"])
def test_indices_that_32_bits_would_take_for_others_are_refused(form):
    zeros = np.zeros(4, np.int64)
    targets = as_given(form, np.ones(4), zeros, zeros + 1, (5, 3))
    getattr(targets, "col" if form == "coo_array" else "indices")[2] += 2**32
    with pytest.raises((IndexError, ValueError), match="targets"):
        fastce.cross_entropy(np.zeros((5, 3)), targets)


@pytest.mark.parametrize("kind", ["bool", "uint8", "float32"])
def test_sparse_tensors_of_pytorch_are_added_up_in_float64(rng, kind):
    torch = pytest.importorskip("torch")
    logits, places = rng.normal(size=(3, 5)).astype(np.float32), np.stack([rng.integers(0, 3, 900), np.ones(900, int)])
    masses = torch.tensor(masses_of(rng, kind, 900))
    targets = torch.sparse_coo_tensor(torch.tensor(places), masses, (3, 5), check_invariants=True)
    dense = np.zeros((3, 5))
    np.add.at(dense, tuple(places), masses.numpy().astype(float))
    expected = fastce.cross_entropy(logits.astype(float), dense, reduction="none")
    np.testing.assert_allclose(fastce.cross_entropy(logits, targets, reduction="none"), expected, rtol=4e-7)
