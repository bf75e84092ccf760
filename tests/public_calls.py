"""A call of each public function, for promises that all of them keep."""

import numpy as np

import fastce

RNG = np.random.default_rng(5)
LOGITS, FEATURES, OTHERS = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 5)), RNG.normal(size=(4, 5))
LABELS, BINARY = np.array([0, 1, 2, 0]), (LOGITS > 0) * 1.0
OF_LOGITS = {"logits": LOGITS, "targets": LABELS}
TWINS = {
    "cross_entropy": OF_LOGITS,
    "nll_loss": {"log_probs": LOGITS, "targets": LABELS},
    "binary_cross_entropy_with_logits": {"logits": LOGITS, "targets": BINARY},
    "clip_loss": {"similarity": LOGITS[:3]},
    "clip_loss_from_features": {"image_features": FEATURES, "text_features": OTHERS},
    "siglip_loss": {"image_features": FEATURES, "text_features": OTHERS, "logit_scale": 1.0, "logit_bias": 0.0},
    "info_nce": {"query": FEATURES, "positive_key": OTHERS},
    "nt_xent": {"first_views": FEATURES, "second_views": OTHERS},
    "sup_con": {"features": FEATURES, "labels": LABELS},
    "linear_cross_entropy": {"features": FEATURES, "linear_weight": OTHERS, "targets": LABELS},
}
CALLS = (
    {"logsumexp": {"a": LOGITS}, "softmax": {"x": LOGITS}, "log_softmax": {"x": LOGITS}}
    | {name + ending: given for name, given in TWINS.items() for ending in ("", "_value_and_grad")}
    | {"cross_entropy_grad_and_hess": OF_LOGITS, "row_stats": OF_LOGITS}
    | {"recall_at_k": {"query": FEATURES, "keys": OTHERS}, "warmup": {"functions": ["logsumexp"]}}
    | {"cross_entropy_value_and_grad_logit_scale": OF_LOGITS, "calibrate_temperature": OF_LOGITS}
    | {"linear_cross_entropy_value_and_grad_logit_scale": TWINS["linear_cross_entropy"]}
    | {"deferred": {}, "threads": {"n": 1}, "set_num_threads": {"n": fastce.get_num_threads()}}
)
