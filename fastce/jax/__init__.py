"""In JAX: differentiable losses and softmaxes on the CPU, under jit, grad and vmap.

>>> import jax, jax.numpy as jnp, fastce.jax
>>> step = jax.jit(jax.value_and_grad(fastce.jax.cross_entropy))
>>> value, grad = step(jnp.array([[2.0, 0.5, -1.0], [0.1, 1.2, 0.3]]), jnp.array([0, 2]))
>>> round(float(value), 4), grad.shape
(0.8474, (2, 3))

They take the arguments of the functions of `fastce` of the same names:

- `cross_entropy`, `linear_cross_entropy`, `binary_cross_entropy_with_logits`
- `clip_loss`, `clip_loss_from_features`, `siglip_loss`, `info_nce`, `nt_xent`, `sup_con`

but `logsumexp`, `softmax` and `log_softmax` those of `jax.nn`, where the axis is the last one by default.

**What has a gradient.** Logits, features, and the linear layer's weight and bias; the learned `logit_scale`,
`logit_bias` and `temperature` of contrastive losses, and `logit_scale` of `cross_entropy` and `linear_cross_entropy` if
it is an array. Targets and weights have none, which an error says. Other options, as `label_smoothing` and `reduction`,
are Python's values, not traced.

**What is computed when.** Value and gradients come from one pass, forward, and the value alone where no gradient is
asked for. Gradients of losses that are not reduced (``reduction="none"``), and of float16, are computed backward, when
it is known what they are multiplied by. Losses that are not reduced have the gradient of any weighted sum of them among
those of rows; contrastive ones that of their sum or mean.

**Dtypes.** float32, float64 (where `jax_enable_x64` is set), bfloat16 and float16; the loss has the dtype of the first
argument. Integers are refused.

**On the CPU** arrays are read where they lie, by `jax.experimental.buffer_callback`; from other devices they are copied
by `jax.pure_callback`. What fastce says of wrong arguments stands at the end of a `JaxRuntimeError`.

**At the end** of a program Python waits for what its main thread has called and for arrays that anybody holds, since a
callback into a Python that ends would abort it. What another thread has called and let go, wait for yourself.

**vmap** calls softmaxes once for all elements of the mapped axis, but losses once for each, one after the other: the
losses of all rows of a batch come faster from one call with ``reduction="none"``.

**Not there**: second derivatives and forward mode of losses (softmaxes have both): JAX refuses these, as "Buffer
callbacks do not support JVP" or "can't apply forward-mode autodiff". Work is not shared between devices: what is
sharded is gathered, and computed whole.

It needs JAX with `jax.experimental.buffer_callback`, which `import fastce` does not import; it is tested with 0.10.
"""

try:
    import jax.experimental.buffer_callback as _of_jax  # noqa: F401
except ImportError as _error:
    raise ImportError("fastce.jax needs a recent JAX: pip install --upgrade jax", name=_error.name) from None

from fastce.jax.contrastive import (
    clip_loss,
    clip_loss_from_features,
    info_nce,
    nt_xent,
    siglip_loss,
    sup_con,
)
from fastce.jax.rows import binary_cross_entropy_with_logits, cross_entropy, linear_cross_entropy
from fastce.jax.softmax import log_softmax, logsumexp, softmax

__all__ = [
    "binary_cross_entropy_with_logits",
    "clip_loss",
    "clip_loss_from_features",
    "cross_entropy",
    "info_nce",
    "linear_cross_entropy",
    "log_softmax",
    "logsumexp",
    "nt_xent",
    "siglip_loss",
    "softmax",
    "sup_con",
]
