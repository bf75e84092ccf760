"""linear_cross_entropy: cross_entropy with all its options, of logits that never exist as a whole."""

import dense
import numpy as np
import pytest
import scipy.sparse
from checks import NAMES, REDUCTIONS, dtype_of
from covering import covering

import fastce
from fastce.profile.pairs import load_pairs

LINEAR = "linear_cross_entropy"
NAN = np.nan

OPTIONS = {
    "nothing": {},
    "class weights": {"weight": "per class"},
    "sample weights": {"sample_weight": "per row"},
    "one sample weight": {"sample_weight": 0.7},
    "both weights": {"weight": "per class", "sample_weight": "per row, some 0"},
    "ignored rows": {"ignore_index": 3},
    "smoothing": {"label_smoothing": 0.1},
    "smoothing over the others": {"label_smoothing": 0.2, "smoothing_over": "others"},
    "nothing but smoothing": {"label_smoothing": 1.0},
    "scale": {"logit_scale": 2.5},
    "softcap": {"softcap": 3.0},
    "z_loss": {"z_loss": 0.01},
    "all": {
        "weight": "per class", "sample_weight": "per row, some 0", "ignore_index": 3, "label_smoothing": 0.1,
        "logit_scale": 1.5, "softcap": 5.0, "z_loss": 0.01,
    },
}  # fmt: skip
FOR_INDICES = {"ignore_index"}


def layer(rng, rows, classes, width=12, dtype=np.float32, bias=True):
    """Features, weights and bias whose logits are a few units wide."""
    features = rng.normal(size=(rows, width)) / np.sqrt(width)
    linear_weight, linear_bias = 3 * rng.normal(size=(classes, width)), rng.normal(size=classes)
    return features.astype(dtype), linear_weight.astype(dtype), linear_bias.astype(dtype) if bias else None


def drawn(options, rng, rows, classes):
    """The options with numbers for their weights."""
    drawn = {
        "per class": rng.random(classes) + 0.1,
        "per row": rng.random(rows) + 0.1,
        "per row, some 0": rng.random(rows) * (rng.random(rows) < 0.7),
    }
    return {name: drawn.get(o, o) if isinstance(o, str) else o for name, o in options.items()}


def targets_of(kind, rng, rows, classes):
    if kind == "indices":
        return rng.integers(0, classes, rows)
    probabilities = rng.random((rows, classes)) * (rng.random((rows, classes)) < 0.3)
    return probabilities if kind == "probabilities" else scipy.sparse.csr_array(probabilities)


# ---------------------------------------------------------------------------------- against the formulas
@covering(
    {"dtype": [np.float32, np.float64], "options": OPTIONS, "targets": ["indices", "probabilities", "sparse"]}, quick=1
)
def test_every_option_of_cross_entropy(small_tiles, rng, targets, options, dtype):
    features, linear_weight, bias = layer(rng, 37, 21, dtype=dtype)
    options = drawn(OPTIONS[options], rng, 37, 21)
    if targets != "indices":
        options = {name: option for name, option in options.items() if name not in FOR_INDICES}
    targets = targets_of(targets, rng, 37, 21)
    dense.check(LINEAR, features, linear_weight, targets, linear_bias=bias, **options)
    dense.check(LINEAR, features, linear_weight, targets, reductions=["mean"], memory_budget=1, **options)


