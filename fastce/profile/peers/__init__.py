"""Who is measured: fastce, and other libraries where they are installed, one wrapper each.

None is imported before one of its jobs is prepared.
"""

from functools import partial
from importlib.util import find_spec

from fastce.profile.peers import fastce, jax, numpy, sklearn, torch
from fastce.profile.work import Engine

PACKAGES = {"scipy": "scipy", "torch": "torch", "jax": "jax", "sklearn": "scikit-learn"}
PEERS = tuple(PACKAGES)
ENGINES: dict[str, Engine] = {
    "fastce": Engine(fastce.has, fastce.prepare, "fastce"),
    "torch.compile": Engine(torch.has, partial(torch.prepare, compiled=True), "torch"),
    "jax": Engine(jax.has, jax.prepare, "jax"),
    "torch": Engine(torch.has, torch.prepare, "torch"),
    "sklearn": Engine(sklearn.has, sklearn.prepare, "sklearn"),
    "numpy": Engine(numpy.has, numpy.prepare, "numpy"),
    "scipy": Engine(numpy.scipy_has, numpy.prepare_scipy, "scipy"),
    "numpy/scipy": Engine(numpy.has, numpy.prepare_either, "scipy"),
}
OF_PEER: dict[str, tuple[str, ...]] = {
    "scipy": ("numpy/scipy",),
    "torch": ("torch", "torch.compile"),
    "jax": ("jax",),
    "sklearn": ("sklearn",),
}


def is_installed(peer: str) -> bool:
    """Whether a peer can be imported; nothing is imported to find out."""
    return find_spec(peer) is not None
