"""The cross-check on a GPU: all of the simulator's tests, and what only a device can show."""

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from checks import NAMES, dtype_of, same_bits
from devices import LIBRARIES, OfTorch, first_library

pytest.importorskip("numba_cuda")

import test_logsumexp_and_softmax
import test_losses
from crosscheck import call, check, check_special, filled, pairwise, targets_of

import fastce

pytestmark = pytest.mark.gpu

ON_HOST_ONLY = {  # these need arrays that no library on a GPU makes, or two views of one memory
    "test_an_out_that_does_not_fit_is_a_value_error",
    "test_an_out_that_overlaps_the_input_in_part_is_refused",
    "test_arrays_of_the_wrong_kind_are_type_errors",
    "test_a_sparse_matrix_whose_row_pointers_are_broken_harms_no_memory",
}
for module in (test_logsumexp_and_softmax, test_losses):
    for name, function in vars(module).items():
        if name.startswith("test_") and name not in ON_HOST_ONLY:
            globals()[f"{name}_{module.__name__}"] = function


@pytest.fixture
def device():
    return first_library()


every_library = pytest.mark.parametrize("library", LIBRARIES)


def device_of(library):
    if library != "numba":
        pytest.importorskip(library)
    return LIBRARIES[library]()


# -------------------------------------------------------------------------------------------------- sizes
CASES = pairwise(
    library=list(LIBRARIES),
    dtype=["float32", "float64", "float16"],
    classes=[1, 10, 33, 1000, 4097, 32_768, 50_257, 131_072, 1_000_000],
    layout=["plain", "classes first", "columns of wider rows", "misaligned", "every other class", "three axes"],
    kind=["int64", "uint8", "probabilities", "sparse"],
    option=["none", "smoothing", "smoothing over others", "all"],
    reduction=["none", "sum", "mean"],
    out=[None, "new", "in place"],
)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_large_rows(rng, number):
    case = CASES[number]
    device, dtype, kind = device_of(case["library"]), dtype_of(case["dtype"]), case["kind"]
    logits, axis = filled(case["layout"], lambda shape: 4 * rng.normal(size=shape), 3, case["classes"], dtype)
    at = 1 if axis is None else axis % logits.ndim
    targets = targets_of(kind, rng, logits.shape, at, dtype)
    check(
        device, logits, targets, axis=axis, reduction=case["reduction"], out=case["out"],
        **test_losses.OPTIONS[case["option"]],
    )  # fmt: skip


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize(("rows", "classes"), [(100_000, 10), (300_000, 3), (20_000, 33), (500, 4096), (40, 131_072)])
def test_many_rows(device, rng, rows, classes, dtype):
    device = OfTorch() if dtype == "bfloat16" else device
    logits = (4 * rng.normal(size=(rows, classes))).astype(dtype_of(dtype))
    check(device, logits, rng.integers(0, classes, rows), reduction="none")
    check(device, logits, rng.integers(0, classes, rows), reduction="mean", label_smoothing=0.1)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("classes", [1, 7, 40, 1000, 4099, 131_072])
@pytest.mark.parametrize("kind", ["int64", "probabilities"])
def test_half_precision_of_pytorch(rng, dtype, classes, kind):
    logits = (3 * rng.normal(size=(5, classes))).astype(dtype_of(dtype))
    targets = targets_of(kind, rng, logits.shape, 1, logits.dtype)
    check(OfTorch(), logits, targets, out="in place", label_smoothing=0.1)
    for name in test_logsumexp_and_softmax.NAMES:
        check_special(OfTorch(), name, logits, 1)


@every_library
@pytest.mark.parametrize("name", test_logsumexp_and_softmax.NAMES)
@pytest.mark.parametrize("classes", [5, 1000, 100_000, 1_000_000])
@pytest.mark.parametrize("axis", [0, 1])
def test_large_rows_of_the_special_functions(rng, library, name, classes, axis):
    x = (4 * rng.normal(size=(3, classes))).astype(np.float32)
    check_special(device_of(library), name, x if axis else x.T.copy(), axis)


