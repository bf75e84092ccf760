"""The modules of fastce.torch beside PyTorch's, and beside open_clip's formulas."""

import inspect

import pytest

torch = pytest.importorskip("torch")

from torch_calls import matrix  # noqa: E402

import fastce.torch  # noqa: E402

F = torch.nn.functional


def unit(seed, rows=6, width=4):
    return F.normalize(matrix(seed, rows, width), dim=1).requires_grad_()


def assert_same_gradients(ours, theirs, tensors):
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    found, expected = (torch.autograd.grad(loss, tensors) for loss in (ours, theirs))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-14)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_cross_entropy_loss_is_pytorchs(reduction):
    options = {"weight": torch.rand(5).double(), "ignore_index": 2, "reduction": reduction, "label_smoothing": 0.2}
    ours, theirs = fastce.torch.CrossEntropyLoss(**options), torch.nn.CrossEntropyLoss(**options)
    assert isinstance(ours, torch.nn.CrossEntropyLoss)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    logits, targets = matrix(0, 6, 5).requires_grad_(), torch.tensor([0, 1, 2, 3, 4, 2])
    assert_same_gradients(ours(logits, targets).sum(), theirs(logits, targets).sum(), [logits])
    positional = list(inspect.signature(torch.nn.CrossEntropyLoss).parameters)
    assert list(inspect.signature(fastce.torch.CrossEntropyLoss).parameters)[: len(positional)] == positional


def test_cross_entropy_loss_takes_the_options_of_fastce():
    module = fastce.torch.CrossEntropyLoss(smoothing_over="others", logit_scale=2.0, softcap=3.0, z_loss=0.1)
    logits, targets = matrix(0, 6, 5), torch.arange(6) % 5
    expected = fastce.cross_entropy(
        logits.numpy(), targets.numpy(), smoothing_over="others", logit_scale=2.0, softcap=3.0, z_loss=0.1
    )
    assert module(logits, targets).item() == expected


def of_open_clip(images, texts, logit_scale, logit_bias=None):
    logits = logit_scale * images @ texts.T
    if logit_bias is not None:
        logits = logits + logit_bias
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def test_clip_loss_is_open_clips_with_a_learned_scale():
    images, texts, log_scale = unit(0), unit(1), torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    ours = fastce.torch.ClipLoss()(images, texts, log_scale.exp())
    assert_same_gradients(ours, of_open_clip(images, texts, log_scale.exp()), [images, texts, log_scale])


def test_a_bias_of_all_logits_has_gradient_zero():
    images, texts, bias = unit(0), unit(1), torch.tensor([-10.0], dtype=torch.float64, requires_grad=True)
    ours = fastce.torch.ClipLoss()(images, texts, torch.tensor(5.0), bias, output_dict=True)
    assert list(ours) == ["contrastive_loss"]
    assert_same_gradients(ours["contrastive_loss"], of_open_clip(images, texts, 5.0, bias), [images, texts, bias])


def test_a_scale_of_shape_1_has_a_gradient_of_shape_1():
    images, texts, scale = unit(0), unit(1), torch.tensor([7.0], dtype=torch.float64, requires_grad=True)
    ours = fastce.torch.ClipLoss(memory_budget=1 << 20)(images, texts, scale)
    assert_same_gradients(ours, of_open_clip(images, texts, scale), [images, texts, scale])
    assert ours.shape == ()


def test_siglip_loss_is_open_clips_with_a_learned_scale_and_bias():
    images, texts = unit(0), unit(1)
    numbers = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (2.0, -5.0)]
    log_scale, bias = numbers
    logits = log_scale.exp() * images @ texts.T + bias
    signs = 2.0 * torch.eye(6, dtype=torch.float64) - 1.0
    theirs = -F.logsigmoid(signs * logits).sum() / 6
    ours = fastce.torch.SigLipLoss()(images, texts, log_scale.exp(), bias, output_dict=True)["contrastive_loss"]
    assert_same_gradients(ours, theirs, [images, texts, *numbers])


@pytest.mark.parametrize(
    ("name", "parameters", "forward"),
    [
        (
            "ClipLoss",
            ["local_loss", "gather_with_grad", "cache_labels", "rank", "world_size", "use_horovod"],
            ["image_features", "text_features", "logit_scale", "logit_bias", "output_dict"],
        ),
        (
            "SigLipLoss",
            ["cache_labels", "rank", "world_size", "dist_impl"],
            ["image_features", "text_features", "logit_scale", "logit_bias", "output_dict"],
        ),
    ],
)
def test_signatures_are_open_clips(name, parameters, forward):
    module = getattr(fastce.torch, name)
    assert list(inspect.signature(module).parameters)[: len(parameters)] == parameters
    assert list(inspect.signature(module.forward).parameters)[1:] == forward
    assert not module(rank=0, world_size=1, cache_labels=True).state_dict()
    with pytest.raises(
        ValueError, match=rf"world_size must be 1, got 8: fastce\.torch\.{name} computes in one process"
    ):
        module(world_size=8)
