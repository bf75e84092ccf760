"""Side by side with PyTorch: values and autograd gradients, and the differences that are there on purpose."""

import naive
import numpy as np
import pytest
from covering import covering

import fastce

torch = pytest.importorskip("torch")
F = torch.nn.functional

REDUCTIONS = ["none", "sum", "mean"]


def run_torch(function, x, *args, grad_output=None, **options):
    """PyTorch's value and autograd gradient, in float64: float32 PyTorch would be the less exact side."""
    x = torch.tensor(np.asarray(x, float), requires_grad=True)
    args = [torch.tensor(a) for a in args]
    options = {name: torch.tensor(o) if isinstance(o, np.ndarray) else o for name, o in options.items()}
    value = function(x, *args, **options)
    upstream = torch.ones_like(value) if grad_output is None else torch.tensor(grad_output)
    (grad,) = torch.autograd.grad(value, x, upstream)
    return value.detach().numpy(), grad.numpy()


def assert_same(ours, theirs, logits, scale=1.0, signed=False):
    """Ours within 4 ulp (value) and 4 eps before scaling (gradient); theirs is lse - x, good to eps * |x|.

    scale: the greatest mass of a row, divided by the denominator of the mean.  signed: the terms of the value
    have both signs, so that its error is relative to their size and not to their sum.
    """
    eps, eps64 = np.finfo(np.float64 if logits.dtype == np.float64 else np.float32).eps, np.finfo(float).eps
    (value, grad), (expected, expected_grad) = ours, theirs
    assert np.shape(value) == expected.shape
    size = scale * (np.abs(logits).max() + np.log(logits.size)) * (1 if expected.ndim else logits.size)
    # nan where theirs is nan: assert_allclose sees to that
    np.testing.assert_allclose(value, expected, rtol=4 * eps, atol=size * (8 * eps64 + 4 * eps * signed))
    assert grad.dtype == logits.dtype
    np.testing.assert_allclose(grad, expected_grad, rtol=0, atol=scale * (4 * eps + 8 * eps64))


def scale_of(logits, targets, reduction="mean", **options):
    """The greatest absolute mass of a row, divided by the denominator of the mean."""
    denominator = naive.CrossEntropy(logits, targets, **options).denominator if reduction == "mean" else 1.0
    if options.get("weight") is not None:
        options["weight"] = np.abs(options["weight"])
    targets = np.abs(targets) if targets.dtype.kind == "f" else targets
    return naive.CrossEntropy(logits, targets, **options).mass.max() / (abs(denominator) or 1.0)


# ------------------------------------------------------------------------------------------ cross entropy
@covering(
    {
        "dtype": [np.float32, np.float64],
        "shape": [(6,), (21, 6), (5, 6, 3, 2)],
        "reduction": REDUCTIONS,
        "label_smoothing": [0.0, 0.1, 1.0],
        "kind, ignore_index": [("hard", -100), ("hard", 2), ("hard", -1), ("soft", -100)],
        "weighted": [False, True],
    },
    strength=3,
)
def test_cross_entropy(rng, weighted, kind, ignore_index, label_smoothing, reduction, shape, dtype):
    logits = (rng.normal(size=shape) * 3).astype(dtype)
    axis = min(1, len(shape) - 1)
    rows = tuple(np.delete(shape, axis))
    if kind == "hard":
        targets = np.array(rng.integers(0, 6, rows))
        targets[rng.random(rows) < 0.2] = ignore_index
    else:
        targets = np.moveaxis(rng.dirichlet(np.ones(6), rows), -1, axis)
    weight = rng.random(6) if weighted else None
    options = {"ignore_index": ignore_index, "label_smoothing": label_smoothing, "reduction": reduction}
    ours = fastce.cross_entropy_value_and_grad(logits, targets, weight=weight, **options)
    theirs = run_torch(F.cross_entropy, logits, targets, weight=weight, **options)
    if np.isnan(theirs[0]).any():  # the only row is ignored: the mean is nan, see the deviations below
        theirs = theirs[0], np.zeros(shape)
    assert_same(ours, theirs, logits, scale_of(logits, targets, weight=weight, **options))
    alone = fastce.cross_entropy(logits, targets, weight=weight, **options)
    np.testing.assert_array_equal(alone, ours.value)


def test_cross_entropy_with_an_upstream_gradient(rng):
    logits, labels, upstream = rng.normal(size=(7, 5)), rng.integers(0, 5, 7), rng.normal(size=7)
    ours = fastce.cross_entropy_value_and_grad(logits, labels, reduction="none", grad_output=upstream)
    theirs = run_torch(F.cross_entropy, logits, labels, reduction="none", grad_output=upstream)
    assert_same(ours, theirs, logits, np.abs(upstream).max())


