"""The derivative of cross entropy by its logit scale, against differences of fourth order and mpmath."""

import mpmath
import naive
import numpy as np
import pytest
from checks import same_bits

import fastce

rng = np.random.default_rng(3)
OPTIONS = [
    {},
    {"logit_scale": 2.5, "label_smoothing": 0.1},
    {"softcap": 4.0, "z_loss": 0.01, "reduction": "sum"},
    {"z_loss": 0.1, "logit_scale": 0.5, "sample_weight": True},
    {"weight": True, "label_smoothing": 0.2, "smoothing_over": "others"},
    {"reduction": "none", "grad_output": True},
]


def function(*arguments, **options):
    """Of `fastce` as this module finds it: other tests put functions on a device in its place."""
    return fastce.cross_entropy_value_and_grad_logit_scale(*arguments, **options)


def check(logits, targets, *, bound=4, axis=None, reduction="mean", grad_output=1.0, **options):
    """The derivative is off by at most so many eps of sum |G_c (x_c - m)| + |m sum_c G_c|, m what rows have in common.

    With a cap, of sum |G_c x_c| without the slopes of the cap, which are roundings where it is near. Gives the result.
    """
    found = function(logits, targets, axis=axis, reduction=reduction, grad_output=grad_output, **options)
    exact = naive.CrossEntropy(logits, targets, axis=axis, **options)
    grad, _ = naive.as_rows(exact.gradient(reduction, grad_output), axis)
    x, _ = naive.as_rows(naive.widened(logits), axis)
    scale, cap = options.get("logit_scale", 1.0), options.get("softcap")
    top = 0 * x if cap else x.max(axis=1, keepdims=True)
    common = top * grad.sum(axis=1, keepdims=True) if options.get("z_loss") else 0 * top  # else it is a rounding of 0
    parts = grad * (x - top), common
    size = sum(np.sum(np.abs(part) * (np.cosh(scale * x / cap) ** 2 if cap else 1)) for part in parts)
    eps = np.finfo(np.float32 if logits.dtype.itemsize == 2 else np.result_type(logits, np.float32)).eps
    assert abs(found.grad_logit_scale * scale - sum(map(np.sum, parts))) <= bound * eps * size, options
    return found


def given(options, rows, classes):
    """Options with arrays in place of True."""
    shapes = {"weight": (classes,), "sample_weight": rows, "grad_output": rows}
    return {key: rng.uniform(0.5, 2, shapes[key]) if value is True else value for key, value in options.items()}


def difference(logits, targets, logit_scale=1.0, grad_output=1.0, **options):
    """The derivative in float64, by a difference of fourth order."""
    h, x = 1e-3 * logit_scale, logits.astype(np.float64)

    def loss(steps):
        value = fastce.cross_entropy(x, targets, logit_scale=logit_scale + steps * h, **options)
        return np.sum(grad_output * np.asarray(value))

    return (8 * (loss(1) - loss(-1)) - (loss(2) - loss(-2))) / (12 * h)


