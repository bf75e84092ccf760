"""cross_entropy and its gradient: against the formulas, in every dtype and layout, at the special values."""

import naive
import numpy as np
import pytest
import scipy.sparse
from covering import covering

import fastce
from fastce.cpu._kernels.columns import NARROW

REDUCTIONS = ["none", "sum", "mean"]
INF, NAN = np.inf, np.nan

OPTIONS = {  # name: (rng, row shape, classes) -> options
    "plain": lambda rng, rows, classes: {},
    "weight": lambda rng, rows, classes: {"weight": rng.random(classes) * 2},
    "sample_weight": lambda rng, rows, classes: {"sample_weight": rng.random(rows) * 2},
    "ignore_index": lambda rng, rows, classes: {"ignore_index": -7},
    "smoothing_all": lambda rng, rows, classes: {"label_smoothing": 0.1},
    "smoothing_others": lambda rng, rows, classes: {"label_smoothing": 0.1, "smoothing_over": "others"},
    "smoothing_1": lambda rng, rows, classes: {"label_smoothing": 1.0},
    "logit_scale": lambda rng, rows, classes: {"logit_scale": 2.5},
    "softcap": lambda rng, rows, classes: {"softcap": 5.0},
    "z_loss": lambda rng, rows, classes: {"z_loss": 0.01},
    "weight_smoothing": lambda rng, rows, classes: {"weight": rng.random(classes), "label_smoothing": 0.2},
    "all_together": lambda rng, rows, classes: {
        "weight": rng.random(classes),
        "sample_weight": rng.random(rows),
        "ignore_index": -7,
        "label_smoothing": 0.2,
        "smoothing_over": "others",
        "logit_scale": 1.5,
        "softcap": 6.0,
        "z_loss": 0.02,
    },
}


def make_targets(kind, rng, row_shape, classes, axis=-1):
    """Class indices, dense probabilities of logits' shape, or a sparse matrix with two classes a row."""
    if kind == "hard":
        return rng.integers(0, classes, row_shape)
    if kind == "probability":
        return np.moveaxis(rng.random((*row_shape, classes)) / classes, -1, axis)
    rows = np.repeat(np.arange(row_shape[0]), 2)
    columns = rng.integers(0, classes, rows.size)
    return scipy.sparse.csr_array((rng.random(rows.size), (rows, columns)), shape=(row_shape[0], classes))


def rounding_of_x(exact, options):
    """How far x itself may be off: scaled and capped in float64, in four roundings, whatever its dtype."""
    eps = np.finfo(np.float64).eps
    return 4 * eps * np.abs(exact.x).max(initial=0) if {"logit_scale", "softcap"} & set(options) else 0.0


def assert_value(value, logits, targets, reduction="mean", **options):
    """At most 4 ulp of the row's loss (contract 7)."""
    dtype = np.result_type(np.float32, logits.dtype)
    exact = naive.CrossEntropy(logits, targets, **options)
    expected = exact.reduced(reduction)
    eps = np.finfo(dtype).eps
    z_loss = options.get("z_loss", 0.0)
    sensitivity = exact.v * (exact.mass + 2 * z_loss * np.abs(exact.lse))  # d loss / d x, at most
    bound = naive.allowed(4, dtype) * np.spacing(exact.rows.astype(dtype))
    bound = bound + rounding_of_x(exact, options) * sensitivity
    # logsumexp near zero is good to 2 eps absolute, hence the term of z_loss
    bound = bound + 2 * eps * exact.v * 2 * z_loss * np.abs(exact.lse)
    if reduction == "none":
        assert value.dtype == dtype
        assert value.shape == expected.shape
        assert np.all(np.abs(value.astype(expected.dtype) - expected).ravel() <= bound)
    else:
        assert type(value) is float
        denominator = exact.denominator if reduction == "mean" else 1.0
        assert abs(value - expected) <= bound.sum() / denominator + 4 * np.finfo(float).eps * abs(expected)


def assert_gradient(grad, logits, targets, reduction="mean", grad_output=1.0, **options):
    """At most 4 eps absolute before scaling (contract 7).

    Scaling is what multiplies p - y: the row's mass and sample weight, logit_scale, grad_output, the mean.
    """
    dtype = logits.dtype if logits.dtype.kind not in "iub" else np.dtype(np.float64)
    wide = np.result_type(np.float32, dtype)
    exact = naive.CrossEntropy(logits, targets, **options)
    expected = exact.gradient(reduction, grad_output)
    scale = exact.v * (exact.mass + 2 * options.get("z_loss", 0.0) * np.abs(exact.lse))
    scale = scale * options.get("logit_scale", 1.0) * np.broadcast_to(np.abs(grad_output), exact.row_shape).ravel()
    scale = scale / (exact.denominator if reduction == "mean" else 1.0)
    eps = np.finfo(wide).eps
    bound = scale * (naive.allowed(4, wide) * eps + rounding_of_x(exact, options))
    expected = naive.as_rows(expected, exact.axis)[0]
    error = np.abs(naive.as_rows(grad, exact.axis)[0].astype(expected.dtype) - expected)
    if dtype != wide:  # and half a unit for the last rounding to float16 or bfloat16
        error = error - np.spacing(np.abs(expected).astype(dtype)).astype(float) / 2
    assert grad.dtype == dtype
    assert grad.shape == logits.shape
    assert np.all(error <= bound[:, None])


# ---------------------------------------------------------------------------------- against the formulas
@covering(
    {
        "dtype": [np.float32, np.float64],
        "reduction": REDUCTIONS,
        "kind": ["hard", "probability", "sparse"],
        "option": OPTIONS,
    }
)
def test_value_and_gradient_are_those_of_the_formula(rng, option, kind, reduction, dtype):
    logits = (rng.normal(size=(37, 29)) * 4).astype(dtype)
    targets = make_targets(kind, rng, (37,), 29)
    options = OPTIONS[option](rng, (37,), 29)
    if kind == "hard":
        targets[::5] = options.get("ignore_index", -100)
    assert_value(
        fastce.cross_entropy(logits, targets, reduction=reduction, **options),
        logits,
        targets,
        reduction,
        **options,
    )
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, **options)
    assert_value(value, logits, targets, reduction, **options)
    assert_gradient(grad, logits, targets, reduction, **options)


