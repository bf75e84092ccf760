"""Device arrays, by Numba's simulator and, for what other libraries give, by modules that stand in for them."""

import sys
import types
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import pytest

import fastce

pytest.importorskip("numba_cuda")  # not numba.cuda, which some versions of Numba bring along

from numba import cuda

from fastce.arguments.places import device_of
from fastce.cuda import arrays, driver, libraries, sparse
from fastce.cuda.arrays import checked_out, device_array, empty, zeros


def on_device(array):
    """A simulated device array of just these elements, strides included; the memory is that of `array`."""
    return type(cuda.to_device(np.zeros(1)))(array)


def numbered(*shape, dtype=np.float32):
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


VIEWS = {
    "plain": lambda x: x,
    "transposed": lambda x: x.T,
    "rows backwards": lambda x: x[::-1],
    "both backwards, strided": lambda x: x[::-2, ::-3],
    "columns": lambda x: x[:, 1:4],
    "repeated": lambda x: np.broadcast_to(x[:1], (5, x.shape[1])),
    "one row": lambda x: x[2],
    "one element": lambda x: x[2, 3],
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "three axes": lambda x: x[:, :6].reshape(-1, 2, 3)[:, ::-1],
}


# ------------------------------------------------------------------------------------------------ as kernels see them
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint64", "bool"])
@pytest.mark.parametrize("view", VIEWS)
def test_elements_are_where_the_strides_say(view, dtype):
    array = np.asarray(VIEWS[view](numbered(6, 7).astype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)))
    seen = device_array(on_device(array), "x")
    flat = seen.flat()
    bits = array.view(np.uint16) if dtype == "bfloat16" else array
    assert (seen.shape, seen.ndim, seen.size, seen.dtype_name) == (array.shape, array.ndim, array.size, dtype)
    assert (seen.itemsize, seen.device, seen.library.name) == (array.itemsize, 0, "numba")
    assert flat.shape == (seen.flat_size,)
    assert flat.dtype == seen.flat_dtype == bits.dtype
    for index in np.ndindex(array.shape):
        assert flat[seen.origin + sum(i * s for i, s in zip(index, seen.strides, strict=True))] == bits[index]


def test_what_is_written_into_the_flat_array_is_in_the_callers():
    array = numbered(4, 5).astype(ml_dtypes.bfloat16)
    seen = device_array(on_device(array[::-1, 1:4]), "x")
    seen.flat()[seen.origin] = 0x3F80  # 1.0
    assert array[3, 1] == 1.0
    assert np.array_equal(np.delete(array.ravel(), 16), np.delete(numbered(20), 16))


def test_arrays_made_by_numba_are_seen_as_they_are():
    given = cuda.to_device(numbered(3, 4))
    seen = device_array(given, "x")
    assert seen.given is given
    assert seen.pointer == given._ary.ctypes.data
    assert (seen.strides, seen.origin, seen.is_writable, device_of(given)) == ((4, 1), 0, True, 0)
    assert seen.library.stream_pointer == 0


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(3, np.complex64), "x must hold real numbers, got dtype complex64"),
        (np.zeros(3, "M8[s]"), r"x must hold real numbers, got dtype datetime64\[s\]"),
        (np.zeros(3, "f4,i4"), "x must hold real numbers, got dtype "),
        (np.zeros(3, ml_dtypes.float8_e4m3fn), "x must hold real numbers, got dtype float8_e4m3fn"),
        (np.zeros(3, ">f4"), "x has dtype >f4, which is byte-swapped"),
    ],
)
def test_other_dtypes_are_refused(array, words):
    with pytest.raises(TypeError, match=words):
        device_array(on_device(array), "x")


def test_strides_between_elements_are_refused():
    inside = np.zeros(4, [("a", "f4"), ("b", "i2")])["a"]
    with pytest.raises(ValueError, match="x has strides"):
        device_array(on_device(inside), "x")


def test_arrays_of_the_cpu_are_refused():
    with pytest.raises(TypeError, match="targets must be an array on a GPU, got list"):
        device_array([0, 1], "targets")


# ------------------------------------------------------------------------------------------------ new arrays
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16", "int64"])
def test_new_arrays_are_the_callers_librarys(dtype):
    library = device_array(cuda.to_device(numbered(2)), "x").library
    for make in (empty, zeros):
        made = make(library, (3, 4), dtype)
        assert type(made.given) is type(cuda.to_device(numbered(2)))
        assert (made.shape, made.strides, made.dtype_name, str(made.given.dtype)) == ((3, 4), (4, 1), dtype, dtype)
    assert not made.given.copy_to_host().any()
    assert zeros(library, (0, 3), dtype).size == 0


def test_too_large_an_array_is_a_memory_error():
    with pytest.raises(
        MemoryError, match=r"not enough free memory for an array of shape .* \(4611686018427387904 bytes\)"
    ):
        empty(libraries.Numba(0), (1 << 30, 1 << 30), "float32")


