"""Every function of fastce.torch with tensors to call it with, for the tests of all of them."""

from typing import Any, NamedTuple

import numpy as np
import torch

import fastce
import fastce.torch


class TorchCall(NamedTuple):
    """A call: ``function(*tensors, **options)``; the tensors are those that have gradients, in float64."""

    function: Any
    tensors: tuple
    plain: Any  # of fastce, of the same arguments as arrays and numbers
    rows: int = 0  # how many losses there are, not reduced; 0 where nothing is reduced

    def leaves(self, dtype=torch.float64):
        """The tensors as new leaves that require grad; numbers stay wide."""
        return [t.to(dtype if t.ndim else t.dtype, copy=True).requires_grad_() for t in self.tensors]


def matrix(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def labels(seed, high, *shape):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, high, shape))


LOGITS, TARGETS = matrix(0, 6, 5), labels(1, 5, 6)
WITH_IGNORED = TARGETS.clone()
WITH_IGNORED[2] = -100
SOFT = torch.softmax(matrix(2, 6, 5), 1)
IMAGES, TEXTS = matrix(3, 5, 4), matrix(4, 5, 4)
NUMBER, BIAS = torch.tensor(2.5, dtype=torch.float64), torch.tensor(-1.5, dtype=torch.float64)


def rows_of(**options):
    """Cross entropy with these options."""
    targets = options.pop("targets", WITH_IGNORED)
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return TorchCall(
        lambda x, **more: fastce.torch.cross_entropy(x, targets, **options, **more),
        (LOGITS,),
        lambda x, **more: fastce.cross_entropy(x, targets.numpy(), **arrays, **more),
        6,
    )


def linear_of(targets, *tensors, **options):
    names = ("features", "linear_weight", "linear_bias")
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}
    return TorchCall(
        lambda x, w, b=None, **more: fastce.torch.linear_cross_entropy(x, w, targets, linear_bias=b, **options, **more),
        tensors,
        lambda *given, **more: fastce.linear_cross_entropy(
            **dict(zip(names, given, strict=False)), targets=targets.numpy(), **arrays, **more
        ),
        targets.numel(),
    )


def of_features(name, tensors, names, rows, **options):
    """A contrastive loss, whose arguments have the same names in both modules."""
    arrays = {k: v.numpy() if isinstance(v, torch.Tensor) else v for k, v in options.items()}

    def called(module, options):
        def call(*given, **more):
            return getattr(module, name)(**dict(zip(names, given, strict=True)), **options, **more)

        return call

    return TorchCall(called(fastce.torch, options), tensors, called(fastce, arrays), rows)


PAIRS = ("image_features", "text_features", "logit_scale")
WEIGHT, SAMPLE_WEIGHT = torch.tensor([1.0, -0.5, 2.0, 0.25, 3.0]), torch.tensor([1.0, 2.0, 0.0, -1.0, 0.5, 4.0])

