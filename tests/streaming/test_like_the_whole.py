"""Calls in pieces as the plain calls: arguments of odd kinds, magnitudes, masses of nothing, and out beside inputs."""

import ml_dtypes
import numpy as np
import pytest
import scipy.sparse

import fastce
from fastce import streaming

X = np.random.default_rng(5).normal(size=(4, 10))
TARGETS = np.array([1, 2, 9, 5])
BUDGETS = {"rows": 10**6, "classes": 40}  # all classes of rows at a time, or some


def with_nothing(x):
    x = x.copy()
    x[0], x[1, 4:], x[2, 9] = -np.inf, -np.inf, -np.inf
    return x


def sparse(mass):
    return scipy.sparse.csr_array(([mass, 1.0, 2.0], [3, 4, 1], [0, 1, 1, 2, 3]), shape=(4, 10))


def outcome(function, *args, **options):
    """What a call gives, or which error it raises."""
    try:
        value, grad = function(*args, **options)
    except Exception as error:
        return type(error)
    return np.asarray(value), grad


CASES = {
    "integers": (np.arange(40).reshape(4, 10) % 7 - 3, TARGETS, {}),
    "booleans": (X > 0, TARGETS, {}),
    "byte-swapped": (X.astype(">f4"), TARGETS, {}),
    "lists of probabilities": (X, np.full((4, 10), 0.1).tolist(), {}),
    "a matrix of integers": (X, np.ones((4, 10), int), {}),
    "a matrix of booleans": (X, np.ones((4, 10), bool), {}),
    "ignore_index of probabilities": (X, np.full((4, 10), 0.1), {"ignore_index": 3}),
    "negative masses": (X, sparse(-1.0), {}),
    "masses that are nan": (X, sparse(np.nan), {}),
    "duplicates": (X, scipy.sparse.csr_array(([1.0, 1, 2], [3, 3, 1], [0, 2, 2, 3, 3]), shape=(4, 10)), {}),
    "masked targets": (X, np.ma.array(TARGETS, mask=[1, 0, 0, 0]), {}),
    "no mass at the target": (with_nothing(X), TARGETS, {"label_smoothing": 1.0}),
    "no weight of the target": (with_nothing(X), TARGETS, {"label_smoothing": 0.1, "weight": np.r_[1, 2, np.zeros(8)]}),
    "infinity above an ignored row": (X, np.array([1, -100, 2, 3]), {"grad_output": np.array([1, np.inf, 2, 3])}),
    **{f"scale {s}": (X, TARGETS, {"logit_scale": s}) for s in (3e5, 1e30, 1e250, 1e-7, 1e-30)},
    "float32, scale 1e30": (X.astype("f4"), TARGETS, {"logit_scale": 1e30, "label_smoothing": 0.1}),
    "float32, scale 1e4": (X.astype("f4"), TARGETS, {"logit_scale": 1e4, "z_loss": 1e-3}),
    "large cap of small": (X * 3e29, TARGETS, {"softcap": 1e308, "logit_scale": 1e-30}),
    "large cap of large": (X, TARGETS, {"softcap": 1e308, "logit_scale": 1e300}),
    "products that only the cap makes finite": (X * 2e108, TARGETS, {"softcap": 1.7e308, "logit_scale": 1e200}),
    "large scale of a small cap": (X, TARGETS, {"softcap": 1e-300, "logit_scale": 1e300}),
    "small cap": (X, TARGETS, {"softcap": 1e-300}),
    "large cap of infinity": (np.where(X > 1.5, np.inf, X), TARGETS, {"softcap": 1e308, "logit_scale": 1e-30}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cut", BUDGETS)
def test_a_matrix_is_as_the_whole(cut, case):
    x, targets, options = CASES[case]
    options = {"reduction": "none", **options}
    whole = outcome(fastce.cross_entropy_value_and_grad, x, targets, **options)
    grad = np.empty(x.shape, x.dtype.newbyteorder("=") if x.dtype.kind == "f" else np.float64)
    found = outcome(streaming.cross_entropy_value_and_grad, x, targets, out=grad, memory_budget=BUDGETS[cut], **options)
    if isinstance(whole, type):
        assert found is whole or (found, whole) == (TypeError, ValueError)
        return
    assert found[0].dtype == whole[0].dtype
    eps = 8 * np.finfo(whole[1].dtype).eps
    for actual, expected in zip(found, whole, strict=True):
        atol = eps * np.abs(expected, where=np.isfinite(expected), out=np.zeros_like(expected)).max()
        np.testing.assert_allclose(actual, expected, rtol=eps, atol=atol)


@pytest.mark.parametrize("dtype", ["uint64", "uint8", "int16"])
def test_class_indices_of_any_width(dtype):
    blocks, targets = [X[:, :3], X[:, 3:]], TARGETS.astype(dtype)
    assert streaming.cross_entropy(blocks, targets, pieces="classes") == pytest.approx(
        fastce.cross_entropy(X, TARGETS), rel=1e-14
    )
    targets[2] = np.iinfo(dtype).max  # 2**64 - 1 is no -1
    for call in (streaming.cross_entropy, streaming.row_stats):
        with pytest.raises(IndexError, match=f"row 2 hold class index {np.iinfo(dtype).max}"):
            call(blocks, targets, pieces="classes")


@pytest.mark.parametrize("targets", [np.ones(4), np.ones(4, bool), np.ma.array(TARGETS, mask=[1, 0, 0, 0]), 3])
def test_statistics_take_class_indices_only(targets):
    for pieces in ("rows", "classes"):
        with pytest.raises((TypeError, ValueError), match="targets"):
            streaming.row_stats([X], targets, pieces=pieces, outputs="argmax")


@pytest.mark.parametrize("dtypes", [("f4", "f8"), ("f8", "f4"), ("f2", "f4"), ("i4", "f4")])
def test_blocks_of_classes_of_several_dtypes(dtypes):
    blocks = [part.astype(dtype) for part, dtype in zip((2 * X[:, :4], 2 * X[:, 4:]), dtypes, strict=True)]
    common = np.result_type(*(np.float64 if dtype == "i4" else dtype for dtype in dtypes))
    grad = np.empty((4, 10), common)
    value, _ = streaming.cross_entropy_value_and_grad(blocks, TARGETS, pieces="classes", reduction="none", out=grad)
    whole = fastce.cross_entropy_value_and_grad(
        np.hstack([block.astype(common) for block in blocks]), TARGETS, reduction="none"
    )
    assert value.dtype == common
    eps = 8 * np.finfo(common).eps
    np.testing.assert_allclose(value, whole.value, rtol=eps)
    np.testing.assert_allclose(grad, whole.grad, rtol=eps, atol=eps)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_losses_of_no_rows_have_the_dtype_of_logits(dtype):
    no_rows = np.empty((0, 5), dtype)
    assert streaming.cross_entropy(no_rows, np.empty(0, int), reduction="none").dtype == dtype


def test_weights_whose_sum_float64_does_not_hold():
    for weight in (1.5e308, 5e-324):
        blocks = [(X[:2], TARGETS[:2], np.full(2, weight)), (X[2:], TARGETS[2:], np.full(2, weight))]
        assert streaming.cross_entropy(blocks) == pytest.approx(fastce.cross_entropy(X, TARGETS), rel=1e-14)


def test_weights_whose_products_float64_does_not_hold():
    small = np.full(2, 1e-200)
    blocks = [(X[:2], TARGETS[:2], small), (X[2:], TARGETS[2:], small)]
    found = streaming.cross_entropy(blocks, weight=np.full(10, 1e-200))
    assert found == pytest.approx(fastce.cross_entropy(X, TARGETS), rel=1e-14)


def test_weights_that_come_with_blocks_are_not_dropped():
    with pytest.raises(TypeError, match="sample_weight came with a block"):
        streaming.cross_entropy([(X, None, np.ones(4))], TARGETS)


# --- out


def test_out_may_be_no_other_input():
    probabilities, weighted = np.full((4, 10), 0.1), np.ones((4, 10))
    for out, targets, options in (
        (probabilities, probabilities, {}),
        (weighted, TARGETS, {"sample_weight": weighted[:, 0]}),
        (weighted, TARGETS, {"weight": weighted[0]}),
    ):
        with pytest.raises(ValueError, match="must not share memory with the targets or the weights"):
            streaming.cross_entropy_value_and_grad(X, targets, out=out, **options)
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(100), (4, 10), (8, 8))
    with pytest.raises(ValueError, match="overlap itself"):
        streaming.cross_entropy_value_and_grad(X, TARGETS, out=overlapping)


@pytest.mark.parametrize("pieces", ["rows", "classes"])
def test_blocks_are_replaced_in_their_place_or_not_at_all(pieces):
    whole = fastce.cross_entropy_value_and_grad(X, TARGETS).grad
    x = X.copy()
    blocks = [x[:1], x[1:]] if pieces == "rows" else [x[:, :3], x[:, 3:]]
    streaming.cross_entropy_value_and_grad(blocks, TARGETS, pieces=pieces, out=x)
    np.testing.assert_allclose(x, whole, rtol=1e-12)
    x = np.vstack([X, X])
    blocks = [x[1:3], x[3:5]] if pieces == "rows" else [x[1:5, :3], x[1:5, 3:]]
    with pytest.raises(ValueError, match="overlaps the input in part"):
        streaming.cross_entropy_value_and_grad(blocks, TARGETS, pieces=pieces, out=x[:4])


@pytest.mark.parametrize("given", ["path of targets", "map of logits", "view of a map", "map of targets"])
def test_a_file_that_is_an_input_is_not_made_anew(given, tmp_path):
    path, targets = tmp_path / "given.npy", np.full((4, 10), 0.1)
    np.save(path, targets if "targets" in given else X)
    before, mapped = path.read_bytes(), np.load(path, mmap_mode="r")
    logits, targets = {
        "path of targets": (X, path), "map of logits": (mapped, TARGETS), "map of targets": (X, mapped),
        "view of a map": (np.asarray(mapped)[::-1], TARGETS),
    }[given]  # fmt: skip
    with pytest.raises(ValueError, match="out must be another file than"):
        streaming.cross_entropy_value_and_grad(logits, targets, out=path)
    assert path.read_bytes() == before


def test_blocks_that_are_mapped_outlive_the_file_that_is_made_anew(tmp_path):
    np.save(tmp_path / "x.npy", X)
    blocks = [np.load(tmp_path / "x.npy", mmap_mode="r")]
    whole = fastce.cross_entropy_value_and_grad(X, TARGETS)
    found = streaming.cross_entropy_value_and_grad(blocks, TARGETS, out=tmp_path / "x.npy")
    assert found.value == whole.value
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), whole.grad)


