"""The running logsumexp of blocks."""

from typing import Any

import numpy as np

from fastce.arguments.arrays import common_dtype, kernel_dtype, real_array, reduced_axes
from fastce.arguments.libraries import read, refuse_without_values
from fastce.arguments.places import is_on_device
from fastce.arguments.silence import cast
from fastce.arguments.words import shown
from fastce.cpu.running import States, states_over
from fastce.engine import cuda_functions
from fastce.typing import Axes


class LogSumExp:
    """Logarithm of a sum of exponentials that comes in blocks, in any order, and from anywhere.

    Its state is (m, r), of every row: the largest element so far, and the sum of exp(x - m) over all others. Two states
    merge without losing digits, so that blocks may be added here, or in other threads, processes and machines, and
    merged. A state is pickled with its arrays of the size of the result, nothing else.

    Notes
    -----
    Errors are those of `fastce.logsumexp`, and one rounding of float64 for each merge. The result depends on the order
    of merges in its last bit of float64 only. Blocks that are empty, -inf, NaN or +inf count as in `fastce.logsumexp`.

    References
    ----------
    .. [1] M. Milakov, N. Gimelshein, "Online normalizer calculation for softmax", 2018.

    Examples
    --------
    >>> import numpy as np, fastce
    >>> logits = np.random.default_rng(0).normal(size=(4, 1000))
    >>> running = fastce.LogSumExp()
    >>> for start in range(0, 1000, 300):
    ...     running = running.update(logits[:, start : start + 300], axis=1)
    >>> bool(np.allclose(running.result(), fastce.logsumexp(logits, axis=1), rtol=1e-15))
    True
    >>> left, right = fastce.LogSumExp().update([0.0]), fastce.LogSumExp().update([-40.0])
    >>> float(left.merge(right).result())
    4.248354255291589e-18
    """

    def __init__(self) -> None:
        self._shape: tuple[int, ...] | None = None
        self._dtype: np.dtype[Any] = np.dtype(np.float64)
        self._states: States = States.of_nothing(0)

    def update(self, block: Any, axis: Axes | None = None, *, n_threads: int | None = None) -> "LogSumExp":
        """Add the elements of a block.

        Parameters
        ----------
        block : array_like
            As `a` of `fastce.logsumexp`; complex numbers are not accepted. An array on a GPU is summed up there; its
            state, and so the result, are in the memory of the CPU.
        axis : int or tuple of int, optional
            Axes that are summed over; all by default. The shape that is left must be that of the blocks before.
        n_threads : int, optional
            As in `fastce.logsumexp`.

        Returns
        -------
        LogSumExp
            This object.

        Raises
        ------
        ValueError
            If the shape that is left is another than before; nothing is added then.
        """
        refuse_without_values(block, "block")
        if is_on_device(block):
            on_gpu: Any = cuda_functions().namesake(LogSumExp.update)
            shape, dtype, tops, rests = on_gpu(self, block, axis, n_threads=n_threads)
            self._add(shape, dtype, States(tops, rests), "block", block)
            return self
        array = real_array(read(block, "block"), "block")
        array = array if array.ndim else array[None]
        axes = reduced_axes(array, axis)
        shape = tuple(n for k, n in enumerate(array.shape) if k not in axes)
        flat = array.reshape(*array.shape, 1) if not axes else array  # every element is a row of its own
        states = states_over(flat, axes or (array.ndim,), n_threads)
        self._add(shape, kernel_dtype(array.dtype), states, "block", array)
        return self

    def merge(self, other: "LogSumExp") -> "LogSumExp":
        """Add all that another one has been given; that stays as it is.

        Parameters
        ----------
        other : LogSumExp
            Of the same shape, or without any block yet.

        Returns
        -------
        LogSumExp
            This object.

        Raises
        ------
        ValueError
            If shapes differ; nothing is added then.
        """
        if not isinstance(other, LogSumExp):
            raise TypeError(f"other must be a LogSumExp, got {shown(other)}")
        if other._shape is not None:
            self._add(other._shape, other._dtype, other._states, "other", other)
        return self

    def _add(self, shape: tuple[int, ...], dtype: np.dtype[Any], states: States, name: str, given: Any) -> None:
        if self._shape is None:
            self._shape, self._dtype, self._states = shape, dtype, States(*(part.copy() for part in states))
            return
        if shape != self._shape:
            raise ValueError(f"{name} has results of shape {shape}, expected {self._shape} as before")
        self._dtype = common_dtype(self._dtype, dtype)
        self._states = self._states.merged(states)

    def result(self) -> Any:
        """Give the logarithm of the sum so far; -inf while there was no block.

        Returns
        -------
        ndarray or scalar
            Of the dtype of the blocks (float64 for integers, the wider one where they differ).
        """
        if self._shape is None:
            return np.float64(-np.inf)
        return cast(self._states.logsumexp(), self._dtype).reshape(self._shape)[()]

    def copy(self) -> "LogSumExp":
        """Give another one with the same state.

        Returns
        -------
        LogSumExp
            What is added to either does not change the other.
        """
        return LogSumExp().merge(self)

    def __repr__(self) -> str:
        shape = "no blocks" if self._shape is None else f"shape {self._shape}, dtype {self._dtype}"
        return f"<fastce.LogSumExp: {shape}>"
