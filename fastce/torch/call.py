"""A call of a loss: an operator where it is traced, else a function of autograd, which costs less time."""

from typing import Any

import torch
from torch import Tensor

from fastce.losses.twins import Twins
from fastce.torch.compiled import LOSSES, compiled
from fastce.torch.loss import eager


def known(loss: Twins) -> Twins:
    """The same, known by its name."""
    LOSSES[loss.name] = loss
    return loss


def call(loss: Twins, *inputs: Any, **options: Any) -> Tensor:
    """The loss of tensors, differentiable."""
    return (compiled if torch.compiler.is_compiling() else eager)(loss, inputs, options)
