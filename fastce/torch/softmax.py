"""logsumexp, softmax and log_softmax along dimensions, with PyTorch's signatures."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fastce.losses import softmax as of_arrays
from fastce.torch.loss import check_elements, refuse_second_derivatives
from fastce.torch.tensors import argument, as_tensor

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "logsumexp": of_arrays.logsumexp,
    "softmax": of_arrays.softmax,
    "log_softmax": of_arrays.log_softmax,
}


def logsumexp(input: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    """Logarithm of the sum of exponentials along one dimension or several, as `torch.logsumexp`.

    Parameters
    ----------
    input : Tensor
        Any strides, never written to. It is kept until the backward pass.
    dim : int or tuple of int
        Dimensions that are summed over.
    keepdim : bool, default: False
        Keep these with length 1.

    Returns
    -------
    Tensor
        Of the dtype of `input`, or float64 for integers.

    Raises
    ------
    ValueError, TypeError
        As in `fastce.logsumexp`, where `dim` is ``axis``.
    RuntimeError
        If a second derivative is asked for.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> x = torch.zeros(2, 4, requires_grad=True)
    >>> fastce.torch.logsumexp(x, dim=1).sum().backward()
    >>> x.grad
    tensor([[0.2500, 0.2500, 0.2500, 0.2500],
            [0.2500, 0.2500, 0.2500, 0.2500]])
    """
    return _call("logsumexp", input, dim, keepdim)


def softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax along a dimension, as `torch.softmax`.

    Parameters
    ----------
    input : Tensor
        As in `logsumexp`, but not kept.
    dim : int
        The dimension that sums to 1.
    dtype : torch.dtype, optional
        What `input` is converted to first.

    Returns
    -------
    Tensor
        Of the shape of `input`; it is kept until the backward pass.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `logsumexp`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> fastce.torch.softmax(torch.tensor([[0.0, 1.0]]), dim=1)
    tensor([[0.2689, 0.7311]])
    """
    return _call("softmax", input if dtype is None else input.to(dtype), dim)


def log_softmax(input: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Logarithm of softmax along a dimension, as `torch.log_softmax`.

    Parameters
    ----------
    input, dim, dtype
        As in `softmax`.

    Returns
    -------
    Tensor
        As of `softmax`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `logsumexp`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> fastce.torch.log_softmax(torch.tensor([[1000.0, 1.0]]), dim=1)
    tensor([[   0., -999.]])
    """
    return _call("log_softmax", input if dtype is None else input.to(dtype), dim)


def _call(name: str, x: Tensor, dim: int | tuple[int, ...], keepdim: bool = False) -> Tensor:
    dims = list(dim) if isinstance(dim, (tuple, list)) else [dim]
    if torch.compiler.is_compiling():
        traced: Tensor = torch.ops.fastce.along(name, x, dims, keepdim)
        return traced
    check_elements(name, x)
    if torch.is_grad_enabled() and x.requires_grad:
        value: Tensor = _Eager.apply(name, x, dims, keepdim)
        return value
    return _computed(name, x, dims, keepdim)


def _computed(name: str, x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
    keepdim = keepdim and x.ndim > 0  # a number has a dimension 0, in PyTorch, which it keeps anyway
    options = {"keepdims": True} if keepdim else {}
    array = argument(x, "input")
    return as_tensor(_FUNCTIONS[name](array, dims[0] if len(dims) == 1 else tuple(dims), **options))


def _gradient(name: str, grad_output: Tensor, saved: Sequence[Tensor], dims: Sequence[int], keepdim: bool) -> Tensor:
    """What follows from that of the result: a sum over the dimensions goes back to every element."""
    result = saved[0]
    if name == "softmax":
        scaled = grad_output * result
        return scaled.addcmul_(result, scaled.sum(dims, keepdim=True), value=-1)
    if name == "log_softmax":
        return result.exp().mul_(grad_output.sum(dims, keepdim=True).neg_()).add_(grad_output)
    result, x = saved
    result, grad_output = (part if keepdim else _unsqueezed(part, x, dims) for part in (result, grad_output))
    top = torch.where(result.isinf(), 0.0, result)  # all are -inf, or one of them is +inf
    return (x - top).exp_().mul_(grad_output)


def _unsqueezed(reduced: Tensor, x: Tensor, dims: Sequence[int]) -> Tensor:
    for dim in sorted(dim % x.ndim for dim in dims) if x.ndim else ():
        reduced = reduced.unsqueeze(dim)
    return reduced


class _Eager(torch.autograd.Function):
    """These outside torch.compile."""

    @staticmethod
    def forward(ctx: Any, name: str, x: Tensor, dims: Sequence[int], keepdim: bool) -> Tensor:
        ctx.call = name, dims, keepdim
        result = _computed(name, x, dims, keepdim)
        ctx.save_for_backward(result, *([x] if name == "logsumexp" else []))
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
        name, dims, keepdim = ctx.call
        refuse_second_derivatives(name)
        return None, _gradient(name, grad_output, ctx.saved_tensors, dims, keepdim), None, None


@torch.library.custom_op("fastce::along", mutates_args=())
def _operator(name: str, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    """The same within torch.compile."""
    result = _computed(name, x, dims, keepdim)
    return result if result.is_contiguous() else result.contiguous()


@_operator.register_fake
def _(name: str, x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    gone = {dim % x.ndim for dim in dims} if name == "logsumexp" and x.ndim else set()
    shape = [1 if k in gone else n for k, n in enumerate(x.shape) if keepdim or k not in gone]
    return x.new_empty(shape, dtype=x.dtype if x.dtype.is_floating_point else torch.float64)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    name, x, dims, keepdim = inputs
    ctx.call = name, dims, keepdim
    ctx.save_for_backward(output, *([x] if name == "logsumexp" else []))


def _backward(ctx: Any, grad_output: Tensor) -> tuple[Any, ...]:
    name, dims, keepdim = ctx.call
    return None, _gradient(name, grad_output, ctx.saved_tensors, dims, keepdim), None, None


_operator.register_autograd(_backward, setup_context=_setup_context)