@pytest.mark.parametrize(
    "error",
    [
        type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"),
        RuntimeError("[CUresult.CUDA_ERROR_OUT_OF_MEMORY] Call to cuMemAlloc results in CUDA_ERROR_OUT_OF_MEMORY"),
    ],
)
def test_every_librarys_way_to_be_out_of_memory_is_a_memory_error(error):
    with pytest.raises(MemoryError, match="not enough free memory for x") as caught, libraries.memory_errors("x"):
        raise error
    assert caught.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    with pytest.raises(RuntimeError, match="else"), libraries.memory_errors("x"):
        raise RuntimeError("something else")


# ------------------------------------------------------------------------------------------------ out
def out_for(array, out, inputs=()):
    like = device_array(on_device(array), "x")
    inputs = [None, *(device_array(on_device(other), "other") for other in inputs)]
    return checked_out(None if out is None else on_device(out), (4, 6), "float32", like, inputs)


def test_out_may_be_new_another_or_the_input():
    array, other = numbered(4, 6), numbered(4, 6)
    assert out_for(array, None).dtype_name == "float32"
    assert out_for(array, other, [numbered(4)]).pointer == other.ctypes.data
    assert out_for(array, array).pointer == array.ctypes.data
    assert out_for(array, np.asfortranarray(other)).strides == (1, 4)


@pytest.mark.parametrize(
    ("choose", "words"),
    [
        (lambda array: array[:3], r"out has shape \(3, 6\), expected \(4, 6\)"),
        (lambda array: np.zeros((4, 6)), "out has dtype float64, expected float32"),
        (lambda array: np.zeros((4, 6), ml_dtypes.bfloat16), "out has dtype bfloat16, expected float32"),
        (lambda array: np.lib.stride_tricks.as_strided(np.zeros(30, "f4"), (4, 6), (4, 4)), "must not overlap itself"),
        (lambda array: np.broadcast_to(np.zeros(6, "f4"), (4, 6)), "out must be writable"),
        (lambda array: array[::-1], "out overlaps the input in part"),
        (lambda array: array.reshape(6, 4).T, "out overlaps the input in part"),
    ],
)
def test_out_is_checked_as_on_the_cpu(choose, words):
    array = numbered(4, 6)
    with pytest.raises(ValueError, match=words):
        out_for(array, choose(array))


def test_out_must_not_overlap_other_inputs():
    memory = numbered(10, 6)
    with pytest.raises(ValueError, match="out must not share memory with the targets or the weights"):
        out_for(numbered(4, 6), memory[:4], [memory[3]])
    assert out_for(numbered(4, 6), memory[:4], [memory[4]]).size == 24


def test_extents_that_interleave_overlap():
    memory = numbered(4, 12)
    left, right = (device_array(on_device(half), "x") for half in (memory[:, :6], memory[:, 6:]))
    assert left.overlaps(right)
    assert not left.overlaps(device_array(on_device(memory[:0]), "x"))


def test_steps_along_axes_of_length_one_do_not_matter():
    array = numbered(1, 6)
    other = np.lib.stride_tricks.as_strided(array, (1, 6), (4, 4))
    assert device_array(on_device(array), "x").is_same_memory(device_array(on_device(other), "x"))


# ------------------------------------------------------------------------------------------------ other libraries
class FakeTensor:
    """What is read of a tensor of PyTorch."""

    def __init__(self, *, dtype="torch.float32", layout="torch.strided", requires_grad=False, is_neg=False, device=0):
        self.dtype, self.layout, self.requires_grad = dtype, layout, requires_grad
        self.shape, self.is_cuda, self._is_neg, self._device = (2, 3), True, is_neg, device

    def stride(self):
        return 1, 2

    def data_ptr(self):
        return 64

    def is_neg(self):
        return self._is_neg

    def get_device(self):
        return self._device


@pytest.fixture
def fake_torch(monkeypatch):
    """PyTorch with one current stream, and records of what arrays were asked for, and of streams that wait."""
    asked, waits = [], []

    def make(shape, dtype, device):
        return FakeTensor(dtype=f"torch.{dtype}", device=int(device.removeprefix("cuda:")))

    def view(value, consumer):
        asked.append(consumer)
        return types.SimpleNamespace(
            ptr=64, shape=(2, 3), strides=None, device_id=0, readonly=False, dtype=np.dtype("f4")
        )

    torch = types.ModuleType("torch")
    torch.Tensor, torch.empty = FakeTensor, make
    torch.float32, torch.bfloat16 = "float32", "bfloat16"

    def stream_of(pointer, device=0):
        wait_stream = lambda other: waits.append((pointer, other.cuda_stream))  # noqa: E731
        return types.SimpleNamespace(cuda_stream=pointer, wait_stream=wait_stream)

    torch.cuda = types.SimpleNamespace(
        current_stream=lambda device: stream_of(torch.stream), default_stream=lambda device: stream_of(0),
        ExternalStream=stream_of,
    )  # fmt: skip
    torch.stream, torch.asked, torch.waits = 0, asked, waits
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setattr(arrays, "_strided_view", view)
    monkeypatch.setattr(libraries.Library, "on_device", lambda self: nullcontext())
    return torch