@every_library
@pytest.mark.parametrize("shape", [(200_000, 10), (2000, 4096), (7, 1_000_000)])
def test_the_same_bits_in_every_run(rng, library, shape):
    device = device_of(library)
    logits = rng.normal(size=shape).astype(np.float32)
    labels = rng.integers(0, shape[1], shape[0])
    first = call(device, logits, labels, label_smoothing=0.1)
    for _ in range(5):
        again = call(device, logits, labels, label_smoothing=0.1)
        assert first.value == again.value
        assert same_bits(first.grad, again.grad)


# ------------------------------------------------------------------------------------------------ streams
def stream_of(library):
    """(a new stream that does not wait for the default one, a context that makes it the current one)."""
    if library == "torch":
        torch = pytest.importorskip("torch")
        stream = torch.cuda.Stream()
        return stream, torch.cuda.stream(stream)
    stream = pytest.importorskip("cupy").cuda.Stream(non_blocking=True)
    return stream, stream


@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("shape", [(64, 10), (64, 1000), (3, 500_000)])
def test_calls_are_in_the_order_of_the_current_stream(rng, library, shape):
    device, labels = device_of(library), np.zeros(shape[0], np.int64)
    logits = rng.normal(size=shape).astype(np.float32)
    expected = call(device, logits, labels)
    there, targets = device.to_device(np.zeros_like(logits)), device.to_device(labels)
    late, large = device.to_device(logits), device.to_device(np.ones((4096, 4096), np.float32))
    stream, current = stream_of(library)
    with current:
        for _ in range(20):
            large = large @ large * 0  # keeps the stream busy
        there += late + large[0, 0]  # so the logits come late
        value, grad = fastce.cross_entropy_value_and_grad(there, targets)
        grad *= 2
    stream.synchronize()
    assert value == expected.value
    np.testing.assert_array_equal(device.to_host(grad), 2 * expected.grad)


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_threads_with_streams_of_their_own_do_not_disturb_each_other(rng, library):
    device, shapes = device_of(library), [(3000, 10), (500, 3000), (5, 300_000), (64, 33)]
    inputs = [(rng.normal(size=shape).astype(np.float32), np.zeros(shape[0], np.int64)) for shape in shapes]
    expected = [call(device, *given) for given in inputs]
    wrong = []

    def work(given, right):
        _, current = stream_of(library)
        with current:
            for _ in range(20):
                result = call(device, *given)
                if result.value != right.value or not same_bits(result.grad, right.grad):
                    wrong.append(given[0].shape)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(inputs, expected, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads), "hangs"
    assert not wrong


LONG_ROWS_IN_MANY_STREAMS = """
import threading
import numpy as np
import torch
import fastce

logits = torch.randn(40, 1_000_000, dtype=torch.float64, device="cuda")
labels = torch.zeros(40, dtype=torch.int64, device="cuda")
expected = fastce.cross_entropy_value_and_grad(logits, labels)
torch.cuda.synchronize()
wrong = []

def work():
    with torch.cuda.stream(torch.cuda.Stream()):
        for _ in range(5):
            result = fastce.cross_entropy_value_and_grad(logits, labels)
            torch.cuda.current_stream().synchronize()
            if result.value != expected.value or not torch.equal(result.grad, expected.grad):
                wrong.append(result.value)

threads = [threading.Thread(target=work, daemon=True) for _ in range(6)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert not wrong
"""


def test_blocks_that_wait_for_each_other_do_not_hang_beside_other_kernels_that_do():
    torch = pytest.importorskip("torch")
    if torch.cuda.mem_get_info()[0] < 10 << 30:
        pytest.skip("needs 10 GiB")
    subprocess.run([sys.executable, "-c", LONG_ROWS_IN_MANY_STREAMS], check=True, timeout=180)


