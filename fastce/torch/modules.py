"""Losses as modules, with the signatures of `torch.nn` and of open_clip."""

from typing import Any

import torch
from torch import Tensor

from fastce.torch.contrastive import clip_loss_from_features, siglip_loss
from fastce.torch.rows import cross_entropy
from fastce.typing import Reduction, SmoothingOver


class CrossEntropyLoss(torch.nn.CrossEntropyLoss):
    """`torch.nn.CrossEntropyLoss`, computed by `fastce.torch.cross_entropy`.

    Parameters
    ----------
    weight, size_average, ignore_index, reduce, reduction, label_smoothing
        As in `torch.nn.CrossEntropyLoss`.
    smoothing_over, logit_scale, softcap, z_loss
        As in `fastce.cross_entropy`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> loss = fastce.torch.CrossEntropyLoss(label_smoothing=0.1)
    >>> round(loss(torch.tensor([[2.0, 1.0, 0.1]]), torch.tensor([0])).item(), 4)
    0.5137
    """

    smoothing_over: SmoothingOver
    logit_scale: float
    softcap: float | None
    z_loss: float

    def __init__(
        self,
        weight: Tensor | None = None,
        size_average: bool | None = None,
        ignore_index: int = -100,
        reduce: bool | None = None,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
        *,
        smoothing_over: SmoothingOver = "all",
        logit_scale: float = 1.0,
        softcap: float | None = None,
        z_loss: float = 0.0,
    ) -> None:
        super().__init__(weight, size_average, ignore_index, reduce, reduction, label_smoothing)
        self.smoothing_over = smoothing_over
        self.logit_scale = logit_scale
        self.softcap = softcap
        self.z_loss = z_loss

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        """The loss of logits and targets."""
        return cross_entropy(
            input, target, self.weight, ignore_index=self.ignore_index, reduction=self.reduction,
            label_smoothing=self.label_smoothing, smoothing_over=self.smoothing_over, logit_scale=self.logit_scale,
            softcap=self.softcap, z_loss=self.z_loss,
        )  # fmt: skip


class ClipLoss(torch.nn.Module):
    """open_clip's ``ClipLoss`` for one process, in memory that does not grow with the square of the batch.

    Parameters
    ----------
    local_loss, gather_with_grad, cache_labels, use_horovod : bool
        As in open_clip; they change nothing where there is one process.
    rank : int, default: 0
        As in open_clip.
    world_size : int, default: 1
        Another number is a ValueError: features of other processes are not gathered.
    memory_budget : int, optional
        As in `fastce.torch.clip_loss_from_features`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> images, texts = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> logit_scale = torch.nn.Parameter(torch.tensor(2.0))
    >>> loss = fastce.torch.ClipLoss()(images, texts, logit_scale.exp())
    >>> loss.backward()
    >>> round(loss.item(), 4)
    0.0012
    """

    memory_budget: int | None

    def __init__(
        self,
        local_loss: bool = False,
        gather_with_grad: bool = False,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        use_horovod: bool = False,
        *,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        _check_world(self, world_size)
        self.memory_budget = memory_budget

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | None = None,
        output_dict: bool = False,
    ) -> Any:
        """The loss of features that are normalized already; a bias of all logits does not change it.

        Parameters
        ----------
        image_features, text_features : Tensor, shape (N, D)
            Row i of one belongs to row i of the other.
        logit_scale : Tensor or float
            Positive factor of the products.
        logit_bias : Tensor, optional
            Has no effect, and gradient 0.
        output_dict : bool, default: False
            Whether the loss is given as ``{"contrastive_loss": loss}``.

        Returns
        -------
        Tensor or dict
            The loss.
        """
        loss = clip_loss_from_features(image_features, text_features, logit_scale, **_budget(self.memory_budget))
        if isinstance(logit_bias, torch.Tensor) and logit_bias.requires_grad:
            loss = loss + 0.0 * logit_bias.sum()  # as a parameter that every process must have a gradient of
        return _given(loss, output_dict)


class SigLipLoss(torch.nn.Module):
    """open_clip's ``SigLipLoss`` for one process, in memory that does not grow with the square of the batch.

    Parameters
    ----------
    cache_labels, dist_impl
        As in open_clip; they change nothing where there is one process.
    rank, world_size, memory_budget
        As in `ClipLoss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> images, texts = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> logit_scale, logit_bias = torch.tensor(10.0), torch.nn.Parameter(torch.tensor(-10.0))
    >>> losses = fastce.torch.SigLipLoss()(images, texts, logit_scale, logit_bias, output_dict=True)
    >>> losses["contrastive_loss"].backward()
    >>> logit_bias.grad
    tensor(-0.4999)
    """

    memory_budget: int | None

    def __init__(
        self,
        cache_labels: bool = False,
        rank: int = 0,
        world_size: int = 1,
        dist_impl: str | None = None,
        *,
        memory_budget: int | None = None,
    ) -> None:
        super().__init__()
        _check_world(self, world_size)
        self.memory_budget = memory_budget

    def forward(
        self,
        image_features: Tensor,
        text_features: Tensor,
        logit_scale: Tensor | float,
        logit_bias: Tensor | float,
        output_dict: bool = False,
    ) -> Any:
        """The loss of features that are normalized already.

        Parameters
        ----------
        image_features, text_features, logit_scale, output_dict
            As in `ClipLoss.forward`.
        logit_bias : Tensor or float
            Added to every logit.

        Returns
        -------
        Tensor or dict
            The loss.
        """
        loss = siglip_loss(
            image_features, text_features, logit_scale, logit_bias, **_budget(self.memory_budget)
        )  # fmt: skip
        return _given(loss, output_dict)


def _check_world(module: torch.nn.Module, world_size: int) -> None:
    if world_size != 1:
        raise ValueError(
            f"world_size must be 1, got {world_size}: fastce.torch.{type(module).__name__} computes in one process, "
            "and gathers no features of others"
        )


def _budget(memory_budget: int | None) -> dict[str, Any]:
    return {} if memory_budget is None else {"memory_budget": memory_budget}


def _given(loss: Tensor, output_dict: bool) -> Any:
    return {"contrastive_loss": loss} if output_dict else loss