@covering(
    {
        "option": ["plain", "all_together"],
        "kind": ["hard", "probability"],
        "shape, axis": [
            ((6,), None),
            ((6,), 0),
            ((4, 6), None),
            ((6, 4), 0),
            ((4, 6), -1),
            ((3, 6, 4), None),
            ((3, 4, 6), 2),
            ((6, 3, 4), -3),
            ((2, 6, 3, 4), None),
            ((2, 3, 4, 6), -1),
            ((2, 1, 6, 3, 2), 2),
        ],
        "reduction": REDUCTIONS,
    }
)
def test_any_axis_may_be_the_class_axis(rng, shape, axis, kind, option, reduction):
    logits = rng.normal(size=shape).astype(np.float32) * 3
    class_axis = (0 if len(shape) == 1 else 1) if axis is None else axis
    row_shape = tuple(np.delete(shape, class_axis))
    targets = make_targets(kind, rng, row_shape, 6, class_axis)
    options = OPTIONS[option](rng, row_shape, 6)
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets, axis=axis, reduction=reduction, **options)
    assert_value(value, logits, targets, reduction, axis=axis, **options)
    assert_gradient(grad, logits, targets, reduction, axis=axis, **options)
    assert_value(
        fastce.cross_entropy(logits, targets, axis=axis, reduction=reduction, **options),
        logits,
        targets,
        reduction,
        axis=axis,
        **options,
    )


def test_sparse_targets_go_with_the_class_axis_first(rng):
    logits = rng.normal(size=(9, 5))
    targets = make_targets("sparse", rng, (5,), 9)
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets, axis=0)
    assert_value(value, logits, targets, axis=0)
    assert_gradient(grad, logits, targets, axis=0)


@pytest.mark.parametrize(
    "make",
    [
        "csr_array",
        "csc_array",
        "coo_array",
        "lil_array",
        "dok_array",
        "bsr_array",
        "csr_matrix",
        "coo_matrix",
    ],
)
def test_sparse_targets_of_any_format_equal_their_dense_form(rng, make):
    logits = rng.normal(size=(8, 12))
    dense = rng.random((8, 12)) * (rng.random((8, 12)) < 0.3)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, getattr(scipy.sparse, make)(dense), reduction="none")
    assert_value(losses, logits, dense, "none")
    assert_gradient(grad, logits, dense, "none")


@pytest.mark.parametrize("shape", [(70_001, 2), (3000, 17), (900, 64), (900, 65), (3, 5, 2000)])
@pytest.mark.parametrize("of_masses", [np.float32, np.float64, np.int8])
def test_sparse_targets_of_few_classes_are_the_formula(rng, of_masses, shape):
    """Spread out block by block: rows without a point, with all of them, smoothed and weighted, and one with a NaN."""
    logits, classes = (rng.normal(size=shape) * 5).astype(np.float32), shape[1]
    rows = logits.size // classes
    dense = ((rng.random((rows, classes)) * 4) * (rng.random((rows, classes)) < 2 / classes)).astype(of_masses)
    dense[1], dense[2] = 0, 1
    targets = np.moveaxis(dense.reshape(shape[0], *shape[2:], classes), -1, 1).astype(float)
    options = {"label_smoothing": 0.1, "weight": rng.random(classes) + 0.5, "reduction": "none"}
    for some in ({"reduction": "none"}, options):
        losses, grad = fastce.cross_entropy_value_and_grad(logits, scipy.sparse.csr_array(dense), **some)
        assert_value(losses, logits, targets, **some)
        assert_gradient(grad, logits, targets, **some)
    broken = logits.copy()
    broken[-1, 0] = np.nan
    losses, grad = fastce.cross_entropy_value_and_grad(broken, scipy.sparse.csr_array(dense), **options)
    with np.errstate(invalid="ignore"):
        same = fastce.cross_entropy_value_and_grad(broken, targets, **options)
    np.testing.assert_array_equal(np.isnan(losses), np.isnan(same.value))
    np.testing.assert_array_equal(np.isnan(grad), np.isnan(same.grad))


@pytest.mark.parametrize("masses", [[1e-30, 1e-40], [1e38, 3e39], [0.0, 1e-300]])
def test_sparse_masses_that_float32_does_not_hold_keep_their_digits(masses):
    logits, dense = np.array([[1.0, 2.0, 3.0]], np.float32), np.array([[*masses, 0.0]])
    value = fastce.cross_entropy(logits, scipy.sparse.csr_array(dense), reduction="sum")
    assert value == pytest.approx(naive.cross_entropy(logits, dense, reduction="sum"), rel=1e-6)


def test_sparse_duplicates_are_summed_and_unsorted_indices_and_explicit_zeros_accepted(rng):
    logits = rng.normal(size=(3, 5))
    data, indices, indptr = (
        np.array([0.25, 0.5, 0.25, 0.0, 1.0]),
        np.array([4, 1, 4, 0, 2]),
        np.array([0, 3, 3, 5]),
    )
    targets = scipy.sparse.csr_array((data, indices, indptr), shape=(3, 5))
    dense = np.array([[0, 0.5, 0, 0, 0.5], [0, 0, 0, 0, 0], [0, 0, 1.0, 0, 0]])
    losses, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
    assert_value(losses, logits, dense, "none")
    assert_gradient(grad, logits, dense, "none")
    assert losses[1] == 0
    assert np.all(grad[1] == 0)
    np.testing.assert_array_equal(targets.data, [0.25, 0.5, 0.25, 0.0, 1.0], err_msg="the input was written to")
    np.testing.assert_array_equal(targets.indices, [4, 1, 4, 0, 2], err_msg="the input was written to")


