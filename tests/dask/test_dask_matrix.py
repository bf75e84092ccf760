"""Functions of matrices on Dask: as the plain ones, in any chunks, of any rows."""

from typing import get_args

import numpy as np
import pytest
import scipy.sparse
from checks import assert_as_scipy, assert_gradient, assert_losses, dtype_of, mixture
from covering import covering

da = pytest.importorskip("dask.array")
pytest.importorskip("threadpoolctl")

import dask
import naive

import fastce
import fastce.dask
from fastce.typing import Statistic

ROWS, CLASSES = 43, 31
DTYPES = ["float32", "float64", "float16", "bfloat16"]
CHUNKS = {
    "one": (-1, -1), "rows": (10, -1), "classes": (-1, 7), "both": (13, 10), "single": (1, 31),
    "uneven": ((1, 0, 40, 2), (1, 0, 29, 1)),
}  # fmt: skip
OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1},
    "over others": {"label_smoothing": 0.3, "smoothing_over": "others"},
    "all": {"label_smoothing": 0.2, "z_loss": 1e-2, "logit_scale": 0.7, "softcap": 15.0},
}


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


def logits_of(dtype, rng, share=0.0):
    return mixture(rng, ROWS, CLASSES, dtype_of(dtype), share)


def targets_of(kind, rng):
    if kind == "indices":
        targets = rng.integers(0, CLASSES, ROWS)
        targets[[2, 17]] = -100
        return targets
    if kind == "probabilities":
        return rng.dirichlet(np.ones(CLASSES), ROWS)
    return scipy.sparse.random_array((ROWS, CLASSES), density=0.1, random_state=1, format="csr")


@covering({"dtype": DTYPES, "chunks": [*CHUNKS], "axis": [None, 0, 1, (0, 1)], "keepdims": [True, False]}, quick=1)
def test_logsumexp(dtype, chunks, axis, keepdims, rng):
    x, _ = logits_of(dtype, rng, 0.5 if axis == 1 else 0.0)
    lazy = fastce.logsumexp(da.from_array(x, chunks=CHUNKS[chunks]), axis, keepdims=keepdims)
    result, plain = lazy.compute(), fastce.logsumexp(x, axis, keepdims=keepdims)
    assert (lazy.shape, lazy.dtype, result.shape, result.dtype) == (plain.shape, plain.dtype) * 2
    if not keepdims and axis == 1:
        assert_as_scipy("logsumexp", result, x, axis, ulps=1.0 if dtype == "float32" else None)
    np.testing.assert_allclose(result.astype(float), np.float64(plain), rtol=2e-3 if x.itemsize == 2 else 3e-7)


@covering({"dtype": DTYPES, "chunks": [*CHUNKS], "axis": [None, 0, 1], "name": ["softmax", "log_softmax"]}, quick=1)
def test_softmax(dtype, chunks, axis, name, rng):
    x, _ = logits_of(dtype, rng, 0.5 if axis == 1 else 0.0)
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    lazy = getattr(fastce, name)(chunked, axis)
    result, plain = lazy.compute(), getattr(fastce, name)(x, axis)
    assert (lazy.chunks, lazy.dtype, result.dtype) == (chunked.chunks, plain.dtype, plain.dtype)
    eps = float(np.finfo(np.float64 if dtype == "float64" else np.float32).eps) if x.itemsize > 2 else 2e-2
    np.testing.assert_allclose(result.astype(float), plain.astype(float), rtol=8 * eps, atol=4 * eps)


