"""The functions of fastce for arrays on a GPU, with their kernels as they are compiled: right to the contract, every
access to memory checked, the matrix read and written once.
"""

import zlib

import checks
import numpy as np
import pytest
import scipy.sparse
from on_device import OnDevice
from ptx.device import Device, aligned

pytest.importorskip("numba_cuda")
pytestmark = pytest.mark.ptx


def near_zero(dtype):
    """In eps of float32: what losses of half precision may be off by, whose differences are rounded; see `checks`."""
    return 3 if np.dtype(dtype).itemsize == 2 else 0


RNG = np.random.default_rng(14)


@pytest.fixture(autouse=True)
def data_of_its_own(request):
    """The data of a test depend on its name alone, not on the tests before it."""
    RNG.bit_generator.state = np.random.default_rng(zlib.crc32(request.node.name.encode())).bit_generator.state


@pytest.fixture
def launched(monkeypatch):
    """Starts devices; tests of the contract then find the functions of fastce there."""
    monkeypatch.setattr(checks, "fastce", OnDevice(Device.array))
    devices = []

    def start(**options):
        devices.append(Device(**{"races": True} | options))
        return devices[-1].__enter__()

    yield start
    for device in reversed(devices):
        device.__exit__()


def reports(device, name):
    """What the launches of one kernel did."""
    return [one.report for one in device.launches if one.kernel.__name__ == name]


def kernels(device):
    known = ("rows", "few_classes", "lone_rows")
    return {one.kernel.__name__ for one in device.launches} & set(known)


def lanes_of(dtype):
    return 16 // dtype.itemsize


def placed(array, offset=0, step=None):
    """A copy whose first element lies so far after a multiple of 256 bytes, and whose rows are so far apart."""
    rows, classes = array.shape
    room = aligned((rows, step or classes), array.dtype, offset)
    room[:, classes:] = 77
    room[:, :classes] = array
    return room[:, :classes]


def case(rows, classes, dtype, offset=0, step=None, share=0.5):
    """Logits, of which many rows are difficult, and class indices, of which some are ignored."""
    x, y = checks.mixture(RNG, rows, classes, dtype, share)
    y[RNG.random(rows) < 0.2] = -100
    return placed(x, offset, step), y


def check_special(name, x, axis):
    """logsumexp, softmax or log_softmax; 2 ulp, since exp2 in float32 is the GPU's own instruction."""
    checks.assert_as_scipy(name, getattr(checks.fastce, name)(x, axis=axis), x, axis, ulps=2)


