"""What kernels are compiled to: accesses of 128 bits, nothing in local memory, no float64 where elements are float32.

All jobs in all dtypes for all devices would take an hour. Each job is here with each kernel, once; dtypes and compute
capabilities go round, so that each of these comes together with each kernel, and with each other.
"""

import functools
import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import checks
import numpy as np
import pytest
import scipy.sparse
from on_device import OnDevice
from ptx.device import Device, aligned

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx

CAPABILITIES = [(8, 0), (9, 0), (10, 0)]
ROWS = 64
EVERYTHING = {"label_smoothing": 0.1, "softcap": 5.0, "z_loss": 0.01}


def class_indices(x):
    return np.arange(len(x)) % 8


def probabilities(x):
    return np.full(x.shape, 1 / x.shape[1], np.float32)


def sparse(x):
    places = np.arange(len(x)), class_indices(x)
    return scipy.sparse.csr_array((np.ones(len(x), np.float32), places), shape=x.shape)


def loss(name, targets, **options):
    def call(x, axis):
        y = targets(x if axis == 1 else x.T)
        y = y.T if y.ndim == 2 and axis == 0 and not scipy.sparse.issparse(y) else y
        weight = {"weight": np.ones(x.shape[axis], np.float32)} if options else {}
        getattr(OnDevice(Device.array), name)(x, y, axis=axis, **weight, **options)

    return call


def special(name):
    return lambda x, axis: getattr(OnDevice(Device.array), name)(x, axis=axis)


JOBS = {
    "gradient": loss("cross_entropy_value_and_grad", class_indices),
    "value": loss("cross_entropy", class_indices),
    "logsumexp": special("logsumexp"),
    "softmax": special("softmax"),
    "log_softmax": special("log_softmax"),
    "gradient of probabilities": loss("cross_entropy_value_and_grad", probabilities),
    "gradient of sparse targets": loss("cross_entropy_value_and_grad", sparse),
    "gradient with all options": loss("cross_entropy_value_and_grad", class_indices, **EVERYTHING),
    "derivative by the scale": loss("cross_entropy_value_and_grad_logit_scale", class_indices),
    "derivative with all options": loss("cross_entropy_value_and_grad_logit_scale", class_indices, **EVERYTHING),
}
KERNELS = ["rows", "few_classes", "lone_rows"]
NO_GRADIENT = ("value", "logsumexp", "derivative by the scale", "derivative with all options")