@covering(
    {
        "dtype": DTYPES, "chunks": [*CHUNKS], "options": [*OPTIONS], "reduction": ["none", "sum", "mean"],
        "targets": ["indices", "probabilities", "sparse"], "weighted": [True, False], "of_dask": [True, False],
    },
    quick=1,
)  # fmt: skip
def test_cross_entropy(dtype, chunks, options, reduction, targets, weighted, of_dask, rng):
    (x, _), t = logits_of(dtype, rng, 0.5 if reduction == "none" else 0.0), targets_of(targets, rng)
    given, per_row = dict(OPTIONS[options]), {}
    if weighted:
        given["weight"], per_row["sample_weight"] = rng.uniform(0.5, 2.0, CLASSES), rng.uniform(0.1, 2.0, ROWS)
        per_row["sample_weight"][5] = 0.0
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    of_rows = {k: da.from_array(v, chunks=9) if of_dask else v for k, v in per_row.items()}
    lazy_t = da.from_array(t, chunks=11) if of_dask and targets != "sparse" else t
    lazy = fastce.cross_entropy_value_and_grad(chunked, lazy_t, reduction=reduction, **given, **of_rows)
    assert (lazy.grad.chunks, lazy.grad.dtype) == (chunked.chunks, x.dtype)
    value, grad = dask.compute(*lazy)
    exact = naive.CrossEntropy(np.array(x, copy=True), t, **given, **per_row)
    assert_losses(value if reduction == "none" else float(value), exact, x.dtype, reduction, given)
    assert_gradient(grad, exact, x.dtype, reduction, 1.0, given)
    alone = fastce.cross_entropy(chunked, lazy_t, reduction=reduction, **given, **of_rows)
    assert (alone.shape, alone.dtype) == (np.shape(value), np.asarray(value).dtype)
    np.testing.assert_array_equal(alone.compute(), value)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_what_comes_after_the_loss(chunks, rng):
    (x, targets), above = logits_of("float32", rng), rng.normal(size=ROWS)
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    for given in (above, da.from_array(above, chunks=20)):
        grad = fastce.cross_entropy_value_and_grad(chunked, targets, reduction="none", grad_output=given).grad.compute()
        assert_gradient(grad, naive.CrossEntropy(x, targets), x.dtype, "none", above, {})
    grad = fastce.cross_entropy_value_and_grad(chunked, targets, grad_output=-0.5).grad.compute()
    assert_gradient(grad, naive.CrossEntropy(x, targets), x.dtype, "mean", -0.5, {})
    with pytest.raises(ValueError, match=r"grad_output has shape \(43,\), expected a number"):
        fastce.cross_entropy_value_and_grad(chunked, targets, grad_output=above)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_classes_along_the_first_axis(chunks, rng):
    x, targets = logits_of("float32", rng)
    chunked = da.from_array(x, chunks=CHUNKS[chunks]).T
    value, grad = dask.compute(*fastce.cross_entropy_value_and_grad(chunked, targets, axis=0))
    exact = naive.CrossEntropy(x, targets)
    assert_losses(float(value), exact, x.dtype, "mean", {})
    assert_gradient(np.ascontiguousarray(grad.T), exact, x.dtype, "mean", 1.0, {})


@pytest.mark.parametrize("ignore_index", [-100, 3])
@pytest.mark.parametrize("chunks", CHUNKS)
def test_row_stats_of_ignored_rows(chunks, ignore_index, rng):
    x, targets = logits_of("float64", rng)
    targets[::3] = ignore_index
    outputs = get_args(Statistic)
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    (found,) = dask.compute(fastce.row_stats(chunked, targets, outputs=outputs, ignore_index=ignore_index))
    expected = fastce.row_stats(x, targets, outputs=outputs, ignore_index=ignore_index)
    assert np.isnan(found["target_log_prob"][::3]).all()
    for name in outputs:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-14, atol=1e-14, err_msg=name)
    targets[10] = -5
    with pytest.raises(IndexError, match="class index -5"):
        dask.compute(fastce.row_stats(chunked, targets, ignore_index=ignore_index))


