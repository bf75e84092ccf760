"""Losses from features with the matrix of all products, as careful users of NumPy and of PyTorch write them."""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from scipy import special

from fastce.profile.features_problem import BIAS, FeaturesProblem
from fastce.profile.plain import clip_losses, clip_value_and_grad, cross_entropies, cross_entropy_value_and_grad
from fastce.profile.problem import Array

COPIES = {"numpy": 4, "torch": 6}  # of the matrix of products, that a dense way holds at once


def dense_call(engine: str, problem: FeaturesProblem) -> Callable[[], list[Array]]:
    """A call of one of `COPIES` that returns the gradients of the features, or the value alone."""
    return partial({"numpy": _numpy, "torch": _torch}[engine], problem)


def dense_bytes(engine: str, problem: FeaturesProblem) -> int:
    """What the matrices of a dense way need."""
    return COPIES[engine] * problem.rows**2 * problem.image.itemsize


def _smoothing(problem: FeaturesProblem) -> float:
    return problem.label_smoothing if problem.loss in ("clip_loss_from_features", "linear_cross_entropy") else 0.0


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
    if not problem.wants_gradients:
        return [np.array(_value(problem, x))]
    slopes = _slopes(problem, x)
    slopes *= problem.logit_scale
    if problem.is_symmetric:
        slopes += slopes.T.copy()
        return [slopes @ left]
    return [slopes @ right, slopes.T @ left]


def _value(problem: FeaturesProblem, x: Array) -> float:
    if problem.loss == "clip_loss_from_features":
        losses = clip_losses(x, problem.label_smoothing)
    elif problem.loss == "siglip_loss":
        x += BIAS
        losses = np.logaddexp(0, x).sum(axis=1) - x.diagonal()
    elif problem.loss == "sup_con":
        positive = _positives(problem.labels)
        log_probs = np.where(positive, special.log_softmax(x, axis=1), 0)
        losses = -log_probs.sum(axis=1) / positive.sum(axis=1)
    else:
        losses = cross_entropies(x, problem.targets, _smoothing(problem))
    return float(losses.mean(dtype=np.float64))


def _slopes(problem: FeaturesProblem, x: Array) -> Array:
    """The gradient of the mean loss with respect to the matrix."""
    rows = len(x)
    if problem.loss == "clip_loss_from_features":
        return clip_value_and_grad(x, problem.label_smoothing)[1]
    if problem.loss == "siglip_loss":
        x += BIAS
        special.expit(x, out=x)
        x[np.arange(rows), np.arange(rows)] -= 1
    elif problem.loss == "sup_con":
        positive = _positives(problem.labels)
        x = special.softmax(x, axis=1)
        x -= positive / positive.sum(axis=1, keepdims=True).astype(x.dtype)
    else:
        return cross_entropy_value_and_grad(x, problem.targets, _smoothing(problem), x)[1]
    x /= rows
    return x


def _torch(problem: FeaturesProblem) -> list[Array]:
    torch = import_module("torch")
    torch.set_num_threads(problem.n_threads)
    sides = problem.sides[:1] if problem.is_symmetric else problem.sides
    leaves = [torch.from_numpy(side).requires_grad_(problem.wants_gradients) for side in sides]
    x = problem.logit_scale * leaves[0] @ leaves[-1].T
    if problem.is_symmetric:
        x = x.masked_fill(torch.eye(len(x), dtype=torch.bool), -torch.inf)
    value = _torch_value(torch, problem, x)
    if not problem.wants_gradients:
        return [value.numpy()]
    value.backward()
    return [leaf.grad.numpy() for leaf in leaves]


def _torch_value(torch: Any, problem: FeaturesProblem, x: Any) -> Any:
    functional, targets = torch.nn.functional, torch.from_numpy(problem.targets)
    cross_entropy = partial(functional.cross_entropy, target=targets, label_smoothing=_smoothing(problem))
    if problem.loss == "clip_loss_from_features":  # as in open_clip
        return (cross_entropy(x) + cross_entropy(x.T)) / 2
    if problem.loss == "siglip_loss":
        z = x + BIAS
        return (functional.softplus(z).sum() - z.diagonal().sum()) / len(z)
    if problem.loss == "sup_con":
        positive = torch.from_numpy(_positives(problem.labels))
        log_probs = x - torch.logsumexp(x, 1, keepdim=True)
        return -(torch.where(positive, log_probs, 0).sum(1) / positive.sum(1)).mean()
    return cross_entropy(x)
