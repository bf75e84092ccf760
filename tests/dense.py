"""The oracle of the losses from features: every matrix of products exists, and every formula is written in full.

All is computed in a wider type than fastce's (see `naive.widened`) and nothing here uses fastce's arithmetic.  Each
oracle has the name and the arguments of the loss that it judges and returns an `Exact`; `check` holds fastce against
it.  For reduction "none" gradients are those of the sum.
"""

from typing import NamedTuple

import checks
import naive
import numpy as np

import fastce

TOLERANCE = {"float32": 3e-5, "float64": 1e-12}  # of the largest element of a gradient, or of a row's loss
NOT_OF_THE_FORMULA = {"memory_budget", "progress", "n_threads"}


class Exact(NamedTuple):
    """The value, its gradients, and for each of these how large what is added up in it is."""

    value: object
    gradients: tuple
    sizes: tuple


# ---------------------------------------------------------------------------------------------- features
class Side:
    """Features in a wider type; divided by their lengths if ``normalize``, where a row of length 0 stays 0."""

    def __init__(self, features, normalize):
        x = naive.widened(features)
        self.units, self.inverse = x, np.ones((*x.shape[:-1], 1), x.dtype)
        self.normalize = normalize
        if normalize:
            largest = np.abs(x).max(-1, keepdims=True, initial=0)
            largest[largest == 0] = 1
            lengths = largest * np.sqrt(((x / largest) ** 2).sum(-1, keepdims=True))
            self.inverse = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths != 0)
            self.units = x * self.inverse

    def gradient(self, of_units):
        """(g - u (u . g)) / |x|"""
        if not self.normalize:
            return of_units
        return (of_units - self.units * (self.units * of_units).sum(-1, keepdims=True)) * self.inverse


def of_arrays(*gradients):
    return gradients, tuple(np.abs(gradient).max(initial=0) for gradient in gradients)


def exact(value, gradients, scalars=()):
    """``scalars``: arrays whose sums are the gradients of single numbers."""
    arrays, sizes = of_arrays(*gradients)
    sums = tuple(terms.sum() for terms in scalars)
    return Exact(value, arrays + sums, sizes + tuple(np.abs(terms).sum() for terms in scalars))


def cross_entropy_of_rows(x, t):
    """-sum t log p, and p sum(t) - t = p (sum(t) - t) - t (1 - p), in which 1 - p keeps its digits."""
    minus_log_p = naive.negative_log_softmax(x)
    losses = naive.times(t, minus_log_p).sum(-1)
    return losses, np.exp(-minus_log_p) * (t.sum(-1, keepdims=True) - t) + t * np.expm1(-minus_log_p)


def one_direction(x, positives, label_smoothing, reduction):
    """(losses, value, gradient of the value) of rows of which only those with positives count."""
    total = positives.sum(-1, keepdims=True)
    t = np.divide(positives, total, out=np.zeros_like(x), where=total > 0)
    losses, gradient = cross_entropy_of_rows(x, naive.smoothed(t, x.dtype.type(label_smoothing)))
    present = total[:, 0] > 0
    losses[~present], gradient[~present] = 0, 0
    count = present.sum() if reduction == "mean" else 1
    value = losses.sum() / count if count else np.nan
    return losses, value, gradient / max(count, 1)


# ------------------------------------------------------------------------------------------- two sides
def clip_loss_from_features(
    images, texts, logit_scale=1.0, *, targets=None, label_smoothing=0.0, normalize=False, reduction="mean"
):
    a, b = Side(images, normalize), Side(texts, normalize)
    s = a.units @ b.units.T
    positives = naive.clip_positives(targets, s.shape).astype(s.dtype)
    rows, of_rows, grad_rows = one_direction(logit_scale * s, positives, label_smoothing, reduction)
    columns, of_columns, grad_columns = one_direction(logit_scale * s.T, positives.T, label_smoothing, reduction)
    g = (grad_rows + grad_columns.T) / 2
    value = (rows + columns) / 2 if reduction == "none" else (of_rows + of_columns) / 2
    gradients = a.gradient(logit_scale * g @ b.units), b.gradient(logit_scale * g.T @ a.units)
    return exact(value, gradients, [g * s])