@covering({"dtype": DTYPES, "chunks": [*CHUNKS], "axis": [0, 1]}, quick=1)
def test_row_stats_of_several_targets(dtype, chunks, axis, rng):
    x = rng.integers(-3, 4, (ROWS, CLASSES)).astype(dtype_of(dtype))
    x[11, 3], x[12], x[13, 5] = np.nan, -np.inf, np.inf
    belongs = rng.random((ROWS, CLASSES)) < rng.choice([0.0, 1 / CLASSES, 0.2, 1.0], (ROWS, 1))
    targets, outputs = scipy.sparse.coo_array(belongs), get_args(Statistic)
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    chunked = chunked if axis == 1 else chunked.T
    (found,) = dask.compute(fastce.row_stats(chunked, targets, outputs=outputs, top_k=3, axis=axis))
    expected = fastce.row_stats(x, targets, outputs=outputs, top_k=3)
    eps = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    for name in outputs:
        assert found[name].dtype == expected[name].dtype, name
        np.testing.assert_allclose(found[name], expected[name], rtol=16 * eps, atol=16 * eps, err_msg=name)
    for name in ("argmax", "target_log_prob"):
        alone = fastce.row_stats(chunked, targets, outputs=name, axis=axis)[name].compute()
        np.testing.assert_allclose(alone, expected[name], rtol=16 * eps, atol=16 * eps, err_msg=name)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_sparse_targets_that_are_wrong(chunks):
    chunked = da.zeros((ROWS, CLASSES), chunks=CHUNKS[chunks])
    right = scipy.sparse.eye_array(ROWS, CLASSES, format="csr")
    for call in (fastce.row_stats, fastce.cross_entropy):
        for wrong in (right[:, :-1], right[:-1], scipy.sparse.csr_array((ROWS, CLASSES + 1))):
            with pytest.raises(ValueError, match="sparse targets have shape"):
                call(chunked, wrong)
        with pytest.raises(ValueError, match="finite and not negative"):
            call(chunked, -right)
    with pytest.raises(ValueError, match="ignore_index applies to class indices"):
        fastce.row_stats(chunked, right, ignore_index=3)