@pytest.mark.parametrize("classes", [8, 100])
@pytest.mark.parametrize("form", ["csr", "csc", "coo"])
@pytest.mark.parametrize(
    ("name", "mass"), [("bool", 1), ("int8", 100), ("uint8", 200), ("int32", 2**30), ("float32", 0.1)]
)
def test_sums_of_sparse_duplicates_do_not_wrap_around_whatever_their_dtype_is(classes, form, name, mass):
    number, masses = 1000, np.full(1000, mass, name)
    rows, columns = np.zeros(number, int), np.full(number, 2)
    targets = scipy.sparse.coo_array((masses, (rows, columns)), shape=(1, classes))
    if form != "coo":  # SciPy's own conversions add them up
        targets = getattr(scipy.sparse, f"{form}_array")((1, classes), dtype=name)
        targets.data, targets.indices = masses, (columns if form == "csr" else rows)
        ends = np.r_[0, number] if form == "csr" else np.where(np.arange(classes + 1) > 2, number, 0)
        targets.indptr = ends.astype(columns.dtype)
    value = fastce.cross_entropy(np.zeros((1, classes)), targets)
    assert value == pytest.approx(number * float(masses[0]) * np.log(classes), rel=1e-12)


def test_one_hot_probabilities_cost_what_the_class_indices_cost(rng):
    logits, labels = rng.normal(size=(20, 7)), rng.integers(0, 7, 20)
    for smoothing_over in ("all", "others"):
        options = {"label_smoothing": 0.3, "smoothing_over": smoothing_over}
        hard = fastce.cross_entropy_value_and_grad(logits, labels, **options)
        soft = fastce.cross_entropy_value_and_grad(logits, np.eye(7)[labels], **options)
        np.testing.assert_allclose(soft.value, hard.value, rtol=1e-14)
        np.testing.assert_allclose(soft.grad, hard.grad, rtol=0, atol=1e-16)  # 8 eps / 20 rows


SIZES = [
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    15,
    16,
    17,
    31,
    33,
    63,
    64,
    65,
    127,
    128,
    129,
    255,
    256,
    257,
    511,
    513,
    1000,
    2047,
    2048,
    2049,
    4097,
    5000,
    20000,
]


