"""Fast losses for NumPy: logsumexp, cross entropy and its gradient in one pass, without a matrix of probabilities.

As in `scipy.special`:

- `logsumexp`, `softmax`, `log_softmax`

Losses on logits; each has a twin `..._value_and_grad`, which gives the gradient too:

- `cross_entropy`; `cross_entropy_value_and_grad`
- `nll_loss`; `nll_loss_value_and_grad`
- `binary_cross_entropy_with_logits`; `binary_cross_entropy_with_logits_value_and_grad`
- `clip_loss`, of a matrix of similarities; `clip_loss_value_and_grad`

Losses from features, whose matrix of logits never exists as a whole:

- `clip_loss_from_features`; `clip_loss_from_features_value_and_grad`
- `siglip_loss`; `siglip_loss_value_and_grad`
- `info_nce`; `info_nce_value_and_grad`
- `nt_xent`; `nt_xent_value_and_grad`
- `sup_con`; `sup_con_value_and_grad`
- `linear_cross_entropy`; `linear_cross_entropy_value_and_grad`

Beside the losses:

- `row_stats`: argmax, entropy, rank of the target and more of every row, from one read
- `recall_at_k` of a retrieval, from features, without the matrix of similarities
- `cross_entropy_value_and_grad_logit_scale` and `linear_cross_entropy_value_and_grad_logit_scale`: a learned
  temperature, without a matrix of gradients
- `calibrate_temperature`: the temperature of least loss, which calibrates a classifier
- `cross_entropy_grad_and_hess`: what gradient boosting asks for; `fastce.objectives` gives it to LightGBM and XGBoost
- `threads`, `get_num_threads`, `set_num_threads`: how many threads compute
- `deferred`: losses on a GPU that nothing waits for
- `LogSumExp`: a running logsumexp of blocks, which merges with others
- `warmup`: compile ahead of the first call
- `show_config`: what fastce runs on

All functions take arrays of these kinds, also mixed. Results that are arrays are of the kind of the first argument;
sums and means are floats of Python.

=======================  ===================================  =======================
Given                    Read                                 Results
=======================  ===================================  =======================
NumPy arrays, memmaps    as they lie                          NumPy arrays
Lists, buffers, DLPack   lists are copied, others not         NumPy arrays
Numbers, no dimensions   as in SciPy                          scalars of NumPy
PyTorch, on the CPU      as they lie; bfloat16 needs the      tensors; `out` may be one
                         package ml_dtypes
JAX, on the CPU          as they lie                          JAX arrays, of at most 32
                                                              bits unless x64 is on
Array API standard       as NumPy reads them                  of their library
pandas, polars           converted: names, index and units    NumPy arrays
                         are lost, rows count as they stand,
                         a missing value is NaN (among class
                         indices an error)
xarray                   converted: axes go by their place,   NumPy arrays
                         their names, coordinates and
                         attributes are lost
On an NVIDIA GPU         there, by most functions             there: of PyTorch, CuPy
                                                              or Numba
Tensor, requires grad    by `fastce.torch`; here a TypeError  tensors
Traced by JAX            by `fastce.jax`; here a TypeError    arrays of JAX
Dask                     not read: `fastce.dask`, by the      arrays of Dask
                         functions that are there, else a
                         TypeError: map_blocks
Dask in xarray           TypeError: give its `data`
LazyFrame of polars      TypeError: collect
Masked, object, strings  TypeError
=======================  ===================================  =======================

>>> import array, fastce
>>> fastce.softmax(array.array("d", [0.0, 0.0]))
array([0.5, 0.5])
>>> fastce.softmax(3.0)
np.float64(1.0)

`fastce.torch` has differentiable functions of tensors, and modules; `fastce.jax` such functions of JAX's arrays;
`fastce.objectives` what LightGBM and XGBoost train with. `fastce.streaming` is for what is larger than memory,
`fastce.dask` for a cluster; `fastce.typing` has the types of arguments and results. All other modules are fastce's own:
they may change at any time.

Importing fastce is quick and compiles nothing: each function is loaded when it is first used, and its kernels are
compiled, or read from the cache on disk, when they are first called.
"""

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastce.apart import load
from fastce.arguments.deferring import deferred
from fastce.cpu.threads import get_num_threads, set_num_threads, threads

__version__ = "0.1.0"

