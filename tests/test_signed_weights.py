"""Weights and masses of any sign, against the oracle and PyTorch.

Where terms of both signs cancel, an error is measured by the sum of the absolute terms: what the same call costs with
the absolute values of all weights and masses.
"""

from importlib import import_module

import magnitudes
import naive
import numpy as np
import pytest
import scipy.sparse
from checks import assert_within, computed_in, dtype_of, one_hot, spacing
from covering import covering

import fastce

REDUCTIONS = ("none", "sum", "mean")
KINDS = ("hard", "ignored", "dense", "sparse")


def signed(rng, shape):
    """Weights of both signs, some of them 0 or -0."""
    return rng.normal(size=shape) * rng.choice([1.0, 1.0, 1.0, 0.0, -0.0], shape)


def targets_of(kind, rng, rows, classes):
    if kind == "dense":
        return rng.normal(size=(rows, classes))
    if kind == "sparse":  # masses are not negative; class weights make them so
        return scipy.sparse.random_array((rows, classes), density=min(1.0, 3 / classes), rng=rng, format="csr")
    labels = rng.integers(0, classes, rows)
    return np.where(rng.random(rows) < 0.3, -100, labels) if kind == "ignored" else labels


def absolute(targets):
    """The same with masses that are not negative; class indices as they are."""
    return np.abs(targets) if scipy.sparse.issparse(targets) or targets.dtype.kind == "f" else targets


def assert_right(logits, targets, **options):
    """Value within 4 eps of the sum of absolute terms, gradient within 4 eps of the sum of absolute masses.

    A mean whose total weight cancels is as uncertain as that.
    """
    dtype = computed_in(logits.dtype)
    eps = np.finfo(dtype).eps
    exact = naive.CrossEntropy(logits, targets, **options)
    of_sizes = {name: np.abs(options[name]) for name in ("weight", "sample_weight") if name in options}
    size = naive.CrossEntropy(logits, absolute(targets), **(options | of_sizes))
    scale = options.get("logit_scale", 1.0)
    rounding = 4 * eps * np.abs(exact.x).max(-1) * (scale != 1.0 or "softcap" in options)
    of_row = 4 * eps * size.rows + (rounding + 4 * eps * options.get("z_loss", 0.0)) * size.v * (size.mass + 1)
    with np.errstate(all="ignore"):
        of_gradient = (size.mass + 2 * options.get("z_loss", 0.0) * np.abs(exact.lse)) * (4 * eps + rounding)
    for reduction in REDUCTIONS:
        share = 1.0 / abs(exact.denominator) if reduction == "mean" else 1.0
        of_total = 4 * np.finfo(float).eps * size.denominator * share if reduction == "mean" else 0.0
        upstream = np.resize([0.7, -0.7, 0.7], exact.row_shape) if reduction == "none" else -0.7
        value, grad = fastce.cross_entropy_value_and_grad(
            logits, targets, reduction=reduction, grad_output=upstream, **options
        )
        alone = fastce.cross_entropy(logits, targets, reduction=reduction, **options)
        np.testing.assert_array_equal(alone, value)
        expected = np.asarray(exact.reduced(reduction))
        bound = of_row.reshape(exact.row_shape) if reduction == "none" else share * of_row.sum()
        bound = np.maximum(bound, spacing(expected, dtype)) + of_total * np.abs(expected)
        assert_within(value, expected, bound, reduction)
        expected = naive.as_rows(exact.gradient(reduction, upstream), exact.axis)[0]
        bound = (share * 0.7 * scale * size.v * of_gradient)[:, None] + of_total * np.abs(expected)
        bound = bound + (spacing(expected, logits.dtype) if logits.dtype != dtype else 0.0)
        assert_within(naive.as_rows(grad, exact.axis)[0], expected, bound, f"gradient, {reduction}")


OPTIONS = {
    "class weights": lambda rng, n, k: {"weight": signed(rng, k)},
    "sample weights": lambda rng, n, k: {"sample_weight": signed(rng, n)},
    "both": lambda rng, n, k: {"weight": signed(rng, k), "sample_weight": signed(rng, n)},
    "smoothing": lambda rng, n, k: {"weight": signed(rng, k), "label_smoothing": 0.3, "sample_weight": signed(rng, n)},
    "others": lambda rng, n, k: {"weight": signed(rng, k), "label_smoothing": 0.9, "smoothing_over": "others"},
    "everything": lambda rng, n, k: {
        "weight": -rng.random(k), "sample_weight": signed(rng, n), "label_smoothing": 0.1, "logit_scale": 1.7,
        "softcap": 9.0, "z_loss": 0.01,
    },
}  # fmt: skip


