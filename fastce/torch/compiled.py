"""Losses within torch.compile and torch.export: an operator that a graph holds as it is.

What a function takes is handed over by kinds, since an operator has one signature.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fastce.losses.twins import Twins
from fastce.torch.loss import factor_for_all, run, wanted_gradients
from fastce.torch.tensors import as_gradient, as_value, dtype_of_loss

LOSSES: dict[str, Twins] = {}  # by name
_INTEGERS, _FLAGS = ("ignore_index", "memory_budget"), ("normalize",)


def compiled(loss: Twins, inputs: Sequence[Any], options: Mapping[str, Any]) -> Tensor:
    """As `fastce.torch.loss.eager`, traced."""
    wanted = " ".join(wanted_gradients(loss, inputs, options))
    tensors, names, numbers, number_names, words = [], "", [], "", ""
    for name, value in (*zip(loss.of, inputs, strict=True), *options.items()):
        if isinstance(value, torch.Tensor):
            tensors.append(value)
            names += f" {name}"
        elif isinstance(value, str):
            words += f" {name}={value}"
        elif value is not None:
            numbers.append(float(value))
            number_names += f" {name}"
    result: Tensor = torch.ops.fastce.loss(loss.name, tensors, names, numbers, number_names, words, wanted)[0]
    return result.to(dtype_of_loss(inputs[0]))


@torch.library.custom_op("fastce::loss", mutates_args=())
def _operator(
    loss: str,
    tensors: list[Tensor],
    names: str,
    numbers: list[float],
    number_names: str,
    words: str,
    wanted: str,
) -> list[Tensor]:
    """The value, and the gradients of those tensors whose names are wanted, unless these wait."""
    about = LOSSES[loss]
    given = _named(names, tensors) | _words(words) | _numbers(number_names, numbers)
    inputs, first = [given.pop(name, None) for name in about.of], tensors[0]
    value, gradients = run(about, inputs, given, _given(about, first, given, wanted))
    of_tensors = [
        _laid_out(as_gradient(gradient, tensor), tensor)
        for gradient, tensor in zip(gradients, inputs, strict=False)
        if gradient is not None
    ]
    return [as_value(value, dtype_of_loss(first, computed=True), first.device), *of_tensors]


def _laid_out(gradient: Tensor, like: Tensor) -> Tensor:
    """The gradient with the strides that `_fake` has promised: those of a new tensor like its own."""
    promised = torch.empty_like(like, device="meta")
    return gradient if gradient.stride() == promised.stride() else torch.empty_like(like).copy_(gradient)


def _named(names: str, values: Sequence[Any]) -> dict[str, Any]:
    return dict(zip(names.split(), values, strict=True))


def _words(words: str) -> dict[str, str]:
    return {name: word for name, _, word in (pair.partition("=") for pair in words.split())}


def _numbers(names: str, numbers: Sequence[float]) -> dict[str, Any]:
    """Numbers by name, as the functions take them."""
    kinds = dict.fromkeys(_INTEGERS, int) | dict.fromkeys(_FLAGS, bool)
    return {name: kinds.get(name, float)(value) for name, value in _named(names, numbers).items()}


def _given(loss: Twins, first: Tensor, options: Mapping[str, Any], wanted: str) -> list[str]:
    """Of which arguments this call of the operator gives gradients."""
    waits = loss.waits(options.get("reduction"), first.dtype == torch.float16)
    return wanted.split() if "grad_output" in options or not waits else []


@_operator.register_fake
def _fake(
    loss: str,
    tensors: list[Tensor],
    names: str,
    numbers: list[float],
    number_names: str,
    words: str,
    wanted: str,
) -> list[Tensor]:
    """Results without elements."""
    about, first, options = LOSSES[loss], tensors[0], _named(names, tensors) | _words(words)
    shape = about.shape(first.shape) if options.get("reduction") == "none" else ()
    given = _given(about, first, options, wanted)
    gradients = [torch.empty_like(tensor) for name, tensor in _named(names, tensors).items() if name in given]
    return [first.new_empty(shape, dtype=dtype_of_loss(first, computed=True)), *gradients]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    loss, tensors, names, *others, wanted = inputs
    ctx.loss, ctx.names, ctx.others, ctx.wanted = LOSSES[loss], names, others, wanted
    ctx.has_gradients = len(output) > 1
    ctx.save_for_backward(*(output[1:] if ctx.has_gradients else tensors))


def _backward(ctx: Any, grad_outputs: list[Tensor]) -> tuple[Any, ...]:
    grad_output = grad_outputs[0]
    if ctx.has_gradients:
        if grad_output.ndim:
            grad_output = torch.ops.fastce.one_number(grad_output, ctx.loss.name)
        gradients = [gradient * grad_output for gradient in ctx.saved_tensors]
    else:
        tensors, names = [*ctx.saved_tensors, grad_output], f"{ctx.names} grad_output"
        gradients = torch.ops.fastce.loss(ctx.loss.name, tensors, names, *ctx.others, ctx.wanted)[1:]
    by_name = dict(zip(ctx.wanted.split(), gradients, strict=True))
    of_tensors = [by_name.get(name) for name in ctx.names.split()]
    of_numbers: Any = None if ctx.others[0] else []  # PyTorch takes a list of nothing for one of tensors
    return None, of_tensors, None, of_numbers, None, None, None


@torch.library.custom_op("fastce::one_number", mutates_args=())
def _one_number(grad_output: Tensor, loss: str) -> Tensor:
    """As `factor_for_all`, which looks at elements."""
    return factor_for_all(LOSSES[loss], grad_output).clone()


@_one_number.register_fake
def _(grad_output: Tensor, loss: str) -> Tensor:
    return grad_output.new_empty(())


_operator.register_autograd(_backward, setup_context=_setup_context)