@covering({"dtype": [np.float32, np.float64], "kind": ["hard", "probability"], "classes": SIZES}, quick=1)
def test_every_number_of_classes_with_the_target_first_in_the_middle_and_last(rng, classes, kind, dtype):
    logits = (rng.normal(size=(5, classes)) * 3).astype(dtype)
    labels = np.array([0, classes // 2, classes - 1, classes // 3, max(classes - 2, 0)])
    one_hot = (labels[:, None] == np.arange(classes)).astype(float)
    targets = labels if kind == "hard" else one_hot
    losses, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
    assert_value(losses, logits, targets, "none")
    assert_gradient(grad, logits, targets, "none")
    assert_value(fastce.cross_entropy(logits, targets, reduction="none"), logits, targets, "none")
    smoothed = {"label_smoothing": 0.1, "z_loss": 0.001}
    losses, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", **smoothed)
    assert_value(losses, logits, targets, "none", **smoothed)
    assert_gradient(grad, logits, targets, "none", **smoothed)


@pytest.mark.parametrize("classes", [3, 10, 64, 100])
@pytest.mark.parametrize("rows", [1, 2, 15, 63, 64, 65, 129, 1000])
def test_every_number_of_rows(rng, rows, classes):
    logits = rng.normal(size=(rows, classes)).astype(np.float32)
    labels = rng.integers(0, classes, rows)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_value(losses, logits, labels, "none")
    assert_gradient(grad, logits, labels, "none")


# ------------------------------------------------------------------------------------ the promised digits
def test_a_confident_row_keeps_its_digits_where_lse_minus_logit_gives_zero():
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 3] = 25
    loss = fastce.cross_entropy(logits, [3], reduction="none")
    assert naive.ulp_error(loss, np.array([np.log1p(999 * np.exp(-25.0))])).max() <= 4
    assert loss[0] == pytest.approx(1.387e-8, rel=1e-3)


@covering(
    {"dtype": [np.float32, np.float64], "margin": [10.0, 25.0, 80.0], "classes": [2, 10, 100, 1000, 5000]}, quick=1
)
def test_confident_rows_are_right_to_4_ulp(rng, classes, margin, dtype):
    logits = rng.normal(size=(40, classes)).astype(dtype)
    labels = rng.integers(0, classes, 40)
    logits[np.arange(40), labels] += dtype(margin)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_value(losses, logits, labels, "none")
    assert_gradient(grad, logits, labels, "none")
    assert_value(fastce.cross_entropy(logits, labels, reduction="none"), logits, labels, "none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("lead", [[0.0, 1.0], [60.0, -60.0], [-800.0, 800.0]])
def test_targets_of_any_likelihood_are_right_to_4_ulp(rng, lead, dtype):
    """Some alone, some beside others, from certain ones to those whose exp is below the smallest number."""
    logits = rng.normal(size=(400, 5)).astype(dtype)
    logits[:, 0] += np.linspace(*lead, 400, dtype=dtype)
    labels = np.zeros(400, int)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_value(losses, logits, labels, "none")
    assert_gradient(grad, logits, labels, "none")
    alone = fastce.cross_entropy(logits, labels, reduction="none")
    assert alone.tobytes() == losses.tobytes()


@pytest.mark.parametrize("margin", [25, 80])
def test_the_gradient_of_a_confident_row_keeps_small_probabilities(margin):
    logits = np.zeros((1, 50), np.float32)
    logits[0, 7] = margin
    grad = fastce.cross_entropy_value_and_grad(logits, [7], reduction="none").grad
    p = np.exp(-margin) / (1 + 49 * np.exp(-margin))
    np.testing.assert_allclose(np.delete(grad[0], 7), p, rtol=1e-6)  # exp is good to 1 ulp, and so is its sum


@pytest.mark.parametrize("offset", [1e4, 1e6, -1e6, 1e10])
@pytest.mark.parametrize("classes", [3, 10, 200, 3000])
def test_rows_with_a_common_offset_are_right_to_4_ulp(rng, classes, offset):
    logits = (rng.normal(size=(20, classes)) * 3 + offset).astype(np.float32)
    labels = rng.integers(0, classes, 20)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_value(losses, logits, labels, "none")
    assert_gradient(grad, logits, labels, "none")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("order", ["rising", "falling", "peak at the end", "peak after the first block", "far below"])
def test_rows_whose_maximum_comes_late_are_right_to_4_ulp(rng, order, dtype):
    classes = 3000
    row = {
        "rising": np.linspace(-500, 500, classes),
        "falling": np.linspace(500, -500, classes),
        "peak at the end": np.r_[rng.normal(size=classes - 1), 300],
        "peak after the first block": np.r_[rng.normal(size=1100), 250, rng.normal(size=classes - 1101)],
        "far below": np.r_[np.full(1500, -800.0), rng.normal(size=1500)],
    }[order].astype(dtype)
    logits, labels = np.stack([row] * 5), np.array([0, 1100, 1500, classes - 2, classes - 1])
    losses, grad = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none")
    assert_value(losses, logits, labels, "none")
    assert_gradient(grad, logits, labels, "none")


@pytest.mark.parametrize(
    "row",
    [
        [3e38, -3e38, 0.0],
        [-3e38] * 4,
        [3e38] * 4,
        [3e38, 2.9e38],
        [1e-45, -1e-45, 0.0],
        [0.0] * 7,
        [-1e10, -1e10 + 2048],
    ],
)
def test_extreme_float32_rows_are_right_to_4_ulp(row):
    logits = np.array([row] * len(row), np.float32)
    losses, grad = fastce.cross_entropy_value_and_grad(logits, np.arange(len(row)), reduction="none")
    exact = naive.CrossEntropy(logits, np.arange(len(row)))
    assert naive.ulp_error(losses, exact.rows).max() <= 4
    assert np.abs(grad - exact.grad).max() <= 4 * np.finfo(np.float32).eps


def test_four_ulp_hold_against_mpmath(rng):
    logits = (rng.normal(size=(6, 40)) * 5).astype(np.float64)
    labels = np.r_[logits[:3].argmax(1), rng.integers(0, 40, 3)]
    losses = fastce.cross_entropy(logits, labels, reduction="none")
    for loss, row, label in zip(losses, logits, labels, strict=True):
        exact = naive.logsumexp_exact(row) - naive.logsumexp_exact(row[label : label + 1])
        assert naive.ulp_error(loss, exact) <= 4


# ------------------------------------------------------------------------------------ finite differences
@covering({"reduction": ["sum", "mean"], "kind": ["hard", "probability", "sparse"], "option": OPTIONS}, quick=1)
def test_the_gradient_is_the_derivative_of_the_value(rng, option, kind, reduction):
    logits = rng.normal(size=(3, 5)) * 2
    targets = make_targets(kind, rng, (3,), 5)
    options = OPTIONS[option](rng, (3,), 5)
    grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, **options).grad
    numeric = naive.fourth_order_difference(
        lambda x: fastce.cross_entropy(x, targets, reduction=reduction, **options), logits
    )
    # truncation h^4 f'''''/30 and rounding eps |f| / h: both about 1e-12 for values of order 10
    np.testing.assert_allclose(grad, numeric, rtol=0, atol=1e-10)


# ----------------------------------------------------------------------------------------------- dtypes
@covering(
    {
        "option": ["plain", "weight", "smoothing_all", "z_loss", "all_together"],
        "kind": ["hard", "probability"],
        "name": ["float16", "bfloat16"],
        "classes": [5, 300],
    }
)
def test_half_precision_is_read_as_it_is_and_computed_in_float32(rng, classes, name, kind, option):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    logits = (rng.normal(size=(30, classes)) * 3).astype(dtype)
    targets = make_targets(kind, rng, (30,), classes)
    options = OPTIONS[option](rng, (30,), classes)
    for reduction in REDUCTIONS:
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, **options)
        assert_value(value, logits.astype(np.float32), targets, reduction, **options)
        assert_gradient(grad, logits, targets, reduction, **options)
        assert_value(
            fastce.cross_entropy(logits, targets, reduction=reduction, **options),
            logits.astype(np.float32),
            targets,
            reduction,
            **options,
        )


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64"])
def test_probability_targets_of_any_float_dtype_are_accepted(rng, name):
    dtype = np.dtype(pytest.importorskip("ml_dtypes").bfloat16) if name == "bfloat16" else np.dtype(name)
    logits = rng.normal(size=(9, 6)).astype(np.float32)
    targets = rng.random((9, 6)).astype(dtype)
    assert_value(fastce.cross_entropy(logits, targets, reduction="none"), logits, targets, "none")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "int64", "uint64", "bool"])
def test_integer_and_bool_logits_count_as_float64(rng, dtype):
    logits = rng.integers(0, 2 if dtype == "bool" else 100, (8, 11)).astype(dtype)
    labels = rng.integers(0, 11, 8)
    for reduction in REDUCTIONS:
        ours = fastce.cross_entropy_value_and_grad(logits, labels, reduction=reduction)
        same = fastce.cross_entropy_value_and_grad(logits.astype(np.float64), labels, reduction=reduction)
        np.testing.assert_array_equal(ours.value, same.value)
        np.testing.assert_array_equal(ours.grad, same.grad, strict=True)


def test_lists_are_accepted():
    logits, labels = [[1.0, 2.0, 3.0], [0.0, 0.0, 5.0]], [2, 0]
    assert_value(fastce.cross_entropy(logits, labels), np.array(logits), np.array(labels))
    assert_value(fastce.cross_entropy([1.0, 2.0, 3.0], 1), np.array(logits[0]), np.array(1))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_loss_of_one_dimensional_logits_is_a_numpy_scalar_with_reduction_none(dtype):
    loss = fastce.cross_entropy(np.array([1, 2, 4], dtype), 2, reduction="none")
    assert type(loss) is (np.float64 if dtype == np.float64 else np.float32)


