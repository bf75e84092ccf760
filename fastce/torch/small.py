"""Small calls of cross_entropy, which cost what is around them: straight to the kernel, as in `fastce.cpu.small`."""

from typing import Any

import torch
from torch import Tensor

from fastce.arguments.words import asked
from fastce.cpu.small import SMALL
from fastce.cpu.small_cross_entropy import small_cross_entropy
from fastce.losses.twins import Twins
from fastce.torch.loss import recorded

_DTYPES = frozenset({torch.float32, torch.float64})


def small_loss(loss: Twins, input: Any, target: Any, options: tuple[Any, ...]) -> Tensor | None:
    """The loss of plain tensors and these options, which are those of `small_cross_entropy`; None of any other."""
    if (
        type(input) is not Tensor
        or type(target) is not Tensor
        or input.numel() > SMALL
        or input.dtype not in _DTYPES
        or torch._C._are_functorch_transforms_active()
    ):
        return None
    wants_gradients = input.requires_grad and torch.is_grad_enabled()
    if wants_gradients and options[-1] == "none":  # these wait for what comes after
        return None
    logits, targets = asked(Tensor.numpy, input.detach()), asked(Tensor.numpy, target)
    found = small_cross_entropy(logits, targets, None, options, None, with_gradient=wants_gradients)
    if found is None:
        return None
    value, gradient = found
    return recorded(loss, (value, (gradient,) if wants_gradients else ()), input.dtype, (input,))
