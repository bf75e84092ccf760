"""The formulas as a careful user writes them, with the classes on the last axis, in NumPy or jax.numpy (`xp`)."""

from typing import Any

from fastce.profile.jobs import BINARY, Job


def log_sum_exp(xp: Any, x: Any, axis: Any = -1) -> Any:
    """With the axis, or axes, kept."""
    highest = x.max(axis, keepdims=True)
    return xp.log(xp.exp(x - highest).sum(axis, keepdims=True)) + highest


def softmax(xp: Any, x: Any) -> Any:
    return xp.exp(x - log_sum_exp(xp, x))


def at(xp: Any, x: Any, y: Any) -> Any:
    """The element of each row that belongs to its class."""
    return xp.take_along_axis(x, y[..., None], axis=-1)[..., 0]


def losses(xp: Any, job: Job, x: Any, y: Any, weight: Any) -> Any:
    """Those of a job: of each row, or of each element if they are binary."""
    if job.loss == BINARY:
        losses = xp.maximum(x, 0) - x * y + xp.log1p(xp.exp(-abs(x)))
        return losses if weight is None else losses * (1 + (weight - 1) * y)  # y is 0 or 1
    if job.loss == "nll_loss":
        return -at(xp, x, y)
    if job.loss == "clip_loss":
        return clip_losses(xp, x, job.label_smoothing)
    return cross_entropies(xp, x, y, weight, job.label_smoothing)


def cross_entropies(xp: Any, x: Any, y: Any, weight: Any, smoothing: float) -> Any:
    """The loss of each row; y holds classes, or probabilities in the shape of x."""
    total, classes = log_sum_exp(xp, x)[..., 0], x.shape[-1]
    if y.shape == x.shape:
        masses = (1 - smoothing) * y + smoothing / classes
        return total * masses.sum(-1) - (masses * x).sum(-1)
    factor = 1 - smoothing if weight is None else (1 - smoothing) * weight[y]
    losses = factor * (total - at(xp, x, y))
    if not smoothing:
        return losses
    if weight is None:
        return losses + smoothing * (total - x.mean(-1))
    return losses + smoothing / classes * (weight.sum() * total - x @ weight)


def clip_losses(xp: Any, x: Any, smoothing: float) -> Any:
    """Half the loss of each row and half that of its column."""
    diagonal = xp.arange(x.shape[0])
    by_row = cross_entropies(xp, x, diagonal, None, smoothing)
    return (by_row + cross_entropies(xp, x.T, diagonal, None, smoothing)) / 2


def row_stats(xp: Any, x: Any, y: Any) -> tuple[Any, ...]:
    """As `fastce.profile.jobs.STATS`."""
    total = log_sum_exp(xp, x)
    log_probs = x - total
    at_target = at(xp, x, y)
    entropy = -(xp.exp(log_probs) * log_probs).sum(-1)
    earlier = xp.arange(x.shape[-1]) < y[..., None]
    rank = ((x > at_target[..., None]) | ((x == at_target[..., None]) & earlier)).sum(-1)
    return total[..., 0], x.argmax(-1), entropy, at_target - total[..., 0], rank
