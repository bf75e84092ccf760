"""Where a call is computed: on the CPU, on the GPU that its arrays lie on, or by Dask. Decided by the arrays alone.

A thread whose stack is too small for kernels leaves the call to one that has room for them.
"""

import functools
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, ParamSpec, TypeAlias, TypeVar, cast

import numpy as np

from fastce.apart import apart, here
from fastce.arguments.libraries import given_by, giver_of, is_dask, is_torch, read, refuse_without_values
from fastce.arguments.places import HOST_TYPES, UNKNOWN_DEVICE, device_of, is_on_device

P = ParamSpec("P")
R = TypeVar("R")
Plainly: TypeAlias = Callable[[tuple[Any, ...], dict[str, Any]], Any]

# Options that are numbers: they may be anywhere, as arrays of one element too.
_NUMBERS = frozenset({
    "axis", "ignore_index", "label_smoothing", "logit_bias", "logit_scale", "n_threads", "softcap", "temperature",
    "top_k", "z_loss",
})  # fmt: skip


_SMALL = _NUMBERS | {"weight"}  # which calls of Dask must know at once


# Options that are no arrays at all.
_OPTIONS = _NUMBERS | {
    "hessian", "k", "keepdims", "memory_budget", "normalize", "outputs", "progress", "reduction", "return_sign",
    "smoothing_over",
}  # fmt: skip