def targets_of(kind, shape):
    rows = (shape[0], *shape[2:])
    if kind == "probabilities":
        return rng.uniform(size=shape)
    labels = rng.integers(0, shape[1], rows)
    labels.flat[1::5] = -100
    return labels


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("shape", [(7, 3), (50, 1000), (3, 5, 4), (2, 30, 40, 3), (11, 1), (1, 300)])
@pytest.mark.parametrize("kind", ["classes", "probabilities"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_of_all_options(dtype, kind, shape, order):
    logits = np.asarray(rng.normal(size=shape) * 3, dtype, order=order)
    targets = targets_of(kind, shape)
    for options in OPTIONS:
        options = given(options, (shape[0], *shape[2:]), shape[1])
        found = function(logits, targets, **options)
        expected = difference(logits, targets, **options)
        tolerance = 1e-8 if dtype == "float64" else 2e-5
        size = logits.size if "reduction" in options else shape[1]  # of how many terms there are
        assert abs(found.grad_logit_scale - expected) <= tolerance * max(abs(expected), size**0.5), options
        value, grad = fastce.cross_entropy_value_and_grad(logits, targets, **options)
        assert same_bits(found.value, value)
        assert found.grad_logit_scale == function(logits, targets, n_threads=2, **options).grad_logit_scale
        for out in (np.empty_like(logits), logits.copy(order="K")):
            source = out if same_bits(out, logits) else logits
            assert same_bits(function(source, targets, out=out, **options).value, value)
            assert same_bits(out, grad)


@pytest.mark.parametrize("common", [0.0, 1e4])
@pytest.mark.parametrize("shape", [(300, 7), (600, 1), (40, 1000), (3, 5, 40), (2, 300, 33)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_errors_are_roundings_of_the_terms(dtype, shape, common):
    logits = (rng.normal(size=shape) * 3 + common).astype(dtype)
    targets = targets_of("classes", shape)
    for options in ({}, {"z_loss": 1e-4}, {"z_loss": 0.1, "logit_scale": 0.5, "label_smoothing": 0.1}):
        check(logits, targets, reduction="sum", **options)


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01, "label_smoothing": 0.1}, {"logit_scale": 0.03}])
@pytest.mark.parametrize("classes", [288, 301, 4100])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_rows_of_any_shape_with_their_target_anywhere(dtype, classes, options):
    """The reference is guessed from the first logits; one logit, or all, may be far from it, and from the target's."""
    steps = np.linspace(0, 40, classes)
    some = rng.normal(size=classes)
    rows = np.array([steps, -steps, 7 + 0 * steps, some, some + 1000, np.where(np.arange(classes) == 200, 50, some)])
    logits = (rows / options.get("logit_scale", 1.0) ** 0.5).astype(dtype)
    for targets in ([0] * 6, [200] * 6, [classes - 1] * 6):
        for k in range(6):
            check(logits[k : k + 1], np.array(targets[k : k + 1]), reduction="sum", **options)
        check(logits, np.array(targets), reduction="sum", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_masked_classes_of_long_rows_count_nothing(dtype):
    logits = rng.normal(size=(9, 600)).astype(dtype)
    logits[:, ::3] = -np.inf
    targets = rng.integers(0, 200, 9) * 3 + 1
    kept = np.ascontiguousarray(logits[:, np.arange(600) % 3 > 0])
    found, expected = function(logits, targets), function(kept, targets - targets // 3 - 1)
    assert found.grad_logit_scale == pytest.approx(expected.grad_logit_scale, rel=1e-6)
    logits[3, 5] = np.nan
    assert np.isnan(function(logits, targets).grad_logit_scale)
    assert np.isfinite(function(logits, targets, sample_weight=np.arange(9) != 3).grad_logit_scale)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01, "label_smoothing": 0.1}, {"softcap": 30.0}])
def test_rows_of_millions_of_classes(options):
    logits = (rng.normal(size=(2, 3_200_001)) * 3).astype(np.float32)
    logits[0, 2_000_000] = 50
    targets = np.array([2_000_000, 7])
    exact = naive.CrossEntropy(logits, targets, **options)
    found = function(logits, targets, reduction="sum", **options)
    assert found.grad_logit_scale == pytest.approx(float((exact.grad * logits).sum()), rel=1e-6)
    assert found.value == fastce.cross_entropy(logits, targets, reduction="sum", **options)
    assert found == function(logits, targets, reduction="sum", n_threads=1, **options)
    out = np.empty_like(logits)
    assert function(logits, targets, reduction="sum", out=out, **options) == found
    assert same_bits(out, fastce.cross_entropy_value_and_grad(logits, targets, reduction="sum", **options).grad)


@pytest.mark.parametrize("options", [{}, {"z_loss": 0.01}, {"softcap": 1e200}])
def test_rows_beyond_the_fast_kernels_beside_others(options):
    """Of masses that float32 has no digits for, and of logits whose squares float64 has no room for."""
    logits, targets = rng.normal(size=(40, 300)), rng.uniform(size=(40, 300))
    logits[7, ::2] -= 1e70
    logits[9, ::3] -= 1e100
    targets[11] *= 1e-250
    expected = sum(function(logits[k], targets[k], **options).grad_logit_scale for k in range(40))
    exact = naive.CrossEntropy(logits, targets, **options)
    found = function(logits, targets, reduction="sum", **options)
    assert found.grad_logit_scale == pytest.approx(float((exact.grad * logits).sum()), rel=1e-6)
    assert found.grad_logit_scale == pytest.approx(expected, rel=1e-12)