@covering(
    {"dtype": [np.float32, np.float64], "rows": [1, 2, 3, 15, 16, 17, 33, 65], "classes": [1, 2, 3, 16, 17, 300]},
    quick=1,
)
def test_every_size(small_tiles, rng, rows, classes, dtype):
    features, linear_weight, bias = layer(rng, rows, classes, dtype=dtype)
    for labels in (rng.integers(0, classes, rows), np.full(rows, classes - 1)):
        dense.check(LINEAR, features, linear_weight, labels, linear_bias=bias, label_smoothing=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_real_features(dtype):
    signature, docstring = (side[:300].astype(dtype) for side in load_pairs())
    options = dict(logit_scale=50.0, reductions=["mean"])
    for budget in (1, 1 << 17, 1 << 28):
        dense.check(LINEAR, signature, docstring[:100], np.arange(300) % 100, memory_budget=budget, **options)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("options", ["nothing", "ignored rows", "all"])
def test_it_is_cross_entropy_of_the_dense_logits(rng, options, dtype):
    features, linear_weight, bias = layer(rng, 50, 30, dtype=dtype)
    labels, options = rng.integers(0, 30, 50), drawn(OPTIONS[options], rng, 50, 30)
    x, w = features.astype(float), linear_weight.astype(float)
    tolerance = dense.TOLERANCE[np.dtype(dtype).name]
    for reduction in REDUCTIONS:
        theirs = fastce.cross_entropy_value_and_grad(x @ w.T + bias, labels, reduction=reduction, **options)
        ours = fastce.linear_cross_entropy_value_and_grad(
            features, linear_weight, labels, linear_bias=bias, reduction=reduction, **options
        )
        np.testing.assert_allclose(ours.value, theirs.value, rtol=tolerance)
        expected = theirs.grad @ w, theirs.grad.T @ x, theirs.grad.sum(0)
        for gradient, of_chain in zip(ours[1:], expected, strict=True):
            np.testing.assert_allclose(gradient, of_chain, rtol=0, atol=tolerance * np.abs(of_chain).max())


@covering({"options": OPTIONS, "targets": ["indices", "probabilities", "sparse"]}, strength=1)
def test_gradients_are_the_slopes_of_the_value(rng, targets, options):
    features, linear_weight, bias = layer(rng, 4, 5, 3, dtype=np.float64)
    options = drawn(OPTIONS[options], rng, 4, 5) | {"linear_bias": bias}
    if targets != "indices":
        options.pop("ignore_index", None)
    arguments = features, linear_weight, targets_of(targets, rng, 4, 5)
    ours = fastce.linear_cross_entropy_value_and_grad(*arguments, **options)
    for at, gradient in zip([0, 1, "linear_bias"], ours[1:], strict=True):
        slope = dense.differences(LINEAR, *arguments, at=at, **options)
        np.testing.assert_allclose(gradient, slope, rtol=1e-7, atol=1e-9)


# ------------------------------------------------------------------------------------- shapes and gradients
@pytest.mark.parametrize("lead", [(), (6,), (3, 5), (2, 3, 4), (0,), (3, 0)])
@pytest.mark.parametrize("targets", ["indices", "probabilities"])
def test_any_leading_dimensions(small_tiles, rng, lead, targets):
    features = rng.normal(size=(*lead, 7)).astype(np.float32)
    linear_weight, bias = rng.normal(size=(9, 7)).astype(np.float32), rng.normal(size=9).astype(np.float32)
    targets = rng.integers(0, 9, lead) if targets == "indices" else rng.random((*lead, 9))
    ours = dense.check(LINEAR, features, linear_weight, targets, linear_bias=bias, sample_weight=rng.random(lead))
    assert ours.grad_features.shape == (*lead, 7)
    losses = fastce.linear_cross_entropy(features, linear_weight, targets, reduction="none")
    assert np.shape(losses) == lead


def test_features_without_width_leave_the_bias_alone():
    features, bias = np.ones((2, 3, 0)), np.array([0.0, 1.0, -2.0])
    ours = fastce.linear_cross_entropy_value_and_grad(
        features, np.ones((3, 0)), np.zeros((2, 3), int), linear_bias=bias
    )
    p = np.exp(bias) / np.exp(bias).sum()
    assert ours.value == pytest.approx(-np.log(p[0]), rel=1e-14)
    np.testing.assert_allclose(ours.grad_linear_bias, p - [1, 0, 0], rtol=1e-14)
    assert (ours.grad_features.shape, ours.grad_linear_weight.shape) == ((2, 3, 0), (3, 0))


def test_features_of_a_sequence_are_those_of_its_rows(rng):
    features, linear_weight, bias = layer(rng, 30, 11)
    labels = rng.integers(0, 11, 30)
    plain = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, labels, linear_bias=bias)
    ours = fastce.linear_cross_entropy_value_and_grad(
        features.reshape(5, 6, -1), linear_weight, labels.reshape(5, 6), linear_bias=bias
    )
    assert ours.value == plain.value
    np.testing.assert_array_equal(ours.grad_features.reshape(30, -1), plain.grad_features)
    np.testing.assert_array_equal(ours.grad_linear_weight, plain.grad_linear_weight)


@pytest.mark.parametrize(
    ("grad_output", "reduction"),
    [(number, reduction) for number in (0.0, -2.5) for reduction in REDUCTIONS] + [("per row", "none")],
)
def test_gradients_are_multiplied_by_what_comes_after_the_loss(small_tiles, rng, grad_output, reduction):
    features, linear_weight, bias = layer(rng, 37, 21)
    grad_output = rng.normal(size=37) if grad_output == "per row" else grad_output
    labels = rng.integers(0, 21, 37)
    options = dict(linear_bias=bias, grad_output=grad_output, ignore_index=3, reductions=[reduction])
    dense.check(LINEAR, features, linear_weight, labels, **options)


