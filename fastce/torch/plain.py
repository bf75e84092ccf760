"""Plain calls of cross_entropy: straight to their kernels, as in `fastce.cpu.plain`."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec

import torch
from torch import Tensor

from fastce.arguments.words import asked
from fastce.cpu.plain_cross_entropy import plain_cross_entropy
from fastce.torch.loss import refuse_second_derivatives, scaled
from fastce.torch.tensors import as_value

P = ParamSpec("P")

_DTYPES = frozenset({torch.float32, torch.float64})
_OPTIONS = frozenset({
    "weight", "ignore_index", "reduction", "label_smoothing", "sample_weight", "smoothing_over", "logit_scale",
    "softcap", "z_loss",
})  # fmt: skip


def plain_first(function: Callable[P, Tensor]) -> Callable[P, Tensor]:
    """The loss of a plain call, and else what the function, `fastce.torch.cross_entropy`, gives."""

    @functools.wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> Tensor:
        loss = None if torch.compiler.is_compiling() else plain_loss(args, kwargs)
        return function(*args, **kwargs) if loss is None else loss

    return tried


def plain_loss(args: tuple[Any, ...], named: dict[str, Any]) -> Tensor | None:
    """The loss of plain tensors, and options by name; None of any other."""
    if len(args) != 2 or (named and not _OPTIONS.issuperset(named)):
        return None
    input, target = args
    if (
        type(input) is not Tensor
        or type(target) is not Tensor
        or input.dtype not in _DTYPES
        or target.requires_grad  # which `numpy` refuses, but not where torch.compile traces it
        or torch._C._are_functorch_transforms_active()
    ):
        return None
    wants_gradients = input.requires_grad and torch.is_grad_enabled()
    if wants_gradients and "reduction" in named and named["reduction"] != "mean" and named["reduction"] != "sum":
        return None  # gradients of single rows wait for what comes after
    arrays = asked(_as_arrays, args)
    found = None if arrays is None else plain_cross_entropy(arrays, named, with_gradient=wants_gradients)
    if found is None:
        return None
    if not wants_gradients:
        return as_value(found, input.dtype, input.device)
    loss: Tensor = _apply(input, *found)
    return loss


def _as_arrays(tensors: tuple[Tensor, Tensor]) -> tuple[Any, Any]:
    input, target = tensors
    return input.detach().numpy(), target.numpy()


class _Computed(torch.autograd.Function):
    """A loss with the gradient of its only input, which is wanted: as that of loss.py, in half the time."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value: float, gradient: Any) -> Tensor:
        ctx.save_for_backward(torch.from_numpy(gradient))
        return torch.scalar_tensor(value, dtype=input.dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        if torch.is_grad_enabled():
            refuse_second_derivatives("cross_entropy")
        gradients = ctx.saved_tensors
        if grad_output.is_cpu and grad_output.item() == 1.0:  # as `scaled` does, without its calls
            return gradients[0], None, None
        return *scaled(gradients, grad_output), None, None


# Without what PyTorch's own class adds to it for torch.func, of which `plain_loss` knows that it is not at work.
_apply: Callable[..., Any] = super(torch.autograd.Function, _Computed).apply