def test_the_results_are_named():
    result = fastce.cross_entropy_value_and_grad(np.zeros((2, 3)), [0, 1])
    assert result._fields == ("value", "grad")
    assert type(result.value) is float
    assert result.grad.flags.c_contiguous


# ---------------------------------------------------------------------------------------------- layouts
def misaligned(a):
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    view = raw.view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def spread(a):
    big = np.full([3 * n for n in a.shape], 99, a.dtype)
    view = big[tuple(slice(1, None, 3) for _ in a.shape)]
    view[...] = a
    return view


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


LAYOUTS = {
    "fortran": np.asfortranarray,
    "classes reversed": lambda a: a[..., ::-1].copy()[..., ::-1],
    "rows reversed": lambda a: a[::-1].copy()[::-1],
    "everything reversed": lambda a: np.flip(np.flip(a).copy()),
    "every third": spread,
    "padded rows": lambda a: np.concatenate([a, a[..., :3]], axis=-1)[..., : a.shape[-1]],
    "misaligned": misaligned,
    "byte-swapped": lambda a: a.astype(a.dtype.newbyteorder()),
    "byte-swapped, misaligned, reversed": lambda a: misaligned(a.astype(a.dtype.newbyteorder())[::-1].copy())[::-1],
    "read-only": read_only,
    "a subclass": lambda a: a.view(np.matrix if a.ndim == 2 else np.recarray),
}


@covering({"layout": LAYOUTS, "dtype": [np.float16, np.float32, np.float64], "shape": [(70, 9), (40, 700), (3, 9, 50)]})
def test_any_layout_of_the_logits_gives_the_bits_of_a_plain_copy(rng, shape, dtype, layout):
    plain = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    logits = LAYOUTS[layout](plain)
    if layout == "fortran" and shape[1] > NARROW:  # other kernels: the promised accuracy, but not the same bits
        for reduction in REDUCTIONS:
            ours = fastce.cross_entropy_value_and_grad(logits, labels, reduction=reduction)
            assert_value(ours.value, plain, labels, reduction)
            assert_gradient(ours.grad, plain, labels, reduction)
        return
    for reduction in REDUCTIONS:
        ours = fastce.cross_entropy_value_and_grad(logits, labels, reduction=reduction)
        same = fastce.cross_entropy_value_and_grad(plain, labels, reduction=reduction)
        np.testing.assert_array_equal(ours.value, same.value)
        np.testing.assert_array_equal(ours.grad, same.grad)
        assert type(ours.grad) is np.ndarray
        assert ours.grad.dtype == dtype
        assert ours.grad.flags.c_contiguous or layout == "fortran"
        np.testing.assert_array_equal(
            fastce.cross_entropy(logits, labels, reduction=reduction),
            fastce.cross_entropy(plain, labels, reduction=reduction),
        )
    np.testing.assert_array_equal(np.asarray(logits), plain, err_msg="the input was written to")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_targets_and_weights_gives_the_bits_of_a_plain_copy(rng, layout):
    change = LAYOUTS[layout]
    logits = rng.normal(size=(60, 33)).astype(np.float32)
    weights = {"weight": rng.random(33), "sample_weight": rng.random(60)}
    changed = {name: change(value) for name, value in weights.items()}
    for targets in (rng.integers(0, 33, 60), rng.random((60, 33)), rng.random((60, 33)).astype(np.float32)):
        ours = fastce.cross_entropy_value_and_grad(logits, change(targets), **changed)
        same = fastce.cross_entropy_value_and_grad(logits, targets, **weights)
        assert ours.value == same.value
        np.testing.assert_array_equal(ours.grad, same.grad)


@pytest.mark.parametrize("equal_along", [0, 1, 2])
def test_zero_strides_give_the_bits_of_a_plain_copy(rng, equal_along):
    shape = [6, 50, 7]
    once = list(shape)
    once[equal_along] = 1
    logits = np.broadcast_to(rng.normal(size=once).astype(np.float32), shape)
    labels = rng.integers(0, 50, (6, 7))
    ours = fastce.cross_entropy_value_and_grad(logits, labels)
    same = fastce.cross_entropy_value_and_grad(logits.copy(), labels)
    assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad)
    weight = np.broadcast_to(np.float32(0.5), 50)
    assert fastce.cross_entropy(logits, np.broadcast_to(3, (6, 7)), weight=weight) == fastce.cross_entropy(
        logits.copy(), np.full((6, 7), 3), weight=weight.copy()
    )


def test_a_read_only_memmap_gives_the_bits_of_an_array(rng, tmp_path):
    plain, labels = rng.normal(size=(50, 40)).astype(np.float32), rng.integers(0, 40, 50)
    (tmp_path / "logits.bin").write_bytes(b"x" * 3 + plain.tobytes())  # misaligned as well
    logits = np.memmap(tmp_path / "logits.bin", np.float32, "r", offset=3, shape=plain.shape)
    ours, same = (fastce.cross_entropy_value_and_grad(x, labels) for x in (logits, plain))
    assert ours.value == same.value
    np.testing.assert_array_equal(ours.grad, same.grad)
    assert type(ours.grad) is np.ndarray


@pytest.mark.parametrize("n_threads", [2, 3, 8])
@pytest.mark.parametrize("shape", [(20_000, 10), (3_000, 130), (40, 9_000), (30, 50, 60)])
def test_any_number_of_threads_gives_the_same_bits(small_blocks, rng, shape, n_threads):
    logits = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, shape[1], (shape[0], *shape[2:]))
    for options in ({}, {"label_smoothing": 0.1, "weight": rng.random(shape[1])}):
        one = fastce.cross_entropy_value_and_grad(logits, labels, n_threads=1, **options)
        many = fastce.cross_entropy_value_and_grad(logits, labels, n_threads=n_threads, **options)
        assert one.value == many.value
        np.testing.assert_array_equal(one.grad, many.grad)
        assert fastce.cross_entropy(logits, labels, n_threads=1, **options) == fastce.cross_entropy(
            logits, labels, n_threads=n_threads, **options
        )