@covering({"dtype": DTYPES, "chunks": [*CHUNKS]}, quick=1)
def test_row_stats(dtype, chunks, rng):
    x, targets = logits_of(dtype, rng, 0.5)
    x[5], x[6, ::3] = 2.5, x[6].max()  # ties
    outputs = get_args(Statistic)
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    lazy = fastce.row_stats(chunked, targets, outputs=outputs, top_k=3)
    (found,), expected = dask.compute(lazy), fastce.row_stats(x, targets, outputs=outputs, top_k=3)
    eps = np.finfo(np.float64 if dtype == "float64" else np.float32).eps
    for name in outputs:
        assert lazy[name].dtype == found[name].dtype == expected[name].dtype, name
        if name in ("logsumexp", "entropy", "target_log_prob"):
            atol = 16 * eps if name == "logsumexp" else 0.0
            np.testing.assert_allclose(found[name], expected[name], rtol=16 * eps, atol=atol, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


@pytest.mark.parametrize("chunks", CHUNKS)
def test_no_rows(chunks):
    x = da.zeros((0, 5), chunks=(1, 2 if chunks == "classes" else 5))
    targets = np.zeros(0, int)
    value, grad = dask.compute(*fastce.cross_entropy_value_and_grad(x, targets))
    assert np.isnan(value)
    assert grad.shape == (0, 5)
    assert fastce.cross_entropy(x, targets, reduction="sum").compute() == 0.0
    assert fastce.cross_entropy(x, targets, reduction="none").compute().shape == (0,)
    assert fastce.logsumexp(x, axis=1).compute().shape == (0,)


@pytest.mark.parametrize("chunks", ["rows", "both"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_a_target_out_of_range_names_its_stripe(chunks, reduction, rng):
    x, targets = logits_of("float32", rng)
    targets[27] = 31
    chunked = da.from_array(x, chunks=CHUNKS[chunks])
    with pytest.raises(IndexError, match="targets in row 27 hold class index 31"):  # it is here: known at once
        fastce.cross_entropy(chunked, targets, reduction=reduction)
    lazy = fastce.cross_entropy(chunked, da.from_array(targets, chunks=5), reduction=reduction)
    row, rows = (7, "20 to 30") if chunks == "rows" else (1, "26 to 39")
    with pytest.raises(IndexError, match=f"targets in row {row} hold class index 31, accepted are 0 to 30") as error:
        lazy.compute()
    assert error.value.__notes__ == [f"stripe 2 of cross_entropy: rows {rows}"]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda x, t: fastce.cross_entropy(x, t[:-1]), ValueError, r"targets have shape \(42,\), expected \(43,\)"),
        (lambda x, t: fastce.cross_entropy(x, t, weight=np.ones(30)), ValueError, "weight has shape"),
        (lambda x, t: fastce.cross_entropy(x, t, label_smoothing=2), ValueError, "label_smoothing"),
        (lambda x, t: fastce.cross_entropy(x, t, reduction="all"), ValueError, "reduction must be one of"),
        (lambda x, t: fastce.cross_entropy(x[None], t), ValueError, "two dimensions, rows and classes"),
        (lambda x, t: fastce.cross_entropy(x[:, :0], t), ValueError, "no classes along axis 1"),
        (lambda x, t: fastce.cross_entropy(x[x[:, 0] > 0], t), ValueError, "compute_chunk_sizes"),
        (lambda x, t: fastce.cross_entropy(x.astype(complex), t), TypeError, "logits must hold real numbers"),
        (lambda x, t: fastce.cross_entropy(x, t, n_threads=0), ValueError, "n_threads must be at least 1"),
        (lambda x, t: fastce.cross_entropy_value_and_grad(x, t, out=x), TypeError, "Dask arrays does not take out"),
        (lambda x, t: fastce.logsumexp(x, b=2.0), TypeError, "Dask arrays does not take b"),
        (lambda x, t: fastce.logsumexp(x, axis=2), ValueError, "axis 2 is out of bounds"),
        (lambda x, t: fastce.row_stats(x, outputs="target_rank"), ValueError, "need targets, got None"),
        (lambda x, t: fastce.nll_loss(x, t), TypeError, "map_blocks"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(call, error, message, rng):
    x, targets = logits_of("float32", rng)
    with pytest.raises(error, match=message):
        call(da.from_array(x, chunks=10), targets)


def test_defaults_that_are_given_by_name_are_none(rng):
    x, targets = logits_of("float32", rng)
    chunked = da.from_array(x, chunks=10)
    assert fastce.cross_entropy_value_and_grad(chunked, targets, out=None).grad.shape == x.shape
    assert fastce.logsumexp(chunked, None, None, False, False).shape == ()


def test_threads_of_tasks_and_in_them_change_no_bit(rng):
    x, targets = logits_of("float32", rng)
    chunked = da.from_array(x, chunks=(10, 7))
    with dask.config.set(scheduler="threads", num_workers=2):
        expected = fastce.cross_entropy_value_and_grad(chunked, targets).grad.compute()
    for n_threads in (1, 3):
        grad = fastce.cross_entropy_value_and_grad(chunked, targets, n_threads=n_threads).grad
        np.testing.assert_array_equal(grad.compute(), expected)


# --- as the plain functions, of arguments of odd kinds

CUTS = {"rows": (10, -1), "both": (13, 10)}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("of_dask", [True, False])
def test_numbers_for_all_rows_are_lazy_and_of_either_shape(cut, of_dask, rng):
    x, targets = rng.normal(size=(ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS)
    chunked = da.from_array(x, chunks=CUTS[cut])
    for shape in ((), (1,)):
        number = np.full(shape, 1.5)
        given = da.from_array(number) if of_dask else number
        options = {"reduction": "none"}
        whole = fastce.cross_entropy_value_and_grad(x, targets, sample_weight=number, grad_output=number, **options)
        lazy = fastce.cross_entropy_value_and_grad(chunked, targets, sample_weight=given, grad_output=given, **options)
        for found, expected in zip(dask.compute(*lazy), whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-15)
    never = da.from_delayed(dask.delayed(lambda: 1 / 0)(), (), float)
    fastce.cross_entropy_value_and_grad(chunked, targets, sample_weight=never, grad_output=never)  # computes nothing


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("mass", [-1.0, np.nan])
def test_masses_of_sparse_targets_are_checked(cut, mass, rng):
    targets = scipy.sparse.csr_array(([0.5, mass], [1, 2], [0, 1, 2, *[2] * (ROWS - 2)]), shape=(ROWS, CLASSES))
    chunked = da.from_array(rng.normal(size=(ROWS, CLASSES)), chunks=CUTS[cut])
    with pytest.raises(ValueError, match=r"sparse targets must be finite and not negative, got .* in row 1"):
        fastce.cross_entropy(chunked, targets).compute()


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("weight", [1.5e308, 5e-324])
def test_weights_whose_sum_float64_does_not_hold(cut, weight, rng):
    x, targets = rng.normal(size=(ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS)
    chunked, weights = da.from_array(x, chunks=CUTS[cut]), np.full(ROWS, weight)
    whole = fastce.cross_entropy_value_and_grad(x, targets)
    for given in (weights, da.from_array(weights, chunks=10)):
        lazy = fastce.cross_entropy_value_and_grad(chunked, targets, sample_weight=given)
        for found, expected in zip(dask.compute(*lazy), whole, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-16)


@pytest.mark.parametrize("cut", CUTS)
def test_weights_whose_products_float64_does_not_hold(cut, rng):
    x, targets = rng.normal(size=(ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS)
    weights = {"weight": np.full(CLASSES, 1e-200), "sample_weight": np.full(ROWS, 1e-200)}
    lazy = fastce.cross_entropy(da.from_array(x, chunks=CUTS[cut]), targets, **weights)
    assert lazy.compute() == pytest.approx(fastce.cross_entropy(x, targets), rel=1e-12)


@pytest.mark.parametrize("cut", CUTS)
def test_what_is_changed_after_the_call_changes_nothing(cut, rng):
    x, targets, weights = rng.normal(size=(ROWS, CLASSES)), rng.integers(0, CLASSES, ROWS), rng.uniform(size=ROWS)
    whole = fastce.cross_entropy(x, targets, sample_weight=weights)
    lazy = fastce.cross_entropy(da.from_array(x, chunks=CUTS[cut]), targets, sample_weight=weights)
    targets[:], weights[:] = 0, 1.0
    assert float(lazy.compute()) == pytest.approx(whole, rel=1e-13)


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("of_dask", [True, False])
def test_targets_of_statistics_are_checked_though_they_are_not_asked_for(cut, of_dask, rng):
    chunked = da.from_array(rng.normal(size=(ROWS, CLASSES)), chunks=CUTS[cut])
    for wrong, error in (
        (np.full(ROWS, CLASSES), IndexError),
        (np.ones(ROWS), TypeError),
        (np.ones(ROWS, bool), TypeError),
    ):
        given = da.from_array(wrong) if of_dask else wrong
        with pytest.raises(error, match="targets"):
            dask.compute(fastce.row_stats(chunked, given, outputs="argmax"))


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("of_dask", [True, False])
def test_kinds_of_targets_are_checked_at_once(cut, of_dask, rng):
    chunked = da.from_array(rng.normal(size=(ROWS, CLASSES)), chunks=CUTS[cut])
    for shape, dtype in (((ROWS,), float), ((ROWS,), bool), ((ROWS, CLASSES), int), ((ROWS, CLASSES), bool)):
        given = np.ones(shape, dtype)
        with pytest.raises(TypeError, match=r"targets of .* must be class"):
            fastce.cross_entropy(chunked, da.from_array(given) if of_dask else given)
