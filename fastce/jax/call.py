"""A loss as JAX differentiates it: value and gradients in one callback, forward, and scaled backward.

Gradients of losses that are not reduced, and of float16, wait for what they are multiplied by (`Twins.waits`).
"""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from fastce.arguments.numbers import reduction_of
from fastce.jax.host import on_host
from fastce.losses.twins import Twins


def call(loss: Twins, inputs: Mapping[str, Any], others: Mapping[str, Any], **options: Any) -> jax.Array:
    """The loss: of inputs that have gradients, other arrays that have none, and static options."""
    reduction_of(options["reduction"])
    static = tuple((name, _static(loss, name, value)) for name, value in options.items())
    given = {name: jnp.asarray(value) for name, value in inputs.items() if value is not None}
    arrays = {name: jnp.asarray(value) for name, value in others.items() if value is not None}
    check_floats(loss.name, *next(iter(given.items())))
    value: jax.Array = _loss(loss, static, given, arrays)
    return value


def check_floats(function: str, name: str, array: jax.Array) -> None:
    """Complain about integers, which have no gradient."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} of fastce.jax.{function} must be floats, got {array.dtype}")


def learned_or_not(logit_scale: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The scale among inputs if it is an array of JAX, traced or not, which may have a gradient; or among options."""
    named = {"logit_scale": logit_scale}
    return (named, {}) if isinstance(logit_scale, jax.Array) else ({}, named)


def _static(loss: Twins, name: str, value: Any) -> Any:
    """An option as a value of Python."""
    is_traced = isinstance(value, jax.core.Tracer)
    if not is_traced and hasattr(value, "item") and np.size(value) == 1:
        value = value.item()
    if is_traced or not isinstance(value, Hashable):
        kind = type(value).__name__
        raise TypeError(
            f"{name} of fastce.jax.{loss.name} must be a single Python value that JAX does not trace, got {kind}"
        )
    return value


def _about_value(loss: Twins, options: Any, given: Mapping[str, Any]) -> jax.ShapeDtypeStruct:
    first = given[loss.of[0]]
    shape = loss.shape(first.shape) if dict(options)["reduction"] == "none" else ()
    return jax.ShapeDtypeStruct(shape, first.dtype)


def _value(loss: Twins, options: Any, given: dict[str, Any], arrays: dict[str, Any]) -> jax.Array:
    about = _about_value(loss, options, given)

    def host(given: Any, arrays: Any, room: Any) -> Any:
        return np.asarray(loss.value(**given, **arrays, **dict(options))).astype(about.dtype)

    value: jax.Array = on_host(host, about, given, arrays)
    return value


def _gradients(
    loss: Twins, options: Any, names: tuple[str, ...], given: dict[str, Any], arrays: dict[str, Any], **more: Any
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """The value, and the gradients of the arguments of these names; `more` are arrays, too."""
    twins, about = loss.giving(names), _about_value(loss, options, given)

    def host(given: Any, arrays: Any, more: Any, room: Any) -> Any:
        out = {"out": room[1][twins.written]} if room and twins.written in names else {}
        value, *gradients = twins.value_and_grad(**given, **arrays, **more, **out, **dict(options))
        by_name = dict(zip(twins.of, gradients, strict=True))
        return np.asarray(value).astype(about.dtype), {name: _like(by_name[name], given[name]) for name in names}

    shapes = {name: jax.ShapeDtypeStruct(given[name].shape, given[name].dtype) for name in names}
    value, gradients = on_host(host, (about, shapes), given, arrays, more)
    return value, gradients


def _like(gradient: Any, given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The gradient of an array, which it may be itself, or of the number that stood for one."""
    if isinstance(gradient, float):
        return np.full(given.shape, gradient, given.dtype)
    of_array: np.ndarray[Any, Any] = gradient.astype(given.dtype, copy=False)
    return of_array


def _forward(loss: Twins, options: Any, given: dict[str, Any], arrays: dict[str, Any]) -> Any:
    for name, array in arrays.items():
        if array.perturbed and jnp.issubdtype(array.value.dtype, jnp.floating):
            raise TypeError(
                f"fastce.jax.{loss.name} has no gradient for {name}: give jax.lax.stop_gradient({name}), or "
                "differentiate by other arguments"
            )
    names = tuple(name for name, array in given.items() if array.perturbed)
    given, arrays = ({name: array.value for name, array in some.items()} for some in (given, arrays))
    if loss.waits(dict(options)["reduction"], given[loss.of[0]].dtype == jnp.float16):
        return _value(loss, options, given, arrays), (dict.fromkeys(names), given, arrays)
    value, gradients = _gradients(loss, options, names, given, arrays)
    return value, (gradients, dict.fromkeys(given), dict.fromkeys(arrays))


def _backward(loss: Twins, options: Any, kept: Any, grad_output: Any) -> Any:
    gradients, given, arrays = kept
    nothing = dict.fromkeys(given), dict.fromkeys(arrays)
    if isinstance(grad_output, jax.custom_derivatives.SymbolicZero):
        return nothing
    if loss.waits(dict(options)["reduction"], grad_output.dtype == jnp.float16):
        _, gradients = _gradients(loss, options, tuple(gradients), given, arrays, grad_output=grad_output)
    else:
        factor = _factor_for_all(loss, grad_output)
        gradients = {name: (factor * gradient).astype(gradient.dtype) for name, gradient in gradients.items()}
    return nothing[0] | gradients, nothing[1]


def _factor_for_all(loss: Twins, grad_output: jax.Array) -> jax.Array:
    """What the gradients of a sum are multiplied by: of losses that are not reduced, what all of them have."""
    if grad_output.ndim == 0:
        return grad_output
    about = jax.ShapeDtypeStruct((), grad_output.dtype)

    def host(grad_output: Any, room: Any) -> Any:
        first = grad_output.reshape(-1)[0] if grad_output.size else about.dtype.type(1)
        if not np.array_equal(grad_output, np.broadcast_to(first, grad_output.shape), equal_nan=True):
            raise ValueError(
                f'fastce.jax.{loss.name} with reduction="none" has the gradient of a sum or mean of its losses, not of '
                "any weighted sum of them"
            )
        return first

    factor: jax.Array = on_host(host, about, grad_output)
    return factor


def _differentiable(value: Callable[..., Any]) -> Callable[..., Any]:
    differentiated = jax.custom_vjp(value, nondiff_argnums=(0, 1))
    differentiated.defvjp(_forward, _backward, symbolic_zeros=True)
    compiled: Callable[..., Any] = jax.jit(differentiated, static_argnums=(0, 1))  # once, outside of jit too
    return compiled


_loss = _differentiable(_value)
"""The losses of fastce as JAX differentiates them."""
