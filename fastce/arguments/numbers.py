"""Arguments that are numbers, or choices among a few words: each is checked here, in one sentence if it is wrong."""

import math
import numbers
import operator
from typing import Any, TypeVar, get_args

import numpy as np
from numpy import ma

from fastce.arguments.words import asked, shown
from fastce.typing import Reduction

Choice = TypeVar("Choice", bound=str)

REDUCTIONS: tuple[Reduction, ...] = get_args(Reduction)  # once: this takes longer than all other checks of a number


def integer(value: Any, name: str) -> int:
    if type(value) is int:
        return value
    result = None if isinstance(value, (bool, np.bool_)) else asked(operator.index, value)
    if result is None:
        raise TypeError(f"{name} must be an integer, got {shown(value)}")
    return result


def number(value: Any, name: str) -> float:
    """A real number, or an array of shape () or (1,) that holds one."""
    if type(value) is float:
        return value
    item = _only_element(value)
    result = None if isinstance(item, (bool, np.bool_, str, bytes)) else asked(float, item)
    if result is None:
        if isinstance(item, numbers.Rational) and not isinstance(item, bool):
            raise ValueError(f"{name} must be a number that float64 can hold, got {shown(value)}")
        raise TypeError(f"{name} must be a number, got {shown(value)}")
    return result


def is_one_number(shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape stands for a number."""
    return tuple(shape) in ((), (1,))


def _only_element(value: Any) -> Any:
    """The element of an array of a single one, of any library; None if that is no real number."""
    dtype = getattr(value, "dtype", None)
    if dtype is None or not is_one_number(value.shape):
        return value
    if isinstance(value, ma.MaskedArray):
        return None
    is_real = not isinstance(dtype, np.dtype) or dtype.kind in "fiu" or dtype.name == "bfloat16"
    if not is_real:
        return None
    return value.item() if hasattr(value, "item") else value[(0,) * len(value.shape)]


def flag(value: Any, name: str) -> bool:
    if isinstance(value, (bool, np.bool_)) or (type(value) is int and value in (0, 1)):
        return bool(value)
    raise TypeError(f"{name} must be True or False, got {shown(value)}")


def finite(value: Any, name: str) -> float:
    result = number(value, name)
    if not math.isfinite(result):
        raise ValueError(f"{name} must be finite, got {shown(value)}")
    return result


def positive(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result > 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be positive and finite, got {shown(value)}")
    return result


def inverse_temperature(value: Any) -> float:
    """1 / temperature, a logit scale."""
    temperature = positive(value, "temperature")
    if not math.isfinite(1.0 / temperature):
        raise ValueError(f"temperature must not be smaller than {1.0 / np.finfo(np.float64).max}, got {temperature}")
    return 1.0 / temperature


def not_negative(value: Any, name: str) -> float:
    result = number(value, name)
    if not (result >= 0 and math.isfinite(result)):
        raise ValueError(f"{name} must be finite and not negative, got {shown(value)}")
    return result


def fraction(value: Any, name: str) -> float:
    result = number(value, name)
    if not 0.0 <= result <= 1.0:
        raise ValueError(f"{name} must be between 0 and 1, got {shown(value)}")
    return result


def choice(value: Any, name: str, choices: tuple[Choice, ...]) -> Choice:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def chosen(values: Any, name: str, choices: tuple[Choice, ...]) -> list[Choice]:
    """One or several of the choices, in the order given."""
    given = [values] if isinstance(values, str) else asked(list, values)
    if not given:
        raise ValueError(f"{name} must name at least one of {', '.join(map(repr, choices))}, got {shown(values)}")
    return [choice(value, f"each of {name}", choices) for value in given]


def reduction_of(value: Any) -> Reduction:
    return choice(value, "reduction", REDUCTIONS)


def checked_memory_budget(value: Any) -> int:
    """Bytes, at least 1."""
    budget = integer(value, "memory_budget")
    if budget < 1:
        raise ValueError(f"memory_budget must be a positive number of bytes, got {budget}")
    return budget


def checked_num_threads(n: object, name: str = "n_threads") -> int:
    """``n`` as a number of threads."""
    number = None if isinstance(n, bool) else asked(operator.index, n)
    if number is None:
        raise TypeError(f"{name} must be an integer of at least 1, got {shown(n)}")
    if number < 1:
        raise ValueError(f"{name} must be at least 1, got {number}")
    return number
