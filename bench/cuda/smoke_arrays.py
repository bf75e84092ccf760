"""Arrays of each library on a GPU, there and back, for `smoke`; Numba's also in its simulator."""

import contextlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np


def is_simulated() -> bool:
    """Whether Numba's simulator stands in for a GPU."""
    from numba import config

    return bool(config.ENABLE_CUDASIM)


def default_library() -> str:
    """PyTorch where it is installed, which most users have."""
    return "torch" if find_spec("torch") is not None and not is_simulated() else "numba"


class Numba:
    """Arrays of Numba."""

    def to_device(self, array: Any) -> Any:
        from numba import cuda

        return cuda.to_device(array)

    def to_host(self, given: Any) -> Any:
        return given.copy_to_host()

    @contextlib.contextmanager
    def stream(self) -> Iterator[Callable[[Any], Any]]:
        """How arrays come to the device in another stream."""
        from numba import cuda

        stream = cuda.stream()
        yield lambda array: cuda.to_device(array, stream=stream)


class Torch:
    """Tensors of PyTorch."""

    def to_device(self, array: Any) -> Any:
        import torch

        if array.dtype.name == "bfloat16":
            return torch.from_numpy(array.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(array).cuda()

    def to_host(self, given: Any) -> Any:
        return given.double().cpu().numpy()

    @contextlib.contextmanager
    def stream(self) -> Iterator[Callable[[Any], Any]]:
        """In another stream, long after what the device is told before; whoever does not wait reads zeros."""
        import torch

        def late(array: Any) -> Any:
            there = torch.zeros(array.shape, dtype=torch.from_numpy(array).dtype, device="cuda")
            torch.cuda._sleep(20_000_000)
            there += torch.from_numpy(array).cuda(non_blocking=True)
            return there

        with torch.cuda.stream(torch.cuda.Stream()):
            yield late


class CuPy:
    """Arrays of CuPy."""

    def to_device(self, array: Any) -> Any:
        import cupy

        return cupy.asarray(array)

    def to_host(self, given: Any) -> Any:
        return given.get()

    @contextlib.contextmanager
    def stream(self) -> Iterator[Callable[[Any], Any]]:
        """How arrays come to the device in another stream."""
        import cupy

        with cupy.cuda.Stream(non_blocking=True):
            yield cupy.asarray


LIBRARIES: dict[str, Callable[[], Any]] = {"numba": Numba, "torch": Torch, "cupy": CuPy}
