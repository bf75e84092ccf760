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
    "log_softmax": "special",
    "logsumexp": "special",
    "softmax": "special",
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
