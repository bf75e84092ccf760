"""fastce.torch: values, and gradients by finite differences, of every function and dtype."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from test_torch import opinfo_samples  # noqa: E402
from torch_calls import LOSSES, WHOLE  # noqa: E402

import fastce  # noqa: E402
import fastce.torch  # noqa: E402

F = torch.nn.functional
REDUCTIONS = ["mean", "sum", "none"]
HAS_SUMS_ALONE = ("clip", "siglip", "info", "nt_", "sup")  # gradients of single losses are not there


def reduced_by(name, reduction):
    """A call of tensors alone, of what has a gradient."""
    call = LOSSES[name]

    def function(*tensors):
        value = call.function(*tensors, reduction=reduction)
        return value.sum() / 3.0 if reduction == "none" and name.startswith(HAS_SUMS_ALONE) else value

    return function


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_gradients_are_those_of_finite_differences(name, reduction):
    if name.startswith("clip_loss, targets") and reduction == "none":
        pytest.skip("losses of rows and columns go together only by the diagonal")
    function, tensors = reduced_by(name, reduction), LOSSES[name].leaves()
    assert torch.autograd.gradcheck(function, tensors)  # of every tensor, with odd grad_outputs for "none"


@pytest.mark.parametrize("name", WHOLE)
def test_gradients_along_dimensions_are_those_of_finite_differences(name):
    assert torch.autograd.gradcheck(WHOLE[name].function, WHOLE[name].leaves())


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("name", LOSSES)
def test_values_are_those_of_fastce(name, reduction):
    call = LOSSES[name]
    if name.startswith("clip_loss, targets") and reduction == "none":
        pytest.skip("losses of rows and columns go together only by the diagonal")
    with_grad = call.function(*call.leaves(), reduction=reduction)
    without = call.function(*call.tensors, reduction=reduction)
    expected = call.plain(*(t.numpy() if t.ndim else t.item() for t in call.tensors), reduction=reduction)
    assert with_grad.requires_grad
    assert not without.requires_grad
    assert with_grad.dtype == torch.float64
    np.testing.assert_array_equal(with_grad.detach().numpy(), expected)
    np.testing.assert_array_equal(without.numpy(), expected)
    assert with_grad.numel() == (call.rows if reduction == "none" else 1)


@pytest.mark.parametrize("name", WHOLE)
def test_results_along_dimensions_are_those_of_fastce(name):
    call = WHOLE[name]
    np.testing.assert_array_equal(call.function(*call.leaves()).detach().numpy(), call.plain(call.tensors[0].numpy()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [*LOSSES, *WHOLE])
def test_other_dtypes_agree_with_float64(name, dtype):
    if dtype == torch.bfloat16:
        pytest.importorskip("ml_dtypes")
    call = {**LOSSES, **WHOLE}[name]
    narrow = call.leaves(dtype)
    wide = [t.detach().to(torch.float64, copy=True).requires_grad_() for t in narrow]
    value, expected = call.function(*narrow), call.function(*wide)
    assert value.dtype == dtype
    value.sum().backward()
    expected.sum().backward()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(value.double(), expected, rtol=4 * eps, atol=4 * eps)
    for ours, theirs in zip(narrow, wide, strict=True):
        assert ours.grad.dtype == ours.dtype
        assert ours.grad.shape == ours.shape
        scale = max(1.0, theirs.grad.abs().max().item())
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=4 * eps, atol=8 * eps * scale)


def test_a_loss_scale_brings_back_what_a_mean_of_float16_would_lose(rng):
    logits = torch.tensor(rng.normal(size=(5000, 50)), dtype=torch.float16, requires_grad=True)
    targets = torch.tensor(rng.integers(0, 50, 5000))
    (fastce.torch.cross_entropy(logits, targets) * 4096.0).backward()
    wide = logits.detach().double().requires_grad_()
    (F.cross_entropy(wide, targets) * 4096.0).backward()
    torch.testing.assert_close(logits.grad.double(), wide.grad, rtol=1e-3, atol=1e-6)


# ------------------------------------------------------------------------------- PyTorch's own test inputs
def as_double(thing):
    is_float = isinstance(thing, torch.Tensor) and thing.dtype.is_floating_point
    return thing.detach().double() if is_float else thing


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # of importing PyTorch's test module
@pytest.mark.parametrize("name", ["cross_entropy", "binary_cross_entropy_with_logits"])
def test_the_inputs_that_pytorch_tests_its_losses_with(name):
    compared = 0
    for sample in opinfo_samples(f"nn.functional.{name}"):
        options, ours = sample.kwargs, sample.input.detach().requires_grad_()
        theirs = as_double(ours).requires_grad_()
        rest = [arg.detach() for arg in sample.args]
        options = {k: v.detach() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
        value = getattr(fastce.torch, name)(ours, *rest, **options)
        wide = {k: as_double(v) for k, v in options.items()}
        expected = getattr(F, name)(theirs, *map(as_double, rest), **wide)
        assert value.dtype == ours.dtype
        assert value.shape == expected.shape
        eps = torch.finfo(value.dtype).eps
        torch.testing.assert_close(value.double(), expected, rtol=16 * eps, atol=64 * eps, equal_nan=True)
        upstream = torch.randn(value.shape, dtype=value.dtype)
        value.backward(upstream)
        if expected.isnan().any():  # all rows are ignored
            assert not ours.grad.any()
        else:
            expected.backward(upstream.double())
            torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=16 * eps, atol=64 * eps)
        compared += 1
    assert compared >= 8


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["logsumexp", "softmax", "log_softmax"])
def test_the_inputs_that_pytorch_tests_its_reductions_with(name):
    compared = 0
    for sample in opinfo_samples(name):
        ours = sample.input.detach().requires_grad_()
        theirs = as_double(ours).requires_grad_()
        if ours.numel() == 0 or sample.kwargs.get("dtype") is not None:
            continue  # SciPy's rule for nothing, which is tested beside SciPy
        value = getattr(fastce.torch, name)(ours, *sample.args, **sample.kwargs)
        expected = getattr(torch, name)(theirs, *sample.args, **sample.kwargs)
        assert value.dtype == ours.dtype
        assert value.shape == expected.shape
        eps = torch.finfo(value.dtype).eps
        size = max(1.0, ours.detach().abs().max().item())
        torch.testing.assert_close(value.double(), expected, rtol=4 * eps, atol=4 * eps * size)
        upstream = torch.randn(value.shape, dtype=value.dtype)
        value.backward(upstream)
        expected.backward(upstream.double())
        torch.testing.assert_close(ours.grad.double(), theirs.grad, rtol=64 * eps, atol=64 * eps * size)
        compared += 1
    assert compared >= 6