@covering(
    {
        "dtype": [np.float32, np.float64],
        "label_smoothing": [0.0, 0.1],
        "row": [
            [-np.inf, 1.0, 2.0],
            [1.0, -np.inf, 2.0],
            [-np.inf] * 3,
            [np.inf, 0.0, 0.0],
            [0.0, np.inf, 0.0],
            [np.nan, 0.0, 0.0],
            [0.0, 0.0, np.nan],
            [1e30, -1e30, 0.0],
        ],
    },
    quick=1,
)
def test_cross_entropy_at_special_values_is_as_in_pytorch(row, label_smoothing, dtype):
    logits, labels = np.array([row, [0.5, 1.0, -1.0]], dtype), np.array([0, 2])
    options = {"label_smoothing": label_smoothing, "reduction": "none"}
    ours = fastce.cross_entropy_value_and_grad(logits, labels, **options)
    theirs = run_torch(F.cross_entropy, logits, labels, **options)
    np.testing.assert_allclose(ours.value, theirs[0], rtol=4 * np.finfo(dtype).eps)
    np.testing.assert_allclose(ours.grad, theirs[1], rtol=0, atol=4 * np.finfo(dtype).eps)


def test_a_clip_loss_written_in_pytorch(rng):
    similarity, pairs = rng.normal(size=(40, 40)), torch.arange(40)
    x = torch.tensor(similarity, requires_grad=True)
    scale = torch.tensor(12.5, dtype=torch.float64, requires_grad=True)
    logits = scale * x
    loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    loss.backward()
    ours = fastce.clip_loss_value_and_grad(similarity, logit_scale=12.5)
    assert ours.value == pytest.approx(loss.item(), rel=1e-14)
    np.testing.assert_allclose(ours.grad, x.grad.numpy(), rtol=0, atol=1e-14)
    assert ours.grad_logit_scale == pytest.approx(scale.grad.item(), rel=1e-12)


# -------------------------------------------------------------------------------- deviations, on purpose
def test_deviation_label_smoothing_below_zero_is_an_error_where_pytorch_ignores_it():
    logits, labels = np.zeros((2, 3)), np.array([0, 1])
    with pytest.raises(ValueError, match="label_smoothing"):
        fastce.cross_entropy(logits, labels, label_smoothing=-0.1)
    assert run_torch(F.cross_entropy, logits, labels, label_smoothing=-0.1)[0] == pytest.approx(np.log(3))


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "uint16", "uint32", "uint64"])
def test_deviation_integer_targets_that_are_not_int64_are_accepted_where_pytorch_refuses_them(rng, dtype):
    logits, labels = rng.normal(size=(9, 5)), rng.integers(0, 5, 9)
    assert fastce.cross_entropy(logits, labels.astype(dtype)) == fastce.cross_entropy(logits, labels)
    with pytest.raises(RuntimeError):
        run_torch(F.cross_entropy, logits, labels.astype(dtype))


def test_deviation_zero_mass_on_a_masked_class_costs_nothing_where_pytorch_gives_nan():
    logits, targets = np.array([[-np.inf, 1.0, 2.0]]), np.array([[0.0, 1.0, 0.0]])
    value, grad = fastce.cross_entropy_value_and_grad(logits, targets)
    assert value == pytest.approx(np.log1p(np.e), rel=1e-14)
    assert np.all(np.isfinite(grad))
    assert np.isnan(run_torch(F.cross_entropy, logits, targets)[0])


def test_deviation_nan_in_an_ignored_row_leaves_its_gradient_at_zero_where_pytorch_gives_nan():
    logits, labels = np.array([[np.nan, 1.0], [0.0, 0.0]]), np.array([-100, 1])
    value, grad = fastce.cross_entropy_value_and_grad(logits, labels)
    assert value == pytest.approx(np.log(2), rel=1e-14)
    np.testing.assert_array_equal(grad, [[0, 0], [0.5, -0.5]])
    assert np.isnan(run_torch(F.cross_entropy, logits, labels)[1][0]).any()


def test_deviation_confident_float32_rows_keep_their_digits_where_pytorch_gives_zero():
    logits = np.zeros((1, 1000), np.float32)
    logits[0, 0] = 25
    loss = fastce.cross_entropy(logits, [0], reduction="none")
    assert naive.ulp_error(loss, np.array([np.log1p(999 * np.exp(-25.0))])).max() <= 4
    assert F.cross_entropy(torch.tensor(logits), torch.tensor([0])).item() == 0.0


