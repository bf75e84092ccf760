"""Functions of NumPy's arrays in programs of JAX, and what has to end before Python does."""

import atexit
import contextlib
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.buffer_callback import buffer_callback


def on_host(compute: Callable[..., Any], shapes: Any, *arrays: Any, vmap_method: str = "sequential") -> Any:
    """What this gives for `arrays`, trees of arrays of NumPy, and `room`: those that it may write and give back.

    On the CPU both are in the memory of JAX; from elsewhere arrays are copied, and `room` is None. JAX's pure_callback
    would make arrays of JAX of the arguments, by a copy that waits for a thread of JAX: where each of these is in a
    callback that waits for its copy, they wait forever.
    """
    _wait_at_exit()

    def on_cpu(context: Any, results: Any, *arrays: Any) -> None:
        room = jax.tree.map(np.asarray, results)
        values = compute(*jax.tree.map(np.asarray, arrays), room=room)
        for place, value in zip(jax.tree.leaves(room), jax.tree.leaves(values), strict=True):
            if value is not place:
                place[...] = value

    def copied(*arrays: Any) -> Any:
        return compute(*jax.tree.map(np.asarray, arrays), room=None)

    here = buffer_callback(on_cpu, shapes, vmap_method=vmap_method)
    elsewhere = functools.partial(jax.pure_callback, copied, shapes, vmap_method=vmap_method)
    return jax.lax.platform_dependent(*arrays, cpu=here, default=elsewhere)


@functools.cache
def _wait_at_exit() -> None:
    """Let Python end only when JAX does not call it any more, which would abort the process.

    Hooks are called in the opposite order: before JAX forgets its devices.
    """
    atexit.register(_wait)


def _wait() -> None:
    for device in jax.local_devices():
        # What one thread has called on a device is computed in turn, whether or not anybody holds the results.
        with contextlib.suppress(Exception):
            jax.block_until_ready(jax.jit(_last)(jax.device_put(np.float32(0), device)))
    for array in jax.live_arrays():  # of other threads
        with contextlib.suppress(Exception):
            array.block_until_ready()


def _last(number: jax.Array) -> Any:
    return on_host(lambda number, room: number, jax.ShapeDtypeStruct((), jnp.float32), number)
