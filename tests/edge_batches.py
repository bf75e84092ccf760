"""Batches at the edge of what a contrastive loss is defined for, with whole-numbered features: products are exact.

Every loss from features meets a batch of one, rows without negatives and without positives, only positives, and
features of length 0; each is held against its formula, value and all gradients.
"""

import calls
import dense
import numpy as np
import scipy.sparse
from magnitudes import assert_near, ulp, wide

import fastce

TWO_SIDED = ("clip_loss_from_features", "siglip_loss")
OWN, SHARED = "info_nce, own negatives", "info_nce, shared negatives"


def features_of(form, rng, n, size):
    """Up to 4 sizes; products of two sides are as positive as the size, those of one side never negative."""
    arrays = [np.rint(np.abs(2 * a)).clip(1, 4) * abs(size) for a in calls.features_of(form, rng, n)]
    return [arrays[0], *(a * np.sign(size) for a in arrays[1:])]


def batch_of_one(form, rng, size):
    return features_of(form, rng, 1, size), None


def all_positive(form, rng, size):
    arrays = features_of(form, rng, 1 if form == "nt_xent" or "info_nce" in form else 5, size)
    if "info_nce" in form and len(arrays) == 3:
        arrays[2] = arrays[2][:, :0] if form == OWN else arrays[2][:0]
    return arrays, np.ones((len(arrays[0]), len(arrays[-1])))


def no_positives(form, rng, size):
    arrays = features_of(form, rng, 5, size)
    if form == "sup_con" or form in TWO_SIDED:
        return arrays, np.zeros((5, 5))
    return [a[:0] for a in arrays], None  # nobody at all


def some_without(form, rng, size):
    """Two rows and a column without positives; two of the others have all columns."""
    arrays = features_of(form, rng, 5, size)
    positives = np.eye(5)
    positives[2:4] = 0.0
    positives[4] = [1.0, 2.0, 0.5, 0.0, 3.0]
    return arrays, positives


def no_length(form, rng, size):
    return [a * 0 for a in features_of(form, rng, 4, size)], None


def one_with_length(form, rng, size):
    arrays = features_of(form, rng, 4, size)
    for a in arrays:
        a[1:] = 0
    return arrays, None


BATCHES = {
    function.__name__: function
    for function in (batch_of_one, all_positive, no_positives, some_without, no_length, one_with_length)
}


def call_of(form, batch, rng, size, dtype):
    """(arguments, options without those of the scale) of this batch."""
    arrays, positives = BATCHES[batch](form, rng, size)
    arrays = [a.astype(dtype) for a in arrays]
    if form == "sup_con":
        alone = positives is None or not positives.any()
        return [*arrays, np.arange(len(arrays[0])) * alone], {}
    if form in TWO_SIDED and positives is not None:
        return arrays, {"targets": scipy.sparse.csr_array(positives)}
    return arrays, {}


def check(form, batch, rng, size, dtype, scale, **options):
    """With the factor ``scale`` of the products."""
    arguments, own = call_of(form, batch, rng, size, dtype)
    check_against_formula(form, arguments, **({"normalize": False} | own | scaled_by(form, scale) | options))


def scaled_by(form, scale):
    """The factor of the products as logit_scale, or as the inverse of a temperature."""
    if form not in TWO_SIDED:
        return {"temperature": 1.0 / scale}
    return {"logit_scale": scale} | ({"logit_bias": -2.0} if form == "siglip_loss" else {})


@np.errstate(all="ignore")
def exact_result(form, arguments, options):
    """By the formula in wide numbers, of options as the caller gave them."""
    known = {key: np.longdouble(option) if type(option) is float else option for key, option in options.items()}
    known = {key: option for key, option in known.items() if key not in dense.NOT_OF_THE_FORMULA}
    arrays = [a.astype(np.float64) if a.dtype.kind not in "iu" else a for a in arguments]
    return getattr(dense, calls.name_of(form))(*arrays, **known)


def check_against_formula(form, arguments, **options):
    """To the tolerances of `dense.check`, and what is below the smallest normal number of the dtype computed in."""
    name = calls.name_of(form)
    dtype = dense.computed_in(dense.features_of(name, arguments, options))
    tolerance, tiny = dense.TOLERANCE[dtype.name], wide(np.finfo(dtype).tiny)
    expected = exact_result(form, arguments, options)
    with np.errstate(all="raise"):
        ours = getattr(fastce, f"{name}_value_and_grad")(*arguments, **options)
        alone = getattr(fastce, name)(*arguments, **options)
    assert dense.bits(alone) == dense.bits(ours.value)
    largest = max((np.abs(wide(a)).max(initial=0) for a in arguments), default=0)
    value = wide(expected.value)
    assert_near(ours.value, value, tolerance * np.abs(value) + tiny, "value")
    for gradient, of_it, size, what in zip(ours[1:], expected.gradients, expected.sizes, ours._fields[1:], strict=True):
        if gradient is not None:
            of_it, own = wide(of_it), dense.own_dtype(gradient)
            bound = tolerance * size + ulp(of_it, own) + tiny * np.maximum(largest, 1) ** 2 * 1e3
            assert_near(gradient, of_it, bound, f"{what}, {options['reduction']},")
