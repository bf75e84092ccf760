"""Few classes, and rows of any strides, by the kernels as they are compiled: right to the contract, every access to
memory checked, the matrix read and written once.
"""

import checks
import numpy as np
import pytest
import scipy.sparse
from compiled import (
    OPTIONS,
    RNG,
    case,
    check_options,
    check_special,
    kernels,
    lanes_of,
    near_zero,
    placed,
    reports,
    targets_of,
)

pytest.importorskip("numba_cuda")
pytestmark = [pytest.mark.ptx, pytest.mark.usefixtures("data_of_its_own")]


# --------------------------------------------------------------------------------------------- few classes
@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 7, 8, 10, 15, 16, 17, 21, 24, 28, 31, 32])
def test_few_classes(start, classes):
    device = start()
    for offset in range(4) if classes % 2 == 0 else (0, 3):  # an odd number has words of one element wherever it begins
        x, y = case(300, classes, np.dtype(np.float32), offset)
        exact = checks.naive.CrossEntropy(x, y)
        ours = checks.fastce.cross_entropy_value_and_grad(x, y, reduction="none", out=placed(x, offset))
        checks.assert_losses(ours.value, exact, x.dtype, "none", {}, near_zero(x.dtype))
        checks.assert_gradient(ours.grad, exact, x.dtype, "none", 1.0, {})
    assert kernels(device) == {"few_classes"}


# Each offset is a kernel, and halves of both kinds stand alike: all widths of words with either, all classes with one.
OTHERS = [
    ("float16", 2),
    ("float16", 16),
    *(("bfloat16", n) for n in (7, 10, 16)),
    *(("float64", n) for n in (2, 7, 10, 16)),
]


@pytest.mark.parametrize(("name", "classes"), OTHERS)
def test_few_classes_of_other_dtypes(start, name, classes):
    dtype = checks.dtype_of(name)
    lanes = lanes_of(dtype)
    device = start()
    for offset in sorted({0, 1, lanes // 4, lanes // 2, lanes - 1}):  # words of all widths
        x, y = case(150, classes, dtype, offset)
        reduction = ("none", "sum")[offset % 2]
        checks.check(x, y, reductions=[reduction], out=lambda x=x: x.copy(), near_zero=near_zero(x.dtype))
        checks.fastce.cross_entropy_value_and_grad(x, y, out=x)
    assert kernels(device) >= {"few_classes"}


@pytest.mark.parametrize("name", checks.NAMES)
def test_few_classes_are_read_and_written_once(start, name):
    x, y = case(1024, 10, checks.dtype_of(name), share=0.0)
    device = start(races=False)
    checks.fastce.cross_entropy_value_and_grad(x, np.abs(y) % 10)
    (report,) = reports(device, "few_classes")
    assert report.read_widths[16] == report.written_widths[16] == x.nbytes
    assert report.sectors["read", 16] == report.sectors["written", 16] == x.nbytes // 32


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["classes", "probabilities", "sparse"])
def test_targets_and_options(start, kind, options):
    start()
    check_options(kind, 10, options)


@pytest.mark.parametrize("name", checks.NAMES)
def test_scipys_functions(start, name):
    start()
    x, _ = case(300, 10, checks.dtype_of(name), offset=1)
    for function in ("logsumexp", "softmax", "log_softmax"):
        check_special(function, x, 1)


def test_confident_rows_keep_their_digits(start):
    start()
    x, y = RNG.normal(size=(200, 10)).astype(np.float32), RNG.integers(0, 10, 200)
    x[np.arange(200), y] += 25
    checks.check(x, y)


def test_axes_of_all_kinds(start):
    start()
    x = RNG.normal(size=(3, 4, 5, 6)).astype(np.float32)
    for axis in (None, (0, 2), (1, 3), (0, 1, 3), -2):
        check_special("logsumexp", x, axis)
        check_special("softmax", x, axis)
    integers = RNG.integers(-9, 9, (40, 12))
    assert np.allclose(checks.fastce.logsumexp(integers, axis=1), np.log(np.exp(integers).sum(axis=1)), rtol=1e-15)


def test_what_is_wrong_is_found_and_nothing_is_written(start):
    start()
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
def test_rows_of_any_strides(start, name):
    device = start()
    for x, axis in views(checks.dtype_of(name)).values():
        y = RNG.integers(0, x.shape[axis], x.shape[:axis] + x.shape[axis + 1 :])
        y[RNG.random(y.shape) < 0.2] = -100
        checks.check(x, y, axis=axis, near_zero=near_zero(x.dtype))
        for function in ("logsumexp", "softmax", "log_softmax"):
            check_special(function, x, axis)
    assert "lone_rows" in kernels(device)


@pytest.mark.parametrize("kind", ["classes", "probabilities", "sparse"])
def test_lone_rows_take_targets_and_options(start, kind):
    x = np.asfortranarray(RNG.normal(size=(70, 21)) * 4)
    start()
    y = targets_of(kind, 70, 21, np.float32)
    checks.check(
        x, y, reductions=checks.REDUCTIONS, weight=RNG.random(21), near_zero=near_zero(x.dtype), **OPTIONS["all"]
    )