@covering({"dtype": [np.float32, np.float64], "option": OPTIONS, "kind": KINDS, "classes": [1, 7, 300]}, quick=1)
def test_weights_of_any_sign(rng, classes, kind, option, dtype):
    logits = (rng.normal(size=(41, classes)) * 4).astype(dtype)
    assert_right(logits, targets_of(kind, rng, 41, classes), **OPTIONS[option](rng, 41, classes))


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
@pytest.mark.parametrize("classes", [7, 300])
def test_weights_of_any_sign_in_half_precision(rng, classes, name):
    logits = (rng.normal(size=(41, classes)) * 4).astype(dtype_of(name))
    for kind in KINDS:
        assert_right(logits, targets_of(kind, rng, 41, classes), **OPTIONS["smoothing"](rng, 41, classes))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["hard", "ignored", "dense"])
@pytest.mark.parametrize("classes", [7, 300])
def test_weights_of_any_sign_along_another_axis(rng, classes, kind, dtype):
    logits = (rng.normal(size=(classes, 41)) * 4).astype(dtype)
    targets = targets_of(kind, rng, 41, classes)
    targets = targets.T if kind == "dense" else targets
    for option in ("both", "smoothing"):
        assert_right(logits, targets, axis=0, **OPTIONS[option](rng, 41, classes))


@covering({"dtype": [np.float32, np.float64], "kind": KINDS}, quick=1)
def test_weights_of_any_sign_of_rows_that_are_cut(rng, monkeypatch, kind, dtype):
    monkeypatch.setattr(import_module("fastce.cpu.pieces"), "PIECE", 1024)
    logits = (rng.normal(size=(5, 9000)) * 4).astype(dtype)
    targets = targets_of(kind, rng, 5, 9000)
    for option in ("both", "smoothing"):
        assert_right(logits, targets, **OPTIONS[option](rng, 5, 9000))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("make", [np.asarray, scipy.sparse.csr_array], ids=["dense", "sparse"])
@pytest.mark.parametrize("classes", [5, 300, 9000])
def test_a_confident_row_of_negative_mass_keeps_its_digits(rng, monkeypatch, classes, make, dtype):
    """The class that is left out of a row's sum is the heaviest of any sign, not that of the largest mass."""
    monkeypatch.setattr(import_module("fastce.cpu.pieces"), "PIECE", 1024)
    logits = np.zeros((4, classes), dtype)
    logits[:, 3] = [12, 18, 30, 40]
    masses = np.zeros((4, classes))
    masses[:, 3] = 1.0
    masses[:, 1] = [1e-300, 1e-9, 1e-300, 1e-15]
    weight = np.where(np.arange(classes) == 3, -2.0, 1.0)
    targets = make(masses)
    assert_right(logits, targets, weight=weight)
    if make is np.asarray:
        assert_right(logits, -masses)


