"""Where an array is: on a GPU, and on which, or in the memory of the CPU."""

from types import NoneType
from typing import Any

import numpy as np

from fastce.arguments.words import asked

UNKNOWN_DEVICE = -1  # on some GPU: the array does not say which

# Exactly these types are never on a GPU; most calls hold nothing else, and are not looked at further.
HOST_TYPES = frozenset({
    np.ndarray, np.bool_, np.int32, np.int64, np.float32, np.float64, bool, int, float, str, NoneType, list, tuple
})  # fmt: skip
_CUDA_MEMORY = (2, 13)  # DLPack's kDLCUDA and kDLCUDAManaged


def device_of(value: Any) -> int | None:
    """The id of the GPU that an array or a sparse matrix lies on, `UNKNOWN_DEVICE` if it does not say, or None."""
    if type(value) in HOST_TYPES:
        return None
    if getattr(value, "__cuda_ndarray__", False):  # Numba's, or of its simulator
        return _numba_device(value)
    # Before the interfaces: a PyTorch tensor that requires grad, or is sparse, raises when it is asked for them.
    if (is_cuda := getattr(value, "is_cuda", None)) is not None:
        return int(value.get_device()) if is_cuda else None
    if hasattr(value, "tocsr"):  # of scipy.sparse or of cupyx.scipy.sparse
        return device_of(getattr(value, "data", None))
    if hasattr(value, "__dlpack_device__"):
        # A JAX array that is traced or spread over devices raises: it is none that we can read.
        kind, device = asked(lambda array: array.__dlpack_device__(), value) or (None, 0)
        return int(device) if kind in _CUDA_MEMORY else None
    return UNKNOWN_DEVICE if hasattr(value, "__cuda_array_interface__") else None


def _numba_device(value: Any) -> int:
    try:
        return int(value.gpu_data.context.device.id)
    except AttributeError:
        return 0 if hasattr(value, "_ary") else UNKNOWN_DEVICE  # the simulator has one device


def is_on_device(value: Any) -> bool:
    """Whether a GPU holds this array or sparse matrix."""
    return device_of(value) is not None