def test_bfloat16_to_a_file_is_as_numpy_saves_it(tmp_path):
    x = X.astype(ml_dtypes.bfloat16)
    streaming.cross_entropy_value_and_grad(x, TARGETS, out=tmp_path / "g.npy")
    whole = fastce.cross_entropy_value_and_grad(x, TARGETS).grad
    np.testing.assert_array_equal(np.load(tmp_path / "g.npy").view(x.dtype), whole)


# --- files and libraries


def test_files_of_any_version_and_those_that_end_early(tmp_path):
    for version in ((1, 0), (2, 0), (3, 0)):
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, X, version=version)
        assert streaming.cross_entropy(tmp_path / "x.npy", TARGETS) == fastce.cross_entropy(X, TARGETS)
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-20])
    with pytest.raises(ValueError, match="logits must be a whole"):
        streaming.cross_entropy(tmp_path / "x.npy", TARGETS)


def test_tensors_as_blocks_targets_and_out():
    torch = pytest.importorskip("torch")
    x = torch.tensor(X).bfloat16()
    whole = fastce.cross_entropy(x, torch.tensor(TARGETS))
    for pieces in ("rows", "classes"):
        assert streaming.cross_entropy([x], torch.tensor(TARGETS), pieces=pieces) == pytest.approx(whole, rel=1e-6)
        assert streaming.row_stats([x], pieces=pieces, outputs="argmax")["argmax"].tolist() == x.argmax(1).tolist()
    with pytest.raises(TypeError, match="requires grad"):
        streaming.cross_entropy([torch.tensor(X, requires_grad=True)], TARGETS)
    masses = torch.full((4, 10), 0.1).double()
    assert streaming.cross_entropy(X, masses.to_sparse()) == pytest.approx(fastce.cross_entropy(X, masses), rel=1e-12)
    out = torch.zeros(4, 10).double()
    assert streaming.cross_entropy_value_and_grad(X, TARGETS, out=out).grad is out
    np.testing.assert_array_equal(out, fastce.cross_entropy_value_and_grad(X, TARGETS).grad)


@pytest.mark.parametrize("over", ["all", "others"])
@pytest.mark.parametrize("smoothing", [1.0, 1.0 - 2.0**-52, 0.999, 0.1])
def test_targets_that_are_masked_beside_any_smoothing(over, smoothing, rng):
    x = rng.normal(size=(40, 9)).astype(np.float32) * 3
    targets, weight = rng.integers(0, 9, 40), rng.uniform(0.5, 2.0, 9)
    x[:30][np.arange(30), targets[:30]] = -np.inf
    x[10:15, :4], weight[8] = -np.inf, 0.0
    for given in (None, weight):
        options = {"label_smoothing": smoothing, "smoothing_over": over, "weight": given, "reduction": "none"}
        expected, of_whole = fastce.cross_entropy_value_and_grad(x, targets, **options)
        grad = np.empty_like(x)
        value, _ = streaming.cross_entropy_value_and_grad(
            [x[:, :4], x[:, 4:5], x[:, 5:]], targets, pieces="classes", out=grad, **options
        )
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        np.testing.assert_allclose(grad, of_whole, atol=1e-6)