@pytest.mark.parametrize("option", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_linear_cross_entropy_takes_weights_of_any_sign(rng, kind, option):
    features, linear_weight = rng.normal(size=(23, 6)), rng.normal(size=(9, 6))
    targets, options = targets_of(kind, rng, 23, 9), OPTIONS[option](rng, 23, 9)
    logits = features @ linear_weight.T
    for reduction in REDUCTIONS:
        ours = fastce.linear_cross_entropy_value_and_grad(
            features, linear_weight, targets, reduction=reduction, **options
        )
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, reduction=reduction, **options)
        np.testing.assert_allclose(ours.value, value, rtol=1e-11, atol=1e-12)
        np.testing.assert_allclose(ours.grad_features, grad @ linear_weight, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(ours.grad_linear_weight, grad.T @ features, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("classes", [4, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_gradient_and_hessian_take_weights_of_any_sign(rng, kind, classes):
    """The Hessian is linear in the weights: v times M times p (1 - p)."""
    logits, targets = rng.normal(size=(23, classes)) * 3, targets_of(kind, rng, 23, classes)
    for option in ("both", "smoothing"):
        options = OPTIONS[option](rng, 23, classes)
        exact = naive.CrossEntropy(logits, targets, **options)
        p = np.exp(-naive.negative_log_softmax(exact.x)).astype(float)
        curvature = (exact.v * exact.mass)[:, None] * p * (1 - p)
        for hessian, expected in (
            ("exact", curvature),
            ("lightgbm", classes / (classes - 1) * curvature),
            ("xgboost", np.maximum(2 * curvature, 1e-16)),
        ):
            grad, hess = fastce.cross_entropy_grad_and_hess(logits, targets, hessian=hessian, **options)
            np.testing.assert_allclose(grad, exact.grad.astype(float), rtol=0, atol=1e-14 * max(1, exact.v.max()) * 9)
            np.testing.assert_allclose(hess, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nll_loss_takes_weights_of_any_sign(rng, reduction):
    log_probs, labels = rng.normal(size=(23, 5)), targets_of("ignored", rng, 23, 5)
    options = {"weight": signed(rng, 5), "sample_weight": signed(rng, 23), "reduction": reduction}
    ours = fastce.nll_loss_value_and_grad(log_probs, labels, **options)
    value, grad = naive.nll_loss_and_grad(log_probs, labels, **options)
    np.testing.assert_allclose(ours.value, value.astype(float), rtol=1e-13, atol=1e-14)
    np.testing.assert_allclose(ours.grad, grad.astype(float), rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(50,), (7, 3), (5, 1100)])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_cross_entropy_takes_weights_of_any_sign(rng, reduction, shape, dtype):
    logits = (rng.normal(size=shape) * 8).astype(dtype)
    targets = rng.uniform(-0.5, 1.5, shape).astype(dtype)
    eps = np.finfo(dtype).eps
    function = fastce.binary_cross_entropy_with_logits_value_and_grad
    for options in (
        {"weight": signed(rng, shape)},
        {"pos_weight": signed(rng, shape[-1:])},
        {"weight": -2.0, "pos_weight": -0.5},
    ):
        ours = function(logits, targets, reduction=reduction, **options)
        value, grad = naive.binary_cross_entropy_with_logits_and_grad(logits, targets, reduction=reduction, **options)
        w, a = (np.abs(np.broadcast_to(options.get(name, 1.0), shape)) for name in ("weight", "pos_weight"))
        x = naive.widened(logits)
        terms = w * (a * np.abs(targets) * naive.softplus(-x) + np.abs(1 - targets) * naive.softplus(x))
        share = 1.0 / logits.size if reduction == "mean" else 1.0
        bound = 4 * eps * (terms if reduction == "none" else terms.sum()) * share
        assert_within(ours.value, np.asarray(value), bound, "value")
        assert_within(ours.grad, grad, 4 * eps * share * w * (a * np.abs(targets) + np.abs(1 - targets)), "gradient")
        alone = fastce.binary_cross_entropy_with_logits(logits, targets, reduction=reduction, **options)
        np.testing.assert_array_equal(alone, ours.value)


# ------------------------------------------------------------------------------------------------- the mean
@covering(
    {
        "kind": ["hard", "dense"],
        "classes": [3, 10, 128, 129, 300],
        "label_smoothing": [0.0, 0.1, 1.0],
        "name": ["float32", "float64", "bfloat16"],
        "axis": [0, 1],
    }
)
def test_largest_numbers_of_which_weights_of_both_signs_take_differences(
    rng, kind, classes, label_smoothing, name, axis
):
    """Distances beyond the largest number add up to infinities of both signs, while the loss may be finite."""
    dtype = dtype_of(name)
    logits = rng.choice([-1, -1, 0, 1], (40, classes)) * magnitudes.largest(dtype)
    logits, weight = logits.astype(dtype), signed(rng, classes)
    targets = targets_of(kind, rng, 40, classes)
    masses = targets if kind == "dense" else one_hot(targets, classes)
    masses = magnitudes.wide(weight) * ((1 - label_smoothing) * magnitudes.wide(masses) + label_smoothing / classes)
    terms = magnitudes.times(masses, magnitudes.Softmax(logits).minus_log_p)
    given = (logits, targets) if axis == 1 else (logits.T, targets.T)
    options = {"weight": weight, "label_smoothing": label_smoothing, "reduction": "none", "axis": axis}
    value, grad = fastce.cross_entropy_value_and_grad(*given, **options)
    bound = 4 * np.finfo(value.dtype).eps * np.abs(terms).sum(1)
    magnitudes.assert_near(value, terms.sum(1), bound, "loss of row")
    assert np.array_equal(value, fastce.cross_entropy(*given, **options))
    assert np.isfinite(grad.astype(float)).all()


def test_a_mean_over_a_negative_total_weight_is_divided_by_it():
    logits, labels = np.array([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]]), [0, 1]
    losses = fastce.cross_entropy(logits, labels, reduction="none")
    for options in ({"sample_weight": [-3.0, 1.0]}, {"weight": [-3.0, 1.0, 5.0]}):
        value, grad = fastce.cross_entropy_value_and_grad(logits, labels, **options)
        assert value == pytest.approx((-3 * losses[0] + losses[1]) / -2, rel=1e-15)
        total = fastce.cross_entropy_value_and_grad(logits, labels, reduction="sum", **options)
        np.testing.assert_allclose(grad, total.grad / -2, rtol=1e-15)


@pytest.mark.parametrize("classes", [3, 300])
def test_a_total_weight_that_cancels_leaves_nothing_to_divide_by(classes):
    """As where nothing counts: the mean is nan and its gradient 0; the sum is what it is."""
    logits, labels = np.arange(2.0 * classes).reshape(2, classes) % 5, [0, 1]
    options = {"sample_weight": [1.0, -1.0]}
    value, grad = fastce.cross_entropy_value_and_grad(logits, labels, **options)
    assert np.isnan(value)
    assert np.all(grad == 0)
    losses = fastce.cross_entropy(logits, labels, reduction="none")
    assert fastce.cross_entropy(logits, labels, reduction="sum", **options) == pytest.approx(losses[0] - losses[1])


def test_a_row_of_weight_zero_of_either_sign_is_absent():
    logits = np.array([[np.nan, 0.0], [1.0, 2.0]])
    for zero in (0.0, -0.0):
        options = {"sample_weight": [zero, -2.0]}
        assert fastce.cross_entropy(logits, [0, 1], **options) == fastce.cross_entropy(logits[1:], [1])
        assert np.all(fastce.cross_entropy_value_and_grad(logits, [0, 1], **options).grad[0] == 0)


# ------------------------------------------------------------------------------------------------- PyTorch
@covering(
    {
        "seed": range(4),
        "reduction": REDUCTIONS,
        "kind": ["hard", "ignored", "dense"],
        "label_smoothing": [0.0, 0.2],
        "shape": [(19, 6), (19, 300), (4, 6, 5)],
    },
    quick=1,
)
def test_class_weights_of_any_sign_as_pytorch_takes_them(shape, label_smoothing, kind, reduction, seed):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(seed)
    logits, classes = rng.normal(size=shape) * 3, shape[1]
    lead = (shape[0], *shape[2:])
    targets = rng.normal(size=shape) if kind == "dense" else targets_of(kind, rng, lead, classes)
    weight = rng.normal(size=classes) * (1.0, -1.0, 1.0, -3.0)[seed]
    options = {"label_smoothing": label_smoothing, "reduction": reduction}
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.cross_entropy(x, torch.tensor(targets), weight=torch.tensor(weight), **options)
    (gradient,) = torch.autograd.grad(expected, x, torch.ones_like(expected))
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets, weight=weight, **options)
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(grad, gradient.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_binary_weights_of_any_sign_as_pytorch_takes_them(rng, reduction):
    torch = pytest.importorskip("torch")
    logits, targets = rng.normal(size=(9, 4)) * 3, rng.random((9, 4))
    weight, pos_weight = rng.normal(size=(9, 4)), rng.normal(size=4)
    x = torch.tensor(logits, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        x, torch.tensor(targets), torch.tensor(weight), pos_weight=torch.tensor(pos_weight), reduction=reduction
    )
    (gradient,) = torch.autograd.grad(expected, x, torch.ones_like(expected))
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        logits, targets, weight=weight, pos_weight=pos_weight, reduction=reduction
    )
    np.testing.assert_allclose(value, expected.detach().numpy(), rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(grad, gradient.numpy(), rtol=1e-12, atol=1e-13)
