"""What error messages say of a value that was given, and how an odd one is asked what it is."""

import signal
from collections.abc import Callable
from traceback import walk_tb
from typing import Any, TypeVar

T = TypeVar("T")

LONGEST = 80  # characters
# What the methods of odd objects raise. A time limit, which a signal handler raises wherever it is, is none of these.
ODD = (TypeError, ValueError, AttributeError, LookupError, ArithmeticError, BufferError, RuntimeError)


def is_of_handler(error: BaseException) -> bool:
    """Whether a signal handler has raised it, so that it says nothing of any value."""
    handlers = {getattr(signal.getsignal(number), "__code__", None) for number in signal.valid_signals()}
    return any(frame.f_code in handlers for frame, _ in walk_tb(error.__traceback__))


def asked(function: Callable[[Any], T], value: Any) -> T | None:
    """What the function returns for the value, None if the value's own methods fail."""
    try:
        return function(value)
    except ODD as error:
        if is_of_handler(error):
            raise
        return None


def shown(value: Any) -> str:
    """Return the value on one line: an array by its type, shape and dtype, anything else as it is, if that is short."""
    shape, dtype, name = getattr(value, "shape", ()), getattr(value, "dtype", None), type(value).__name__
    if dtype is not None and shape:
        return f"{name} of shape {tuple(shape)} and dtype {dtype}"
    text = asked(repr, value)  # an integer of thousands of digits has none
    return text if text and len(text) <= LONGEST and text.isprintable() else name


def of_autograd(name: str) -> TypeError:
    """Return the complaint about a tensor that requires grad, wherever it is, and the ways out."""
    return TypeError(
        f"{name} requires grad, but this function records nothing for autograd: call the one of its name in "
        f"fastce.torch, or give {name}.detach()"
    )


def recipe(library: str) -> str:
    """Where it is shown how fastce is called from a library."""
    return f"the README's recipe for {library} does"


def unreadable(value: Any, name: str, error: Exception) -> Exception:
    """Return the complaint about what NumPy cannot read, and the way out."""
    if isinstance(value, (list, tuple)) and "inhomogeneous" in str(error):
        return ValueError(
            f"{name} must be an array, got an inhomogeneous {type(value).__name__}: its elements differ in shape"
        )
    return TypeError(f"{name} must be an array of numbers, got {shown(value)}")
