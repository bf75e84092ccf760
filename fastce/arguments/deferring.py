"""Whether losses of arrays on a GPU are waited for."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_is_deferred: ContextVar[bool] = ContextVar("fastce_is_deferred", default=False)


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Leave losses of arrays on a GPU there: nothing waits for them, and no error is raised for what they hold.

    Within this context `cross_entropy` and `cross_entropy_value_and_grad` of arrays on a GPU give the sum or mean as an
    array of one number in float64, of the caller's library and without dimensions. A step of training need not wait
    then, which is what a CUDA graph asks of a step that it captures once it has run before (not yet tried on a GPU). A
    loss for which there would have been an error (targets or weights that are out of range) is NaN instead; and so are
    losses of rows, and a gradient that is not written to an ``out``. The same holds where float32 has not the range for
    the numbers of a call: computed at once, these are computed in float64 then.

    Functions of arrays on a GPU that have to wait are a TypeError; arrays in the memory of the CPU are computed as
    always. It holds for this thread, or task.

    Yields
    ------
    None

    See Also
    --------
    cross_entropy, cross_entropy_value_and_grad

    Examples
    --------
    >>> import numpy as np, fastce
    >>> with fastce.deferred():  # these would be arrays on a GPU
    ...     loss = fastce.cross_entropy(np.zeros((2, 4)), np.array([0, 3]))
    >>> float(loss)
    1.3862943611198906
    """
    token = _is_deferred.set(True)
    try:
        yield
    finally:
        _is_deferred.reset(token)


def is_deferred() -> bool:
    """Whether this thread, or task, is within `deferred`."""
    return _is_deferred.get()
