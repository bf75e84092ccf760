"""A call of each loss from features, in each of its forms, for promises that all of them keep."""

import numpy as np

import fastce

CONTRASTIVE = [
    "clip_loss_from_features",
    "siglip_loss",
    "nt_xent",
    "sup_con",
    "info_nce",
    "info_nce, shared negatives",
    "info_nce, own negatives",
]
ALL = [*CONTRASTIVE, "linear_cross_entropy"]
SCALES = {
    "clip_loss_from_features": {"logit_scale": 7.0},
    "siglip_loss": {"logit_scale": 7.0, "logit_bias": -2.0},
    "linear_cross_entropy": {},
}


def name_of(form):
    return form.split(",")[0]


def function_of(form):
    return getattr(fastce, name_of(form))


def with_gradients(form):
    return getattr(fastce, f"{name_of(form)}_value_and_grad")


def options_of(form):
    return SCALES.get(name_of(form), {"temperature": 0.3})


def features_of(form, rng, n=9, width=6, dtype=np.float32):
    """The arrays that the loss has gradients of: one, two or three; those that belong together are alike."""
    first, noise, third = (rng.normal(size=(n, width)) for _ in range(3))
    second, own = first + noise, rng.normal(size=(n, 5, width))
    count = {"sup_con": 1, "info_nce, shared negatives": 3, "info_nce, own negatives": 3}.get(form, 2)
    arrays = [first, second, own if "own" in form else third[: max(n - 2, 1)]]
    return [array.astype(dtype) for array in arrays[:count]]


def rest_of(form, n):
    """What else the loss must be given: labels."""
    if form == "sup_con":
        return [np.arange(n) // 3]
    return [np.arange(n)[::-1].copy()] if form == "linear_cross_entropy" else []


def call(form, features, **options):
    """Value and gradients."""
    return with_gradients(form)(*features, *rest_of(form, len(features[0])), **(options_of(form) | options))


def value(form, features, **options):
    return function_of(form)(*features, *rest_of(form, len(features[0])), **(options_of(form) | options))
