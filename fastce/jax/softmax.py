"""logsumexp, softmax and log_softmax along axes, with the signatures of jax.nn."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastce.arguments.arrays import reduced_axes
from fastce.arguments.numbers import flag
from fastce.jax.call import check_floats
from fastce.jax.host import on_host
from fastce.losses import softmax as of_arrays
from fastce.typing import Axes

_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "logsumexp": lambda x, axis, out: of_arrays.logsumexp(x, axis, keepdims=True),
    "softmax": of_arrays.softmax,
    "log_softmax": of_arrays.log_softmax,
}


def logsumexp(a: Any, axis: Axes | None = None, *, keepdims: bool = False) -> jax.Array:
    """Logarithm of the sum of exponentials along one axis or several, as `jax.nn.logsumexp`.

    Parameters
    ----------
    a : Array
        Of floats. Its dtypes are computed as by `fastce.logsumexp`.
    axis : int or tuple of int, optional
        Axes that are summed over; all by default.
    keepdims : bool, default: False
        Keep these with length 1.

    Returns
    -------
    Array
        Of the dtype of `a`.

    Raises
    ------
    ValueError, TypeError
        As in `fastce.logsumexp`; also for integers.

    Notes
    -----
    It has derivatives of any order, forward and reverse.

    Examples
    --------
    >>> import jax, jax.numpy as jnp, fastce.jax
    >>> fastce.jax.logsumexp(jnp.zeros((2, 4)), axis=1)
    Array([1.3862944, 1.3862944], dtype=float32)
    >>> jax.grad(fastce.jax.logsumexp)(jnp.zeros(4))
    Array([0.25, 0.25, 0.25, 0.25], dtype=float32)
    """
    a, axes = _checked("logsumexp", "a", a, axis)
    result = _along("logsumexp", a, axes)
    return result if flag(keepdims, "keepdims") else jnp.squeeze(result, axes)


def softmax(x: Any, axis: Axes | None = -1) -> jax.Array:
    """Softmax along one axis or several, as `jax.nn.softmax`: the last by default.

    Parameters
    ----------
    x : Array
        Of floats.
    axis : int or tuple of int or None, default: -1
        Axes that sum to 1 together; None for all. (The default of `fastce.softmax`, as SciPy's, is all.)

    Returns
    -------
    Array
        Of the shape and dtype of `x`.

    Raises
    ------
    ValueError, TypeError
        As in `fastce.softmax`; also for integers.

    Notes
    -----
    As of `logsumexp`.

    Examples
    --------
    >>> import jax.numpy as jnp, fastce.jax
    >>> fastce.jax.softmax(jnp.array([[0.0, 1.0], [0.0, 0.0]]))
    Array([[0.26894143, 0.7310586 ],
           [0.5       , 0.5       ]], dtype=float32)
    """
    return _along("softmax", *_checked("softmax", "x", x, axis))


def log_softmax(x: Any, axis: Axes | None = -1) -> jax.Array:
    """Logarithm of softmax along one axis or several, as `jax.nn.log_softmax`: the last by default.

    Parameters
    ----------
    x, axis
        As in `softmax`.

    Returns
    -------
    Array
        As of `softmax`.

    Raises
    ------
    ValueError, TypeError
        As in `softmax`.

    Notes
    -----
    As of `logsumexp`.

    Examples
    --------
    >>> import jax.numpy as jnp, fastce.jax
    >>> fastce.jax.log_softmax(jnp.array([1000.0, 1.0]))
    Array([   0., -999.], dtype=float32)
    """
    return _along("log_softmax", *_checked("log_softmax", "x", x, axis))


def _checked(function: str, name: str, x: Any, axis: Any) -> tuple[jax.Array, tuple[int, ...]]:
    """The array and its axes, counted from the last: so they are the same ones under vmap."""
    x = jnp.asarray(x)
    check_floats(function, name, x)
    like = np.broadcast_to(np.float32(0), x.shape)
    return x, tuple(sorted(k - x.ndim for k in reduced_axes(like, axis)))


@functools.partial(jax.jit, static_argnums=(0, 2))
@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 2))
def _along(name: str, x: jax.Array, axes: tuple[int, ...]) -> Any:
    """The result; of logsumexp with its axes kept."""
    lengths = [1 if name == "logsumexp" and k - x.ndim in axes else n for k, n in enumerate(x.shape)]
    about = jax.ShapeDtypeStruct(tuple(lengths), x.dtype)
    return on_host(lambda x, room: _FUNCTIONS[name](x, axis=axes, out=room), about, x, vmap_method="expand_dims")


def _derivative(name: str, axes: tuple[int, ...], primals: Any, tangents: Any) -> Any:
    """Of the result and the formulas of JAX alone, which JAX transposes and differentiates again."""
    (x,), (tangent,) = primals, tangents
    result = _along(name, x, axes)
    dtype = jnp.promote_types(x.dtype, jnp.float32)
    wide, given, change = (array.astype(dtype) for array in (result, x, tangent))

    def total(array: Any) -> Any:
        return jnp.sum(array, axis=axes, keepdims=True)

    if name == "softmax":
        weighted = wide * change
        of_result = weighted - wide * total(weighted)
    elif name == "log_softmax":
        of_result = change - total(jnp.exp(wide) * change)
    else:
        top = jnp.where(jnp.isinf(wide), 0.0, wide)  # all are -inf, or one of them is +inf
        of_result = total(jnp.exp(given - top) * change)
    return result, of_result.astype(result.dtype)


_along.__wrapped__.defjvp(_derivative)
