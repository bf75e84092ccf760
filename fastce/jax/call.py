"""A loss as JAX differentiates it: value and gradients in one callback, forward, and scaled backward."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback

from fastce.losses.twins import Twins


def call(loss: Twins, inputs: Mapping[str, Any], others: Mapping[str, Any], **options: Any) -> jax.Array:
    """The reduced loss: of inputs that have gradients, other arrays that have none, and static options."""
    _check_options(loss, options)
    given = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
    arrays = {name: jnp.asarray(value) for name, value in others.items() if value is not None}
    first = next(iter(given.values()))
    if not jnp.issubdtype(first.dtype, jnp.floating):
        raise TypeError(f"{next(iter(given))} of fastce.jax.{loss.name} must be floats, got {first.dtype}")
    value: jax.Array = _loss(loss, tuple(options.items()), given, arrays)
    return value


def _check_options(loss: Twins, options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, jax.core.Tracer):
            raise TypeError(f"{name} of fastce.jax.{loss.name} must be a Python value that JAX does not trace")
    if options.get("reduction") not in ("mean", "sum"):
        raise ValueError(
            f"reduction of fastce.jax.{loss.name} must be 'mean' or 'sum', got {options.get('reduction')!r}"
        )


def _dtype_of_value(given: Mapping[str, Any]) -> Any:
    return next(iter(given.values())).dtype


def _on_host(compute: Callable[..., Any], shapes: Any, *arrays: Any) -> Any:
    """What this gives for dictionaries of arrays of NumPy.

    On the CPU in the memory of JAX. Its pure_callback would make arrays of JAX of the arguments, by a copy that waits
    for a thread of JAX: where each of these is in a callback that waits for its copy, they wait forever.
    """

    def on_cpu(context: Any, results: Any, *arrays: Any) -> None:
        leaves = zip(jax.tree.leaves(results), jax.tree.leaves(compute(*arrays)), strict=True)
        for result, value in leaves:
            np.asarray(result)[...] = value

    return jax.lax.platform_dependent(
        *arrays,
        cpu=buffer_callback(on_cpu, shapes, vmap_method="sequential"),
        default=lambda *arrays: jax.pure_callback(compute, shapes, *arrays, vmap_method="sequential"),
    )


def _compute(function: Callable[..., Any], given: Mapping[str, Any], arrays: Mapping[str, Any], options: Any) -> Any:
    return function(**{name: np.asarray(value) for name, value in {**given, **arrays}.items()}, **dict(options))


def _value(loss: Twins, options: Any, given: dict[str, Any], arrays: dict[str, Any]) -> jax.Array:
    dtype = _dtype_of_value(given)

    def host(given: Any, arrays: Any) -> Any:
        return np.asarray(_compute(loss.value, given, arrays, options)).astype(dtype)

    value: jax.Array = _on_host(host, jax.ShapeDtypeStruct((), dtype), given, arrays)
    return value


def _forward(loss: Twins, options: Any, given: dict[str, Any], arrays: dict[str, Any]) -> Any:
    for name, array in arrays.items():
        if array.perturbed and jnp.issubdtype(array.value.dtype, jnp.floating):
            raise TypeError(
                f"fastce.jax.{loss.name} has no gradient for {name}: give jax.lax.stop_gradient({name}), or "
                "differentiate by other arguments"
            )
    given, arrays = ({name: array.value for name, array in some.items()} for some in (given, arrays))
    dtype = _dtype_of_value(given)

    def host(given: Any, arrays: Any) -> Any:
        value, *gradients = _compute(loss.value_and_grad, given, arrays, options)
        by_name = dict(zip(loss.of, gradients, strict=True))
        return np.asarray(value).astype(dtype), {
            name: np.asarray(by_name[name]).astype(array.dtype).reshape(array.shape) for name, array in given.items()
        }

    shapes = (
        jax.ShapeDtypeStruct((), dtype),
        {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in given.items()},
    )
    value, gradients = _on_host(host, shapes, given, arrays)
    return value, (gradients, arrays)


def _backward(loss: Twins, options: Any, kept: Any, grad_output: Any) -> Any:
    gradients, arrays = kept
    if isinstance(grad_output, jax.custom_derivatives.SymbolicZero):
        grad_output = jnp.zeros(grad_output.shape, grad_output.dtype)
    scaled = {name: (grad_output * gradient).astype(gradient.dtype) for name, gradient in gradients.items()}
    return scaled, {name: _nothing(array) for name, array in arrays.items()}


def _nothing(array: Any) -> Any:
    """The cotangent of what has no gradient."""
    if jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.zeros_like(array)
    return np.zeros(array.shape, jax.dtypes.float0)


_loss = jax.custom_vjp(_value, nondiff_argnums=(0, 1))
_loss.defvjp(_forward, _backward, symbolic_zeros=True)
