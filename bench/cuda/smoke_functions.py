"""Cases of `smoke`: functions beside cross_entropy and the contrastive losses."""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.special import logsumexp

import fastce
from bench.cuda.smoke_arrays import LIBRARIES, default_library, is_simulated
from bench.cuda.smoke_truth import compare, logits_of, needs, right, targets_of


def nll() -> str:
    """nll_loss and its gradient, of weighted rows."""
    home, log_probs = LIBRARIES[default_library()](), -np.abs(logits_of("300x10"))
    rows, targets = np.arange(len(log_probs)), targets_of(log_probs)
    weight = np.linspace(0.5, 2.0, log_probs.shape[1])
    value, grad = fastce.nll_loss_value_and_grad(
        *map(home.to_device, (log_probs, targets)), weight=home.to_device(weight), reduction="none"
    )
    slopes = np.zeros(log_probs.shape)
    slopes[rows, targets] = -weight[targets]
    losses = -weight[targets] * log_probs[rows, targets].astype(np.float64)
    words = compare("loss", home.to_host(value), losses, "float32", True)
    return f"{words}, {compare('gradient', home.to_host(grad), slopes, 'float32', False)}"


def binary(*, is_weighted: bool) -> str:
    """binary_cross_entropy_with_logits and its gradient; weighted ones are computed in float64."""
    home, x = LIBRARIES[default_library()](), logits_of("300x10")
    rng = np.random.default_rng(8)
    targets, positive = rng.random(x.shape).astype(np.float32), rng.random(x.shape[1]) * 3
    options: dict[str, Any] = {"pos_weight": home.to_device(positive)} if is_weighted else {}
    value, grad = fastce.binary_cross_entropy_with_logits_value_and_grad(
        *map(home.to_device, (x, targets)), reduction="none", **options
    )
    z, y, p = x.astype(np.float64), targets.astype(np.float64), positive if is_weighted else 1.0
    losses = p * y * np.logaddexp(0, -z) + (1 - y) * np.logaddexp(0, z)
    slopes = (1 - y) / (1 + np.exp(-z)) - p * y / (1 + np.exp(z))
    words = compare("loss", home.to_host(value), losses, "float32", True)
    return f"{words}, {compare('gradient', home.to_host(grad), slopes, 'float32', False)}"


def signed_logsumexp() -> str:
    """logsumexp with factors of both signs, that do not cancel."""
    home, a = LIBRARIES[default_library()](), logits_of("7x1001")
    b = np.random.default_rng(9).uniform(0.5, 2.0, a.shape[1])
    b[::3] *= -0.1
    value, sign = fastce.logsumexp(home.to_device(a), axis=1, b=home.to_device(b), return_sign=True)
    exact, exact_sign = logsumexp(a.astype(np.float64), axis=1, b=b, return_sign=True)
    words = compare("logsumexp", home.to_host(value), exact, "float32", True)
    return f"{words}, {compare('sign', home.to_host(sign), exact_sign, 'float32', False, most=0)}"


def grad_and_hess(size: str) -> str:
    """cross_entropy_grad_and_hess, the gradient in place of the logits."""
    home, x = LIBRARIES[default_library()](), logits_of(size)
    targets = targets_of(x)
    exact, there = right(x, targets), home.to_device(x)
    grad, hess = fastce.cross_entropy_grad_and_hess(there, home.to_device(targets), out=(there, None))
    p = np.exp(exact.log_probs)
    words = compare("gradient", home.to_host(grad), exact.grad, "float32", False)
    return f"{words}, {compare('Hessian', home.to_host(hess), p * (1 - p), 'float32', False)}"


def derivative_by_scale(size: str) -> str:
    """The derivative of the sum of losses by the scale of the logits, without their gradient."""
    home, x = LIBRARIES[default_library()](), logits_of(size)
    targets = targets_of(x)
    exact = right(x, targets)
    found = fastce.cross_entropy_value_and_grad_logit_scale(
        *map(home.to_device, (x, targets)), reduction="none", grad_output=1.0
    )
    terms = exact.grad * (x - x.max(axis=1, keepdims=True)).astype(np.float64)
    words = compare("loss", home.to_host(found.value), exact.losses, "float32", True)
    off = (found.grad_logit_scale - terms.sum()) / np.abs(terms).sum()
    return f"{words}, {compare('derivative', off, 0.0, 'float32', False)}"


def temperature() -> str:
    """The temperature of least loss, of logits that are three times too sure."""
    home, rng = LIBRARIES[default_library()](), np.random.default_rng(11)
    x = rng.normal(size=(300, 10)).astype(np.float32)
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    targets = (rng.random((300, 1)) > p.cumsum(axis=1)).sum(axis=1).clip(max=9)
    found = fastce.calibrate_temperature(home.to_device(3 * x), home.to_device(targets))
    expected = fastce.calibrate_temperature(3 * x, targets)
    assert abs(found.temperature / expected.temperature - 1) < 1e-5, (found, expected)
    return compare("loss", found.value, expected.value, "float32", True)


def row_stats(size: str) -> str:
    """All statistics of rows."""
    home, x = LIBRARIES[default_library()](), logits_of(size)
    targets = targets_of(x)
    exact, rows = right(x, targets), np.arange(len(x))
    names = ("logsumexp", "argmax", "max", "entropy", "target_log_prob", "target_rank", "in_top_k")
    stats = fastce.row_stats(home.to_device(x), home.to_device(targets), outputs=names)
    entropy = -(np.exp(exact.log_probs) * exact.log_probs).sum(1)
    rank = (x > x[rows, targets][:, None]).sum(1)
    found = {name: np.asarray(home.to_host(value), np.float64) for name, value in stats.items()}
    for name, expected in {"argmax": x.argmax(1), "target_rank": rank, "in_top_k": rank < 5, "max": x.max(1)}.items():
        compare(name, found[name], expected, "float64", False, most=0)
    words = compare("logsumexp", found["logsumexp"], exact.logsumexp, "float32", True)
    words += ", " + compare("log_prob", -found["target_log_prob"], exact.losses, "float32", True, most=8)
    return f"{words}, {compare('entropy', found['entropy'], entropy, 'float32', True, most=8)}"


def recall() -> str:
    """Ranks of keys, of products that are exact."""
    if not is_simulated():
        needs("cupy")  # its products
    home, rng = LIBRARIES[default_library()](), np.random.default_rng(10)
    query, keys = (rng.integers(-3, 4, (n, 8)).astype(np.float32) for n in (20, 300))
    own = rng.integers(0, 300, 20)
    found = fastce.recall_at_k(*map(home.to_device, (query, keys, own)))
    order = np.argsort(-(query @ keys.T), axis=1, kind="stable")
    rank = (order == own[:, None]).argmax(1)
    return compare("rank", home.to_host(found.rank), rank, "float64", False, most=0)


CASES: dict[str, Callable[[], str]] = {
    "nll": nll,
    "binary": lambda: binary(is_weighted=False),
    "hessian-300x10": lambda: grad_and_hess("300x10"),
    "hessian-7x1001": lambda: grad_and_hess("7x1001"),
    "row_stats-300x10": lambda: row_stats("300x10"),
    "row_stats-2x40000": lambda: row_stats("2x40000"),
    "derivative-300x10": lambda: derivative_by_scale("300x10"),
    "derivative-7x1001": lambda: derivative_by_scale("7x1001"),
    "derivative-2x40000": lambda: derivative_by_scale("2x40000"),
    "temperature": temperature,
    "recall": recall,
    "logsumexp-b": signed_logsumexp,
    "binary-weighted": lambda: binary(is_weighted=True),
}
