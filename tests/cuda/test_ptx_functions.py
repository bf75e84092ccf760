"""Functions that have kernels of their own, as these are compiled: right, with every access to memory checked."""

import re
import sys

import numpy as np
import pytest
import scipy.sparse
import scipy.special
import test_boosting
import test_calibration
import test_linear_logit_scale
import test_logit_scale
import test_nll_and_binary
import test_several_targets
import test_statistics
from checks import dtype_of, same_bits
from compiled import placed
from crosscheck import pairwise, targets_of
from on_device import OnDevice
from test_learned_scale import OPTIONS
from test_ptx_code import assert_no_spills, ptxas

import fastce

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx

CHECKS = test_nll_and_binary  # for the fixtures
SHAPES = {"few classes": (40, 7), "rows": (5, 301), "parts": (2, 20_000), "lone rows": (7, 40, 2)}


@pytest.fixture
def hessians(launched, monkeypatch):
    """The tests of gradients and Hessians, by way of compiled kernels."""
    monkeypatch.setattr(test_boosting, "fastce", launched)
    return test_boosting


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", ["plain", "all_together"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 7), None), ((7, 40), 0), ((2, 7, 3, 4), None)])
def test_nll_loss(rng, launched, shape, axis, option, dtype):
    CHECKS.test_nll_loss_and_its_gradient_are_those_of_the_formula(rng, shape, axis, option, "mean", dtype_of(dtype))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_nll_loss_of_half_precision(rng, launched, dtype):
    CHECKS.test_nll_loss_of_half_precision_is_a_float32(rng, dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("option", ["plain", "pos_weight", "both"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_binary_cross_entropy(rng, launched, option, reduction, dtype):
    CHECKS.test_binary_cross_entropy_and_its_gradient_are_those_of_the_formula(
        rng, (7, 50), option, reduction, dtype_of(dtype)
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_binary_cross_entropy_of_half_precision(rng, launched, dtype):
    CHECKS.test_binary_cross_entropy_of_half_precision_is_computed_in_float32(rng, dtype)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_at_infinite_huge_and_undefined_logits(launched, dtype):
    logits = np.array([np.inf, -np.inf, np.inf, 3e38, -3e38, np.nan, 0.0], dtype)
    targets = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    losses, grad = launched.binary_cross_entropy_with_logits_value_and_grad(logits, targets, reduction="none")
    np.testing.assert_allclose(losses, np.array([np.inf, 0, 0, 3e38, 0, np.nan, np.log(2)], dtype), rtol=1e-6)
    np.testing.assert_allclose(grad, [1, 0, 0, 1, 0, np.nan, -0.5], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(70, 3), (9, 100), (2, 3000), (3, 40, 5)])
@pytest.mark.parametrize("kind", ["of both signs", "of each class"])
def test_logsumexp_with_factors(rng, launched, kind, shape, dtype):
    a = (5 * rng.normal(size=shape)).astype(dtype_of(dtype))
    b = rng.normal(size=shape if kind == "of both signs" else (shape[1], *[1] * (len(shape) - 2)))
    (b[:, 0] if kind == "of both signs" else b)[:1] = 0
    value, sign = launched.logsumexp(a, axis=1, b=b, return_sign=True)
    wide = a.astype(np.float64)
    exact, exact_sign = scipy.special.logsumexp(wide, axis=1, b=b, return_sign=True)
    lost = np.exp(scipy.special.logsumexp(wide, axis=1, b=np.abs(b)) - exact)  # by sums of both signs
    np.testing.assert_array_equal(sign, exact_sign)
    assert (np.abs(value - exact) <= 4e-15 * lost * (1 + np.abs(exact))).all()


@pytest.mark.parametrize(("a", "b"), [
    ([np.inf, np.nan, 2], [0, 0, 1]), ([1, 1, 0], [1, -1, 0]), ([np.inf, np.inf, 0], [1, -1, 0]),
    ([np.inf, 0, 1], [-1, 1, 0]), ([-np.inf, -np.inf, 0], [-1, 1, 0]), ([1, 2, 3], [np.inf, 0, 0]),
    ([1, 2, 3], [np.nan, 0, 0]), ([3, 1, 1], [-1, 1, 1]), ([800, 0, 1], [1e-300, -1, 0]),
    ([0, 0, 0], [-1e308, -1e308, -1e308]),
])  # fmt: skip
def test_logsumexp_of_special_factors(launched, a, b):
    a, b = np.array([a, [0, 1, 2]], float), np.array([b, [1, 1, 1]], float)
    with np.errstate(all="ignore"):
        expected = fastce.logsumexp(a, axis=1, b=b, return_sign=True)
    for one, other in zip(launched.logsumexp(a, axis=1, b=b, return_sign=True), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("classes", [2, 17, 100])
def test_one_minus_p_keeps_its_digits(rng, launched, hessians, classes, dtype):
    rows = np.arange(40)
    logits = rng.normal(size=(40, classes))
    logits[rows, rng.integers(0, classes, 40)] += rng.uniform(0, 40, 40)
    logits, targets = logits.astype(dtype), rng.integers(0, classes, 40)
    for x, axis in ((logits, 1), (logits.T.copy(), 0)):
        hess = launched.cross_entropy_grad_and_hess(x, targets, axis=axis).hess
        p, others = hessians.probabilities(logits)
        error = np.abs((hess if axis else hess.T) - p * others)
        assert (error <= 16 * np.finfo(dtype).eps * p * others + np.finfo(dtype).tiny).all()


@pytest.mark.parametrize("option", ["weight", "softcap", "z_loss", "all_together"])
@pytest.mark.parametrize("kind", ["hard", "probability"])
def test_gradients_and_hessians(rng, launched, hessians, kind, option):
    hessians.test_gradient_and_hessian_are_the_derivatives_of_the_loss(rng, option, kind)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("hessian", ["xgboost", "absolute"])
@pytest.mark.parametrize("shape", [(20, 9), (5, 300), (9, 20)])
def test_conventions_for_hessians(rng, launched, shape, hessian, dtype):
    x, axis = (4 * rng.normal(size=shape)).astype(dtype_of(dtype)), 0 if shape == (9, 20) else 1
    targets = rng.integers(0, shape[axis], shape[1 - axis]).astype(np.float32)
    expected = fastce.cross_entropy_grad_and_hess(
        x.astype(float), targets, axis=axis, hessian=hessian, label_smoothing=0.1
    )
    out = x, np.full_like(x, 77)
    launched.cross_entropy_grad_and_hess(x, targets, axis=axis, hessian=hessian, label_smoothing=0.1, out=out)
    eps = {"float16": 2**-11, "bfloat16": 2**-8}.get(dtype, 2**-23)
    for one, other in zip(out, expected, strict=True):
        np.testing.assert_allclose(one.astype(float), other, rtol=2 * eps, atol=2e-6)


@pytest.mark.parametrize("case", pairwise(
    shape=list(SHAPES), dtype=["float16", "bfloat16", "float32", "float64"],
    option=list(OPTIONS), kind=["int64", "probabilities", "sparse"], reduction=["none", "mean"],
), ids=str)  # fmt: skip
def test_derivative_by_the_scale(rng, launched, monkeypatch, case):
    """The loss has the bits of its twins, as has the gradient beside."""
    monkeypatch.setattr(test_logit_scale, "fastce", launched)
    x = (4 * rng.normal(size=SHAPES[case["shape"]])).astype(dtype_of(case["dtype"]))
    targets = targets_of(case["kind"], rng, x.shape, 1, x.dtype)
    options = OPTIONS[case["option"]] | {"reduction": case["reduction"]}
    found = test_logit_scale.check(x, targets, bound=8, **options)
    expected, out = launched.cross_entropy_value_and_grad(x, targets, **options), np.empty_like(x)
    beside = test_logit_scale.function(x, targets, out=out, **options)
    assert same_bits(found.value, launched.cross_entropy(x, targets, **options))
    assert same_bits(beside.value, expected.value)
    assert same_bits(out, expected.grad)
    assert beside.grad_logit_scale == found.grad_logit_scale


def test_derivative_of_a_layer_and_temperature_of_least_loss(rng, launched, monkeypatch):
    for module in (test_linear_logit_scale, test_calibration):
        monkeypatch.setattr(module, "fastce", launched)
    test_linear_logit_scale.test_rows_with_much_in_common_keep_their_digits(rng)
    test_linear_logit_scale.test_ignored_rows_count_nothing_and_nan_shows(rng)
    test_calibration.test_the_temperature_is_that_of_a_search_over_the_loss("float32", 7.0, rng)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
@pytest.mark.parametrize(("shape", "axis"), [((40, 3), 1), ((9, 100), 1), ((2, 3000), 1), ((3, 40), 0)])
def test_row_stats(rng, launched, shape, axis, dtype):
    x = (4 * rng.normal(size=shape)).astype(dtype_of(dtype))
    x.flat[:: x.size // 5] += 30
    targets = rng.integers(0, shape[axis], shape[1 - axis]).astype(np.int32)
    check_statistics(launched, x, targets, axis)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_row_stats_of_parts_of_rows(rng, launched, monkeypatch, dtype):
    monkeypatch.setattr("fastce.cuda.statistics.MOST_OF_BLOCK", 1000)
    x = (4 * rng.normal(size=(2, 3001))).astype(dtype_of(dtype))
    x[0, 1500:] = -np.inf
    check_statistics(launched, x, np.array([1700, 2900]), 1)
    assert [one.kernel.__name__ for one in launched.device.launches][-2:] == ["statistics", "parts_of_statistics"]
    assert np.prod(launched.device.launches[-2].grid) == 8  # four parts of a row


def check_statistics(functions, x, targets, axis=1):
    stats = functions.row_stats(x, targets, outputs=test_statistics.OUTPUTS, axis=axis)
    expected = test_statistics.expected_statistics(x, targets, axis)
    for name, value in stats.items():
        if name in ("logsumexp", "entropy", "target_log_prob"):  # 2 ulp more, of the exp of a GPU
            most = {"logsumexp": 3, "entropy": 10, "target_log_prob": 6}[name]
            is_finite = np.isfinite(expected[name])
            np.testing.assert_array_equal(value[~is_finite], expected[name][~is_finite])
            value, exact = value[is_finite], expected[name][is_finite]
            near_zero = np.abs(value - exact) <= 2 * np.finfo(value.dtype).eps * (name == "logsumexp")
            assert (near_zero | (test_statistics.naive.ulp_error(value, exact) <= most)).all(), name
        else:
            np.testing.assert_array_equal(value, expected[name].astype(value.dtype), name)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "float64"])
def test_row_stats_reads_whole_chunks_wherever_rows_begin(rng, launched, dtype):
    dtype, (rows, classes) = dtype_of(dtype), (3, 700)
    lanes = 16 // dtype.itemsize
    for offset, step in ((0, 704), (1, 701), (lanes - 1, 700 + lanes - 1)):
        x = placed((4 * rng.normal(size=(rows, classes))).astype(dtype), offset, step)
        x[1, :2] = x[2, 2:] = -np.inf  # what a chunk is filled up with beyond a row
        check_statistics(launched, x, np.array([5, 1, 699], np.int32))
        check_statistics(launched, x[:, : classes - 1], np.array([0, 698, 0], np.int32))
        widths = launched.device.launches[-1].report.read_widths
        assert widths[16] >= rows * (classes - 1 - 2 * lanes) * dtype.itemsize
        if dtype.itemsize < 8:  # which the report's numbers have; targets are read by all 32 threads of a row
            assert widths[dtype.itemsize] <= rows * (2 * lanes + 2 * 32) * dtype.itemsize


@pytest.mark.parametrize("length", [4, 300])
def test_row_stats_of_special_values(launched, length):
    x = np.zeros((6, length), np.float32)
    x[0, 2], x[1, 3], x[2], x[3, 1:], x[4, :2], x[5, 1] = np.nan, np.inf, -np.inf, -np.inf, np.inf, 3e38
    targets = np.array([0, 1, 1, 1, 0, 1])
    stats = launched.row_stats(x, targets, outputs=test_statistics.OUTPUTS)
    for name, expected in test_statistics.expected_statistics(x, targets).items():
        np.testing.assert_allclose(stats[name].astype(float), expected.astype(float), rtol=1e-6, err_msg=name)


def test_row_stats_of_several_targets(rng, launched, monkeypatch):
    monkeypatch.setattr(test_several_targets, "fastce", launched)
    x, belongs = rng.integers(-3, 4, (30, 40)).astype(np.float32), rng.random((30, 40)) < 0.1
    test_several_targets.check(x, belongs, targets=scipy.sparse.csr_array(belongs.astype(np.float32)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("positives", ["one", "several"])
def test_recall_at_k(rng, launched, positives, dtype):
    query, keys = (rng.integers(-3, 4, (n, 7)).astype(dtype_of(dtype)) for n in (20, 150))
    chosen = rng.integers(0, 150, 20)
    if positives == "several":
        chosen = scipy.sparse.csr_array((rng.random((20, 150)) < 0.03) * 1.0)
    ours, expected = (f.recall_at_k(query, keys, chosen) for f in (launched, fastce))
    np.testing.assert_array_equal(ours.rank, expected.rank)
    assert ours.recall == expected.recall


@pytest.mark.slow
@pytest.mark.parametrize(("cc", "name"), [((8, 0), "float32"), ((9, 0), "bfloat16"), ((10, 0), "float64")])
def test_nothing_in_local_memory_and_no_spills(tmp_path, monkeypatch, cc, name):
    from ptx.device import Device, aligned

    monkeypatch.setitem(sys.modules, "cupy", np)
    functions, x, labels = OnDevice(Device.array), aligned((40, 40), dtype_of(name)), np.arange(40)
    options = {"softcap": 5.0, "z_loss": 0.1, "label_smoothing": 0.1, "hessian": "xgboost"}
    with Device(cc=cc, races=False) as device:
        functions.nll_loss_value_and_grad(x, labels, weight=np.ones(40))
        functions.binary_cross_entropy_with_logits_value_and_grad(x, x, reduction="none")
        functions.binary_cross_entropy_with_logits_value_and_grad(x, x, pos_weight=np.ones(40))
        functions.logsumexp(x, axis=1, b=np.ones((40, 1)), return_sign=True)
        for there, axis in ((x, 1), (x[:, :10].copy(), 1), (x, 0)):
            functions.cross_entropy_grad_and_hess(there, labels % 10, axis=axis)
            functions.cross_entropy_grad_and_hess(there, (labels % 10).astype(float), axis=axis, **options)
        functions.row_stats(x, labels, outputs=test_statistics.OUTPUTS)
        functions.row_stats(x, outputs="max")
        functions.recall_at_k(x, x)
    found = {one.text: one for one in device.launches}.values()
    names = {one.kernel.__name__ for one in found}
    assert names >= {"likelihood_rows", "likelihood_gradients", "binary", "signed_rows", "bounded", "whole_numbers"}
    assert names >= {"statistics", "best_points", "rows", "few_classes", "lone_rows"}
    for one in found:
        assert not re.search(r"\b(ld|st)\.local|\.local \.", one.text), one.kernel.__name__
        if ptxas() is not None:
            assert_no_spills(tmp_path, one, cc)
