"""Losses from features with the matrix of all products, as careful users of NumPy and of PyTorch write them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from scipy import special

from fastce.profile import formulas
from fastce.profile.features_problem import BIAS, FeaturesProblem
from fastce.profile.peers.numpy import clip_losses_and_grad, losses_and_grad
from fastce.profile.problem import Array

COPIES = {"numpy": 4, "torch": 6}  # of the matrix of products, that a dense way holds at once


def dense_call(engine: str, problem: FeaturesProblem) -> Callable[[], list[Array]]:
    """A call of one of `COPIES` that returns the gradients of the features, or the value alone.

    "torch chunked" is PyTorch's own way without the whole matrix, of linear_cross_entropy alone.
    """
    return partial(_numpy, problem) if engine == "numpy" else partial(_torch, problem, engine == "torch chunked")


def dense_bytes(engine: str, problem: FeaturesProblem) -> int:
    """What the matrices of a dense way need."""
    return COPIES[engine] * problem.rows * problem.columns * problem.image.itemsize


def _positives(labels: Array) -> Array:
    """Which rows have the same label, without the rows themselves."""
    positive = labels[:, None] == labels
    np.fill_diagonal(positive, False)
    return np.asarray(positive)


def _numpy(problem: FeaturesProblem) -> list[Array]:
    left, right = problem.sides
    x = (problem.logit_scale * left) @ right.T
    if problem.is_symmetric:
        np.fill_diagonal(x, -np.inf)
    elif problem.loss == "siglip_loss":
        x += BIAS
    if not problem.wants_gradients:
        return [np.array(_losses(problem, x).mean(dtype=np.float64))]
    slopes = _slopes(problem, x)
    slopes *= problem.logit_scale
    if problem.is_symmetric:
        slopes += slopes.T.copy()
        return [slopes @ left]
    return [slopes @ right, slopes.T @ left]


def _losses(problem: FeaturesProblem, x: Array) -> Array:
    """Of each row."""
    if problem.loss == "clip_loss_from_features":
        return np.asarray(formulas.clip_losses(np, x, problem.label_smoothing))
    if problem.loss == "siglip_loss":
        return np.asarray(np.logaddexp(0, x).sum(axis=1) - x.diagonal())
    if problem.loss == "sup_con":
        positive = _positives(problem.labels)
        count = positive.sum(axis=1)
        log_probs = np.where(positive, special.log_softmax(x, axis=1), 0)
        return np.asarray((-log_probs.sum(axis=1) / np.maximum(count, 1))[count > 0])
    return np.asarray(formulas.cross_entropies(np, x, problem.targets, None, problem.smoothing))


def _slopes(problem: FeaturesProblem, x: Array) -> Array:
    """The gradient of the mean loss with respect to the matrix; the loss is computed, too."""
    rows = len(x)
    if problem.loss == "clip_loss_from_features":
        return clip_losses_and_grad(x, problem.label_smoothing)[1]
    if problem.loss not in ("siglip_loss", "sup_con"):
        return losses_and_grad(x, problem.targets, None, problem.smoothing, rows, x)[1]
    _losses(problem, x)
    if problem.loss == "siglip_loss":
        special.expit(x, out=x)
        x[np.arange(rows), np.arange(rows)] -= 1
    else:
        positive = _positives(problem.labels)
        count = positive.sum(axis=1, keepdims=True)
        x = special.softmax(x, axis=1) * (count > 0)
        x -= positive / np.maximum(count, 1).astype(x.dtype)
        rows = int(np.count_nonzero(count))
    x /= rows
    return x


def _torch(problem: FeaturesProblem, chunked: bool) -> list[Array]:
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    sides = problem.sides[:1] if problem.is_symmetric else problem.sides
    leaves = [torch.from_numpy(side).requires_grad_(problem.wants_gradients) for side in sides]
    value = (_torch_chunked if chunked else _torch_value)(torch, problem, leaves)
    if not problem.wants_gradients:
        return [value.numpy()]
    value.backward()
    return [leaf.grad.numpy() for leaf in leaves]


def _torch_chunked(torch: Any, problem: FeaturesProblem, leaves: list[Any]) -> Any:
    options, targets = torch.nn.LinearCrossEntropyOptions(), torch.from_numpy(problem.targets)
    return torch.nn.functional.linear_cross_entropy(*leaves, targets, options=options)


def _torch_value(torch: Any, problem: FeaturesProblem, leaves: list[Any]) -> Any:
    functional, targets = torch.nn.functional, torch.from_numpy(problem.targets)
    x = problem.logit_scale * leaves[0] @ leaves[-1].T
    if problem.is_symmetric:
        x = x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
    cross_entropy = partial(functional.cross_entropy, target=targets, label_smoothing=problem.smoothing)
    if problem.loss == "clip_loss_from_features":  # as in open_clip
        return (cross_entropy(x) + cross_entropy(x.T)) / 2
    if problem.loss == "siglip_loss":
        z = x + BIAS
        return (functional.softplus(z).sum() - z.diagonal().sum()) / len(z)
    if problem.loss == "sup_con":
        positive = torch.from_numpy(_positives(problem.labels))
        count = positive.sum(1)
        log_probs = x - torch.logsumexp(x, 1, keepdim=True)
        return (-torch.where(positive, log_probs, 0).sum(1) / count.clamp(min=1))[count > 0].mean()
    return cross_entropy(x)
