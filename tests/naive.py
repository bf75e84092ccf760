"""The oracle of all tests: the formulas in plain NumPy, dense, slow and obvious.

All is computed in a wider type than fastce's, so that a test can assert the contract's bounds to the letter:
float64 for float32, np.longdouble for float64.  Nothing here is clever, and nothing here uses fastce.  Symbols
are those of the README:
x the row after logit_scale and softcap, p = softmax(x), q the target mass per class, v the sample weight.
"""

import mpmath
import numpy as np


# -------------------------------------------------------------------------------------------- precision
def widened(array):
    """float64 of what fastce computes in float32; longdouble of what it computes in float64, integers too."""
    array = np.asarray(array)
    in_float64 = array.dtype.kind in "biu" or array.dtype.itemsize == 8
    return array.astype(np.float64).astype(np.longdouble if in_float64 else np.float64)


def allowed(bound, dtype):
    """The bound; for float64 twice that where longdouble is no wider (Windows, macOS), for the oracle rounds too.

    There, it rounds the margin of a confident row by more than that: test_accuracy.py has mpmath for those.
    """
    is_wider = np.finfo(np.longdouble).eps < np.finfo(np.float64).eps
    return bound if dtype != np.float64 or is_wider else 2 * bound


# ---------------------------------------------------------------------------------------------- pieces
def as_rows(array, axis=None):
    """The array as (rows, classes), the class axis last; and the shape of the rows."""
    array = np.asarray(array)
    axis = (0 if array.ndim == 1 else 1) if axis is None else axis
    moved = np.moveaxis(array, axis, -1)
    rows = moved.size // max(moved.shape[-1], 1)
    return moved.reshape(rows, moved.shape[-1]), moved.shape[:-1]


def times(a, b):
    """a*b where 0*inf is 0 and nan stays nan."""
    a, b = np.broadcast_arrays(a, b)
    with np.errstate(invalid="ignore"):
        product = a * b
    zero = ((a == 0) & ~np.isnan(b)) | ((b == 0) & ~np.isnan(a))
    return np.where(zero, 0.0, product)


def is_undefined(x):
    """Rows without a softmax: a nan, a +inf, or nothing but -inf."""
    return np.isnan(x).any(-1) | (x == np.inf).any(-1) | (x == -np.inf).all(-1)


@np.errstate(over="ignore")  # the difference of 1e308 and -1e308 is inf, rightly
def negative_log_softmax(x):
    """-log p_c = (m - x_c) + log(1 + sum of exp(x_j - m) over all j but one argmax): only positive terms."""
    result = np.full_like(x, np.nan)
    defined = ~is_undefined(x)
    if defined.any():
        rows = x[defined]
        top = rows.argmax(-1, keepdims=True)
        largest = np.take_along_axis(rows, top, -1)
        others = np.exp(rows - largest)
        np.put_along_axis(others, top, 0.0, -1)
        result[defined] = (largest - rows) + np.log1p(others.sum(-1, keepdims=True))
    return result


@np.errstate(invalid="ignore")  # +inf - inf is nan, rightly
def row_logsumexp(x):
    """m - log p_m; nan where the softmax is undefined."""
    return x.max(-1) + negative_log_softmax(x).min(-1) if x.size else np.empty(len(x), x.dtype)


def logsumexp_exact(row):
    """log(sum(exp(row))) of one finite row as an mpmath number of 60 digits."""
    with mpmath.workdps(60):
        return mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(value))) for value in row))


def ulp_error(actual, exact):
    """|actual - exact| in units in the last place of actual's dtype; 0 where both are the same inf or nan.

    exact: an mpmath number, or float64 (or longdouble) of actual's shape.
    """
    actual = np.asarray(actual)
    if isinstance(exact, mpmath.mpf):
        with mpmath.workdps(60):
            ulp = mpmath.mpf(float(np.spacing(actual.dtype.type(abs(float(exact))))))
            return float(abs(mpmath.mpf(float(actual)) - exact) / ulp)
    exact = np.asarray(exact)
    with np.errstate(invalid="ignore", over="ignore"):
        ulp = np.spacing(np.abs(exact).astype(actual.dtype)).astype(exact.dtype)
        error = np.abs(actual.astype(exact.dtype) - exact) / ulp
        rounded = exact.astype(actual.dtype)
        same = (np.isinf(rounded) & (actual == rounded)) | (np.isnan(rounded) & np.isnan(actual))
    return np.where(same, 0.0, np.where(np.isfinite(error), error, np.inf))


# --------------------------------------------------------------------------------------- cross entropy
def is_sparse(targets):
    return hasattr(targets, "toarray")