# ---------------------------------------------------------------------------------------- nll and binary
@covering(
    {
        "dtype": [np.float32, np.float64],
        "shape": [(6,), (21, 6), (5, 6, 3, 2)],
        "reduction": REDUCTIONS,
        "ignore_index": [-100, 2],
        "weighted": [False, True],
    }
)
def test_nll_loss(rng, weighted, ignore_index, reduction, shape, dtype):
    log_probs = -rng.random(shape).astype(dtype) * 4
    rows = tuple(np.delete(shape, min(1, len(shape) - 1)))
    labels = np.array(rng.integers(0, 6, rows))
    labels[rng.random(rows) < 0.2] = ignore_index
    options = {
        "weight": rng.random(6) if weighted else None,
        "ignore_index": ignore_index,
        "reduction": reduction,
    }
    ours = fastce.nll_loss_value_and_grad(log_probs, labels, **options)
    theirs = run_torch(F.nll_loss, log_probs, labels, **options)
    if np.isnan(theirs[0]).any():
        theirs = theirs[0], np.zeros(shape)
    assert_same(ours, theirs, log_probs, scale_of(log_probs, labels, **options))


@covering(
    {
        "dtype": [np.float32, np.float64],
        "shape": [(6,), (21, 6), (5, 4, 3, 6)],
        "reduction": REDUCTIONS,
        "weighted": [False, True],
        "pos_weighted": [False, True],
    }
)
def test_binary_cross_entropy_with_logits(rng, pos_weighted, weighted, reduction, shape, dtype):
    logits, targets = (rng.normal(size=shape) * 4).astype(dtype), rng.random(shape).astype(dtype)
    options = {
        "weight": rng.random(shape) if weighted else None,
        "pos_weight": rng.random(6) if pos_weighted else None,
    }
    options["reduction"] = reduction
    ours = fastce.binary_cross_entropy_with_logits_value_and_grad(logits, targets, **options)
    theirs = run_torch(F.binary_cross_entropy_with_logits, logits, targets.astype(float), **options)
    assert_same(ours, theirs, logits, 1 / logits.size if reduction == "mean" else 1.0)  # all weights are below 1


# ------------------------------------------------------------------------------- PyTorch's own test inputs
def opinfo_samples(name):
    """The inputs PyTorch tests this function with, each with a readable id."""
    pytest.importorskip("expecttest", reason="PyTorch's test inputs need the package expecttest")
    operators = pytest.importorskip("torch.testing._internal.common_methods_invocations").op_db
    torch.manual_seed(0)
    for operator in operators:
        if operator.name == name and not operator.variant_test_name:
            for dtype in (torch.float32, torch.float64):
                yield from operator.sample_inputs("cpu", dtype)


def as_numpy(thing):
    return thing.detach().numpy() if isinstance(thing, torch.Tensor) else thing


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of importing PyTorch's test module
@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
def test_the_inputs_that_pytorch_tests_its_losses_with(name):
    ours, theirs = getattr(fastce, f"{name}_value_and_grad"), getattr(F, name)
    compared = 0
    for sample in opinfo_samples(f"nn.functional.{name}"):
        logits, targets = as_numpy(sample.input), as_numpy(sample.args[0])
        options = {key: as_numpy(option) for key, option in sample.kwargs.items()}
        in_double = {k: v.astype(float) if isinstance(v, np.ndarray) else v for k, v in options.items()}
        double_targets = targets.astype(float) if targets.dtype.kind == "f" else targets
        expected = run_torch(theirs, logits, double_targets, **in_double)
        if np.isnan(expected[0]).any():  # every row is ignored
            expected = expected[0], np.zeros(logits.shape)
        scale = scale_of(logits, targets, **options)
        assert_same(ours(logits, targets, **options), expected, logits, scale, signed=True)
        compared += 1
    assert compared >= 42


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["logsumexp", "log_softmax"])
def test_the_inputs_that_pytorch_tests_its_reductions_with(name):
    compared = 0
    for sample in opinfo_samples(name):
        x, axis = as_numpy(sample.input), sample.args[0]
        if x.ndim == 0:
            continue  # PyTorch takes axis 0 of a number that has no axes; SciPy's signature does not
        if x.size == 0:
            continue  # PyTorch returns an empty result; ours is SciPy's, which is tested beside SciPy
        if name == "logsumexp":
            keepdims = sample.args[1]
            result = fastce.logsumexp(x, axis=axis, keepdims=keepdims)
            expected = torch.logsumexp(sample.input.detach().double(), axis, keepdim=keepdims).numpy()
            # at most 1 ulp, or 2 eps near zero; theirs in float64 is allowed as much again
            bound = np.maximum(2 * np.spacing(np.abs(expected).astype(x.dtype)), 2 * np.finfo(x.dtype).eps)
        else:
            result = fastce.log_softmax(x, axis=axis)
            expected = torch.log_softmax(sample.input.detach().double(), axis).numpy()
            bound = 4 * np.finfo(x.dtype).eps * np.maximum(np.abs(expected), np.abs(x).max())
        assert result.dtype == x.dtype
        assert result.shape == expected.shape
        assert np.all(np.abs(result - expected) <= bound)
        compared += 1
    assert compared >= 10
