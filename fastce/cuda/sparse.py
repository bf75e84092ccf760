"""Sparse matrices of CuPy and PyTorch, as arrays of CSR."""

from typing import Any

from fastce.arguments.libraries import is_torch
from fastce.cuda.arrays import DeviceArray, device_array
from fastce.cuda.libraries import Library


def is_sparse(value: Any) -> bool:
    """Whether this is a sparse matrix of CuPy or PyTorch."""
    return hasattr(value, "tocsr") or (is_torch(value) and str(value.layout) != "torch.strided")


def csr_arrays(matrix: Any, name: str, reader: Library | None = None) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """The values of a sparse matrix, the column of each, and where in them each row begins; other formats than CSR are
    converted by their library, and what stands twice in a row is summed, in float64.
    """
    if is_torch(matrix):
        if str(matrix.layout) == "torch.sparse_coo" and not (matrix.is_coalesced() or matrix.is_complex()):
            matrix = matrix.double()
        csr = matrix.to_sparse_csr()
        parts = csr.values(), csr.col_indices(), csr.crow_indices()
    else:
        if not getattr(matrix, "has_canonical_format", True) and matrix.dtype.kind != "c":
            matrix = matrix.astype("float64")
        csr = matrix.tocsr()
        if not getattr(csr, "has_canonical_format", True):
            csr = csr.copy()
            csr.sum_duplicates()
        parts = csr.data, csr.indices, csr.indptr
    values, columns, starts = (device_array(part, name, reader) for part in parts)
    return values, columns, starts