def target_distribution(targets, shape, axis, ignore_index):
    """Dense float64 targets (rows, classes), whether each row counts, and whether they were class indices."""
    rows = shape[0]
    if is_sparse(targets):
        return targets.astype(float).toarray(), np.ones(rows, bool), False
    targets = np.asarray(targets)
    if targets.dtype.kind == "f" or targets.dtype.name == "bfloat16":
        return as_rows(targets, axis)[0].astype(float), np.ones(rows, bool), False
    dense, counts = np.zeros(shape), np.ones(rows, bool)
    for i, y in enumerate(targets.ravel()):
        if y == ignore_index:
            counts[i] = False
        else:
            dense[i, y] = 1.0
    return dense, counts, True


def smoothed(t, e, smoothing_over="all"):
    """The mass e spread over all K classes, or over the K-1 others."""
    classes = t.shape[-1]
    if classes == 1 or e == 0:
        return t
    return (1 - e) * t + (e / classes if smoothing_over == "all" else e * (1 - t) / (classes - 1))


class CrossEntropy:
    """All quantities of one call; .rows, .grad (of the sum), .denominator (of the mean), .mass, .x, ..."""

    @np.errstate(over="ignore", invalid="ignore")
    def __init__(
        self,
        logits,
        targets,
        *,
        axis=None,
        weight=None,
        sample_weight=None,
        ignore_index=-100,
        label_smoothing=0.0,
        smoothing_over="all",
        logit_scale=1.0,
        softcap=None,
        z_loss=0.0,
    ):
        z, self.row_shape = as_rows(logits, axis)
        z = widened(z)
        classes = z.shape[1]
        t, counts, hard = target_distribution(targets, z.shape, axis, ignore_index)
        t, e = t.astype(z.dtype), z.dtype.type(label_smoothing)
        w = np.ones(classes) if weight is None else np.asarray(weight, float)
        v = np.ones(self.row_shape) if sample_weight is None else np.asarray(sample_weight, float)
        v = np.broadcast_to(v, self.row_shape).ravel() * counts

        x = logit_scale * z
        slope = np.full(z.shape, float(logit_scale))  # dx/dz
        if softcap is not None:
            slope = slope * (1 - np.tanh(x / softcap) ** 2)
            x = softcap * np.tanh(x / softcap)

        minus_log_p, lse = negative_log_softmax(x), row_logsumexp(x)
        p = np.exp(-minus_log_p)
        q = times(w, smoothed(t, e, smoothing_over))
        mass = q.sum(-1, keepdims=True)

        self.x, self.lse, self.v, self.mass = x, np.where(v == 0, 0.0, lse), v, mass[:, 0]
        self.rows = times(v, times(q, minus_log_p).sum(-1) + z_loss * lse**2)
        self.grad = (p * mass - q + 2 * z_loss * lse[:, None] * p) * v[:, None] * slope
        self.rows[v == 0], self.grad[v == 0] = 0.0, 0.0
        self.denominator = (v * (w * t).sum(-1)).sum() if hard else v.sum()
        self.axis, self.ndim = (0 if np.ndim(logits) == 1 else 1) if axis is None else axis, np.ndim(logits)

    def reduced(self, reduction):
        if reduction == "none":
            return self.rows.reshape(self.row_shape)
        return self.rows.sum() if reduction == "sum" else mean_of(self.rows.sum(), self.denominator)

    def gradient(self, reduction, grad_output=1.0):
        upstream = np.broadcast_to(np.asarray(grad_output, float), self.row_shape).reshape(-1, 1)
        if reduction == "mean":
            upstream = upstream / self.denominator if self.denominator else upstream * 0
        rows = times(upstream, self.grad)
        return np.moveaxis(rows.reshape(*self.row_shape, rows.shape[1]), -1, self.axis)


def mean_of(total, denominator):
    return total / denominator if denominator else np.nan


def cross_entropy(logits, targets, *, reduction="mean", **options):
    return CrossEntropy(logits, targets, **options).reduced(reduction)


def cross_entropy_grad(logits, targets, *, reduction="mean", grad_output=1.0, **options):
    return CrossEntropy(logits, targets, **options).gradient(reduction, grad_output)


# --------------------------------------------------------------------------------- nll_loss and binary
def nll_loss_and_grad(
    log_probs,
    targets,
    *,
    axis=None,
    weight=None,
    sample_weight=None,
    ignore_index=-100,
    reduction="mean",
    grad_output=1.0,
):
    """-v_i w_y log_probs[i, y], and its gradient."""
    rows, shape = as_rows(log_probs, axis)
    rows = widened(rows)
    w = np.ones(rows.shape[1]) if weight is None else np.asarray(weight, float)
    v = np.broadcast_to(1.0 if sample_weight is None else np.asarray(sample_weight, float), shape).ravel()
    upstream = np.broadcast_to(np.asarray(grad_output, float), shape).ravel()
    losses, grad, total = np.zeros(len(rows), rows.dtype), np.zeros_like(rows), 0.0
    for i, y in enumerate(np.asarray(targets).ravel()):
        if y != ignore_index:
            losses[i] = times(v[i] * w[y], -rows[i, y]) if v[i] else 0.0
            grad[i, y] = -v[i] * w[y] * upstream[i]
            total += v[i] * w[y]
    if reduction == "mean":
        grad = grad / total if total else grad * 0
    axis = (0 if np.ndim(log_probs) == 1 else 1) if axis is None else axis
    value = {"none": losses.reshape(shape), "sum": losses.sum(), "mean": mean_of(losses.sum(), total)}[reduction]
    return value, np.moveaxis(grad.reshape(*shape, grad.shape[1]), -1, axis)