def cases():
    """(kernel, job, dtype, compute capability)"""
    for (k, kernel), (j, job) in itertools.product(enumerate(KERNELS), enumerate(JOBS)):
        yield kernel, job, checks.NAMES[j % 4], CAPABILITIES[(j + j // 4 + k) % 3]
    for name in checks.NAMES:
        yield "rows", "gradient", name, (9, 0)


CASES = sorted(set(cases()))


def logits_of(kernel, name, size):
    """Logits, and their class axis, that this kernel takes; all threads of a row have ``size`` chunks of it."""
    dtype = checks.dtype_of(name)
    classes = {"rows": 4 * size * (16 // dtype.itemsize), "few_classes": 3 * size, "lone_rows": 4 * size}[kernel]
    shape = (classes, ROWS) if kernel == "lone_rows" else (ROWS, classes)
    return aligned(shape, dtype), int(kernel != "lone_rows")


@functools.cache
def launched(kernel, job, name, cc, size=5):
    with Device(cc=cc) as device:
        JOBS[job](*logits_of(kernel, name, size))
    (found,) = (one for one in device.launches if one.kernel.__name__ == kernel)
    return found


def test_the_cases_cover_all_pairs():
    values = [KERNELS, list(JOBS), checks.NAMES, CAPABILITIES]
    for a, b in ((0, 1), (0, 2), (0, 3), (2, 3)):
        assert {(case[a], case[b]) for case in CASES} == set(itertools.product(values[a], values[b]))


@pytest.mark.parametrize(("kernel", "job", "name", "cc"), CASES)
def test_code(kernel, job, name, cc):
    found = launched(kernel, job, name, cc)
    text, writes = found.text, job not in NO_GRADIENT
    assert f".target sm_{cc[0]}{cc[1]}" in text
    assert not re.search(r"\b(ld|st)\.local|\.local \.", text)
    threads, blocks = found.bounds
    assert re.search(rf"\.maxntid {threads}\b", text)
    assert re.search(rf"\.minnctapersm {blocks}\b", text)
    assert threads >= np.prod(found.block)
    if kernel != "lone_rows":
        assert re.search(r"cp\.async\.cg\.shared\.global \[[^\]]*\], \[[^\]]*\], 16[;,]", text)
        assert ("st.global.v4" in text) == writes
        matrix = logits_of(kernel, name, 5)[0].nbytes
        loads = found.report.executed("cp.async.cg") + found.report.executed("ld.global.v4")
        assert 16 * loads == matrix
        again = 16 * ROWS if kernel == "rows" and job.startswith("gradient") else 0  # chunks with a target, once more
        assert matrix * writes <= 16 * found.report.executed("st.global.v4") <= (matrix + again) * writes


def needs_float64(kernel, job, name, cc):
    """A thread that has a row of its own adds up the masses of all classes in float64."""
    of_masses = "gradient of probabilities", "gradient with all options", "derivative with all options"
    return name == "float64" or (kernel != "rows" and job in of_masses)


@pytest.mark.parametrize(("kernel", "job", "name", "cc"), [case for case in CASES if not needs_float64(*case)])
def test_no_float64_for_single_elements(kernel, job, name, cc):
    """Twice as many elements, as many rows: as many instructions on float64. A lone row has some after 16 elements."""
    sizes = (2, 4) if kernel == "lone_rows" else (3, 6)
    short, long = (launched(kernel, job, name, cc, size).report for size in sizes)
    counts = [sum(n for opcode, n in one.instructions.items() if "f64" in opcode) for one in (short, long)]
    if kernel == "few_classes":  # unrolled, so that what is found once in a row may be found where it is needed
        added = np.subtract(*(logits_of(kernel, name, size)[0].size for size in reversed(sizes)))
        assert abs(counts[1] - counts[0]) < added / 4
    else:
        assert counts[0] == counts[1]


# -------------------------------------------------------------------------------------------------- ptxas
def ptxas():
    for package in ("nvidia.cuda_nvcc", "nvidia.cu13"):
        try:
            spec = importlib.util.find_spec(package)
        except ModuleNotFoundError:
            continue
        for folder in (spec and spec.submodule_search_locations) or ():
            if (program := Path(folder) / "bin" / "ptxas").exists():
                return program
    return None


needs_ptxas = pytest.mark.skipif(ptxas() is None, reason="needs ptxas, of the package nvidia-cuda-nvcc")


def assert_no_spills(folder, found, cc):
    source = folder / "kernel.ptx"
    source.write_text(found.text)
    command = [ptxas(), "-v", f"-arch=sm_{cc[0]}{cc[1]}", source, "-o", folder / "kernel.cubin"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert set(spills) == {("0", "0", "0")}, said
    registers = int(re.search(r"Used (\d+) registers", said)[1])
    threads, blocks = found.bounds
    assert registers * threads * blocks <= 1 << 16


@needs_ptxas
@pytest.mark.parametrize(("kernel", "job", "name", "cc"), CASES)
def test_no_spills(tmp_path, kernel, job, name, cc):
    assert_no_spills(tmp_path, launched(kernel, job, name, cc), cc)


@needs_ptxas
@pytest.mark.parametrize(("cc", "name"), [((8, 0), "float32"), ((9, 0), "bfloat16"), ((10, 0), "float64")])
def test_kernels_of_contrastive_losses_of_checks_and_of_sums(tmp_path, monkeypatch, cc, name):
    monkeypatch.setitem(sys.modules, "cupy", np)
    x, rows = aligned((40, 40), checks.dtype_of(name)), np.arange(40)
    functions = OnDevice(Device.array)
    with Device(cc=cc) as device:
        functions.clip_loss_value_and_grad(x)
        functions.clip_loss_value_and_grad(x, rows, label_smoothing=0.1, reduction="none")
        functions.siglip_loss_value_and_grad(x, x, 1.0, 0.0)
        functions.cross_entropy(x, rows, weight=np.ones(40), sample_weight=np.ones(40), reduction="sum")
        functions.cross_entropy(x, sparse(x), sample_weight=np.ones(40))
        functions.cross_entropy(x[:, ::2].astype(np.int32), rows % 20)  # copied to float64
        functions.nll_loss(x, rows)
    found = {one.text: one for one in device.launches}.values()
    names = {one.kernel.__name__ for one in found}
    assert names > {"sum_up", "copy", "check", "add_up_all"}
    assert len(names) >= 13
    for one in found:
        assert f".target sm_{cc[0]}{cc[1]}" in one.text
        assert not re.search(r"\b(ld|st)\.local|\.local \.", one.text)
        assert_no_spills(tmp_path, one, cc)
