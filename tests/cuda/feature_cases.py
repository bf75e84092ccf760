"""Calls of the losses from features, right ones and wrong ones."""

import numpy as np

LINEAR = "linear_cross_entropy"
LOSSES = ["siglip_loss", "info_nce", "nt_xent", "sup_con", LINEAR]


def case(name, rng, rows=9, columns=7, width=5, dtype=np.float32):
    """Arguments of a loss, and options that it cannot do without."""
    a, b, noise = (rng.normal(size=(n, width)) for n in (rows, columns, rows))
    a, b, near_a = a.astype(dtype), b.astype(dtype), (a + noise).astype(dtype)
    classes = rng.integers(0, columns, rows)
    return {
        "siglip_loss": ((a, b, 3.0, -1.0), {"targets": classes}),
        "info_nce": ((a, near_a, b), {}),
        "nt_xent": ((a, near_a), {}),
        "sup_con": ((a, classes), {}),
        LINEAR: ((a, b, classes), {}),
    }[name]


def zeros(*shape):
    return np.zeros(shape, np.float32)


WRONG = {
    "one dimension": ("nt_xent", (zeros(3), zeros(3)), {}),
    "other widths": ("info_nce", (zeros(3, 2), zeros(3, 4)), {}),
    "other lengths": ("nt_xent", (zeros(3, 2), zeros(4, 2)), {}),
    "other keys": ("info_nce", (zeros(3, 2), zeros(4, 2)), {}),
    "negative keys": ("info_nce", (zeros(3, 2), zeros(3, 2), zeros(4, 2, 2)), {}),
    "temperature": ("sup_con", (zeros(3, 2), np.zeros(3, int)), {"temperature": 0.0}),
    "labels of floats": ("sup_con", (zeros(3, 2), zeros(3)), {}),
    "labels of another shape": ("sup_con", (zeros(3, 2), np.zeros(4, int)), {}),
    "scale": ("siglip_loss", (zeros(3, 2), zeros(3, 2), -1.0, 0.0), {}),
    "bias": ("siglip_loss", (zeros(3, 2), zeros(3, 2), 1.0, np.inf), {}),
    "not square": ("siglip_loss", (zeros(3, 2), zeros(4, 2), 1.0, 0.0), {}),
    "index": ("siglip_loss", (zeros(3, 2), zeros(4, 2), 1.0, 0.0), {"targets": np.array([0, 4, 1])}),
    "reduction": ("nt_xent", (zeros(3, 2), zeros(3, 2)), {"reduction": "max"}),
    "memory": ("nt_xent", (zeros(3, 2), zeros(3, 2)), {"memory_budget": 0}),
    "progress": ("info_nce", (zeros(3, 2), zeros(3, 2)), {"progress": 7}),
    "class": (LINEAR, (zeros(3, 2), zeros(4, 2), np.array([0, 1, -7])), {}),
    "no classes": (LINEAR, (zeros(3, 2), zeros(0, 2), np.array([0, 1, 2])), {}),
    "linear bias": (LINEAR, (zeros(3, 2), zeros(4, 2), np.zeros(3, int)), {"linear_bias": zeros(3)}),
    "softcap": (LINEAR, (zeros(3, 2), zeros(4, 2), np.zeros(3, int)), {"softcap": 0.0}),
    "sample weight": (LINEAR, (zeros(3, 2), zeros(4, 2), np.zeros(3, int)), {"sample_weight": np.nan}),
    "a scalar": (LINEAR, (np.array(3.0), zeros(4, 2), np.zeros(1, int)), {}),
}  # fmt: skip
