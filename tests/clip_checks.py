"""Calls of clip_loss checked against the formula, and matrices and targets to call it with."""

import naive
import numpy as np
import scipy.sparse

import fastce


def assert_clip(similarity, targets=None, reduction="mean", **options):
    """4 ulp for the value and 4 eps for each of the two gradients that are added (contract 7).

    With a logit_scale other than 1 the logits themselves are rounded, by half an eps of the largest at the
    positive and half an eps at the others.
    """
    dtype = np.result_type(np.float32, similarity.dtype)
    eps = naive.allowed(1, dtype) * np.finfo(dtype).eps
    scale = options.get("logit_scale", 1.0)
    value, grad, grad_scale = naive.clip_loss_and_grads(similarity, targets, reduction=reduction, **options)
    finite = np.abs(similarity[np.isfinite(similarity)].astype(float))
    largest = finite.max(initial=0)
    rounding = eps * scale * largest if scale != 1 else 0.0
    rows, columns = similarity.shape
    share = 1 if reduction != "mean" else 1 / max(min(rows_with_positives(targets, similarity.shape)), 1)

    ours = fastce.clip_loss_value_and_grad(similarity, targets, reduction=reduction, **options)
    alone = fastce.clip_loss(similarity, targets, reduction=reduction, **options)
    for result in (ours.value, alone):
        if reduction == "none":
            assert result.dtype == dtype
            assert result.shape == (rows,)
        else:
            assert type(result) is float
        rounding_of_sum = rounding * (max(rows, columns) if reduction == "sum" else 1)
        assert np.all(np.abs(result - value) <= 4 * eps * np.abs(value) + rounding_of_sum + np.finfo(dtype).tiny)

    assert ours.grad.dtype == similarity.dtype
    assert ours.grad.shape == similarity.shape
    assert ours.grad.flags.c_contiguous
    bound = scale * share * (4 * eps + rounding)
    if similarity.dtype != dtype:  # half a unit for the last rounding, to float16
        bound = bound + np.spacing(np.abs(grad).astype(similarity.dtype)).astype(float) / 2
    assert np.all(np.abs(ours.grad.astype(grad.dtype) - grad) <= bound)

    assert type(ours.grad_logit_scale) is float
    # sum of dx * similarity: the errors of a row's dx are relative to p and so add up to that of one number
    assert abs(ours.grad_logit_scale - grad_scale) <= largest * (rows + columns) * share * (4 * eps + rounding)


# ---------------------------------------------------------------------- matrices that are hard on references
LOGITS = [700.0, -80.0, -87.0, -88.0, -100.0, -700.0, -710.0, -743.5, -745.5, -800.0, -1e4, -1e6]


def without_negatives(kind, logit, n=3):
    """(similarity, targets) of which some rows and columns have no negative, or nothing but masked ones."""
    rng = np.random.default_rng(n)
    near = logit + rng.uniform(-1, 1, (n, n)).round(3)
    if kind == "all positive":
        return near, scipy.sparse.csr_array(rng.uniform(0.5, 2, (n, n)))
    if kind == "one row":
        return near[:1], scipy.sparse.csr_array(np.ones((1, n)))
    if kind == "one column":
        return near[:, :1], np.zeros(n, int)
    if kind == "only one pair":
        return near[:1, :1], None
    masked = np.where(np.eye(n, dtype=bool), near, -np.inf)
    if kind == "all negatives masked":
        return masked, None
    masked[1:, 1:] = near[1:, 1:] + 300  # the first row and the first column have none
    return masked, None


WITHOUT_NEGATIVES = [
    "all positive", "one row", "one column", "only one pair", "all negatives masked", "some without negatives"
]  # fmt: skip


def near_reference(rng, dtype, n, m):
    """Similarities all of whose rows have a logsumexp near -128 ln 2 (float64: -1024 ln 2), if scaled by 100."""
    center = -(1024 if dtype == np.float64 else 128) * np.log(2) / 100
    return (center + rng.uniform(-0.08, 0.08, (n, m))).astype(dtype)


def rows_with_positives(targets, shape):
    """How many rows, and how many columns, have a positive."""
    positives = naive.clip_positives(targets, shape)
    return positives.any(1).sum(), positives.any(0).sum()


def unit_cosines(rng, n, m=None, noise=1.0):
    """A matrix as CLIP makes it: cosines in [-1, 1], greater on the diagonal."""
    a, b = rng.normal(size=(n, 16)), rng.normal(size=(m or n, 16))
    b[: min(n, m or n)] = a[: m or n] + noise * b[: min(n, m or n)]
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    return a @ b.T


def make_targets(kind, rng, n, m):
    if kind == "permutation":
        return rng.permutation(m)[:n]
    if kind == "repeated":
        return rng.integers(0, max(m // 3, 1), n)
    dense = rng.random((n, m)) * (rng.random((n, m)) < 2 / m)
    dense[0, :2] = 0.3, 0.6  # several positives, whatever the numbers drawn
    if kind == "sparse, every row":
        dense[np.arange(n), rng.integers(0, m, n)] = 0.7
    return scipy.sparse.csr_array(dense)
