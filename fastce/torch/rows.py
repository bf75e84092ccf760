"""Losses of rows of logits, and of a linear layer's outputs."""

from typing import Any

from torch import Tensor

from fastce.losses import twins
from fastce.products.gradients import MEMORY_BUDGET
from fastce.torch.call import call, known
from fastce.torch.plain import plain_first
from fastce.typing import Reduction, SmoothingOver

_CROSS_ENTROPY = twins.CROSS_ENTROPY
_OF_LEARNED_SCALE = known(twins.CROSS_ENTROPY_AND_SCALE)  # the operator of both, which have the same name
_LINEAR = known(twins.LINEAR_AND_SCALE)
_BINARY = known(twins.BINARY)


@plain_first
def cross_entropy(
    input: Tensor,
    target: Any,
    weight: Tensor | None = None,
    *,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
    sample_weight: Tensor | float | None = None,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Tensor | float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """Cross entropy of logits and targets, as `torch.nn.functional.cross_entropy`.

    Parameters
    ----------
    input : Tensor, shape (N, C) or (C,) or (N, C, d1, d2, ...)
        Logits; any strides, never written to.
    target : Tensor of int, Tensor of float, or sparse Tensor
        Class indices of any integer dtype, class probabilities of the shape of `input`, or a sparse matrix of these.
    weight : Tensor, shape (C,), optional
        Weight of each class.
    ignore_index, reduction, label_smoothing
        As in PyTorch.
    logit_scale : Tensor or float, default: 1.0
        Positive factor of the logits; learned, if it requires grad: on the CPU alone.
    sample_weight, smoothing_over, softcap, z_loss
        As in `fastce.cross_entropy`.

    Returns
    -------
    Tensor
        Of the dtype of `input`, but of float32 for halves within autocast.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `fastce.cross_entropy`, where the first two arguments are ``logits`` and ``targets``.
    RuntimeError
        If another tensor than `input` and `logit_scale` requires grad; or a second derivative is asked for.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> logits = torch.tensor([[2.0, 1.0, 0.1], [0.5, 1.5, 0.8]], requires_grad=True)
    >>> loss = fastce.torch.cross_entropy(logits, torch.tensor([0, 1]), label_smoothing=0.1)
    >>> loss.backward()
    >>> round(loss.item(), 4), logits.grad.shape
    (0.5967, torch.Size([2, 3]))
    """
    is_learned = isinstance(logit_scale, Tensor)
    numbers: dict[str, Any] = {} if is_learned else {"logit_scale": logit_scale}
    loss, inputs = (_OF_LEARNED_SCALE, (input, logit_scale)) if is_learned else (_CROSS_ENTROPY, (input,))
    return call(
        loss, *inputs, targets=target, weight=weight, sample_weight=sample_weight, ignore_index=ignore_index,
        label_smoothing=label_smoothing, smoothing_over=smoothing_over, softcap=softcap, z_loss=z_loss,
        reduction=reduction, **numbers,
    )  # fmt: skip


def linear_cross_entropy(
    input: Tensor,
    linear_weight: Tensor,
    target: Any,
    *,
    linear_bias: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    sample_weight: Tensor | float | None = None,
    smoothing_over: SmoothingOver = "all",
    logit_scale: Tensor | float = 1.0,
    softcap: float | None = None,
    z_loss: float = 0.0,
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """Cross entropy of ``torch.nn.functional.linear(input, linear_weight, linear_bias)``, which never exists.

    Parameters
    ----------
    input : Tensor, shape (..., D)
        What the linear layer takes.
    linear_weight : Tensor, shape (V, D)
        One row for each class, as in `torch.nn.Linear`.
    target : Tensor of int, Tensor of float, or sparse Tensor
        As in `fastce.linear_cross_entropy`: of the shape of `input` without its last axis if these are class indices.
    linear_bias : Tensor, shape (V,), optional
        Added to the logits.
    weight, reduction, ignore_index, label_smoothing, sample_weight, smoothing_over, logit_scale, softcap, z_loss
        As in `cross_entropy`.
    memory_budget : int, default: 268435456
        Bytes that may be used beyond inputs and gradients.

    Returns
    -------
    Tensor
        As of `cross_entropy`.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `cross_entropy`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> head = torch.nn.Linear(4, 1000)
    >>> hidden = torch.zeros(2, 3, 4, requires_grad=True)
    >>> targets = torch.tensor([[5, 6, 7], [8, 9, -100]])
    >>> fastce.torch.linear_cross_entropy(hidden, head.weight, targets, linear_bias=head.bias).backward()
    >>> hidden.grad.shape, head.weight.grad.shape, head.bias.grad.shape
    (torch.Size([2, 3, 4]), torch.Size([1000, 4]), torch.Size([1000]))
    """
    return call(
        _LINEAR, input, linear_weight, linear_bias, logit_scale, targets=target, weight=weight,
        sample_weight=sample_weight, ignore_index=ignore_index, label_smoothing=label_smoothing,
        smoothing_over=smoothing_over, softcap=softcap, z_loss=z_loss, reduction=reduction,
        memory_budget=memory_budget,
    )  # fmt: skip


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    *,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Binary cross entropy of each logit, as `torch.nn.functional.binary_cross_entropy_with_logits`.

    Parameters
    ----------
    input, target : Tensor
        Logits, and probabilities of the positive class: of the same shape. On the CPU only.
    weight, pos_weight : Tensor, optional
        Broadcastable to `input`.
    reduction : {"mean", "sum", "none"}, default: "mean"
        As in PyTorch.

    Returns
    -------
    Tensor
        As of `cross_entropy`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> logits = torch.tensor([0.0, 2.0], requires_grad=True)
    >>> fastce.torch.binary_cross_entropy_with_logits(logits, torch.tensor([1.0, 0.0])).backward()
    >>> logits.grad
    tensor([-0.2500,  0.4404])
    """
    return call(_BINARY, input, targets=target, weight=weight, pos_weight=pos_weight, reduction=reduction)