def test_a_tensor_is_read_without_waiting_for_its_own_stream(fake_torch):
    seen = device_array(FakeTensor(dtype="torch.bfloat16"), "x")
    assert (seen.library, seen.dtype_name, seen.strides, seen.pointer) == (libraries.Torch(0), "bfloat16", (1, 2), 64)
    assert (seen.library.stream_pointer, seen.is_writable) == (0, True)
    assert (fake_torch.asked, fake_torch.waits) == ([], [])


@pytest.mark.parametrize("name", ["uint16", "uint32", "uint64"])
def test_unsigned_tensors_need_no_conversion(fake_torch, name):
    assert device_array(FakeTensor(dtype=f"torch.{name}"), "targets").dtype_name == name
    assert fake_torch.asked == []  # of DLPack, which some versions of PyTorch refuse for these


def test_a_tensor_that_another_library_reads_is_waited_for(fake_torch):
    fake_torch.stream = 512
    for pointer in (0, 4096, 512):
        reader = libraries.Numba(0, types.SimpleNamespace(handle=pointer))
        assert device_array(FakeTensor(), "targets", reader).pointer == 64
    assert fake_torch.waits == [(0, 512), (4096, 512)]


def test_a_call_waits_for_kernels_that_read_what_its_library_may_give_back(fake_torch, monkeypatch):
    waited = []
    monkeypatch.setattr(driver, "wait", waited.append)
    arrays.wait_for_readers([FakeTensor(), numbered(2, 3), on_device(numbered(2, 3)), None, 1.0])
    assert not waited
    arrays.wait_for_readers([FakeTensor(), types.SimpleNamespace(__cuda_array_interface__={}, shape=(2, 3))])
    assert waited == [0]  # the stream that kernels were launched in


def test_another_librarys_array_is_waited_for_in_the_readers_stream(fake_torch):
    other = types.SimpleNamespace(__cuda_array_interface__={}, shape=(2, 3))
    reader = libraries.Torch(0)
    for stream, consumer in ((0, 1), (4096, 4096)):
        fake_torch.stream = stream
        seen = device_array(other, "x", reader)
        assert fake_torch.asked[-1] == consumer
    assert (seen.library, seen.dtype_name) == (libraries.Numba(0), "float32")
    device_array(cuda.to_device(numbered(2, 3)), "x", reader)
    assert fake_torch.asked[-1] == 4096


def test_new_arrays_for_tensors_are_tensors(fake_torch, monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)  # PyTorch's bfloat16 needs no other package
    fake_torch.stream, filled = 512, []
    monkeypatch.setattr(driver, "fill_with_zeros", lambda *args: filled.append(args))
    made = zeros(libraries.Torch(0), (2, 3), "bfloat16")
    assert (type(made.given), made.dtype_name, made.library) == (FakeTensor, "bfloat16", libraries.Torch(0))
    assert filled == [(64, 12, 512)]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"requires_grad": True}, r"logits requires grad, .* give logits.detach\(\)"),
        ({"is_neg": True}, r"give logits.resolve_neg\(\)"),
        ({"dtype": "torch.complex64"}, "logits must hold real numbers, got dtype complex64"),
        ({"dtype": "torch.float8_e5m2"}, "logits must hold real numbers, got dtype float8_e5m2"),
        ({"layout": "torch.sparse_csr"}, "logits must be a dense tensor, got layout torch.sparse_csr"),
    ],
)
def test_tensors_that_are_not_their_memory_are_refused(fake_torch, options, words):
    with pytest.raises(TypeError, match=words):
        device_array(FakeTensor(**options), "logits")


def test_bfloat16_of_other_libraries_needs_ml_dtypes(monkeypatch):
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(ImportError, match="bfloat16 that are not PyTorch's need the package ml_dtypes"):
        zeros(libraries.Numba(0), (2,), "bfloat16")


def test_the_parts_of_a_sparse_matrix():
    parts = [on_device(np.arange(3, dtype=dtype)) for dtype in ("float32", "int32", "int64")]
    matrix = types.SimpleNamespace(**dict(zip(("data", "indices", "indptr"), parts, strict=True)))
    matrix.tocsr = lambda: matrix
    assert sparse.is_sparse(matrix)
    assert not sparse.is_sparse(parts[0])
    assert [part.dtype_name for part in sparse.csr_arrays(matrix, "targets")] == ["float32", "int32", "int64"]


# ------------------------------------------------------------------------------------------------ show_config
def test_show_config_names_the_simulator(capsys):
    fastce.show_config()
    assert ", simulator (compute capability " in capsys.readouterr().out
