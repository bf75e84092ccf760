"""Tensors as fastce's functions read them, and their results as tensors; nothing of a tensor's size is copied."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastce.arguments.libraries import as_torch, read

_NUMBERS = frozenset({"label_smoothing", "logit_bias", "logit_scale", "softcap", "temperature", "z_loss"})
_HALF = (torch.float16, torch.bfloat16)
_OF_NUMPY = frozenset({torch.float32, torch.float64, torch.int64, torch.int32})  # NumPy finds them at once


def argument(tensor: Tensor, name: str) -> Any:
    """The array, or the number, that a function is given for a tensor."""
    if name in _NUMBERS and tensor.numel() == 1 and tensor.ndim <= 1:
        return tensor.item()
    if tensor.dtype in _OF_NUMPY and tensor.is_cpu:
        try:
            return tensor.numpy() if not tensor.requires_grad else tensor.detach().numpy()
        except (TypeError, RuntimeError):  # it is sparse, or lies in memory with another sign
            pass
    tensor = tensor.detach()
    return tensor if tensor.is_cuda else read(tensor, name)


def as_value(value: Any, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A loss as a tensor: of a number, or of an array with one for each row."""
    if isinstance(value, float):
        return torch.scalar_tensor(value, dtype=dtype, device=device)
    return as_tensor(value).to(dtype)


def as_gradient(gradient: Any, given: Tensor) -> Tensor:
    """The gradient of a tensor as one of its shape: of an array, or of the number that stood for it."""
    if isinstance(gradient, float):
        return torch.full_like(given, gradient, requires_grad=False)
    return as_tensor(gradient)


def as_tensor(value: Any) -> Tensor:
    """A result of a function, an array of NumPy or a tensor, as a tensor."""
    return as_torch(value) if isinstance(value, (np.ndarray, np.generic)) else value


def dtype_of_loss(like: Tensor, computed: bool = False) -> torch.dtype:
    """PyTorch's rule: that of the tensor, but float32 for halves within autocast; or as fastce has computed it."""
    dtype = like.dtype
    if dtype in _HALF:
        return torch.float32 if computed or torch.is_autocast_enabled(like.device.type) else dtype
    return dtype if dtype.is_floating_point else torch.float64