def test_without_a_bias_it_has_no_gradient(rng):
    features, linear_weight, _ = layer(rng, 5, 4)
    ours = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, [0, 1, 2, 3, 0])
    assert ours._fields == ("value", "grad_features", "grad_linear_weight", "grad_linear_bias")
    assert ours.grad_linear_bias is None
    zeros = np.zeros(4, np.float32)
    same = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, [0, 1, 2, 3, 0], linear_bias=zeros)
    assert dense.bits(same)[:3] == dense.bits(ours)[:3]


# ----------------------------------------------------------------------------------------- what is left out
@pytest.mark.parametrize("linear_bias", [False, True])
@pytest.mark.parametrize("n", [1, 5, 40])
def test_all_rows_ignored(small_tiles, rng, n, linear_bias):
    features, linear_weight, bias = layer(rng, n, 6, bias=linear_bias)
    features[0] = NAN
    for reduction in REDUCTIONS:
        value, *gradients = fastce.linear_cross_entropy_value_and_grad(
            features, linear_weight, np.full(n, -100), linear_bias=bias, reduction=reduction
        )
        assert all(np.all(gradient == 0) for gradient in gradients if gradient is not None)
        if reduction == "mean":
            assert np.isnan(value)
        else:
            np.testing.assert_array_equal(value, np.zeros(n, np.float32) if reduction == "none" else 0.0)


@pytest.mark.parametrize("value", [NAN, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("how", ["ignored", "of no weight", "of no weight, with probabilities"])
def test_what_ignored_rows_hold_is_harmless(small_tiles, rng, how, value):
    features, linear_weight, bias = layer(rng, 40, 7)
    labels, left_out = rng.integers(0, 7, 40), np.arange(40) % 3 == 1
    options = dict(linear_bias=bias)
    if how == "ignored":
        labels[left_out] = -100
    else:
        options["sample_weight"] = np.where(left_out, 0.0, rng.random(40))
    targets = np.eye(7)[labels] if "probabilities" in how else labels
    clean = [
        fastce.linear_cross_entropy_value_and_grad(features, linear_weight, targets, reduction=reduction, **options)
        for reduction in REDUCTIONS
    ]
    features[left_out] = value
    for reduction, expected in zip(REDUCTIONS, clean, strict=True):
        ours = fastce.linear_cross_entropy_value_and_grad(
            features, linear_weight, targets, reduction=reduction, **options
        )
        assert dense.bits(ours) == dense.bits(expected)
        assert np.all(ours.grad_features[left_out] == 0)


def test_one_nan_reaches_its_row_and_all_weights(rng):
    features, linear_weight, bias = layer(rng, 9, 7)
    clean = fastce.linear_cross_entropy(features, linear_weight, np.arange(9) % 7, linear_bias=bias, reduction="none")
    features[4, 2] = NAN
    options = dict(linear_bias=bias, reduction="none")
    ours = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, np.arange(9) % 7, **options)
    np.testing.assert_array_equal(np.isnan(ours.value), np.arange(9) == 4)
    np.testing.assert_array_equal(np.delete(ours.value, 4), np.delete(clean, 4))
    assert np.isnan(ours.grad_features[4]).all()
    assert np.isfinite(np.delete(ours.grad_features, 4, 0)).all()
    assert np.isnan(ours.grad_linear_weight).all()
    assert np.isnan(ours.grad_linear_bias).all()
    assert np.isnan(fastce.linear_cross_entropy(features, linear_weight, np.arange(9) % 7))


def test_a_masked_class_costs_nothing_where_it_is_not_the_target(rng):
    features, linear_weight, bias = layer(rng, 12, 6, dtype=np.float64)
    bias[2] = -np.inf
    labels = np.array([0, 1, 3, 4, 5, 0, 1, 3, 4, 5, 2, 2])
    ours = fastce.linear_cross_entropy_value_and_grad(
        features, linear_weight, labels, linear_bias=bias, reduction="none"
    )
    np.testing.assert_array_equal(np.isposinf(ours.value), labels == 2)
    others = [0, 1, 3, 4, 5]
    without = fastce.linear_cross_entropy(
        features[:10], linear_weight[others], np.array([0, 1, 2, 3, 4] * 2), linear_bias=bias[others], reduction="none"
    )
    np.testing.assert_allclose(ours.value[:10], without, rtol=1e-12)


# ---------------------------------------------------------------------------------------------------- dtypes
@covering({"first": NAMES, "second": NAMES}, quick=1)
def test_each_input_has_the_gradient_of_its_own_dtype(small_tiles, rng, first, second):
    features, linear_weight, bias = layer(rng, 37, 19)
    features, linear_weight = features.astype(dtype_of(first)), linear_weight.astype(dtype_of(second))
    labels = rng.integers(0, 19, 37)
    dense.check(LINEAR, features, linear_weight, labels)
    dense.check(LINEAR, features, linear_weight, labels, linear_bias=bias.astype(dtype_of(first)), ignore_index=4)


def test_a_bias_of_float64_makes_all_of_it_float64(rng):
    features, linear_weight, bias = layer(rng, 20, 9)
    options = dict(linear_bias=bias.astype(float), reduction="none")
    ours = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, np.arange(20) % 9, **options)
    assert [part.dtype.name for part in ours] == ["float64", "float32", "float32", "float64"]
    dense.check(LINEAR, features, linear_weight, np.arange(20) % 9, linear_bias=bias.astype(float))


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integers_count_as_float64(rng, dtype):
    features, linear_weight = (rng.integers(0, 3, (n, 5)).astype(dtype) for n in (20, 9))
    dense.check(LINEAR, features, linear_weight, np.arange(20) % 9, linear_bias=np.arange(9))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32", "uint64", ">i4"])
