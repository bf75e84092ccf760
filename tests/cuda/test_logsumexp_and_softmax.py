"""logsumexp, softmax and log_softmax by kernels, in the simulator: against SciPy's formula and fastce on the CPU."""

import numpy as np
import pytest
import scipy.special
from checks import mixture, same_bits
from crosscheck import LAYOUTS, check_special, filled, of_dtype, pairwise

import fastce

pytest.importorskip("numba_cuda")

pytestmark = pytest.mark.usefixtures("small_blocks")

NAMES = ["logsumexp", "softmax", "log_softmax"]
CASES = pairwise(
    name=NAMES,
    dtype=["float32", "float64", "float16", "bfloat16", "int32", "bool"],
    classes=[1, (2, 3, 10, 31), (33, 40), 129, 300, 1000],
    layout=list(LAYOUTS),
    out=[None, "new", "strided", "in place"],
    rows=[1, 2, 3],
)
every_function = pytest.mark.parametrize("name", NAMES)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_every_pair_of_functions_layouts_and_dtypes(device, rng, number):
    case = CASES[number]
    dtype, out = of_dtype(case["dtype"]), case["out"]
    x, axis = filled(case["layout"], lambda shape: 5 * rng.normal(size=shape), case["rows"], case["classes"], dtype)
    if out == "in place" and (dtype.kind in "ib" or not x.flags.writeable):
        out = "new"
    check_special(device, case["name"], x, 1 if axis is None else axis, out)


@every_function
@pytest.mark.parametrize("axis", [None, 0, 1, -1, (0, 1), (0, 2), (2, 0), (1, 2), (0, 1, 2)])
def test_axes_are_those_of_scipy(device, rng, name, axis):
    check_special(device, name, rng.normal(size=(2, 3, 5)).astype(np.float32), axis)
    check_special(device, name, rng.normal(size=(3, 5, 2)).T, axis)


@every_function
@pytest.mark.parametrize("classes", [3, 40, 700])
@pytest.mark.parametrize("axis", [0, 1])
def test_difficult_rows(device, rng, name, classes, axis):
    x = mixture(rng, 12 if classes < 700 else 4, classes, np.float32, 1.0)[0]
    check_special(device, name, x if axis else x.T.copy(), axis)


CASES_OF_SCIPY = {
    "+inf": [1.0, np.inf, 2.0],
    "+inf twice": [np.inf, np.inf, 2.0],
    "both": [np.inf, -np.inf, 2.0],
    "all -inf": [-np.inf] * 3,
    "nan": [np.nan, 1.0, np.inf],
    "one -inf": [-np.inf, 1.0, 2.0],
}


@pytest.mark.parametrize("case", pairwise(row=list(CASES_OF_SCIPY), name=NAMES, classes=[3, 40, 600]), ids=str)
def test_special_values_are_those_of_scipy_and_stay_in_their_row(device, case):
    name = case["name"]
    x = np.zeros((3, case["classes"]), np.float32)
    x[1, :3], x[1, 3:] = CASES_OF_SCIPY[case["row"]], -np.inf
    with np.errstate(all="ignore"):
        expected = getattr(scipy.special, name)(x.astype(np.float64), axis=1)
    for there, axis in ((x, 1), (np.asfortranarray(x), 1), (x.T.copy(), 0)):
        actual = device.to_host(getattr(fastce, name)(device.to_device(there), axis=axis))
        np.testing.assert_allclose(actual if axis or name == "logsumexp" else actual.T, expected, rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logsumexp_near_zero_keeps_what_the_largest_element_would_swallow(device, dtype):
    eps = np.finfo(dtype).eps
    x = np.zeros((4, 600), dtype)
    x[0], x[0, 5] = -40.0, 0.0
    x[1:] = np.random.default_rng(0).normal(size=(3, 600))
    x[1:] -= scipy.special.logsumexp(x[1:].astype(np.longdouble), axis=1, keepdims=True).astype(dtype)
    exact = scipy.special.logsumexp(x.astype(np.longdouble), axis=1)
    for columns in (slice(0, 600), slice(0, 20)):
        exact = scipy.special.logsumexp(x[:, columns].astype(np.longdouble), axis=1)
        actual = device.to_host(fastce.logsumexp(device.to_device(x[:, columns].copy()), axis=1))
        assert (np.abs(actual - exact) <= np.maximum(2 * eps, 2 * np.spacing(np.abs(exact).astype(dtype)))).all()
    pair = device.to_host(fastce.logsumexp(device.to_device(np.array([[0, -40]], dtype)), axis=1))
    assert pair[0] == pytest.approx(4.248354255291589e-18, rel=1e-6)


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize(("shape", "axis"), [((0, 3), 1), ((3, 0), 1), ((0,), None), ((3, 0), None), ((0, 0), 0)])
def test_logsumexp_of_nothing_is_minus_infinity(device, shape, axis, keepdims):
    x = np.zeros(shape, np.float32)
    expected = fastce.logsumexp(x, axis=axis, keepdims=keepdims)
    actual = device.to_host(fastce.logsumexp(device.to_device(x), axis=axis, keepdims=keepdims))
    assert same_bits(actual, np.asarray(expected, np.float32))


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_no_elements_give_no_elements(device, name, shape):
    assert device.to_host(getattr(fastce, name)(device.to_device(np.zeros(shape, np.float32)), axis=-1)).shape == shape


@every_function
def test_one_element_and_no_axis(device, name):
    for x in (np.float32([3.5]), np.asarray(np.float32(3.5))):
        actual = device.to_host(getattr(fastce, name)(device.to_device(x)))
        np.testing.assert_array_equal(actual, getattr(scipy.special, name)(x))


@every_function
@pytest.mark.parametrize("classes", [5, 50, 900])
def test_the_same_bits_in_every_run(device, rng, name, classes):
    x = device.to_device((rng.normal(size=(3, classes)) * 5).astype(np.float32))
    first, second = (device.to_host(getattr(fastce, name)(x, axis=1)) for _ in range(2))
    assert same_bits(first, second)


# ------------------------------------------------------------------------------------------------- errors
@every_function
@pytest.mark.parametrize(("axis", "error"), [(2, ValueError), ((0, 0), ValueError), ("a", TypeError), (1.5, TypeError)])
def test_axes_that_are_none(device, name, axis, error):
    with pytest.raises(error):
        getattr(fastce, name)(device.to_device(np.zeros((2, 3))), axis=axis)


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
def test_an_out_that_does_not_fit_is_a_value_error(device, name):
    memory = np.full((5, 40), 7, np.float32)
    x = memory[:4, :6]
    for out in (
        np.zeros((4, 5), np.float32), np.zeros((4, 6)), memory[1:, :6], memory[:4, 1:7], memory[:4, 5::-1],
        np.broadcast_to(np.zeros(6, np.float32), (4, 6)),
    ):  # fmt: skip
        before = out.copy()
        with pytest.raises(ValueError, match="out "):
            getattr(fastce, name)(device.to_device(x), axis=1, out=device.to_device(out))
        assert same_bits(out, before)
    with pytest.raises(TypeError, match="all arrays of a call must be in one place"):
        getattr(fastce, name)(device.to_device(x), axis=1, out=np.zeros((4, 6), np.float32))


@every_function
@pytest.mark.parametrize("dtype", ["complex64", "M8[s]", "f4,i4", ">f4"])
def test_arrays_of_the_wrong_kind_are_type_errors(device, name, dtype):
    with pytest.raises(TypeError, match="dtype"):
        getattr(fastce, name)(device.to_device(np.zeros((2, 3), dtype)), axis=1)
