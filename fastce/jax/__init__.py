"""In JAX: differentiable losses on the CPU, under jit, grad and vmap.

>>> import jax, jax.numpy as jnp, fastce.jax
>>> step = jax.jit(jax.value_and_grad(fastce.jax.cross_entropy))
>>> value, grad = step(jnp.array([[2.0, 0.5, -1.0], [0.1, 1.2, 0.3]]), jnp.array([0, 2]))
>>> round(float(value), 4), grad.shape
(0.8474, (2, 3))

They take the arguments of the functions of `fastce` of the same names. Features, logits, and the learned `logit_scale`,
`logit_bias` and `temperature` of contrastive losses have gradients; targets and weights have none, which an error says.
Options such as `label_smoothing`, `normalize` and `reduction` are Python's values, not traced. Value and gradients come
from one pass, and the value alone where no gradient is asked for. The loss has the dtype of the first argument.

**On the CPU** arrays are read where they lie, by `jax.experimental.buffer_callback`; from other devices they are copied
by `jax.pure_callback`. What fastce says of wrong arguments stands at the end of a `JaxRuntimeError`.

**vmap** calls fastce once for each element of the mapped axis, one after the other.

**Not there**: ``reduction="none"`` (an error), softmaxes (`jax.nn` has them), second derivatives and forward mode: JAX
refuses these, as "Buffer callbacks do not support JVP" or "can't apply forward-mode autodiff". Work is not shared
between devices: what is sharded is gathered, and computed whole.

It needs JAX with `jax.experimental.buffer_callback`, which `import fastce` does not import; it is tested with 0.10.
"""

try:
    import jax.experimental.buffer_callback as _of_jax  # noqa: F401
except ImportError as _error:
    raise ImportError("fastce.jax needs a recent JAX: pip install --upgrade jax", name=_error.name) from None

from fastce.jax.losses import (
    binary_cross_entropy_with_logits,
    clip_loss,
    clip_loss_from_features,
    cross_entropy,
    info_nce,
    linear_cross_entropy,
    nt_xent,
    siglip_loss,
    sup_con,
)

__all__ = [
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "clip_loss_from_features",
    "cross_entropy",
    "info_nce",
    "linear_cross_entropy",
    "nt_xent",
    "siglip_loss",
    "sup_con",
]