def test_targets_of_any_integer_type(rng, dtype):
    features, linear_weight, bias = layer(rng, 20, 9)
    labels = rng.integers(0, 9, 20)
    plain = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, labels, linear_bias=bias)
    for given in (labels.astype(dtype), labels.repeat(3).astype(dtype)[::3]):
        ours = fastce.linear_cross_entropy_value_and_grad(features, linear_weight, given, linear_bias=bias)
        assert dense.bits(ours) == dense.bits(plain)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [2.0**-13, 1.0, 2.0**13])
def test_logits_of_hundred_thousands(small_tiles, rng, scale, dtype):
    features, linear_weight = (rng.integers(-3, 4, (n, 8)).astype(dtype) for n in (37, 20))  # products are exact
    dense.check(LINEAR, features, linear_weight, rng.integers(0, 20, 37), logit_scale=scale)
    dense.check(LINEAR, features, linear_weight, rng.integers(0, 20, 37), logit_scale=scale, softcap=30.0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("margin", [25, 80])
def test_confident_rows_keep_their_digits(margin, dtype):
    ours = fastce.linear_cross_entropy(np.eye(30, dtype=dtype), margin * np.eye(30, dtype=dtype), np.arange(30))
    assert ours == pytest.approx(np.log1p(29 * np.exp(-float(margin))), rel=4 * float(np.finfo(dtype).eps))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("small", [1e-100, 1e-200, 1e-300])
def test_rows_far_below_others_have_their_digits_in_what_is_theirs_alone(dtype, small):
    features, weight = np.eye(3, 2, dtype=dtype), np.zeros((2, 2), dtype)
    weights = np.array([1e100, small, 1.0])
    ours = fastce.linear_cross_entropy_value_and_grad(
        features, weight, [0, 0, 1], linear_bias=np.zeros(2, dtype), sample_weight=weights, reduction="none"
    )
    one = weights[:2] / 2
    with np.errstate(over="ignore", under="ignore"):  # float32 has neither
        of_weight, of_bias = np.array([-one, one]).astype(dtype), np.array([-5e99, 5e99]).astype(dtype)
    np.testing.assert_allclose(ours.grad_linear_weight, of_weight, rtol=4 * float(np.finfo(dtype).eps))
    np.testing.assert_allclose(ours.grad_linear_bias, of_bias, rtol=1e-15)


def test_a_layer_without_classes_is_refused_by_name():
    with pytest.raises(ValueError, match=r"linear_weight of shape \(0, 3\) has no classes"):
        fastce.linear_cross_entropy(np.ones((4, 3)), np.ones((0, 3)), [0] * 4)


def test_classes_far_below_another_of_their_row_have_their_digits():
    """The bias of one class, by way of z_loss, makes its slope 1e280 times those of the others."""
    features, weight = np.full((2, 1), 0.5), np.zeros((3, 1))
    bias, z_loss = np.array([4e145, 0.0, 1.0]), 3e-5
    options = dict(linear_bias=bias, weight=np.full(3, 1e-138), z_loss=z_loss, reduction="sum", grad_output=1e138)
    ours = fastce.linear_cross_entropy_value_and_grad(features, weight, [1, 2], **options)
    expected = 0.5 * np.array([[2 + 2e138 * 2 * z_loss * 4e145], [-1.0], [-1.0]])
    np.testing.assert_allclose(ours.grad_linear_weight, expected, rtol=1e-14)
