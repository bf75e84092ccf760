"""Plain calls of losses from features, see `fastce.products.plain`: what the functions return, or None."""

import functools
from typing import Any

import numpy as np

from fastce.arguments.arrays import Array
from fastce.arguments.reductions import factor_of_rows
from fastce.cpu.class_indices import are_classes
from fastce.cpu.dots import products_of_few
from fastce.cpu.ends import NARROW, ends_of
from fastce.cpu.one_tile import Points, write_slopes
from fastce.cpu.plain import INT64
from fastce.cpu.plain_cross_entropy import plain_value, plain_value_and_grad
from fastce.cpu.sigmoid import sigmoid_losses
from fastce.losses.sigmoid import of_positives, reduced_losses
from fastce.products.plain import inverse, is_number, plain_pairs
from fastce.typing import (
    ClipFromFeaturesValueAndGrad,
    InfoNceValueAndGrad,
    LinearCrossEntropyValueAndGrad,
    NtXentValueAndGrad,
    SiglipValueAndGrad,
)


def plain_clip(
    image_features: Any, text_features: Any, logit_scale: Any, targets: Any, label_smoothing: Any, normalize: Any,
    reduction: Any, memory_budget: Any, progress: Any, n_threads: Any, *, want_gradient: bool,
) -> Any:  # fmt: skip
    """CLIP's, where row i belongs to row i."""
    if targets is not None or not is_number(label_smoothing) or not 0.0 <= label_smoothing <= 1.0:
        return None
    pairs = plain_pairs(
        image_features, text_features, logit_scale, normalize, reduction, memory_budget, progress, n_threads
    )
    if pairs is None or not pairs.are_square:
        return None
    rows = np.arange(len(pairs.left) + 1)
    tile, points = pairs.tile(), Points(rows, rows[:-1])
    ends = ends_of(tile, NARROW, points[:2], rows[:-1], pairs.of_pairs(), logit_scale, label_smoothing, reduction)
    if ends is None or not want_gradient:
        return None if ends is None else ends.value(reduction, NARROW)
    write_slopes(tile, points, ends, logit_scale, logit_scale, label_smoothing)
    of_image, of_text, along = pairs.gradients(tile)
    return ClipFromFeaturesValueAndGrad(ends.value(reduction, NARROW), of_image, of_text, along / logit_scale)


def plain_nt_xent(
    first_views: Any, second_views: Any, temperature: Any, normalize: Any, reduction: Any, memory_budget: Any,
    progress: Any, n_threads: Any, *, want_gradient: bool,
) -> Any:  # fmt: skip
    """NT-Xent's."""
    scale = inverse(temperature)
    if scale is None:
        return None
    pairs = plain_pairs(
        first_views, second_views, scale, normalize, reduction, memory_budget, progress, n_threads, are_joined=True
    )
    if pairs is None:
        return None
    views = len(first_views)
    partners, points = _partners(views)
    of_views = products_of_few(first_views, partners[views:], second_views, partners[views:])
    tile, x = pairs.tile(), np.concatenate([of_views, of_views])
    ends = ends_of(tile, NARROW, points[:2], partners, x, scale, 0.0, reduction, is_symmetric=True)
    if ends is None or not want_gradient:
        return None if ends is None else ends.value(reduction, NARROW)
    write_slopes(tile, points, ends, scale, scale, 0.0)
    gradient, along = pairs.gradient_of_left(tile)
    of_temperature = -scale * (0.5 * along)  # every product counts twice
    return NtXentValueAndGrad(ends.value(reduction, NARROW), gradient[:views], gradient[views:], of_temperature)


@functools.lru_cache(16)
def _partners(views: int) -> tuple[Array, Points]:
    """The other view of each row, and the points of these products."""
    partners = np.roll(np.arange(2 * views), views)
    return partners, Points.with_itself(partners)


