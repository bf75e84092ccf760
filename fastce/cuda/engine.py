"""The functions of fastce for arrays on a GPU, by their names; arguments are the same."""

import functools
import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

from fastce.arguments.numbers import checked_num_threads
from fastce.cuda.arrays import wait_for_readers

# Modules have the names of those in `fastce.losses`, but for these.
_HOME = {"nt_xent": "self_similarity", "sup_con": "self_similarity"}


@functools.cache
def namesake(public: Callable[..., Any]) -> Callable[..., Any]:
    """The function of this name; what is left out has the default of the public one."""
    signature, home = inspect.signature(public), public.__module__.rpartition(".")[2]
    function = getattr(import_module(f"fastce.cuda.{_HOME.get(home, home)}"), public.__name__)

    def on_device(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs)
        given.apply_defaults()
        if given.arguments["n_threads"] is not None:
            checked_num_threads(given.arguments["n_threads"], "n_threads")  # of the CPU, which has nothing to do here
        result = function(**given.arguments)
        wait_for_readers(given.arguments.values())
        return result

    return on_device