LOSSES = {
    "cross_entropy": rows_of(),
    "cross_entropy, smoothed": rows_of(label_smoothing=0.1),
    "cross_entropy, smoothed over others": rows_of(label_smoothing=0.3, smoothing_over="others"),
    "cross_entropy, weights": rows_of(weight=WEIGHT, sample_weight=SAMPLE_WEIGHT, label_smoothing=0.1),
    "cross_entropy, scale, cap and z": rows_of(logit_scale=2.0, softcap=3.0, z_loss=0.1),
    "cross_entropy, learned scale": TorchCall(
        lambda x, s, **more: fastce.torch.cross_entropy(x, WITH_IGNORED, logit_scale=s, label_smoothing=0.1, **more),
        (LOGITS, NUMBER),
        lambda x, s, **more: fastce.cross_entropy(
            x, WITH_IGNORED.numpy(), logit_scale=s, label_smoothing=0.1, **more
        ),
        6,
    ),
    "cross_entropy, learned scale, probabilities": TorchCall(
        lambda x, s, **more: fastce.torch.cross_entropy(x, SOFT, WEIGHT, logit_scale=s, softcap=9.0, **more),
        (LOGITS, NUMBER),
        lambda x, s, **more: fastce.cross_entropy(
            x, SOFT.numpy(), weight=WEIGHT.numpy(), logit_scale=s, softcap=9.0, **more
        ),
        6,
    ),
    "cross_entropy, another ignored class": rows_of(targets=TARGETS, ignore_index=int(TARGETS[0])),
    "cross_entropy, probabilities": rows_of(targets=SOFT, weight=WEIGHT, label_smoothing=0.1),
    "linear_cross_entropy": linear_of(WITH_IGNORED, matrix(5, 6, 3), matrix(6, 5, 3), matrix(7, 5)),
    "linear_cross_entropy, no bias": linear_of(
        WITH_IGNORED.reshape(2, 3), matrix(5, 2, 3, 3), matrix(6, 5, 3), label_smoothing=0.1, softcap=4.0, z_loss=0.01
    ),
    "linear_cross_entropy, learned scale": TorchCall(
        lambda x, w, b, s, **more: fastce.torch.linear_cross_entropy(
            x, w, WITH_IGNORED, linear_bias=b, logit_scale=s, z_loss=0.01, **more
        ),
        (matrix(5, 6, 3), matrix(6, 5, 3), matrix(7, 5), NUMBER),
        lambda x, w, b, s, **more: fastce.linear_cross_entropy(
            x, w, WITH_IGNORED.numpy(), linear_bias=b, logit_scale=s, z_loss=0.01, **more
        ),
        6,
    ),
    "binary": TorchCall(
        lambda x, **more: fastce.torch.binary_cross_entropy_with_logits(
            x, SOFT, WEIGHT, pos_weight=WEIGHT.abs(), **more
        ),
        (LOGITS,),
        lambda x, **more: fastce.binary_cross_entropy_with_logits(
            x, SOFT.numpy(), weight=WEIGHT.numpy(), pos_weight=WEIGHT.abs().numpy(), **more
        ),
        30,
    ),
    "clip_loss": of_features("clip_loss", (matrix(8, 5, 5), NUMBER), ("similarity", "logit_scale"), 5),
    "clip_loss, targets": of_features(
        "clip_loss", (matrix(8, 5, 5), NUMBER), ("similarity", "logit_scale"), 5,
        targets=torch.tensor([0, 1, 1, 2, 4]), label_smoothing=0.1,
    ),
    "clip_loss_from_features": of_features("clip_loss_from_features", (IMAGES, TEXTS, NUMBER), PAIRS, 5),
    "clip_loss_from_features, normalized": of_features(
        "clip_loss_from_features", (IMAGES, TEXTS, NUMBER), PAIRS, 5, normalize=True, label_smoothing=0.1
    ),
    "siglip_loss": of_features("siglip_loss", (IMAGES, TEXTS, NUMBER, BIAS), (*PAIRS, "logit_bias"), 5),
    "siglip_loss, normalized": of_features(
        "siglip_loss", (IMAGES, TEXTS, NUMBER, BIAS), (*PAIRS, "logit_bias"), 5, normalize=True
    ),
    "info_nce": of_features("info_nce", (IMAGES, TEXTS, NUMBER), ("query", "positive_key", "temperature"), 5),
    "info_nce, negatives": of_features(
        "info_nce", (IMAGES, TEXTS, matrix(9, 7, 4), NUMBER),
        ("query", "positive_key", "negative_keys", "temperature"), 5,
    ),
    "info_nce, own negatives": of_features(
        "info_nce", (IMAGES, TEXTS, matrix(9, 5, 3, 4), NUMBER),
        ("query", "positive_key", "negative_keys", "temperature"), 5, normalize=False,
    ),
    "nt_xent": of_features("nt_xent", (IMAGES, TEXTS, NUMBER), ("first_views", "second_views", "temperature"), 10),
    "sup_con": of_features(
        "sup_con", (matrix(3, 6, 4), NUMBER), ("features", "temperature"), 6, labels=torch.tensor([0, 1, 0, 2, 1, 0])
    ),
}  # fmt: skip

WHOLE = {  # functions that reduce nothing, or by themselves
    "logsumexp": TorchCall(lambda x: fastce.torch.logsumexp(x, 1), (LOGITS,), lambda x: fastce.logsumexp(x, 1)),
    "logsumexp, both dimensions": TorchCall(
        lambda x: fastce.torch.logsumexp(x, (0, -1), keepdim=True),
        (LOGITS,),
        lambda x: fastce.logsumexp(x, (0, -1), keepdims=True),
    ),
    "softmax": TorchCall(lambda x: fastce.torch.softmax(x, 0), (LOGITS,), lambda x: fastce.softmax(x, 0)),
    "log_softmax": TorchCall(lambda x: fastce.torch.log_softmax(x, -1), (LOGITS,), lambda x: fastce.log_softmax(x, -1)),
}
