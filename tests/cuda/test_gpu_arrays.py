"""Device arrays of PyTorch, CuPy and Numba on a GPU; skipped where there is none."""

from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("numba_cuda")  # not numba.cuda, which some versions of Numba bring along

from numba import cuda

from fastce.arguments.places import device_of
from fastce.cuda._kernels.primitives import kernel
from fastce.cuda.arrays import checked_out, device_array, empty, zeros
from fastce.cuda.launching import launch
from fastce.cuda.sparse import csr_arrays

pytestmark = pytest.mark.gpu


@kernel(64, 1)
def double(flat, origin, rows, columns, row_step, column_step):
    k = cuda.grid(1)
    if k < rows * columns:
        flat[origin + k // columns * row_step + k % columns * column_step] *= 2


@kernel(64, 1)
def copy_bits(source, target):
    i = cuda.grid(1)
    if i < source.size:
        target[i] = source[i]


def doubled(seen):
    launch(double, 16, 64, seen, seen.flat(), seen.origin, *seen.shape, *seen.strides)


def host(array):
    if hasattr(array, "copy_to_host"):
        return array.copy_to_host()
    return array.get() if hasattr(array, "get") else array.cpu().numpy()


def made_by(library, values):
    if library == "numba":
        return cuda.to_device(values)
    module = pytest.importorskip(library)
    return module.asarray(values, device="cuda") if library == "torch" else module.asarray(values)


LIBRARIES = ["numba", "torch", "cupy"]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("view", [lambda x: x, lambda x: x.T, lambda x: x[1:, ::2]])
def test_kernels_write_into_the_callers_memory(library, view):
    values = np.arange(20, dtype=np.float32).reshape(4, 5)
    given = made_by(library, values)
    seen = device_array(view(given), "x")
    assert seen.shape == view(values).shape
    assert (seen.library.name, seen.device) == (library, device_of(given))
    doubled(seen)
    view(values)[...] *= 2
    assert np.array_equal(host(given), values)


def test_negative_strides_of_cupy():
    cupy = pytest.importorskip("cupy")
    given = cupy.arange(20, dtype="f4").reshape(4, 5)
    seen = device_array(given[::-1, ::-2], "x")
    assert seen.strides == (-5, -2)
    doubled(seen)
    expected = np.arange(20, dtype="f4").reshape(4, 5)
    expected[:, ::2] *= 2
    assert np.array_equal(host(given), expected)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64"])
def test_new_arrays_are_the_librarys(library, dtype):
    given = made_by(library, np.ones(3, np.float32))
    like = device_array(given, "x")
    made = zeros(like.library, (3, 4), dtype)
    assert type(made.given) is type(given)
    assert (made.shape, made.dtype_name, made.device) == ((3, 4), dtype, like.device)
    assert not host(made.given).any()
    assert checked_out(given, (3,), "float32", like, []).given is given


@pytest.mark.parametrize("library", LIBRARIES)
def test_too_large_an_array_is_a_memory_error(library):
    like = device_array(made_by(library, np.ones(3, np.float32)), "x")
    with pytest.raises(MemoryError, match="not enough free memory for an array of shape"):
        empty(like.library, (1 << 22, 1 << 22), "float32")
    assert zeros(like.library, (3,), "float32").size == 3  # it goes on afterwards


def test_bfloat16_of_pytorch_is_read_as_its_bits():
    torch = pytest.importorskip("torch")
    given = torch.arange(8, device="cuda").to(torch.bfloat16)
    seen, made = device_array(given, "x"), zeros(device_array(given, "x").library, (8,), "bfloat16")
    launch(copy_bits, 1, 8, seen, seen.flat(), made.flat())
    assert made.given.dtype == torch.bfloat16
    assert torch.equal(made.given, given)


def test_bfloat16_of_cupy_is_read_as_its_bits():
    cupy, ml_dtypes = pytest.importorskip("cupy"), pytest.importorskip("ml_dtypes")
    try:
        given = cupy.zeros(8, ml_dtypes.bfloat16)
    except TypeError:
        pytest.skip("this CuPy has no bfloat16")
    made = zeros(device_array(given, "x").library, (8,), "bfloat16")
    assert (made.dtype_name, made.given.dtype) == ("bfloat16", given.dtype)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_kernels_run_in_the_callers_current_stream(library):
    module = pytest.importorskip(library)
    stream = module.cuda.Stream()
    on = module.cuda.stream(stream) if library == "torch" else stream
    large = made_by(library, np.ones((4096, 4096), np.float32))
    given = made_by(library, np.ones((4, 5), np.float32))
    module.cuda.synchronize() if library == "torch" else module.cuda.Device().synchronize()
    with on:
        for _ in range(20):
            large = large @ large * 0  # keeps the stream busy
        given += large[:4, :5] + 1  # so this comes late, and a kernel in another stream would come before it
        seen = device_array(given, "x")
        assert seen.library.stream_pointer == getattr(stream, "cuda_stream", getattr(stream, "ptr", None))
        doubled(seen)
    stream.synchronize()
    assert np.array_equal(host(given), np.full((4, 5), 4.0, np.float32))


def test_a_kernel_waits_for_what_another_library_has_still_to_write():
    torch, cupy = pytest.importorskip("torch"), pytest.importorskip("cupy")
    reader = device_array(torch.zeros(3, device="cuda"), "logits").library
    with cupy.cuda.Stream(non_blocking=True):
        large, given = cupy.ones((4096, 4096), "f4"), cupy.ones((4, 5), "f4")
        for _ in range(20):
            large = large @ large * 0
        given += large[:4, :5] + 1
        seen = device_array(given, "weight", reader)  # in CuPy's current stream, read in PyTorch's
    launch(double, 16, 64, SimpleNamespace(library=reader), seen.flat(), seen.origin, *seen.shape, *seen.strides)
    torch.cuda.synchronize()
    assert np.array_equal(host(given), np.full((4, 5), 4.0, np.float32))


def test_tensors_that_are_not_their_memory_are_refused():
    torch = pytest.importorskip("torch")
    tensor = torch.ones(3, device="cuda", requires_grad=True)
    assert device_of(tensor) == 0
    with pytest.raises(TypeError, match=r"x\.detach\(\)"):
        device_array(tensor, "x")
    with pytest.raises(TypeError, match=r"x\.resolve_neg\(\)"):
        device_array(torch.ones(3, dtype=torch.complex64, device="cuda").conj().imag, "x")


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_sparse_matrices_are_seen_in_parts(library):
    dense = made_by(library, np.eye(3, dtype=np.float32))
    if library == "torch":
        matrix = dense.to_sparse_csr()
    else:
        matrix = pytest.importorskip("cupyx.scipy.sparse").csr_matrix(dense)
    assert device_of(matrix) == 0
    values, columns, starts = csr_arrays(matrix, "targets")
    assert host(values.given).tolist() == [1, 1, 1]
    assert host(columns.given).tolist() == [0, 1, 2]
    assert host(starts.given).tolist() == [0, 1, 2, 3]


def test_jax_arrays_are_read_and_never_written():
    jax = pytest.importorskip("jax")
    given = jax.numpy.arange(6, dtype="float32").reshape(2, 3)
    if device_of(given) is None:
        pytest.skip("this JAX has no GPU")
    seen = device_array(given, "x")
    assert (seen.dtype_name, seen.strides, seen.library.name, seen.is_writable) == ("float32", (3, 1), "numba", False)


def test_show_config_names_the_gpu(capsys):
    import fastce

    fastce.show_config()
    assert "(compute capability " in capsys.readouterr().out