_HOME = {
    "binary_cross_entropy_with_logits": "losses.binary",
    "binary_cross_entropy_with_logits_value_and_grad": "losses.binary",
    "LogSumExp": "streaming.running",
    "calibrate_temperature": "losses.calibration",
    "clip_loss": "losses.clip",
    "clip_loss_from_features": "losses.clip_from_features",
    "clip_loss_from_features_value_and_grad": "losses.clip_from_features",
    "clip_loss_value_and_grad": "losses.clip",
    "cross_entropy": "losses.cross_entropy",
    "cross_entropy_grad_and_hess": "losses.boosting",
    "cross_entropy_value_and_grad": "losses.cross_entropy",
    "cross_entropy_value_and_grad_logit_scale": "losses.logit_scale",
    "info_nce": "losses.info_nce",
    "info_nce_value_and_grad": "losses.info_nce",
    "linear_cross_entropy": "losses.linear",
    "linear_cross_entropy_value_and_grad": "losses.linear",
    "linear_cross_entropy_value_and_grad_logit_scale": "losses.linear_logit_scale",
    "log_softmax": "losses.softmax",
    "logsumexp": "losses.softmax",
    "nll_loss": "losses.nll",
    "nll_loss_value_and_grad": "losses.nll",
    "nt_xent": "losses.nt_xent",
    "nt_xent_value_and_grad": "losses.nt_xent",
    "recall_at_k": "losses.recall",
    "row_stats": "losses.statistics",
    "show_config": "configuration",
    "siglip_loss": "losses.siglip",
    "siglip_loss_value_and_grad": "losses.siglip",
    "softmax": "losses.softmax",
    "sup_con": "losses.sup_con",
    "sup_con_value_and_grad": "losses.sup_con",
    "warmup": "configuration",
}

_MODULES = {"dask", "jax", "objectives", "streaming", "torch", "typing"}

__all__ = [
    "LogSumExp",
    "binary_cross_entropy_with_logits",
    "binary_cross_entropy_with_logits_value_and_grad",
    "calibrate_temperature",
    "clip_loss",
    "clip_loss_from_features",
    "clip_loss_from_features_value_and_grad",
    "clip_loss_value_and_grad",
    "cross_entropy",
    "cross_entropy_grad_and_hess",
    "cross_entropy_value_and_grad",
    "cross_entropy_value_and_grad_logit_scale",
    "deferred",
    "get_num_threads",
    "info_nce",
    "info_nce_value_and_grad",
    "linear_cross_entropy",
    "linear_cross_entropy_value_and_grad",
    "linear_cross_entropy_value_and_grad_logit_scale",
    "log_softmax",
    "logsumexp",
    "nll_loss",
    "nll_loss_value_and_grad",
    "nt_xent",
    "nt_xent_value_and_grad",
    "recall_at_k",
    "row_stats",
    "set_num_threads",
    "show_config",
    "siglip_loss",
    "siglip_loss_value_and_grad",
    "softmax",
    "sup_con",
    "sup_con_value_and_grad",
    "threads",
    "warmup",
]


if TYPE_CHECKING:  # so that a checker knows every name, and a wrong one
    from fastce import dask as dask
    from fastce import jax as jax
    from fastce import objectives as objectives
    from fastce import streaming as streaming
    from fastce import torch as torch
    from fastce import typing as typing
    from fastce.configuration import show_config, warmup
    from fastce.losses.binary import binary_cross_entropy_with_logits, binary_cross_entropy_with_logits_value_and_grad
    from fastce.losses.boosting import cross_entropy_grad_and_hess
    from fastce.losses.calibration import calibrate_temperature
    from fastce.losses.clip import clip_loss, clip_loss_value_and_grad
    from fastce.losses.clip_from_features import clip_loss_from_features, clip_loss_from_features_value_and_grad
    from fastce.losses.cross_entropy import cross_entropy, cross_entropy_value_and_grad
    from fastce.losses.info_nce import info_nce, info_nce_value_and_grad
    from fastce.losses.linear import linear_cross_entropy, linear_cross_entropy_value_and_grad
    from fastce.losses.linear_logit_scale import linear_cross_entropy_value_and_grad_logit_scale
    from fastce.losses.logit_scale import cross_entropy_value_and_grad_logit_scale
    from fastce.losses.nll import nll_loss, nll_loss_value_and_grad
    from fastce.losses.nt_xent import nt_xent, nt_xent_value_and_grad
    from fastce.losses.recall import recall_at_k
    from fastce.losses.siglip import siglip_loss, siglip_loss_value_and_grad
    from fastce.losses.softmax import log_softmax, logsumexp, softmax
    from fastce.losses.statistics import row_stats
    from fastce.losses.sup_con import sup_con, sup_con_value_and_grad
    from fastce.streaming.running import LogSumExp
else:

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return load(partial(import_module, f"fastce.{name}"))
        if name not in _HOME:
            raise AttributeError(f"module 'fastce' has no attribute {name!r}")
        value = getattr(load(partial(import_module, f"fastce.{_HOME[name]}")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
