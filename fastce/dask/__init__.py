"""The losses of fastce on Dask's arrays, for more than one machine holds: the same names, computed by Dask.

A call reads nothing and computes nothing: it gives Dask arrays, of shape () for numbers. Its tasks are those of
*stripes*, the chunks of rows of its first argument.
"""

from fastce.dask.clip_from_features import clip_loss_from_features, clip_loss_from_features_value_and_grad
from fastce.dask.info_nce import info_nce, info_nce_value_and_grad
from fastce.dask.linear import linear_cross_entropy, linear_cross_entropy_value_and_grad
from fastce.dask.siglip import siglip_loss, siglip_loss_value_and_grad

__all__ = [
    "clip_loss_from_features",
    "clip_loss_from_features_value_and_grad",
    "info_nce",
    "info_nce_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "siglip_loss",
    "siglip_loss_value_and_grad",
]
