"""The functions of fastce for arrays on a GPU, by their names; arguments are the same."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import fastce
from fastce.cuda.arrays import wait_for_readers
from fastce.threads import checked_num_threads

# Modules have the names of those for the CPU, but for these.
_HOME = {"ntxent": "self_contrastive", "supcon": "self_contrastive"}


@functools.cache
def named(name: str) -> Callable[..., Any]:
    """The function of this name; what is left out has the default of `fastce`'s own function."""
    public = getattr(fastce, name)
    signature, home = inspect.signature(public), public.__module__.removeprefix("fastce.")
    function = getattr(import_module(f"fastce.cuda.{_HOME.get(home, home)}"), name)

    def on_device(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        if given.arguments["n_threads"] is not None:
            checked_num_threads(given.arguments["n_threads"], "n_threads")  # of the CPU, which has nothing to do here
        result = function(**given.arguments)
        wait_for_readers(given.arguments.values())
        return result

    return on_device
