"""Contrastive losses, of a matrix of similarities or of features."""

from typing import Any

from torch import Tensor

from fastce.losses import twins
from fastce.products.gradients import MEMORY_BUDGET
from fastce.torch.call import call, known
from fastce.typing import Reduction

_CLIP = known(twins.CLIP)
_CLIP_FROM_FEATURES = known(twins.CLIP_FROM_FEATURES)
_SIGLIP = known(twins.SIGLIP)
_INFO_NCE = known(twins.INFO_NCE)
_NT_XENT = known(twins.NT_XENT)
_SUP_CON = known(twins.SUP_CON)


def clip_loss(
    similarity: Tensor,
    targets: Any = None,
    *,
    logit_scale: Tensor | float = 1.0,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """CLIP's symmetric cross entropy of a matrix of similarities, as `fastce.clip_loss`.

    Parameters
    ----------
    similarity : Tensor, shape (N, M)
        Rows are images, columns are texts.
    targets, label_smoothing, reduction
        As in `fastce.clip_loss`. Losses that are not reduced have the gradient of their sum or mean alone.
    logit_scale : Tensor or float, default: 1.0
        Positive factor of the similarities; learned, if it requires grad.

    Returns
    -------
    Tensor
        Of the dtype of the first argument, but of float32 for halves within autocast.

    Raises
    ------
    IndexError, ValueError, TypeError
        As in `fastce.clip_loss`.
    RuntimeError
        If a second derivative is asked for, or that of single losses.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> similarity = torch.eye(3, requires_grad=True)
    >>> scale = torch.tensor(10.0, requires_grad=True)
    >>> fastce.torch.clip_loss(similarity, logit_scale=scale).backward()
    >>> round(scale.grad.item(), 8)
    -9.079e-05
    """
    return call(_CLIP, similarity, logit_scale, targets=targets, label_smoothing=label_smoothing, reduction=reduction)


def clip_loss_from_features(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float = 1.0,
    *,
    targets: Any = None,
    label_smoothing: float = 0.0,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """CLIP's loss of the products of features, whose matrix never exists, as `fastce.clip_loss_from_features`.

    Parameters
    ----------
    image_features, text_features : Tensor, shapes (N, D) and (M, D)
        Any strides, never written to.
    logit_scale, reduction
        As in `clip_loss`.
    targets, label_smoothing, normalize, memory_budget
        As in `fastce.clip_loss_from_features`.

    Returns
    -------
    Tensor
        As of `clip_loss`.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> images, texts = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> scale = torch.tensor(10.0, requires_grad=True)
    >>> loss = fastce.torch.clip_loss_from_features(images, texts, scale, normalize=True)
    >>> loss.backward()
    >>> images.grad.shape, round(scale.grad.item(), 8)
    (torch.Size([3, 8]), -9.079e-05)
    """
    return call(
        _CLIP_FROM_FEATURES, image_features, text_features, logit_scale, targets=targets,
        label_smoothing=label_smoothing, normalize=normalize, reduction=reduction, memory_budget=memory_budget,
    )  # fmt: skip


def siglip_loss(
    image_features: Tensor,
    text_features: Tensor,
    logit_scale: Tensor | float,
    logit_bias: Tensor | float,
    *,
    targets: Any = None,
    normalize: bool = False,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """SigLIP's loss of the products of features, whose matrix never exists, as `fastce.siglip_loss`.

    Parameters
    ----------
    image_features, text_features, logit_scale, reduction
        As in `clip_loss_from_features`.
    logit_bias : Tensor or float
        Added to every logit; learned, if it requires grad.
    targets, normalize, memory_budget
        As in `fastce.siglip_loss`.

    Returns
    -------
    Tensor
        As of `clip_loss`.

    Raises
    ------
    IndexError, ValueError, TypeError, RuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> images, texts = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> bias = torch.tensor(-10.0, requires_grad=True)
    >>> fastce.torch.siglip_loss(images, texts, 10.0, bias).backward()
    >>> bias.grad
    tensor(-0.4999)
    """
    return call(
        _SIGLIP, image_features, text_features, logit_scale, logit_bias, targets=targets, normalize=normalize,
        reduction=reduction, memory_budget=memory_budget,
    )  # fmt: skip


def info_nce(
    query: Tensor,
    positive_key: Tensor,
    negative_keys: Tensor | None = None,
    *,
    temperature: Tensor | float = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """InfoNCE of queries and their keys, as `fastce.info_nce`.

    Parameters
    ----------
    query, positive_key : Tensor, shape (N, D)
        Row i of one belongs to row i of the other.
    negative_keys : Tensor, shape (M, D) or (N, M, D), optional
        Shared by all queries, or M for each; by default the positive keys of all other queries.
    temperature : Tensor or float, default: 0.1
        Positive divisor of the products; learned, if it requires grad.
    normalize, memory_budget
        As in `fastce.info_nce`.
    reduction
        As in `clip_loss`.

    Returns
    -------
    Tensor
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> query, key = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> loss = fastce.torch.info_nce(query, key, temperature=0.5)
    >>> loss.backward()
    >>> round(loss.item(), 4)
    0.2395
    """
    return call(
        _INFO_NCE, query, positive_key, negative_keys, temperature, normalize=normalize, reduction=reduction,
        memory_budget=memory_budget,
    )  # fmt: skip


def nt_xent(
    first_views: Tensor,
    second_views: Tensor,
    *,
    temperature: Tensor | float = 0.5,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """SimCLR's loss of two views of each example, as `fastce.nt_xent`.

    Parameters
    ----------
    first_views, second_views : Tensor, shape (N, D)
        Row i of one belongs to row i of the other.
    temperature, normalize, reduction, memory_budget
        As in `info_nce`; without reduction, the losses of `first_views` come first.

    Returns
    -------
    Tensor
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> first, second = (torch.eye(3, 8, requires_grad=True) for _ in range(2))
    >>> loss = fastce.torch.nt_xent(first, second)
    >>> loss.backward()
    >>> round(loss.item(), 4)
    0.4327
    """
    return call(
        _NT_XENT, first_views, second_views, temperature, normalize=normalize, reduction=reduction,
        memory_budget=memory_budget,
    )  # fmt: skip


def sup_con(
    features: Tensor,
    labels: Tensor,
    *,
    temperature: Tensor | float = 0.1,
    normalize: bool = True,
    reduction: Reduction = "mean",
    memory_budget: int = MEMORY_BUDGET,
) -> Tensor:
    """The supervised contrastive loss, as `fastce.sup_con`.

    Parameters
    ----------
    features : Tensor, shape (N, D)
        Several views of an example are several rows.
    labels : Tensor of int, shape (N,)
        The other rows with the label of a row are its positives.
    temperature, normalize, reduction, memory_budget
        As in `info_nce`.

    Returns
    -------
    Tensor
        As of `clip_loss`.

    Raises
    ------
    ValueError, TypeError, RuntimeError
        As in `clip_loss`.

    Examples
    --------
    >>> import torch, fastce.torch
    >>> features = torch.eye(4, 8, requires_grad=True)
    >>> loss = fastce.torch.sup_con(features, torch.tensor([0, 0, 1, 1]))
    >>> loss.backward()
    >>> round(loss.item(), 4)
    1.0986
    """
    return call(
        _SUP_CON, features, temperature, labels=labels, normalize=normalize, reduction=reduction,
        memory_budget=memory_budget,
    )  # fmt: skip