def siglip_loss(images, texts, logit_scale, logit_bias, *, targets=None, normalize=False, reduction="mean"):
    a, b = Side(images, normalize), Side(texts, normalize)
    s = a.units @ b.units.T
    z, belongs = logit_scale * s + logit_bias, naive.clip_positives(targets, s.shape) != 0
    losses = naive.softplus(np.where(belongs, -z, z))
    g = np.where(belongs, -naive.sigmoid(-z), naive.sigmoid(z))
    if reduction == "mean":
        losses, g = losses / len(s), g / len(s)
    value = losses.sum(1) if reduction == "none" else losses.sum()
    gradients = a.gradient(logit_scale * g @ b.units), b.gradient(logit_scale * g.T @ a.units)
    return exact(value, gradients, [g * s, g])


def info_nce(query, positive_key, negative_keys=None, *, temperature=0.1, normalize=True, reduction="mean"):
    q, k = Side(query, normalize), Side(positive_key, normalize)
    count = len(q.units) if reduction == "mean" else 1
    if negative_keys is None:
        s = q.units @ k.units.T
        losses, g = cross_entropy_of_rows(s / temperature, np.eye(len(s), dtype=s.dtype))
        g = g / max(count, 1)
        gradients = q.gradient(g @ k.units / temperature), k.gradient(g.T @ q.units / temperature)
    else:
        n = Side(negative_keys, normalize)
        own = n.units if n.units.ndim == 3 else np.broadcast_to(n.units, (len(q.units), *n.units.shape))
        keys = np.concatenate([k.units[:, None], own], 1)
        s = (q.units[:, None] * keys).sum(-1)
        losses, g = cross_entropy_of_rows(s / temperature, np.eye(1, s.shape[1], dtype=s.dtype).repeat(len(s), 0))
        g = g / max(count, 1)
        of_keys = g[:, :, None] * q.units[:, None] / temperature
        of_negatives = of_keys[:, 1:] if n.units.ndim == 3 else of_keys[:, 1:].sum(0)
        of_query = (g[:, :, None] * keys).sum(1) / temperature
        gradients = q.gradient(of_query), k.gradient(of_keys[:, 0]), n.gradient(of_negatives)
    value = losses if reduction == "none" else losses.sum() / count if count else np.nan
    result = exact(value, gradients, [-g * s / temperature**2])
    if negative_keys is None:
        arrays, sizes = list(result.gradients), list(result.sizes)
        arrays.insert(2, None)
        sizes.insert(2, None)
        result = Exact(value, tuple(arrays), tuple(sizes))
    return result


# -------------------------------------------------------------------------------------------- one side
def among_themselves(units, positives, temperature, reduction):
    """(losses, value, gradient of the units, of each product with respect to the temperature); nobody meets itself."""
    s = units @ units.T
    x = s / temperature
    np.fill_diagonal(x, -np.inf)
    losses, value, g = one_direction(x, positives.astype(s.dtype), 0.0, reduction)
    return losses if reduction == "none" else value, (g + g.T) @ units / temperature, -g * s / temperature**2


def nt_xent(first_views, second_views, *, temperature=0.5, normalize=True, reduction="mean"):
    first, second = Side(first_views, normalize), Side(second_views, normalize)
    n = len(first.units)
    partners = np.roll(np.eye(2 * n), n, axis=1)
    units = np.concatenate([first.units, second.units])
    value, gradient, of_temperature = among_themselves(units, partners, temperature, reduction)
    return exact(value, [first.gradient(gradient[:n]), second.gradient(gradient[n:])], [of_temperature])


def sup_con(features, labels, *, temperature=0.1, normalize=True, reduction="mean"):
    side, labels = Side(features, normalize), np.asarray(labels)
    same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    value, gradient, of_temperature = among_themselves(side.units, same, temperature, reduction)
    return exact(value, [side.gradient(gradient)], [of_temperature])


# ---------------------------------------------------------------------------------------------- linear
def linear_cross_entropy(
    features, linear_weight, targets, *, linear_bias=None, reduction="mean", grad_output=1.0, **options
):
    """Row by row `naive.CrossEntropy` of the dense logits; then the chain rule."""
    x, w = naive.widened(features), naive.widened(linear_weight)
    logits = x @ w.T + (0 if linear_bias is None else naive.widened(linear_bias))
    loss = naive.CrossEntropy(logits.astype(np.float64), targets, axis=-1, **options)
    rows = loss.gradient(reduction, grad_output).reshape(-1, len(w))
    x = x.reshape(len(rows), w.shape[1])
    used = np.where(rows.any(-1, keepdims=True), x, 0)  # what is ignored may hold nan
    gradients = [(rows @ w).reshape(np.shape(features)), rows.T @ used, rows.sum(0)]
    if linear_bias is None:
        gradients[2] = None
    sizes = [None if gradient is None else np.abs(gradient).max(initial=0) for gradient in gradients]
    return Exact(loss.reduced(reduction), tuple(gradients), tuple(sizes))


