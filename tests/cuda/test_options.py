"""The functions for arrays on a GPU take what fastce's own take, by the same names: nothing more, and all of it."""

import inspect
from importlib import import_module

import numpy as np
import pytest

import fastce

pytest.importorskip("numba_cuda")

NOT_ON_DEVICE = {"row_stats", "cross_entropy_grad_and_hess", "threads"}
NAMES = [
    name
    for name in fastce.__all__
    if inspect.isfunction(getattr(fastce, name))
    and hasattr(getattr(fastce, name), "__wrapped__")
    and name not in NOT_ON_DEVICE
    and not name.startswith(("binary", "nll"))
]
SHARED = ("losses", "features", "targets", "panels", "special")  # modules that look at options for others


def test_all_losses_are_among_them():
    assert {"cross_entropy", "logsumexp", "clip_loss", "info_nce_value_and_grad", "linear_cross_entropy"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_an_error(device, name):
    parameters = inspect.signature(getattr(fastce, name)).parameters.values()
    needed = [p.name for p in parameters if p.default is p.empty and p.kind is not p.KEYWORD_ONLY]
    features = device.to_device(np.ones((2, 2), np.float32))
    with pytest.raises(TypeError, match="unexpected keyword argument 'smoothing'"):
        getattr(fastce, name)(*[features for _ in needed], smoothing=0.1)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_is_looked_at(name):
    from fastce.cuda.functions import _HOME, named

    named(name)
    public = getattr(fastce, name)
    home = public.__module__.removeprefix("fastce.")
    modules = {_HOME.get(home, home), *SHARED}
    words = "".join(inspect.getsource(import_module(f"fastce.cuda.{module}")) for module in modules)
    for option in inspect.signature(public).parameters:
        assert option == "n_threads" or f'"{option}"' in words, f"{name} for a GPU never looks at {option}"