# -------------------------------------------------------------------------------------------------- out
OUTS = {
    "plain": np.empty,
    "fortran": lambda shape, dtype: np.empty(shape, dtype, order="F"),
    "reversed": lambda shape, dtype: np.flip(np.empty(shape, dtype)),
    "every third": lambda shape, dtype: spread(np.empty(shape, dtype)),
    "misaligned": lambda shape, dtype: misaligned(np.empty(shape, dtype)),
}


@covering(
    {"layout": OUTS, "dtype": [np.float16, np.float32, np.float64], "shape": [(8,), (70, 9), (30, 600), (3, 9, 20)]}
)
def test_out_receives_the_gradient_whatever_its_strides(rng, shape, dtype, layout):
    logits = rng.normal(size=shape).astype(dtype)
    labels = rng.integers(0, 8, (shape[0], *shape[2:]) if len(shape) > 1 else ())
    out = OUTS[layout](shape, dtype)
    out[...] = 7
    plain = fastce.cross_entropy_value_and_grad(logits, labels)
    ours = fastce.cross_entropy_value_and_grad(logits, labels, out=out)
    assert ours.grad is out
    assert ours.value == plain.value
    np.testing.assert_array_equal(out, plain.grad)


def test_nothing_between_the_elements_of_a_strided_out_is_touched(rng):
    big = np.full((20, 30), 7.0, np.float32)
    logits = rng.normal(size=(10, 10)).astype(np.float32)
    fastce.cross_entropy_value_and_grad(logits, rng.integers(0, 10, 10), out=big[::2, 1::3])
    big[::2, 1::3] = 7
    assert np.all(big == 7)


@pytest.mark.parametrize("kind", ["hard", "probability", "sparse"])
@pytest.mark.parametrize("option", ["plain", "smoothing_all", "all_together"])
@pytest.mark.parametrize("shape", [(70, 9), (30, 600)])
def test_the_gradient_may_replace_the_logits(rng, shape, option, kind):
    logits = rng.normal(size=shape).astype(np.float32)
    targets, options = make_targets(kind, rng, shape[:1], shape[1]), OPTIONS[option](rng, shape[:1], shape[1])
    plain = fastce.cross_entropy_value_and_grad(logits, targets, **options)
    reversed_logits = np.flip(np.flip(logits).copy())
    for work in (
        logits.copy(),
        np.asfortranarray(logits),
        spread(logits),
        misaligned(logits),
        reversed_logits,
    ):
        rows_adjacent = work.flags.f_contiguous and shape[1] > NARROW  # other kernels, not the same bits
        ours = fastce.cross_entropy_value_and_grad(work, targets, out=work, **options)
        assert ours.grad is work
        if rows_adjacent:
            assert_value(ours.value, logits, targets, **options)
            assert_gradient(work, logits, targets, **options)
        else:
            assert ours.value == plain.value
            np.testing.assert_array_equal(work, plain.grad)


def test_the_gradient_may_replace_the_logits_along_another_axis_and_through_an_equal_view(rng):
    logits, labels = rng.normal(size=(4, 9, 20)), rng.integers(0, 9, (4, 20))
    plain = fastce.cross_entropy_value_and_grad(logits, labels)
    work = logits.copy()
    view = work[:]
    assert fastce.cross_entropy_value_and_grad(work, labels, out=view).grad is view
    np.testing.assert_array_equal(work, plain.grad)


def test_without_out_no_input_is_written_to(rng):
    logits, labels, probabilities = rng.normal(size=(9, 30)), rng.integers(0, 30, 9), rng.random((9, 30))
    weight, sample_weight = rng.random(30), rng.random(9)
    before = [a.copy() for a in (logits, labels, probabilities, weight, sample_weight)]
    for targets in (labels, probabilities):
        grad = fastce.cross_entropy_value_and_grad(
            logits, targets, weight=weight, sample_weight=sample_weight, label_smoothing=0.1
        ).grad
        assert not np.shares_memory(grad, logits)
    for old, new in zip(before, (logits, labels, probabilities, weight, sample_weight), strict=True):
        np.testing.assert_array_equal(old, new)


# ---------------------------------------------------------------------------------- grad_output, weights
@pytest.mark.parametrize("kind", ["hard", "probability"])
@pytest.mark.parametrize("shape", [(7,), (11, 7), (3, 7, 5)])
def test_grad_output_scales_the_gradient(rng, shape, kind):
    logits = rng.normal(size=shape).astype(np.float32)
    rows = tuple(np.delete(shape, min(1, len(shape) - 1)))
    targets = make_targets(kind, rng, rows, 7, min(1, len(shape) - 1))
    for reduction, grad_output in [
        ("sum", -2.5),
        ("mean", 3.0),
        ("none", 0.5),
        ("none", rng.normal(size=rows)),
    ]:
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, grad_output=grad_output)
        assert_value(value, logits, targets, reduction)
        assert_gradient(grad, logits, targets, reduction, grad_output)


def test_a_scalar_sample_weight_is_broadcast(rng):
    logits, labels = rng.normal(size=(5, 4)), rng.integers(0, 4, 5)
    one = fastce.cross_entropy(logits, labels, sample_weight=2.0, reduction="sum")
    assert one == fastce.cross_entropy(logits, labels, sample_weight=np.full(5, 2.0), reduction="sum")


def test_the_mean_divides_by_the_weights_of_the_rows_that_count():
    logits = np.zeros((4, 2))
    logits[:, 1] = [0.0, 1.0, 2.0, 3.0]
    labels, weight, v = np.array([0, 1, 0, -100]), np.array([1.0, 3.0]), np.array([2.0, 1.0, 4.0, 9.0])
    rows = np.log1p(np.exp([0.0, -1.0, 2.0]))
    expected = (2 * rows[0] + 3 * rows[1] + 4 * rows[2]) / (2 + 3 + 4)
    assert fastce.cross_entropy(logits, labels, weight=weight, sample_weight=v) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("ignore_index", [-100, -1, 2, 400, 2**40])