def plain_info_nce(
    query: Any, positive_key: Any, negative_keys: Any, temperature: Any, normalize: Any, reduction: Any,
    memory_budget: Any, progress: Any, n_threads: Any, *, want_gradient: bool,
) -> Any:  # fmt: skip
    """InfoNCE where the negative keys of a query are those of the others."""
    scale = inverse(temperature)
    if negative_keys is not None or scale is None:
        return None
    pairs = plain_pairs(query, positive_key, scale, normalize, reduction, memory_budget, progress, n_threads)
    if pairs is None or not pairs.are_square:
        return None
    options = {"logit_scale": scale, "reduction": reduction, "n_threads": n_threads}
    tile = pairs.tile()
    if not want_gradient:
        return plain_value((tile, np.arange(len(tile))), options)
    found = plain_value_and_grad((tile, np.arange(len(tile))), options)
    if found is None:
        return None
    of_query, of_key, along = pairs.gradients(found.grad)
    return InfoNceValueAndGrad(found.value, of_query, of_key, None, -scale * along)


def plain_linear(
    features: Any, linear_weight: Any, linear_bias: Any, options: dict[str, Any], memory_budget: Any, progress: Any,
    n_threads: Any, grad_output: Any = None, *, want_gradient: bool,
) -> Any:  # fmt: skip
    """Cross entropy of a layer without bias, of class indices without weights, none of them ignored."""
    targets, ignored, softcap = options["targets"], options["ignore_index"], options["softcap"]
    if linear_bias is not None or grad_output is not None or softcap is not None:
        return None
    if options["weight"] is not None or options["sample_weight"] is not None or type(targets) is not np.ndarray:
        return None
    scale, reduction = options["logit_scale"], options["reduction"]
    pairs = plain_pairs(features, linear_weight, scale, False, reduction, memory_budget, progress, n_threads)
    if pairs is None or targets.dtype is not INT64 or targets.shape != (len(features),):
        return None
    if type(ignored) is not int or ignored >= 0 or not are_classes(targets, len(linear_weight)):
        return None
    named = {name: value for name, value in options.items() if name not in _OF_ROWS} | {"n_threads": n_threads}
    tile = pairs.tile()
    if not want_gradient:
        return plain_value((tile, targets), named)
    found = plain_value_and_grad((tile, targets), named)
    if found is None:
        return None
    return LinearCrossEntropyValueAndGrad(
        found.value, np.matmul(found.grad, linear_weight), np.matmul(found.grad.T, features), None
    )


_OF_ROWS = frozenset({"targets", "weight", "sample_weight", "softcap"})


def plain_siglip(
    image_features: Any, text_features: Any, logit_scale: Any, logit_bias: Any, targets: Any, normalize: Any,
    reduction: Any, memory_budget: Any, progress: Any, n_threads: Any, *, want_gradient: bool,
) -> Any:  # fmt: skip
    """SigLIP's, where row i belongs to row i."""
    if targets is not None:
        return None
    pairs = plain_pairs(
        image_features, text_features, logit_scale, normalize, reduction, memory_budget, progress, n_threads, logit_bias
    )
    if pairs is None or not pairs.are_square:
        return None
    tile, share = pairs.tile(), factor_of_rows(reduction, len(pairs.left))
    of_pairs, own_slopes = of_positives(np, logit_scale * pairs.of_pairs() + logit_bias)
    diagonal = tile.ravel()[:: len(tile) + 1]
    diagonal[:] = -np.inf
    factor = share * logit_scale
    losses, slopes = sigmoid_losses(tile, logit_scale, logit_bias, factor, want_gradient, n_threads)
    losses += of_pairs
    value = losses.astype(NARROW) if reduction == "none" else reduced_losses(losses, reduction)
    if not want_gradient:
        return value
    diagonal[:] = own_slopes * factor
    of_image, of_text, along = pairs.gradients(tile)
    of_bias = share * float(slopes.sum() + own_slopes.sum())
    return SiglipValueAndGrad(value, of_image, of_text, along / logit_scale, of_bias)
