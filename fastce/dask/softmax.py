"""logsumexp and softmax of Dask arrays in any chunks: states of chunks merge by the one law, in a tree.

A state travels as two numbers of each row, (top, rest): see fastce/cpu/running.py.
"""

from functools import partial
from typing import Any

import dask.array as da
import numpy as np

from fastce.arguments.arrays import Array, kernel_dtype, reduced_axes
from fastce.arguments.silence import cast
from fastce.cpu.running import States, softmax_of_states, states_over
from fastce.dask.features import dask_array
from fastce.dask.tasks import in_share
from fastce.losses.softmax import log_softmax as plain_log_softmax
from fastce.losses.softmax import logsumexp as plain_logsumexp
from fastce.losses.softmax import softmax as plain_softmax
from fastce.typing import Axes

AT_A_TIME = 8  # states that one task merges, whatever Dask's configuration says: the tree is part of the result
STATE = np.dtype([("top", np.float64), ("rest", np.float64)])


def logsumexp(a: Any, axis: Axes | None = None, keepdims: bool = False, *, n_threads: int | None = None) -> Any:
    """As `fastce.logsumexp`, of a Dask array in any chunks.

    Parameters
    ----------
    a : dask.array.Array
        Of real numbers.
    axis, keepdims
        As in `fastce.logsumexp`; there is no ``b`` and no ``return_sign``.
    n_threads : int, optional
        Of a task, one by default.

    Returns
    -------
    dask.array.Array
        As `fastce.logsumexp` gives it.

    Notes
    -----
    The same chunks give the same bits, however many workers there are.

    Examples
    --------
    >>> import dask.array as da, fastce.dask
    >>> logits = da.zeros((2, 4), chunks=(2, 3), dtype="float32")
    >>> fastce.dask.logsumexp(logits, axis=1).compute()
    array([1.3862944, 1.3862944], dtype=float32)
    """
    array = dask_array(a, "a")
    axes = reduced_axes(array, axis)
    if not axes:
        return array.astype(kernel_dtype(array.dtype))
    dtype = kernel_dtype(array.dtype)
    if all(array.numblocks[k] == 1 for k in axes):
        of_block, blocks = in_share(partial(plain_logsumexp, axis=axes, keepdims=True), n_threads), array
    else:
        of_block, blocks = partial(_logsumexp, dtype=dtype), _states(array, axes, n_threads)
    # Not map_blocks's own drop_axis: that copies chunks, to concatenate them with none.
    chunks = tuple((1,) if k in axes else n for k, n in enumerate(array.chunks))
    result = blocks.map_blocks(of_block, dtype=dtype, meta=np.empty((0,) * array.ndim, dtype), chunks=chunks)
    return result if keepdims else da.squeeze(result, axis=axes)


def softmax(x: Any, axis: Axes | None = None, *, n_threads: int | None = None) -> Any:
    """As `fastce.softmax`, of a Dask array in any chunks.

    Parameters
    ----------
    x : dask.array.Array
        Of real numbers.
    axis
        As in `fastce.softmax`.
    n_threads : int, optional
        Of a task, one by default.

    Returns
    -------
    dask.array.Array
        In the chunks of `x`. Where an axis is in several chunks, each of them is used twice: it is computed, or read,
        again unless it is kept (`x.persist()`) or still there.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> logits = da.from_array(np.array([[0.0, np.log(3.0)]]), chunks=1)
    >>> fastce.dask.softmax(logits, axis=1).compute()
    array([[0.25, 0.75]])
    """
    return _softmax(x, axis, n_threads, logarithm=False)


def log_softmax(x: Any, axis: Axes | None = None, *, n_threads: int | None = None) -> Any:
    """As `fastce.log_softmax`, of a Dask array in any chunks.

    Parameters
    ----------
    x, axis, n_threads
        As in `softmax`.

    Returns
    -------
    dask.array.Array
        As of `softmax`.

    Examples
    --------
    >>> import dask.array as da, numpy as np, fastce.dask
    >>> fastce.dask.log_softmax(da.from_array(np.array([1000.0, 1.0]), chunks=1)).compute()
    array([   0., -999.])
    """
    return _softmax(x, axis, n_threads, logarithm=True)


def _softmax(x: Any, axis: Any, n_threads: int | None, *, logarithm: bool) -> Any:
    array = dask_array(x, "x")
    axes, dtype = reduced_axes(array, axis), kernel_dtype(array.dtype)
    if all(array.numblocks[k] == 1 for k in axes):
        plain = plain_log_softmax if logarithm else plain_softmax
        return array.map_blocks(in_share(plain, n_threads), axis=axes, dtype=dtype, meta=np.empty(0, dtype))
    of_block = in_share(partial(_softmax_of_block, axes=axes, logarithm=logarithm), n_threads)
    states = _states(array, axes, n_threads)
    return da.map_blocks(of_block, array, states, dtype=dtype, meta=np.empty(0, dtype), chunks=array.chunks)


def _states(array: Any, axes: tuple[int, ...], n_threads: int | None) -> Any:
    """The states of all rows, with the reduced axes kept."""
    return da.reduction(
        array, in_share(_states_of_chunk, n_threads), _merged, axis=axes, keepdims=True, dtype=STATE, combine=_merged,
        split_every=AT_A_TIME, meta=np.empty((0,) * array.ndim, STATE),
    )  # fmt: skip


def _states_of_chunk(block: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    shape = [1 if k in axis else n for k, n in enumerate(block.shape)]
    tops, rests = states_over(block, tuple(axis), None)
    result = np.empty(shape, STATE)
    result["top"], result["rest"] = tops.reshape(shape), rests.reshape(shape)
    return result


def _merged(states: Array, axis: tuple[int, ...], keepdims: bool) -> Array:
    """The states of all elements along these axes, from first to last."""
    for k in axis:
        parts = [States(part["top"], part["rest"]) for part in np.split(states, range(1, states.shape[k]), axis=k)]
        total = parts[0]
        for part in parts[1:]:
            total = total.merged(part)
        states = np.empty(total.tops.shape, STATE)
        states["top"], states["rest"] = total
    return states


def _logsumexp(states: Array, dtype: np.dtype[Any]) -> Array:
    return cast(States(states["top"], states["rest"]).logsumexp(), dtype)


def _softmax_of_block(block: Array, states: Array, axes: tuple[int, ...], logarithm: bool) -> Array:
    return softmax_of_states(block, axes, States(states["top"].ravel(), states["rest"].ravel()), logarithm)
