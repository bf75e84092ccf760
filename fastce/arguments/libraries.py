"""Arrays of other libraries in the memory of the CPU: how they are read, and results that are arrays of theirs.

No library is imported here: whoever has an array of one has imported it. What data frames hold is left to NumPy.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from fastce.arguments.words import asked, is_of_handler, of_autograd, recipe, shown

Giver: TypeAlias = Callable[[Any], Any]  # of an array of a library, from one of NumPy or a scalar

_HOST_MEMORY = (1, 3, 11)  # DLPack's kDLCPU, and what CUDA and ROCm have pinned of it


def is_torch(value: Any) -> bool:
    """Whether this is a PyTorch tensor."""
    return _is_of(value, "torch", "Tensor")


def is_jax(value: Any) -> bool:
    """Whether this is an array of JAX, a traced one too."""
    return _is_of(value, "jax", "Array")


def is_dask(value: Any) -> bool:
    """Whether this is an array of Dask."""
    return _is_of(value, "dask.array", "Array")


def _is_of(value: Any, library: str, name: str) -> bool:
    """Whether it is of this class of a library; not if that is not imported."""
    return isinstance(value, getattr(sys.modules.get(library), name, ()))


def refuse_without_values(value: Any, name: str) -> None:
    """Complain about what has no values yet: reading it would compute all of it, or cannot be done."""
    if hasattr(value, "__dask_graph__") and asked(lambda lazy: lazy.__dask_graph__(), value) is not None:
        by_parts = "blocks by map_blocks" if hasattr(value, "map_blocks") else "parts by map_partitions"
        raise TypeError(
            f"{name} is computed by Dask, all of it if it were read here: call fastce on its {by_parts}, "
            f"as {recipe('Dask')}, or give {name}.compute()"
        )
    if is_jax(value) and any(base.__name__ == "Tracer" for base in type(value).__mro__):
        raise TypeError(
            f"{name} is traced by JAX (in jit, grad or vmap) and has no values yet: fastce.jax has losses and "
            "softmaxes for it, and any other function is called by jax.pure_callback"
        )
    if _is_of(value, "polars", "LazyFrame"):
        raise TypeError(f"{name} is a LazyFrame, which has no values yet: give {name}.collect()")


# --- read ------------------------------------------------------------------------------------------------------------


def read(value: Any, name: str) -> Any:
    """As an array of NumPy over the same memory, if NumPy does not find it itself; anything else as it is."""
    if is_torch(value):
        return value if value.is_cuda else _of_torch(value, name)
    if _is_of(value, "pandas", "DataFrame"):
        return _of_pandas(value)
    if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
        return _of_dlpack(value, name)
    return value


def _of_torch(tensor: Any, name: str) -> Any:
    torch = sys.modules["torch"]
    if tensor.requires_grad:
        raise of_autograd(name)
    if tensor.device.type not in ("cpu", "meta"):
        raise TypeError(f"{name} is on the device {tensor.device}, which fastce does not compute on: give {name}.cpu()")
    if tensor.layout is not torch.strided:
        return _of_sparse(tensor, name)
    try:
        if tensor.dtype is torch.bfloat16:
            return tensor.view(torch.int16).numpy().view(_bfloat16(name))
        is_ready = name == "out" or not (tensor.is_neg() or tensor.is_conj())
        return (tensor if is_ready else tensor.resolve_conj().resolve_neg()).numpy()
    except (TypeError, RuntimeError) as error:
        if is_of_handler(error):
            raise
        if isinstance(error, TypeError):  # a dtype that NumPy does not have, or the device meta
            complaint = f"{name} must hold real numbers in memory, got {shown(tensor)} on {tensor.device}"
        else:
            complaint = (
                f"{name} is a tensor without elements in memory (in torch.func, vmap or torch.export), which only "
                "torch.compile and torch.export may give, to the functions of fastce.torch"
            )
        raise TypeError(complaint) from error


def _of_sparse(tensor: Any, name: str) -> Any:
    """A sparse tensor as SciPy's; which arguments may be sparse is known elsewhere."""
    from scipy.sparse import coo_array

    if tensor.ndim != 2:
        raise TypeError(f"{name} must be a matrix if it is sparse, got a tensor of shape {tuple(tensor.shape)}")
    points = tensor.to_sparse_coo()
    if not points.is_coalesced():  # sums of duplicates are those of float64
        points = (points if points.is_complex() else points.double()).coalesce()
    return coo_array((read(points.values(), name), points.indices().numpy()), shape=tuple(points.shape))


def _bfloat16(name: str) -> Any:
    """NumPy's dtype for bfloat16."""
    try:
        import ml_dtypes  # gives NumPy the dtype
    except ImportError:
        raise ImportError(f"{name} holds bfloat16, for which NumPy needs the package ml_dtypes: install it") from None
    return ml_dtypes.bfloat16


def _of_pandas(frame: Any) -> Any:
    """Columns of pandas' own dtypes would make an array of objects: these become numbers one by one, NA as NaN."""
    if all(isinstance(dtype, np.dtype) for dtype in frame.dtypes):
        return frame
    return np.stack([np.asarray(frame.iloc[:, k]) for k in range(frame.shape[1])], axis=1)


def _of_dlpack(value: Any, name: str) -> Any:
    kind, _ = asked(lambda array: array.__dlpack_device__(), value) or (None, 0)
    if kind not in _HOST_MEMORY:
        return value
    array = asked(np.from_dlpack, value)
    if array is None:
        raise TypeError(f"{name} must hold real numbers that NumPy can read by DLPack, got {shown(value)}")
    return array


# --- results ---------------------------------------------------------------------------------------------------------


def giver_of(value: Any) -> Giver | None:
    """What makes results of the library of this array; None if they stay NumPy's."""
    if isinstance(value, (np.ndarray, np.generic)):
        return None
    if is_torch(value):
        return as_torch
    if is_jax(value):
        device = min(value.devices(), key=lambda device: device.id)
        return functools.partial(sys.modules["jax"].device_put, device=device)
    if hasattr(value, "__array_namespace__"):  # of the array API standard
        return functools.partial(value.__array_namespace__().asarray, device=value.device)
    return None


def as_torch(array: Any) -> Any:
    """An array of NumPy as a tensor over the same memory."""
    torch = sys.modules["torch"]
    if type(array) is not np.ndarray or not array.flags.writeable:
        array = np.require(array, requirements="W")  # a scalar is an array without dimensions
    if array.dtype.kind == "V":  # NumPy calls what ml_dtypes has void
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def given_by(giver: Giver | None, result: Any, outs: dict[int, Any]) -> Any:
    """The result with its arrays of the library; an ``out`` is what the caller gave.

    Parameters
    ----------
    giver : callable or None
        As `giver_of` gives it.
    result : object
        An array, a number, or a tuple or dictionary of such.
    outs : dict of int to object
        By the ids of those arrays that are an ``out``, what the caller gave for them.

    Returns
    -------
    object
        Numbers of Python are what they were.
    """
    if id(result) in outs:
        return outs[id(result)]
    if isinstance(result, (np.ndarray, np.generic)):
        return result if giver is None else giver(result)
    if isinstance(result, tuple):
        parts = [given_by(giver, part, outs) for part in result]
        return type(result)(*parts) if hasattr(result, "_fields") else tuple(parts)
    if isinstance(result, dict):
        return {name: given_by(giver, part, outs) for name, part in result.items()}
    return result