def by_device(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function compute on the GPU, by its namesake in `fastce.cuda`, what lies on a GPU.

    Parameters
    ----------
    function : callable
        The function for arrays in the memory of the CPU.

    Returns
    -------
    callable
        The same for arrays of either kind. Arrays of both kinds in one call, or of two GPUs, are a TypeError.
        Zero-dimensional arrays are numbers, and so are options as arrays of one element: they may be anywhere.
    """
    return _by_place(function, _cuda_function)


def by_engine(function: Callable[P, R]) -> Callable[P, R]:
    """Let a public function, which is written for any engine, take arrays on a GPU, too: see `engine_for`.

    Parameters
    ----------
    function : callable
        The function for arrays of NumPy, or arrays on a GPU.

    Returns
    -------
    callable
        As of `by_device`.
    """
    return _by_place(function, _on_cuda)


def plain_first(plainly: Plainly) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """As `by_device`, for functions whose plain calls are computed at once: see `fastce.cpu.plain`.

    Parameters
    ----------
    plainly : callable
        Takes the arguments of a call, a tuple and a dictionary; returns the result, or None if the call is not plain.

    Returns
    -------
    callable
        The decorator of the function for arrays in the memory of the CPU.
    """
    return lambda function: _by_place(function, _cuda_function, partial(_tried, plainly))


def _by_place(
    function: Callable[P, R],
    on_gpu: Callable[[Callable[P, R]], Callable[P, R]],
    after: Callable[[Callable[P, R]], Callable[P, R]] = lambda function: function,
) -> Callable[P, R]:
    names = tuple(inspect.signature(function).parameters)
    of_libraries = _with_arrays_of_libraries(after(function))

    def chosen(*args: P.args, **kwargs: P.kwargs) -> R:
        if any(map(is_on_device, args)) or any(map(is_on_device, kwargs.values())):
            given = dict(zip(names, args, strict=False)) | kwargs  # too many: the function itself complains
            if _are_on_device(given):
                return on_gpu(function)(*args, **kwargs)
        return of_libraries(*args, **kwargs)

    return after(_unless_of_numpy(function, chosen))


def _tried(plainly: Plainly, function: Callable[P, R]) -> Callable[P, R]:
    """What ``plainly`` returns, and else the function."""

    @functools.wraps(function)
    def tried(*args: P.args, **kwargs: P.kwargs) -> R:
        result = None if here.has_small_stack else plainly(args, kwargs)
        return function(*args, **kwargs) if result is None else cast(R, result)

    return tried


def _unless_of_numpy(function: Callable[P, R], chosen: Callable[P, R]) -> Callable[P, R]:
    """The function itself for arrays of NumPy and what Python has, `chosen` for anything else."""

    @functools.wraps(function)
    def on_either(*args: P.args, **kwargs: P.kwargs) -> R:
        if here.has_small_stack:
            return apart(partial(on_either, *args, **kwargs))
        # Plain loops, because nothing else is as quick: this is all that is added to a call for arrays of NumPy.
        for value in args:
            if type(value) not in HOST_TYPES:
                return chosen(*args, **kwargs)
        for value in kwargs.values():
            if type(value) not in HOST_TYPES:
                return chosen(*args, **kwargs)
        return function(*args, **kwargs)

    return on_either


def _with_arrays_of_libraries(function: Callable[P, R]) -> Callable[P, R]:
    """The function for arrays of any library in the memory of the CPU; results are of that of its first argument."""
    names = tuple(inspect.signature(function).parameters)

    def on_libraries(*args: P.args, **kwargs: P.kwargs) -> R:
        if all(map(_is_numpys, args)) and all(map(_is_numpys, kwargs.values())):
            return function(*args, **kwargs)
        given = dict(zip(names, args, strict=False)) | kwargs
        if any(map(is_dask, given.values())) and (by_dask := _dask_function(function)) is not None:
            return by_dask(**given)
        arrays = {name: _read(value, name) for name, value in given.items()}
        known = [arrays[name] for name, _ in zip(names, args, strict=False)]
        named = {name: arrays[name] for name in kwargs}
        result = function(*known, *args[len(known) :], **named)  # type: ignore[arg-type]
        return cast(R, given_by(giver_of(given.get(names[0])), result, _outs(given.get("out"), arrays.get("out"))))

    return on_libraries


def _is_numpys(value: Any) -> bool:
    """Whether it is read as it is: an array of NumPy, one of its subclasses, a sparse matrix of SciPy."""
    return type(value) in HOST_TYPES or isinstance(value, (np.ndarray, np.generic)) or hasattr(value, "tocsr")


def _read(value: Any, name: str) -> Any:
    """What the functions are given for an argument; a number may be a tensor that requires grad (a learned scale)."""
    if name == "out" and isinstance(value, tuple):  # of a gradient and a Hessian
        return tuple(_read(part, name) for part in value)
    if _is_numpys(value):
        return value
    refuse_without_values(value, name)
    return value if name in _NUMBERS and is_torch(value) else read(value, name)


def _outs(given: Any, read: Any) -> dict[int, Any]:
    """What the caller gave for each array that results are written into, by the array's id."""
    pairs = zip(read, given, strict=True) if isinstance(read, tuple) else [(read, given)]
    return {id(array): out for array, out in pairs if array is not None}


def _are_on_device(given: dict[str, Any]) -> bool:
    """Whether all arrays among the arguments lie on one GPU, not on the CPU; at least one argument is on a GPU."""
    arrays = {name: value for name, value in _with_each_out(given) if name not in _OPTIONS and _is_array(value)}
    if not arrays:
        return True  # numbers only, on a GPU: logsumexp of one
    here = [name for name, value in arrays.items() if not is_on_device(value)]
    there = {name: device for name, value in arrays.items() if (device := device_of(value)) is not None}
    if here and there:
        raise TypeError(
            f"{next(iter(there))} is on a GPU but {here[0]} is not: it is a {type(arrays[here[0]]).__name__} in the "
            "memory of the CPU; all arrays of a call must be in one place"
        )
    known = [(name, device) for name, device in there.items() if device != UNKNOWN_DEVICE]
    for name, device in known[1:]:
        first, expected = known[0]
        if device != expected:
            raise TypeError(
                f"{first} is on GPU {expected} but {name} is on GPU {device}: all arrays of a call must be in one place"
            )
    return bool(there)


def _with_each_out(given: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The arguments, with the arrays of ``out`` one by one where that is a pair of them."""
    for name, value in given.items():
        if name == "out" and isinstance(value, (tuple, list)):
            yield from ((f"out[{k}]", part) for k, part in enumerate(value))
        else:
            yield name, value


def _is_array(value: Any) -> bool:
    """Whether this holds an array or a sparse matrix, wherever it is; numbers and arrays without dimensions do not."""
    if isinstance(value, (list, tuple)):
        return True
    if getattr(value, "ndim", 1) == 0:
        return False
    return hasattr(value, "__array__") or hasattr(value, "tocsr") or is_on_device(value)


def _cuda_function(function: Callable[P, R]) -> Callable[P, R]:
    """Its namesake for arrays on a GPU."""
    return cast(Callable[P, R], cuda_functions().namesake(function))


def _on_cuda(function: Callable[P, R]) -> Callable[P, R]:
    """The function itself for arrays on a GPU."""
    return cast(Callable[P, R], cuda_functions().taking_device_arrays(function))


def _dask_function(function: Callable[P, R]) -> Callable[..., R] | None:
    """Its namesake for arrays of Dask, None if it has none; takes all of its arguments by name."""
    by_dask = getattr(_dask_functions(), function.__name__, None)
    if by_dask is None:
        return None
    plain, accepted = inspect.signature(function).parameters, inspect.signature(by_dask).parameters

    def named(**given: Any) -> R:
        options = {name: value for name, value in given.items() if name in accepted or value is not plain[name].default}
        for name, value in options.items():
            if name in plain and name not in accepted:
                raise TypeError(f"{function.__name__} of Dask arrays does not take {name}")
            if name in _SMALL or not is_dask(value):
                refuse_without_values(value, name)
        return cast(R, by_dask(**options))

    return named


@functools.cache
def _dask_functions() -> Any:
    """What is imported only where an array is one of Dask: `fastce.dask`."""
    if find_spec("threadpoolctl") is None:
        raise ImportError(
            "Dask arrays need the package threadpoolctl, which the extra brings: pip install fastce[dask]"
        )
    return import_module("fastce.dask")


@functools.cache
def cuda_functions() -> Any:
    """What is imported only where an array lies on a GPU: `fastce.cuda.engine`."""
    if find_spec("numba_cuda") is None:  # not numba.cuda, which some versions of Numba bring along
        raise ImportError(
            "arrays on a GPU need the package numba-cuda: pip install fastce[cuda12] or fastce[cuda13], "
            "by the version of CUDA that the driver supports"
        )
    return import_module("fastce.cuda.engine")
