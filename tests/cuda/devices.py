"""Where the cross-check of kernels runs: arrays there and back, by Numba's simulator or a library on a GPU."""

from importlib.util import find_spec

import numpy as np
import pytest


class Csr:
    """A sparse matrix of device arrays, as CuPy's; a SciPy matrix does the rest."""

    def __init__(self, device, matrix):
        self.device, self.matrix, self.shape, self.dtype = device, matrix, matrix.shape, matrix.dtype
        self.data, self.indices, self.indptr = map(device.to_device, (matrix.data, matrix.indices, matrix.indptr))

    def tocsr(self):
        return self

    def copy(self):
        return Csr(self.device, self.matrix.copy())

    def astype(self, name):
        return Csr(self.device, self.matrix.astype(name))

    @property
    def has_canonical_format(self):
        return self.matrix.has_canonical_format

    def sum_duplicates(self):
        self.matrix.sum_duplicates()
        self.__init__(self.device, self.matrix)


class Device:
    """Puts NumPy arrays, strides and misalignment included, on a device."""

    has_own_memory = True  # and does not share the NumPy array's

    def to_device(self, array):
        raise NotImplementedError

    def to_host(self, given):
        raise NotImplementedError

    def csr(self, matrix):
        """A SciPy sparse array in CSR format."""
        return Csr(self, matrix)

    def targets(self, targets):
        return self.csr(targets) if hasattr(targets, "tocsr") else self.to_device(targets)

    def is_theirs(self, given):
        """Whether this is an array of the library that arrays are given in."""
        return type(given) is type(self.to_device(np.zeros(1)))


class Simulator(Device):
    """Numba's simulator, whose device arrays are NumPy arrays under another name."""

    has_own_memory = False

    def __init__(self):
        from numba import cuda

        self.make = type(cuda.to_device(np.zeros(1)))

    def to_device(self, array):
        return self.make(array)

    def to_host(self, given):
        return given.copy_to_host()


def memory_of(array):
    """The elements from the first to the last in memory, after as many as it is misaligned by; and its place."""
    steps = [(stride, n) for stride, n in zip(array.strides, array.shape, strict=True) if n > 1]
    below = -sum(min(0, stride * (n - 1)) for stride, n in steps)
    length = (below + sum(max(0, stride * (n - 1)) for stride, n in steps)) // array.itemsize + 1
    first = array[(..., *(slice(None, None, -1 if stride < 0 else 1) for stride in array.strides))]
    flat = np.lib.stride_tricks.as_strided(first, (length,), (array.itemsize,))
    before = (array.__array_interface__["data"][0] - below) % 16 // array.itemsize
    return np.concatenate([np.zeros(before, array.dtype), flat]), before + below // array.itemsize


class OfNumba(Device):
    """Device arrays of Numba; those of negative strides are copied."""

    def to_device(self, array):
        from numba import cuda

        if array.size == 0 or min(array.strides, default=1) < 0:
            return cuda.to_device(np.array(array, order="C"))
        memory, start = memory_of(array)
        on_device = cuda.to_device(memory)
        address = on_device.device_ctypes_pointer.value + start * array.itemsize
        interface = {
            "shape": array.shape, "strides": array.strides, "typestr": array.dtype.str, "data": (address, False),
            "version": 3,
        }  # fmt: skip
        if array.dtype.kind == "V":  # bfloat16, which has no type string: views of it are copies
            return cuda.to_device(np.array(array, order="C"))
        return cuda.from_cuda_array_interface(interface, owner=on_device)

    def to_host(self, given):
        return given.copy_to_host()


class OfCupy(Device):
    """Arrays of CuPy, with any strides."""

    def to_device(self, array):
        cupy = pytest.importorskip("cupy")
        if array.size == 0:
            return cupy.asarray(array)
        memory, start = memory_of(array)
        if array.dtype.kind == "V" and not hasattr(cupy, "bfloat16"):
            pytest.skip("this CuPy has no bfloat16")
        at = cupy.asarray(memory).data + start * array.itemsize
        return cupy.ndarray(array.shape, array.dtype, at, array.strides)

    def to_host(self, given):
        return given.get()

    def csr(self, matrix):
        sparse = pytest.importorskip("cupyx.scipy.sparse")
        if matrix.dtype.kind != "f" or matrix.dtype.itemsize < 4:
            return super().csr(matrix)  # CuPy knows no such matrix
        parts = tuple(self.to_device(part) for part in (matrix.data, matrix.indices, matrix.indptr))
        return sparse.csr_matrix(parts, shape=matrix.shape)


class OfTorch(Device):
    """PyTorch's tensors, which have no negative strides: such arrays are copied."""

    def to_device(self, array):
        torch = pytest.importorskip("torch")
        if array.size == 0 or min(array.strides, default=1) < 0:
            return self._flat(np.array(array, order="C").ravel()).reshape(array.shape)
        memory, start = memory_of(array)
        strides = [stride // array.itemsize for stride in array.strides]
        return torch.as_strided(self._flat(memory), array.shape, strides, start)

    def _flat(self, memory):
        torch = pytest.importorskip("torch")
        if memory.dtype.name == "bfloat16":
            return torch.from_numpy(memory.view(np.int16)).cuda().view(torch.bfloat16)
        return torch.from_numpy(memory).cuda()

    def to_host(self, given):
        torch = pytest.importorskip("torch")
        if given.dtype == torch.bfloat16:
            import ml_dtypes

            return given.contiguous().view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)
        return given.cpu().numpy()

    def csr(self, matrix):
        torch = pytest.importorskip("torch")
        parts = (self.to_device(part) for part in (matrix.indptr, matrix.indices, matrix.data))
        return torch.sparse_csr_tensor(*parts, size=matrix.shape)


def first_library():
    """The installed library whose arrays can have the most strides."""
    name = next((name for name in ("cupy", "torch") if find_spec(name)), "numba")
    return LIBRARIES[name]()


LIBRARIES = {"numba": OfNumba, "cupy": OfCupy, "torch": OfTorch}