# -------------------------------------------------------------------------------------------- comparing
def computed_in(arrays):
    """float64 if one of the arrays is that, or holds integers."""
    return np.result_type(*(checks.computed_in(own_dtype(array)) for array in arrays))


def own_dtype(array):
    """The dtype of an array's gradient."""
    dtype = np.asarray(array).dtype
    return np.dtype(np.float64) if dtype.kind in "biu" else checks.native(dtype)


def assert_value(value, expected, dtype, reduction, tolerance):
    expected = np.asarray(expected)
    if reduction == "none":
        assert (value.dtype, value.shape) == (dtype, expected.shape)
    else:
        assert type(value) is float
    checks.assert_within(value, expected, tolerance * np.abs(expected) + np.finfo(dtype).tiny, f"value, {reduction}")


def assert_gradient(gradient, expected, size, array, tolerance, what):
    """``array``: what this is the gradient of; None for a single number."""
    if array is None:
        assert type(gradient) is float
        bound = tolerance * size + checks.spacing(expected, np.float64) / 2
        checks.assert_within(gradient, np.asarray(expected), bound, what)
        return
    dtype = own_dtype(array)
    assert (gradient.dtype, gradient.shape) == (dtype, np.shape(array))
    assert type(gradient) is np.ndarray
    bound = tolerance * size + checks.spacing(expected, dtype) / 2  # the last rounding to the array's own dtype
    checks.assert_within(gradient, expected, bound, what)


def check(name, *arguments, reductions=checks.REDUCTIONS, tolerance=None, **options):
    """Value and all gradients are right for these reductions, and inputs stay as they are; the last of the results.

    The value of the one function has the bits of the value of the other.
    """
    arrays = [np.asarray(a) for a in arguments if np.ndim(a) > 0 and not naive.is_sparse(a)]
    before = [array.tobytes() for array in arrays]
    known = {key: option for key, option in options.items() if key not in NOT_OF_THE_FORMULA}
    dtype = computed_in(features_of(name, arguments, options))
    tolerance = naive.allowed(tolerance or TOLERANCE[dtype.name], dtype)
    for reduction in reductions:
        expected = globals()[name](*arguments, reduction=reduction, **known)
        ours = getattr(fastce, f"{name}_value_and_grad")(*arguments, reduction=reduction, **options)
        options_of_value = {key: option for key, option in options.items() if key != "grad_output"}
        alone = getattr(fastce, name)(*arguments, reduction=reduction, **options_of_value)
        assert checks.same_bits(alone, ours.value), f"{name} is {alone}, with gradients {ours.value}"
        assert_value(ours.value, expected.value, dtype, reduction, tolerance)
        parts = zip(ours._fields[1:], ours[1:], expected.gradients, expected.sizes, strict=True)
        owners = iter(features_of(name, arguments, options))
        for what, gradient, of_it, size in parts:
            if of_it is None:
                assert gradient is None
                continue
            assert_gradient(gradient, of_it, size, next(owners, None), tolerance, f"{what}, {reduction}, at")
    assert [array.tobytes() for array in arrays] == before, "an input was written to"
    return ours


def features_of(name, arguments, options):
    """The arrays that have gradients."""
    count = {"sup_con": 1, "info_nce": 3}.get(name, 2)
    arrays = [array for array in arguments[:count] if array is not None]
    bias = options.get("linear_bias")
    return arrays if bias is None else [*arrays, bias]


def differences(name, *arguments, at, **options):
    """The gradient with respect to one argument (a position or a name) by central differences of fastce's value."""
    function = getattr(fastce, name)

    def value(x):
        if isinstance(at, str):
            return function(*arguments, **(options | {at: x if x.ndim else float(x)}))
        moved = list(arguments)
        moved[at] = x if x.ndim else float(x)
        return function(*moved, **options)

    start = options[at] if isinstance(at, str) else arguments[at]
    return naive.fourth_order_difference(value, np.asarray(start, float))


def bits(result):
    """What a call returned, as something that is equal only if every bit is."""
    parts = result if isinstance(result, tuple) else (result,)
    arrays = [None if part is None else np.asarray(part) for part in parts]
    return [None if array is None else (array.dtype, array.shape, array.tobytes()) for array in arrays]