def nll_loss(log_probs, targets, **options):
    return nll_loss_and_grad(log_probs, targets, **options)[0]


@np.errstate(invalid="ignore")
def softplus(x):
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|))"""
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def sigmoid(x):
    """1 / (1 + exp(-x)), from the exponential that does not overflow."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


@np.errstate(invalid="ignore")
def binary_cross_entropy_with_logits_and_grad(
    logits, targets, *, weight=None, pos_weight=None, reduction="mean", grad_output=1.0
):
    """w * [a * y * softplus(-x) + (1 - y) * softplus(x)], a = pos_weight, and its gradient."""
    x, y = widened(logits), np.asarray(targets, float)
    w = np.broadcast_to(1.0 if weight is None else np.asarray(weight, float), x.shape)
    a = np.broadcast_to(1.0 if pos_weight is None else np.asarray(pos_weight, float), x.shape)
    losses = times(w, times(a * y, softplus(-x)) + times(1 - y, softplus(x)))
    grad = grad_output * w * ((1 - y) * sigmoid(x) - a * y * sigmoid(-x))
    value = {"none": losses, "sum": losses.sum(), "mean": mean_of(losses.sum(), losses.size)}[reduction]
    return value, grad / max(losses.size, 1) if reduction == "mean" else grad


def binary_cross_entropy_with_logits(logits, targets, **options):
    return binary_cross_entropy_with_logits_and_grad(logits, targets, **options)[0]


# ----------------------------------------------------------------------------------------- contrastive
def clip_positives(targets, shape):
    """(rows, columns) of non-negative weights: which column belongs to which row."""
    if targets is None:
        return np.eye(*shape)
    if is_sparse(targets):
        return targets.astype(float).toarray()
    return np.eye(shape[1])[np.asarray(targets)]


@np.errstate(invalid="ignore")
def clip_half(x, positives, e):
    """Losses of the rows of x, the gradient of their sum, and which rows have a positive at all."""
    total = positives.sum(-1, keepdims=True)
    counts = total[:, 0] > 0
    t = smoothed(np.divide(positives, total, out=np.zeros_like(positives), where=total > 0), e)
    minus_log_p = negative_log_softmax(x)
    losses = times(t, minus_log_p).sum(-1)
    grad = np.exp(-minus_log_p) * t.sum(-1, keepdims=True) - t
    losses[~counts], grad[~counts] = 0.0, 0.0
    return losses, grad, counts


def clip_loss_and_grads(similarity, targets=None, *, logit_scale=1.0, label_smoothing=0.0, reduction="mean"):
    """Half the rows' cross entropy plus half the columns'; the gradients for similarity and logit_scale."""
    similarity = widened(similarity)
    x, positives = logit_scale * similarity, clip_positives(targets, similarity.shape).astype(similarity.dtype)
    label_smoothing = similarity.dtype.type(label_smoothing)
    rows, grad_rows, counts_rows = clip_half(x, positives, label_smoothing)
    columns, grad_columns, counts_columns = clip_half(x.T, positives.T, label_smoothing)
    n, m = (counts_rows.sum(), counts_columns.sum()) if reduction == "mean" else (1, 1)
    grad = (grad_rows / max(n, 1) + grad_columns.T / max(m, 1)) / 2
    value = (mean_of(rows.sum(), n) + mean_of(columns.sum(), m)) / 2 if reduction != "none" else (rows + columns) / 2
    return value, logit_scale * grad, times(grad, similarity).sum()


def clip_loss(similarity, targets=None, **options):
    return clip_loss_and_grads(similarity, targets, **options)[0]


# ------------------------------------------------------------------------------------------ derivatives
def fourth_order_difference(f, x, h=1e-3):
    """The gradient of the scalar function f at x by central differences of fourth order."""
    grad = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        at = {}
        for step in (-2, -1, 1, 2):
            moved = np.array(x, dtype=np.float64)
            moved[index] += step * h
            at[step] = f(moved)
        grad[index] = (8 * (at[1] - at[-1]) - (at[2] - at[-2])) / (12 * h)
    return grad
