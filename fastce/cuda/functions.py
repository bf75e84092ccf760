"""The functions of fastce for arrays on a GPU, by their names; arguments are the same."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import fastce

_HOME = {
    "clip_loss": "contrastive",
    "clip_loss_from_features": "clip_from_features",
    "clip_loss_from_features_value_and_grad": "clip_from_features",
    "clip_loss_value_and_grad": "contrastive",
    "cross_entropy": "losses",
    "cross_entropy_value_and_grad": "losses",
    "info_nce": "infonce",
    "info_nce_value_and_grad": "infonce",
    "linear_cross_entropy": "linear",
    "linear_cross_entropy_value_and_grad": "linear",
    "log_softmax": "special",
    "logsumexp": "special",
    "nt_xent": "self_contrastive",
    "nt_xent_value_and_grad": "self_contrastive",
    "siglip_loss": "siglip",
    "siglip_loss_value_and_grad": "siglip",
    "softmax": "special",
    "sup_con": "self_contrastive",
    "sup_con_value_and_grad": "self_contrastive",
}


@functools.cache
def named(name: str) -> Callable[..., Any]:
    """The function of this name; what is left out has the default of `fastce`'s own function."""
    signature = inspect.signature(getattr(fastce, name))
    function = getattr(import_module(f"fastce.cuda.{_HOME[name]}"), name)

    def on_device(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        return function(**given.arguments)

    return on_device
