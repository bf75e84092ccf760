"""What NumPy computes without a warning: ``np.errstate`` costs as much as all else that a small call does with it."""

from collections.abc import Callable
from contextvars import Context
from functools import partial
from typing import Any, TypeVar

import numpy as np

from fastce.arguments.arrays import Array

T = TypeVar("T")

_silent = Context()  # where NumPy keeps its error state
_silent.run(partial(np.seterr, all="ignore"))


def silently(function: Callable[..., T], *args: Any) -> T:
    """What the function returns under ``np.errstate(all="ignore")``."""
    return _silent.copy().run(function, *args)  # a copy: a context is entered by one thread at a time


def cast(array: Array, dtype: np.dtype[Any]) -> Array:
    """The array in this dtype; what that does not hold becomes infinite, or 0."""
    return array if array.dtype == dtype else silently(array.astype, dtype)


def store(target: Array, place: Any, values: Array) -> None:
    """The same, into ``target[place]``."""
    silently(target.__setitem__, place, values)


def quietly() -> np.errstate:
    """What is not finite, given or come to, shows in the result: it is worth no warning."""
    return np.errstate(all="ignore")