def test_more_than_a_block_has_the_same_bits_for_any_threads_and_a_value_like_its_twin():
    for shape in ((70_000, 10), (900, 700)):
        logits, targets = rng.normal(size=shape).astype(np.float32), rng.integers(0, shape[1], shape[0])
        one, two = (function(logits, targets, n_threads=n) for n in (1, 2))
        assert one == two
        assert one.value == fastce.cross_entropy(logits, targets)
        assert one.grad_logit_scale == pytest.approx(difference(logits, targets), rel=1e-5)


def test_sparse_targets():
    sparse = pytest.importorskip("scipy.sparse")
    logits, targets = rng.normal(size=(40, 30)), rng.uniform(size=(40, 30)) * (rng.uniform(size=(40, 30)) < 0.1)
    found = function(logits, sparse.csr_array(targets), z_loss=0.01)
    assert found.grad_logit_scale == pytest.approx(function(logits, targets, z_loss=0.01).grad_logit_scale, rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_confident_rows_and_common_offsets_keep_their_digits(offset):
    logits = np.array([[17.0, 0.0, 0.0]], np.float32) + np.float32(offset)
    with mpmath.workdps(40):
        expected = float(-34 / (mpmath.exp(17) + 2))
    assert function(logits, [0]).grad_logit_scale == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("classes", [2, 10, 200])
@pytest.mark.parametrize("order", "CF")
def test_rows_whose_gradients_are_too_small_for_float32(order, classes):
    logits = np.zeros((50, classes), np.float32, order=order)
    logits[:, 1] = 60 + np.arange(50)  # from e**88 on, which is 2**127
    targets = np.ones(50, int)
    expected = naive.CrossEntropy(logits, targets).grad * (logits - logits[:, 1:2])
    for k in range(50):
        found = function(logits[k : k + 1], targets[:1]).grad_logit_scale
        assert found == pytest.approx(float(expected[k].sum()), rel=3e-7, abs=0.0)


@pytest.mark.parametrize("scale", [5e-324, 1e-300, 1e-30, 1e300])
def test_any_scale(scale):
    logits = np.array([[2.0, 1.0, -3.0], [1.0, 4.0, 2.0]])
    expected = 1.0 if scale > 1 else -5 / 6
    assert function(logits, [0, 2], logit_scale=scale).grad_logit_scale == pytest.approx(expected, rel=1e-12)


def test_weights_of_any_size():
    logits = np.array([[2.0, 1.0, -3.0], [1.0, 4.0, 2.0]], np.float32)
    found = function(logits, [0, 2], sample_weight=[1e300, 1.0])
    assert found.grad_logit_scale == pytest.approx(function(logits[:1], [0]).grad_logit_scale, rel=1e-6)


def test_masked_classes_and_ignored_rows_count_nothing_and_nan_shows():
    logits = np.array([[2.0, 1.0, -np.inf], [np.nan, 4.0, 2.0]])
    expected = function(logits[:1, :2], [0]).grad_logit_scale
    assert function(logits, [0, -100]).grad_logit_scale == pytest.approx(expected, rel=1e-12)
    assert np.isnan(function(logits, [0, 1]).grad_logit_scale)
    assert function(logits, [-100, -100], reduction="sum") == (0.0, 0.0)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="logit_scale"):
        function(np.zeros((2, 3)), [0, 1], logit_scale=-1.0)
    with pytest.raises(ValueError, match="out has shape"):
        function(np.zeros((2, 3)), [0, 1], out=np.zeros((3, 2)))
    with pytest.raises(IndexError, match="targets"):
        function(np.zeros((2, 3)), [0, 3])


@pytest.mark.parametrize("largest", [1e300, np.finfo(np.float64).max])
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}])
def test_a_z_loss_beyond_float64_has_an_infinite_derivative(options, largest):
    """Its gradient is infinite at the largest logit, whose distance from itself is 0."""
    logits = largest * np.array([[1.0, 0.0, 0.0], [1.0, -1.0, 0.0], [-1.0, -1.0, -1.0]])
    for labels in ([0, 0, 0], [1, 1, 1]):
        found = fastce.cross_entropy_value_and_grad_logit_scale(logits, labels, logit_scale=1e6, z_loss=1e-3, **options)
        assert found == (np.inf, np.inf)