def test_ignore_index_is_honoured_inside_and_outside_of_the_classes(rng, ignore_index):
    logits, labels = rng.normal(size=(12, 5)), rng.integers(0, 5, 12)
    labels[::3] = ignore_index
    ours = fastce.cross_entropy_value_and_grad(logits, labels, ignore_index=ignore_index, reduction="none")
    assert_value(ours.value, logits, labels, "none", ignore_index=ignore_index)
    assert_gradient(ours.grad, logits, labels, "none", ignore_index=ignore_index)
    assert np.all(ours.value[::3] == 0)
    assert np.all(ours.grad[::3] == 0)


def test_a_negative_ignore_index_has_no_effect_on_probabilities(rng):
    logits, targets = rng.normal(size=(4, 5)), rng.random((4, 5))
    assert fastce.cross_entropy(logits, targets, ignore_index=-1) == fastce.cross_entropy(logits, targets)


# --------------------------------------------------------------------------------------- special values
def every_reduction(logits, targets, **options):
    """Value and gradient for each reduction; the value alone must say the same."""
    for reduction in REDUCTIONS:
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, **options)
        np.testing.assert_array_equal(fastce.cross_entropy(logits, targets, reduction=reduction, **options), value)
        yield value, grad


@covering(
    {
        "classes": [3, 100, 3000],
        "dtype": [np.float16, np.float32, np.float64],
        "case": ["all ignored", "class weight 0", "sample weight 0"],
    }
)
def test_a_total_weight_of_zero_gives_mean_nan_sum_zero_none_zeros_and_gradient_zero(rng, case, dtype, classes):
    logits, labels, options = rng.normal(size=(4, classes)).astype(dtype), np.array([0, 1, 2, 0]), {}
    if case == "all ignored":
        labels[:] = -100
    elif case == "class weight 0":
        options["weight"] = np.zeros(classes)
    else:
        options["sample_weight"] = np.zeros(4)
    (none, grad_none), (total, grad_sum), (mean, grad_mean) = every_reduction(logits, labels, **options)
    np.testing.assert_array_equal(none, np.zeros(4))
    assert total == 0.0
    assert np.isnan(mean)
    for grad in (grad_none, grad_sum, grad_mean):
        np.testing.assert_array_equal(grad, np.zeros((4, classes), dtype), strict=True)


@pytest.mark.parametrize("shape", [(0, 5), (0, 1), (0, 5, 3), (2, 5, 0)])
@pytest.mark.parametrize("kind", ["hard", "probability"])
def test_no_rows_give_mean_nan_and_sum_zero(shape, kind):
    logits, rows = np.empty(shape, np.float32), (shape[0], *shape[2:])
    targets = np.empty(rows, np.int64) if kind == "hard" else np.empty(shape)
    (none, grad_none), (total, grad_sum), (mean, grad_mean) = every_reduction(logits, targets)
    assert none.shape == rows
    assert none.dtype == np.float32
    assert total == 0.0
    assert np.isnan(mean)
    assert grad_none.shape == grad_sum.shape == grad_mean.shape == shape


@pytest.mark.parametrize("shape", [(0, 1), (0, 5), (5, 0), (2, 5, 0), (0, 300), (300, 0), (0, 40_000)])
def test_no_rows_take_a_grad_output_of_as_many(shape):
    axis = int(np.argmax(shape))
    rows = shape[:axis] + shape[axis + 1 :]
    for targets in (np.empty(rows, np.int64), np.empty(shape), scipy.sparse.csr_array((0, shape[axis]))):
        losses, grad = fastce.cross_entropy_value_and_grad(
            np.empty(shape), targets, axis=axis, reduction="none", grad_output=np.empty(rows)
        )
        assert losses.shape == rows
        assert grad.shape == shape


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.3}, {"label_smoothing": 1.0, "smoothing_over": "others"}]
)
def test_one_class_costs_nothing(options):
    logits = np.array([[3.0], [-1e30], [0.0]], np.float32)
    for value, grad in every_reduction(logits, np.zeros(3, int), **options):
        assert np.all(np.asarray(value) == 0)
        assert np.all(grad == 0)


SPECIAL_SIZES = [4, 100, 3000]  # few classes, many, and more than a block


@covering({"dtype": [np.float16, np.float32, np.float64], "classes": SPECIAL_SIZES, "at": [0, 1, -1]})
def test_minus_infinity_at_the_target_costs_infinity(rng, at, classes, dtype):
    logits, labels = rng.normal(size=(5, classes)).astype(dtype), rng.integers(0, classes, 5)
    labels[2] = at % classes
    logits[2, at] = -INF
    (none, grad), (total, _), (mean, _) = every_reduction(logits, labels)
    np.testing.assert_array_equal(np.isinf(none), [False, False, True, False, False])
    assert total == mean == INF
    assert_gradient(grad, logits, labels, "none")
    assert grad[2, at] == -1


@covering(
    {"dtype": [np.float16, np.float32, np.float64], "classes": SPECIAL_SIZES, "targets": ["hard", "probability"]},
    quick=1,
)
def test_minus_infinity_off_the_target_costs_nothing_without_smoothing_and_infinity_with(rng, targets, classes, dtype):
    logits, labels = rng.normal(size=(3, classes)).astype(dtype), np.array([0, 1, 2])
    logits[1, 3], logits[2, :2] = -INF, -INF
    targets = labels if targets == "hard" else np.eye(classes)[labels]
    for (value, grad), reduction in zip(every_reduction(logits, targets), REDUCTIONS, strict=True):
        assert_value(value, logits.astype(np.result_type(dtype, np.float32)), targets, reduction)
        assert_gradient(grad, logits, targets, reduction)
        assert grad[1, 3] == grad[2, 0] == grad[2, 1] == 0
    smooth = list(every_reduction(logits, targets, label_smoothing=0.1))
    np.testing.assert_array_equal(np.isposinf(smooth[0][0]), [False, True, True])
    assert smooth[1][0] == smooth[2][0] == INF
    assert_gradient(smooth[0][1], logits, targets, "none", label_smoothing=0.1)