# ------------------------------------------------------------------------------------------------- memory
@every_library
def test_out_of_memory_is_a_memory_error_and_the_next_call_works(library):
    device = device_of(library)
    from numba import cuda

    make = {
        "numba": lambda shape: cuda.device_array(shape, np.float32),
        "torch": lambda shape: pytest.importorskip("torch").empty(shape, device="cuda"),
        "cupy": lambda shape: pytest.importorskip("cupy").empty(shape, np.float32),
    }[library]
    classes = 1 << 20
    rows = int(cuda.current_context().get_memory_info()[0] * 0.6) // (4 * classes)
    logits = make((rows, classes))
    with pytest.raises(MemoryError, match="not enough free memory"):
        fastce.cross_entropy_value_and_grad(logits, device.to_device(np.zeros(rows, np.int64)))
    del logits
    if library == "torch":
        pytest.importorskip("torch").cuda.empty_cache()
    if library == "cupy":
        pytest.importorskip("cupy").get_default_memory_pool().free_all_blocks()
    check(device, np.eye(4, dtype=np.float32), np.arange(4))


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_an_out_that_overlaps_the_input_in_part_is_refused(library):
    device = device_of(library)
    memory = device.to_device(np.zeros((4, 6), np.float32))
    labels = device.to_device(np.zeros(3, np.int64))
    for out in (memory[1:, :5], memory[:3, 1:]):
        with pytest.raises(ValueError, match="out overlaps the input in part"):
            fastce.cross_entropy_value_and_grad(memory[:3, :5], labels, out=out)
        with pytest.raises(ValueError, match="out overlaps the input in part"):
            fastce.softmax(memory[:3, :5], axis=1, out=out)
    assert not device.to_host(memory).any()


@pytest.mark.parametrize("library", ["torch", "cupy"])
@pytest.mark.parametrize("classes", [10, 40, 3000, 100_000])
def test_nothing_between_the_elements_of_a_strided_out_is_touched(rng, library, classes):
    device, labels = device_of(library), np.zeros(4, np.int64)
    logits = rng.normal(size=(4, classes)).astype(np.float32)
    expected = call(device, logits, labels)
    for columns in (slice(0, 2 * classes, 2), slice(3, classes + 3)):
        memory = device.to_device(np.full((6, 2 * classes + 3), 77, np.float32))
        out = memory[1:5, columns]
        fastce.cross_entropy_value_and_grad(device.to_device(logits), device.to_device(labels), out=out)
        host = device.to_host(memory)
        np.testing.assert_allclose(host[1:5, columns], expected.grad, rtol=1e-5, atol=1e-7)
        host[1:5, columns] = 77
        assert (host == 77).all()


# ---------------------------------------------------------------------------------------- NVIDIA's checkers
SMALL_RUN = """
import numpy as np
import scipy.sparse
import fastce
from crosscheck import call
from devices import OfNumba

device, rng = OfNumba(), np.random.default_rng(0)
for dtype in (np.float32, np.float16, np.float64):
    for rows, classes in ((300, 10), (5, 33), (7, 1001), (3, 9000), (2, 40_000)):
        logits, labels = rng.normal(size=(rows, classes)).astype(dtype), rng.integers(0, classes, rows)
        dense = np.eye(classes, dtype=np.float32)[labels]
        for targets in (labels, dense, scipy.sparse.csr_array(dense)):
            call(device, logits, targets, label_smoothing=0.1)
        call(device, logits, labels, weight=np.ones(classes), sample_weight=np.ones(rows), reduction="none", z_loss=0.1)
        call(device, np.ascontiguousarray(logits.T), labels, axis=0)
        for name in ("logsumexp", "softmax", "log_softmax"):
            getattr(fastce, name)(device.to_device(logits), axis=1)
"""


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_finds_nothing(tool):
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("needs compute-sanitizer")
    here = Path(__file__).parent
    run = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", SMALL_RUN],
        cwd=here.parents[1], env=os.environ | {"PYTHONPATH": f"{here}:{here.parent}:{here.parents[1]}"},
        capture_output=True, text=True, timeout=900,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
