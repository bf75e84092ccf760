"""Products of features in half precision, told to a stand-in for cuBLAS: no copies in float32, sums in float32."""

import ctypes
import sys
import types

import checks
import numpy as np
import pytest
from checks import dtype_of

pytest.importorskip("numba_cuda")

from fastce.cuda import products

CHECKS = checks  # for the fixtures
KINDS = {0: np.float32, 2: np.float16, 14: np.uint16}  # CUDA_R_32F, CUDA_R_16F, CUDA_R_16BF of library_types.h
COMPUTE_32F, DEFAULT, HANDLE = 68, -1, 7


def in_float64(x):
    return (x.astype(np.uint32) << 16).view(np.float32).astype(float) if x.dtype == np.uint16 else x.astype(float)


def columns_of(pointer, dtype, rows, columns, step):
    """A matrix of BLAS: its columns follow each other, ``step`` elements from one to the next."""
    dtype = np.dtype(dtype)
    size = ((columns - 1) * step + rows) * dtype.itemsize
    flat = np.frombuffer((ctypes.c_char * size).from_address(pointer), dtype)
    return np.lib.stride_tricks.as_strided(flat, (rows, columns), (dtype.itemsize, step * dtype.itemsize))


def number(pointer):
    return ctypes.c_float.from_address(pointer).value


class Cublas:
    """What `multiply` calls of cupy_backends.cuda.libs.cublas, with NumPy."""

    def __init__(self):
        self.calls = []

    def gemmEx(self, handle, of_a, of_b, m, n, k, alpha, a, a_kind, lda, b, b_kind, ldb, beta, c, c_kind, ldc, *how):
        assert (handle, *how) == (HANDLE, COMPUTE_32F, DEFAULT)
        assert (a_kind, c_kind) == (b_kind, 0)
        assert lda >= (k if of_a else m)
        assert ldb >= (n if of_b else k)
        assert ldc >= m
        left = columns_of(a, KINDS[a_kind], *((k, m) if of_a else (m, k)), lda)
        right = columns_of(b, KINDS[b_kind], *((n, k) if of_b else (k, n)), ldb)
        out = columns_of(c, np.float32, m, n, ldc)
        left, right = (in_float64(x.T if of else x) for x, of in ((left, of_a), (right, of_b)))
        out[...] = number(alpha) * (left @ right) + (number(beta) * out if number(beta) else 0.0)
        self.calls.append("gemmEx")

    def sgemm(self, handle, of_a, of_b, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        out = columns_of(c, np.float32, m, n, ldc)
        left = columns_of(a, np.float32, *((k, m) if of_a else (m, k)), lda)
        right = columns_of(b, np.float32, *((n, k) if of_b else (k, n)), ldb)
        product = (left.T if of_a else left) @ (right.T if of_b else right)
        out[...] = number(alpha) * product + (number(beta) * out if number(beta) else 0.0)
        self.calls.append("sgemm")


class OnDevice(np.ndarray):
    """An array as CuPy has them."""

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self.ctypes.data)


@pytest.fixture
def cublas(monkeypatch):
    stub = Cublas()
    libs = types.ModuleType("cupy_backends.cuda.libs")
    libs.cublas = stub
    for name in ("cupy_backends", "cupy_backends.cuda"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "cupy_backends.cuda.libs", libs)
    device = types.SimpleNamespace(cublas_handle=HANDLE)
    cupy = types.SimpleNamespace(cuda=types.SimpleNamespace(Device=lambda: device))
    monkeypatch.setattr(products, "array_module", lambda: cupy)
    return stub


def matrix(rng, rows, columns, name, transposed):
    """A part of a larger one, bfloat16 as its bits."""
    if transposed:
        return matrix(rng, columns, rows, name, False).T
    x = rng.normal(size=(rows + 2, columns + 3)).astype(dtype_of(name))
    x = (x.view(np.uint16) if name == "bfloat16" else x).view(OnDevice)
    return x[1 : rows + 1, 2 : columns + 2]


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 4, 5), (3, 1, 5), (3, 4, 1), (70, 33, 64)])
def test_cublas_is_told_types_steps_and_transposes(cublas, rng, name, shape):
    m, n, k = shape
    for a_transposed, b_transposed, adds in np.ndindex(2, 2, 2):
        a, b = matrix(rng, m, k, name, a_transposed), matrix(rng, k, n, name, b_transposed)
        out = matrix(rng, m, n, "float32", False)
        whole, expected = out.base, in_float64(a) @ in_float64(b) + (out.astype(float) if adds else 0.0)
        around = whole.copy()
        products.multiply(a, b, out, adds=bool(adds))
        np.testing.assert_allclose(np.asarray(out), np.asarray(expected), rtol=1e-5, atol=1e-5)
        around[1 : m + 1, 2 : n + 2] = out
        assert np.array_equal(around, whole)  # nothing else is written
    assert set(cublas.calls) == {"sgemm" if name == "float32" else "gemmEx"}


@pytest.mark.parametrize("left", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("right", ["float16", "bfloat16"])
def test_losses_multiply_halves_as_they_are_given(on_device, rng, monkeypatch, left, right):
    kinds, multiply = [], products.multiply

    def noted(a, b, out, **adds):
        kinds.append((a.dtype.name, b.dtype.name, out.dtype.name))
        multiply(a, b, out, **adds)

    monkeypatch.setattr("fastce.cuda.engine.multiply", noted)
    images, texts = (rng.normal(size=(9, 8)).astype(dtype_of(name)) for name in (left, right))
    kind = {"float16": "float16", "bfloat16": "uint16"}[right] if left == right else "float32"
    on_device.clip_loss_from_features(images, texts, 0.5)
    assert set(kinds) == {(kind, kind, "float32")}
    kinds.clear()
    on_device.clip_loss_from_features(images, texts, 0.5, normalize=True)
    on_device.clip_loss_from_features(images[::2, ::2], texts[::2, ::2], 0.5)  # these strides are not BLAS's
    assert set(kinds) == {("float32", "float32", "float32")}
    kinds.clear()
    on_device.clip_loss_from_features_value_and_grad(images, texts, 0.5)
    assert set(kinds) == {(kind, kind, "float32"), ("float32", "float32", "float32")}  # and products of slopes