# ------------------------------------------------------------------------------------- rows in shared memory
@pytest.mark.parametrize("lanes", [4, 8, 16, 32, "all"])
@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_by_any_number_of_threads(launched, name, lanes):
    dtype = checks.dtype_of(name)
    from fastce.cuda.run import CHUNKS_OF_THREAD, THREADS

    lanes = THREADS if lanes == "all" else lanes
    classes = 3 * CHUNKS_OF_THREAD * lanes * lanes_of(dtype) // 4 + 3  # threads have more than half of their room
    x, y = case(2 + THREADS // lanes, classes, dtype)
    device = launched()
    checks.check(x, y, reductions=["none", "mean"], near_zero=near_zero(x.dtype))
    assert kernels(device) == {"rows"}
    assert {one.block for one in device.launches if one.kernel.__name__ == "rows"} == {(lanes, THREADS // lanes)}


@pytest.mark.parametrize(("name", "offset"), [("float32", k) for k in range(4)] + [("bfloat16", k) for k in range(8)])
def test_rows_that_begin_anywhere(launched, name, offset):
    dtype = checks.dtype_of(name)
    launched()
    for classes, step in ((57, 57), (58, 61), (64, 72), (33, 37)):
        x, y = case(5, classes, dtype, offset, step)
        for room in (placed(x, offset, step), placed(x, 0), placed(x, offset + 1, step + 1)):
            checks.check(x, y, out=lambda room=room: room, near_zero=near_zero(x.dtype))
        ours = checks.fastce.cross_entropy_value_and_grad(placed(x, offset, step), y, reduction="sum").grad
        assert checks.fastce.cross_entropy_value_and_grad(x, y, reduction="sum", out=x).grad is x
        assert checks.same_bits(x, ours)


@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_in_parts(launched, name):
    dtype = checks.dtype_of(name)
    classes = 5 * 1024 * lanes_of(dtype) + 1  # 3 parts
    x, y = case(4, classes, dtype, offset=1)
    results = []
    for multiprocessors, launches in ((2, 1), (1, 2)):  # parts wait for each other; or their states are found first
        device = launched(multiprocessors=multiprocessors, resident=3, races=False, turn=500)
        results.append(checks.check(x, y, reductions=["sum", "none"], near_zero=near_zero(x.dtype)))
        assert len(reports(device, "rows")) == 2 + 2 * launches
    assert checks.same_bits(results[0].value, results[1].value)
    assert checks.same_bits(results[0].grad, results[1].grad)
    for function in ("logsumexp", "softmax", "log_softmax"):
        check_special(function, x, 1)


@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_are_read_and_written_once(launched, name):
    dtype = checks.dtype_of(name)
    for rows, classes in ((40, 96), (6, 1024), (2, 5 * 1024 * lanes_of(dtype))):
        x, y = case(rows, classes, dtype, share=0.0)
        y = np.abs(y) % classes
        device = launched(races=False)
        checks.fastce.cross_entropy_value_and_grad(x, y)
        checks.fastce.logsumexp(x, axis=1)
        both, value = reports(device, "rows")
        for report in (both, value):
            assert 16 * report.executed("cp.async.cg") == x.nbytes
            assert 0 <= report.sectors["read", 16] - x.nbytes // 32 <= x.nbytes // 512  # what rows begin and end with
        again = 16 * both.executed("st.global.v4") - x.nbytes
        assert 0 <= again <= 16 * rows  # the chunk with the target, once more
        assert 0 <= both.sectors["written", 16] - x.nbytes // 32 <= x.nbytes // 512 + rows
        assert value.executed("st.global.v4") == 0


# ------------------------------------------------------------------------------------------------- options
OPTIONS = {
    "spread": {"label_smoothing": 0.1},
    "capped": {"softcap": 5.0, "z_loss": 0.01},
    "all": {"label_smoothing": 0.2, "smoothing_over": "others", "logit_scale": 1.5, "softcap": 6.0, "z_loss": 0.02},
}


def targets_of(kind, rows, classes, dtype):
    if kind == "classes":
        return RNG.integers(0, classes, rows)
    if kind == "probabilities":
        return (RNG.random((rows, classes)) / classes).astype(dtype)
    points = RNG.random((rows, classes)) * (RNG.random((rows, classes)) < 2 / classes)
    return scipy.sparse.csr_array(points.astype(np.float32))


@pytest.mark.parametrize("options", ["spread", "capped", "all"])
@pytest.mark.parametrize("kind", ["classes", "probabilities", "sparse"])
@pytest.mark.parametrize("classes", [10, 300])
def test_targets_and_options(launched, classes, kind, options):
    x = placed((RNG.normal(size=(21, classes)) * 4).astype(np.float32), 1)
    more = dict(OPTIONS[options])
    if options == "all":
        more |= {"weight": RNG.random(classes).astype(np.float32), "sample_weight": RNG.random(21)}
    launched()
    upstream = RNG.normal(size=21)
    y = targets_of(kind, 21, classes, np.float32)
    checks.check(x, y, reductions=checks.REDUCTIONS, grad_output=upstream, near_zero=near_zero(x.dtype), **more)


# --------------------------------------------------------------------------------------------- few classes
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 21, 24, 28, 31, 32])
def test_few_classes(launched, classes):
    device = launched()
    for offset in range(4):
        x, y = case(300, classes, np.dtype(np.float32), offset)
        exact = checks.naive.CrossEntropy(x, y)
        ours = checks.fastce.cross_entropy_value_and_grad(x, y, reduction="none", out=placed(x, offset))
        checks.assert_losses(ours.value, exact, x.dtype, "none", {}, near_zero(x.dtype))
        checks.assert_gradient(ours.grad, exact, x.dtype, "none", 1.0, {})
    assert kernels(device) == {"few_classes"}


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float64"])
@pytest.mark.parametrize("classes", [2, 7, 10, 16])
def test_few_classes_of_other_dtypes(launched, name, classes):
    dtype = checks.dtype_of(name)
    device = launched()
    for offset in range(lanes_of(dtype)):
        x, y = case(150, classes, dtype, offset)
        reduction = ("none", "sum")[offset % 2]
        checks.check(x, y, reductions=[reduction], out=lambda x=x: x.copy(), near_zero=near_zero(x.dtype))
        checks.fastce.cross_entropy_value_and_grad(x, y, out=x)
    assert kernels(device) >= {"few_classes"}


@pytest.mark.parametrize("name", checks.NAMES)
def test_few_classes_are_read_and_written_once(launched, name):
    x, y = case(1024, 10, checks.dtype_of(name), share=0.0)
    device = launched(races=False)
    checks.fastce.cross_entropy_value_and_grad(x, np.abs(y) % 10)
    (report,) = reports(device, "few_classes")
    assert report.read_widths[16] == report.written_widths[16] == x.nbytes
    assert report.sectors["read", 16] == report.sectors["written", 16] == x.nbytes // 32


# ---------------------------------------------------------------------------------------------- any strides
def views(dtype):
    """(logits, axis): classes that are not adjacent, in rows of any order."""
    cube = checks.mixture(RNG, 2 * 40, 37, dtype)[0].reshape(2, 40, 37)
    return {
        "first axis": (np.ascontiguousarray(cube[0].T), 0),
        "middle axis": (np.ascontiguousarray(cube.transpose(0, 2, 1)), 1),
        "every other": (cube[0, ::3, ::2], 1),
        "backwards": (cube[1, ::-1, ::-1], 1),
        "no single step": (np.ascontiguousarray(cube.transpose(0, 2, 1))[:, :, 1:30].transpose(1, 0, 2), 0),
        "four axes": (cube.reshape(2, 5, 8, 37)[:, ::2].transpose(2, 0, 3, 1), 2),
    }


@pytest.mark.parametrize("name", checks.NAMES)
def test_rows_of_any_strides(launched, name):
    device = launched()
    for x, axis in views(checks.dtype_of(name)).values():
        y = RNG.integers(0, x.shape[axis], x.shape[:axis] + x.shape[axis + 1 :])
        y[RNG.random(y.shape) < 0.2] = -100
        checks.check(x, y, axis=axis, near_zero=near_zero(x.dtype))
        for function in ("logsumexp", "softmax", "log_softmax"):
            check_special(function, x, axis)
    assert "lone_rows" in kernels(device)


@pytest.mark.parametrize("kind", ["classes", "probabilities", "sparse"])
def test_lone_rows_take_targets_and_options(launched, kind):
    x = np.asfortranarray(RNG.normal(size=(70, 21)) * 4)
    launched()
    y = targets_of(kind, 70, 21, np.float32)
    checks.check(
        x, y, reductions=checks.REDUCTIONS, weight=RNG.random(21), near_zero=near_zero(x.dtype), **OPTIONS["all"]
    )


# ------------------------------------------------------------------------------------------------- the rest
@pytest.mark.parametrize("shape", [(300, 10), (70, 100), (9, 900), (3, 5000)])
@pytest.mark.parametrize("name", checks.NAMES)
def test_scipys_functions(launched, name, shape):
    launched()
    x, _ = case(*shape, checks.dtype_of(name), offset=1)
    for function in ("logsumexp", "softmax", "log_softmax"):
        check_special(function, x, 1)


def test_confident_rows_keep_their_digits(launched):
    launched()
    x, y = RNG.normal(size=(200, 10)).astype(np.float32), RNG.integers(0, 10, 200)
    x[np.arange(200), y] += 25
    checks.check(x, y)


def test_axes_of_all_kinds(launched):
    launched()
    x = RNG.normal(size=(3, 4, 5, 6)).astype(np.float32)
    for axis in (None, (0, 2), (1, 3), (0, 1, 3), -2):
        check_special("logsumexp", x, axis)
        check_special("softmax", x, axis)
    integers = RNG.integers(-9, 9, (40, 12))
    assert np.allclose(checks.fastce.logsumexp(integers, axis=1), np.log(np.exp(integers).sum(axis=1)), rtol=1e-15)


def test_what_is_wrong_is_found_and_nothing_is_written(launched):
    launched()
    x, y = RNG.normal(size=(1000, 12)).astype(np.float32), RNG.integers(0, 12, 1000).astype(np.int16)
    cross_entropy = checks.fastce.cross_entropy_value_and_grad
    for row, bad in ((900, 12), (417, -1)):  # the first one of all is named
        y[row] = bad
        room = np.full_like(x, 7)
        with pytest.raises(IndexError, match=rf"{bad}\b.*\b{row}\b|\b{row}\b.*{bad}\b"):
            cross_entropy(x, y, out=room)
        assert (room == 7).all()
    y = np.abs(y) % 12
    weight = np.ones(12, np.float32)
    for number in (-np.inf, np.nan, np.inf):
        weight[7] = number
        with pytest.raises(ValueError, match=rf"^weight must be finite, got {number}"):
            cross_entropy(x, y, weight=weight)
    with pytest.raises(ValueError, match=r"^sample_weight must be finite, got -inf"):
        cross_entropy(x, y, sample_weight=np.where(np.arange(1000) == 999, -np.inf, -2.0))
    points = scipy.sparse.csr_array(np.eye(1000, 12, dtype=np.float32))
    points.indices[5] = 12
    with pytest.raises(IndexError, match="12"):
        cross_entropy(x, points)
    points.indptr[8:10] = 12, 9
    with pytest.raises((ValueError, IndexError)):
        cross_entropy(x, points)
