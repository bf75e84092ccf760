"""Losses as autograd knows them: value and gradients in one pass, forward; scaled by what comes after, backward."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastce.arguments.places import HOST_TYPES
from fastce.arguments.words import shown
from fastce.losses.twins import Twins
from fastce.torch.tensors import argument, as_gradient, as_value, dtype_of_loss


def wanted_gradients(loss: Twins, inputs: Sequence[Any], options: Mapping[str, Any]) -> list[str]:
    """Of which arguments autograd asks for gradients; it may not ask for those that there are none of."""
    if not torch.is_grad_enabled():
        return []
    for name, value in options.items():
        if type(value) not in HOST_TYPES and isinstance(value, Tensor) and value.requires_grad:
            raise RuntimeError(
                f"{name} requires grad, but {called(loss.name)} has no gradient for it: give {name}.detach()"
            )
    return [
        name for name, value in zip(loss.of, inputs, strict=True) if isinstance(value, Tensor) and value.requires_grad
    ]


def eager(loss: Twins, inputs: Sequence[Any], options: dict[str, Any]) -> Tensor:
    """The loss of these arguments: `Twins.of`, and all others by name."""
    first = inputs[0]
    check_elements(loss.name, first)
    dtype = dtype_of_loss(first)
    wanted = wanted_gradients(loss, inputs, options)
    if wanted and loss.waits(options.get("reduction"), first.dtype == torch.float16):
        waiting: Tensor = _Waiting.apply(loss, options, dtype, *inputs)
        return waiting
    return recorded(loss, run(loss, inputs, options, wanted), dtype, inputs)


def recorded(loss: Twins, found: tuple[Any, Sequence[Any]], dtype: torch.dtype, inputs: Sequence[Any]) -> Tensor:
    """The value of (value, gradients) as a tensor; autograd knows of the gradients, if there are any."""
    value, gradients = found
    if not gradients:
        return as_value(value, dtype, inputs[0].device)
    result: Tensor = _Computed.apply(loss, value, dtype, gradients, *inputs)
    return result


def check_elements(name: str, first: Any) -> None:
    """Complain about what is no tensor, or has no elements in memory."""
    if not isinstance(first, torch.Tensor):
        raise TypeError(f"the first argument of {called(name)} must be a tensor, got {shown(first)}")
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            f"{called(name)} cannot be computed within torch.func (vmap, grad, jvp and others), where tensors have no "
            "elements in memory: use torch.autograd, and a batch in place of vmap"
        )


def run(
    loss: Twins, inputs: Sequence[Any], options: Mapping[str, Any], wanted: Collection[str] = ()
) -> tuple[Any, Sequence[Any]]:
    """(value, gradients) as fastce's function gives them for tensors: of `Twins.of`, None for what it has left out."""
    given = {name: value for name, value in options.items() if value is not None}
    given.update([pair for pair in zip(loss.of, inputs, strict=True) if pair[1] is not None])
    for name, value in given.items():
        if type(value) not in HOST_TYPES and isinstance(value, Tensor):
            given[name] = argument(value, name)
    if not wanted:
        return loss.value(**given), ()
    twins = loss.giving(wanted)
    result = twins.value_and_grad(**given)
    if twins is loss:
        return result[0], result[1:]
    by_name = dict(zip(twins.of, result[1:], strict=True))
    return result[0], [by_name.get(name) for name in loss.of]


def refuse_second_derivatives(name: str) -> None:
    """Complain when a backward pass is recorded itself."""
    if torch.is_grad_enabled():
        raise RuntimeError(f"{called(name)} has no second derivatives: call backward or grad without create_graph=True")


def called(name: str) -> str:
    """What a function is called in errors."""
    return f"fastce.torch.{name}"


class _Computed(torch.autograd.Function):
    """A loss outside torch.compile, whose gradients have been computed with it.

    An operator of torch.library costs more time in each call.
    """

    @staticmethod
    def forward(
        ctx: Any, loss: Twins, value: Any, dtype: torch.dtype, gradients: Sequence[Any], *inputs: Any
    ) -> Tensor:
        ctx.loss = loss
        ctx.save_for_backward(*_as_tensors(gradients, inputs, ctx.needs_input_grad[4:]))
        return as_value(value, dtype, inputs[0].device)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives(ctx.loss.name)
        return None, None, None, None, *scaled(ctx.saved_tensors, factor_for_all(ctx.loss, grad_output))


class _Waiting(torch.autograd.Function):
    """A loss whose gradients wait: see `Twins.waits`."""

    @staticmethod
    def forward(ctx: Any, loss: Twins, options: dict[str, Any], dtype: torch.dtype, *inputs: Any) -> Tensor:
        given = dict(zip(loss.of, inputs, strict=True)) | options
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        ctx.loss, ctx.names = loss, tuple(tensors)
        ctx.others = {name: value for name, value in given.items() if name not in tensors}
        ctx.save_for_backward(*tensors.values())
        value, _ = run(loss, inputs, options)
        return as_value(value, dtype, inputs[0].device)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        refuse_second_derivatives(ctx.loss.name)
        return None, None, None, *_gradients_now(ctx, grad_output)


def _gradients_now(ctx: Any, grad_output: Tensor) -> list[Tensor | None]:
    """The gradients of inputs that were saved, multiplied as they are computed."""
    given = ctx.others | dict(zip(ctx.names, ctx.saved_tensors, strict=True))
    inputs, needed = [given.pop(name) for name in ctx.loss.of], ctx.needs_input_grad[3:]
    wanted = [name for name, is_needed in zip(ctx.loss.of, needed, strict=True) if is_needed]
    _, gradients = run(ctx.loss, inputs, {**given, "grad_output": grad_output}, wanted)
    return _as_tensors(gradients, inputs, needed)


def _as_tensors(gradients: Sequence[Any], inputs: Sequence[Any], needed: Sequence[bool]) -> list[Tensor | None]:
    """Those gradients that autograd asks for."""
    return [
        as_gradient(gradient, given) if is_needed else None
        for gradient, given, is_needed in zip(gradients, inputs, needed, strict=True)
    ]


def factor_for_all(loss: Twins, grad_output: Tensor) -> Tensor:
    """What the gradients of a sum are multiplied by: of losses that are not reduced, what all of them have."""
    if grad_output.ndim == 0:
        return grad_output
    if grad_output.numel() == 0:
        return grad_output.new_ones(())
    first = grad_output.reshape(-1)[0]
    if not bool(((grad_output == first) | (grad_output.isnan() & first.isnan())).all()):
        raise RuntimeError(
            f'{called(loss.name)} with reduction="none" has the gradient of a sum or mean of its losses, not of any '
            "weighted sum of them"
        )
    return first


def scaled(gradients: Sequence[Tensor | None], grad_output: Tensor) -> list[Tensor | None]:
    """The gradients times what comes after the loss: themselves for 1, and in place where nobody asks again."""
    if grad_output.is_cpu and grad_output.item() == 1.0:
        return list(gradients)
    if graph_is_kept():
        return [None if gradient is None else gradient * grad_output for gradient in gradients]
    return [None if gradient is None else gradient.mul_(grad_output) for gradient in gradients]


def graph_is_kept() -> bool:
    """Whether this backward pass can be followed by another one (``retain_graph=True``), as far as PyTorch tells."""
    tell = getattr(torch._C._autograd, "_get_current_graph_task_keep_graph", None)
    return True if tell is None else bool(tell())