@covering(
    {
        "options": [{}, {"label_smoothing": 0.1}, {"z_loss": 0.1}, {"weight": True}],
        "dtype": [np.float32, np.float64],
        "classes": SPECIAL_SIZES,
        "kind": ["hard", "probability", "sparse"],
        "case": [
            "nan at the target",
            "nan elsewhere",
            "nan at the end",
            "all -inf",
            "+inf at the target",
            "+inf elsewhere",
            "+inf twice",
        ],
    },
    quick=1,
)
def test_an_undefined_row_is_nan_and_leaves_the_others_alone(rng, case, kind, classes, dtype, options):
    options = options if "weight" not in options else {"weight": rng.random(classes)}
    logits = rng.normal(size=(70, classes)).astype(dtype)
    labels = rng.integers(0, classes, 70)
    labels[5] = 1
    targets = {
        "hard": labels,
        "probability": np.eye(classes)[labels],
        "sparse": scipy.sparse.csr_array(np.eye(classes)[labels]),
    }[kind]
    clean, clean_grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none", **options)
    position, value = {
        "nan at the target": (1, NAN),
        "nan elsewhere": (2, NAN),
        "nan at the end": (-1, NAN),
        "all -inf": (slice(None), -INF),
        "+inf at the target": (1, INF),
        "+inf elsewhere": (2, INF),
        "+inf twice": ([0, 1], INF),
    }[case]
    logits[5, position] = value
    others = np.arange(70) != 5
    (none, grad), (total, _), (mean, _) = every_reduction(logits, targets, **options)
    assert np.isnan(none[5])
    assert np.all(np.isnan(grad[5]))
    np.testing.assert_array_equal(none[others], clean[others])
    np.testing.assert_array_equal(grad[others], clean_grad[others])
    assert np.isnan(total)
    assert np.isnan(mean)


@pytest.mark.parametrize("classes", SPECIAL_SIZES)
def test_rows_that_are_ignored_have_zero_gradient_even_when_they_hold_nan(rng, classes):
    logits, labels = rng.normal(size=(6, classes)).astype(np.float32), rng.integers(0, classes, 6)
    logits[1], logits[3, 2], logits[4] = NAN, INF, -INF
    labels[[1, 3, 4]] = -100
    for (value, grad), reduction in zip(every_reduction(logits, labels), REDUCTIONS, strict=True):
        assert_value(value, logits, labels, reduction)
        assert_gradient(grad, logits, labels, reduction)
        assert np.all(grad[[1, 3, 4]] == 0)


@pytest.mark.parametrize("kind", ["hard", "probability", "sparse"])
def test_rows_of_sample_weight_zero_cost_nothing_even_when_they_hold_nan(rng, kind):
    logits, targets = rng.normal(size=(6, 50)).astype(np.float32), make_targets(kind, rng, (6,), 50)
    v = np.array([1.0, 0.0, 2.0, 0.0, 0.0, 1.0])
    logits[1], logits[3, 2], logits[4] = NAN, INF, -INF
    for (value, grad), reduction in zip(every_reduction(logits, targets, sample_weight=v), REDUCTIONS, strict=True):
        assert_value(value, logits, targets, reduction, sample_weight=v)
        assert np.all(grad[v == 0] == 0)
        assert np.all(np.isfinite(grad))


@pytest.mark.parametrize("kind", ["hard", "probability", "sparse"])
def test_zero_mass_on_a_masked_class_costs_nothing(kind):
    logits = np.array([[-INF, 1.0, 2.0], [0.5, -INF, 0.25]])
    labels = np.array([0, 0])
    targets = {
        "hard": labels,
        "probability": np.eye(3)[labels],
        "sparse": scipy.sparse.csr_array(np.eye(3)[labels]),
    }
    losses, grad = fastce.cross_entropy_value_and_grad(logits, targets[kind], weight=[0.0, 1, 1], reduction="none")
    np.testing.assert_array_equal(losses, [0, 0])
    np.testing.assert_array_equal(grad, np.zeros((2, 3)))
    losses = fastce.cross_entropy(logits, targets[kind], weight=[0.0, 0, 1], label_smoothing=0.3, reduction="none")
    assert losses[0] == pytest.approx(0.1 * np.log1p(np.exp(-1.0)), rel=1e-14)  # only class 2 has a weight


def test_nan_in_probability_targets_gives_nan_for_that_row_alone(rng):
    logits, targets = rng.normal(size=(5, 40)).astype(np.float32), rng.random((5, 40))
    clean = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
    targets[2, 7] = NAN
    (none, grad), (total, _), (mean, _) = every_reduction(logits, targets)
    others = np.arange(5) != 2
    assert np.isnan(none[2])
    assert np.isnan(grad[2]).any()
    np.testing.assert_array_equal(none[others], clean.value[others])
    np.testing.assert_array_equal(grad[others], clean.grad[others])
    assert np.isnan(total)
    assert np.isnan(mean)


def test_probabilities_need_not_sum_to_one(rng):
    logits, targets = rng.normal(size=(5, 9)).astype(np.float32), rng.random((5, 9)) * 3
    targets[1] = 0
    losses, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction="none")
    assert_value(losses, logits, targets, "none")
    assert_gradient(grad, logits, targets, "none")
    assert losses[1] == 0
    assert np.all(grad[1] == 0)


def test_a_great_sum_is_accumulated_in_float64():
    logits = np.zeros((300_000, 3), np.float32)  # each row costs log(3); a float32 sum would be off by 1e-3
    total = fastce.cross_entropy(logits, np.zeros(300_000, int), reduction="sum")
    assert abs(total - 300_000 * np.log(3)) <= 300_000 * 4 * np.spacing(np.float32(np.log(3)))
    assert fastce.cross_entropy(logits, np.zeros(300_000, int)) == pytest.approx(np.log(3), abs=5e-7)
