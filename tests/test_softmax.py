"""logsumexp, softmax and log_softmax are drop-in replacements for those of scipy.special."""

import math

import mpmath
import naive
import numpy as np
import pytest
import scipy.special
from checks import allocated
from covering import covering

import fastce
from fastce.cpu._kernels.columns import NARROW

NAMES = ["logsumexp", "softmax", "log_softmax"]
AXES_3D = [None, 0, 1, 2, -1, -3, (0, 1), (0, 2), (2, 1), (-1, -2), (0, 1, 2), ()]


def run(name, x, **options):
    return getattr(fastce, name)(x, **options)


def scipy_of(name, x, **options):
    """SciPy's result for the values of x, without its warnings; in longdouble, next to which it is exact."""
    x = np.asarray(x)
    with np.errstate(all="ignore"):
        return getattr(scipy.special, name)(x if x.dtype.kind == "c" else x.astype(np.longdouble), **options)


def assert_close(name, actual, x, axis=None, dtype=None, **options):
    """The dtype and shape promised, and the values of SciPy's formula to what the dtype allows."""
    expected = scipy_of(name, x, axis=axis, **options)
    actual = np.asarray(actual)
    assert actual.dtype == (np.asarray(x).dtype if dtype is None else dtype)
    assert actual.shape == np.shape(expected)
    eps = float(np.spacing(actual.dtype.type(1)))
    relative, absolute = 2 * eps, 2 * eps  # 2 eps relative are 2 ulp at most; near 0, 2 eps absolute
    if name == "softmax":
        # x - max is rounded to half an ulp of itself, and exp turns that into a relative error; exp itself,
        # the sum and the division add their ulps.
        x = np.asarray(x, np.float64)
        with np.errstate(invalid="ignore"):
            distance = x.max(axis=axis, keepdims=True) - x if x.size else np.zeros(x.shape)
        relative, absolute = (4 + np.where(np.isfinite(distance), distance, 0) / 2) * eps, 0
    with np.errstate(invalid="ignore", over="ignore"):
        same = (actual == np.asarray(expected).astype(actual.dtype)) | (np.isnan(actual) & np.isnan(expected))
        error = np.abs(actual.astype(np.longdouble) - expected)
        within = error <= naive.allowed(1, actual.dtype) * (relative * np.abs(expected) + absolute)
    assert np.all(same | within), f"off by {np.max(np.where(same, 0, error))}"


def assert_same_bits(actual, expected):
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert (actual.dtype, actual.shape) == (expected.dtype, expected.shape)
    assert actual.tobytes() == expected.tobytes()


# --------------------------------------------------------------------------------------------- values
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1000,), (40, 10), (5, 3000), (3000, 5), (2, 3, 4, 5)])
def test_float64_differs_from_scipys_float64_by_scipys_error_at_most(name, shape, rng):
    x = rng.normal(0, 5, shape)
    for axis in [None, *range(len(shape))]:
        n, distance = x.size if axis is None else shape[axis], np.ptp(x)
        # SciPy rounds x - max, by half an ulp of the distance, and may add the exponentials one after the other
        error = (n / 2 + distance / 2 + 4) * 2.0**-52
        ours, theirs = run(name, x, axis=axis), getattr(scipy.special, name)(x, axis=axis)
        relative, absolute = (error, 0) if name == "softmax" else (1e-15, error)
        np.testing.assert_allclose(ours, theirs, rtol=relative, atol=absolute)


@covering(
    {
        "name": NAMES,
        "dtype": [np.float32, np.float64],
        "shape": [(1,), (7,), (1000,), (1, 1), (3, 1), (1, 5), (40, 10), (5, 3000), (2, 3, 4, 5)],
    }
)
def test_values_are_those_of_scipys_formula_on_every_axis(name, dtype, shape, rng):
    x = rng.normal(0, 5, shape).astype(dtype)
    for axis in [None, *range(-len(shape), len(shape))]:
        assert_close(name, run(name, x, axis=axis), x, axis=axis)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("axis", AXES_3D)
def test_axis_may_be_none_an_integer_or_a_tuple(name, axis, rng):
    x = rng.normal(0, 3, (4, 5, 6))
    assert_close(name, run(name, x, axis=axis), x, axis=axis)
    if name == "logsumexp":
        assert_close(name, run(name, x, axis=axis, keepdims=True), x, axis=axis, keepdims=True)


def test_arguments_may_be_given_by_position_as_in_scipy():
    a, b = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, -1.0], [2.0, 3.0]])
    ours, theirs = fastce.logsumexp(a, 1, b, True, True), scipy.special.logsumexp(a, 1, b, True, True)
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-15)
    np.testing.assert_array_equal(ours[1], theirs[1])
    np.testing.assert_allclose(fastce.softmax(a, 1), scipy.special.softmax(a, 1), rtol=1e-15)
    np.testing.assert_allclose(fastce.log_softmax(a, 1), scipy.special.log_softmax(a, 1), rtol=1e-15)


SPECIAL_ROWS = {
    "all -inf": [-np.inf, -np.inf, -np.inf],
    "one -inf": [1.0, -np.inf, 2.0],
    "all but one -inf": [-np.inf, -3.0, -np.inf],
    "+inf": [1.0, np.inf, 2.0],
    "+inf twice": [np.inf, np.inf, 2.0],
    "+inf and -inf": [np.inf, -np.inf, 0.0],
    "nan": [1.0, np.nan, 2.0],
    "nan and -inf": [-np.inf, np.nan, -np.inf],
    "nan and +inf": [np.inf, np.nan, 0.0],
    "nan first": [np.nan, 1.0, 2.0],
    "confident": [0.0, -40.0, -80.0],
    "equal": [0.5, 0.5, 0.5],
    "huge": [3e38, -3e38, 3e38],
    "below any exponential": [-1e30, -1e30, -1e30],
    "subnormal": [1e-44, -1e-44, 3e-45],
}


@covering({"name": NAMES, "dtype": [np.float32, np.float64], "case": SPECIAL_ROWS})
def test_special_values_are_those_of_scipy(name, dtype, case):
    x = np.array(SPECIAL_ROWS[case], dtype)
    assert_close(name, run(name, x), x)
    assert_close(name, run(name, x[None], axis=1), x[None], axis=1)
    assert_close(name, run(name, x[:, None], axis=0), x[:, None], axis=0)


@covering({"name": NAMES, "dtype": [np.float32, np.float64], "columns": [3, 5000], "axis": [0, 1]})
def test_special_values_stay_in_their_row(name, dtype, columns, axis, rng):
    x = rng.normal(0, 2, (100, columns)).astype(dtype)
    for i, value in enumerate(4 * [np.nan] + 4 * [np.inf] + 4 * [-np.inf]):
        x[8 * i, [0, columns // 2, -1][i % 3]] = value
    x[97] = -np.inf
    x = x if axis == 1 else np.ascontiguousarray(x.T)
    assert_close(name, run(name, x, axis=axis), x, axis=axis)


def test_logsumexp_keeps_what_the_largest_element_would_swallow():
    assert fastce.logsumexp([0.0, -40.0]) == pytest.approx(4.248354255291589e-18, rel=1e-15)
    assert fastce.logsumexp(np.float32([0, -40])) == pytest.approx(4.248354255291589e-18, rel=2e-7)


@pytest.mark.parametrize(
    ("shape", "axis"),
    [((0,), None), ((0,), 0), ((0, 3), 0), ((3, 0), 1), ((0, 3), None), ((2, 0, 3), (0, 1))],
)
def test_logsumexp_of_nothing_is_minus_infinity(shape, axis):
    result = fastce.logsumexp(np.empty(shape, np.float32), axis=axis)
    assert result.dtype == np.float32
    assert result.shape == np.sum(np.empty(shape), axis=axis).shape
    assert np.all(result == -np.inf)


@pytest.mark.parametrize("name", NAMES)
def test_no_rows_give_no_results(name):
    assert run(name, np.empty((0, 3)), axis=1).shape == ((0,) if name == "logsumexp" else (0, 3))
    assert run(name, np.empty((3, 0)), axis=0).shape == ((0,) if name == "logsumexp" else (3, 0))


@pytest.mark.slow
def test_more_elements_than_a_32_bit_integer_can_count():
    count = 2**31 + 7
    result = fastce.logsumexp(np.broadcast_to(np.float32(0), (count,)))
    assert naive.ulp_error(result, np.float64(math.log(count))) <= 1


# -------------------------------------------------------------------------------------- b and the sign
B_SHAPES = [(), (1,), (6,), (5, 1), (5, 6), (4, 1, 1), (4, 5, 6)]


@covering({"shape": B_SHAPES, "axis": [None, 0, 2, (0, 2)], "kind": ["positive", "with zeros", "with negatives"]})
def test_b_is_broadcast_and_may_be_zero_or_negative(shape, axis, kind, rng):
    a, b = rng.normal(0, 3, (4, 5, 6)), rng.uniform(0.5, 2, shape)
    if kind != "positive":
        b = b * np.where(rng.random(shape) < 0.3, 0 if kind == "with zeros" else -1, 1)
    for keepdims in (False, True):
        value, sign = fastce.logsumexp(a, axis=axis, b=b, keepdims=keepdims, return_sign=True)
        expected, expected_sign = scipy.special.logsumexp(a, axis=axis, b=b, keepdims=keepdims, return_sign=True)
        # sums of both signs cancel; against these data no more than two digits, measured
        np.testing.assert_allclose(value, expected, rtol=1e-13, atol=1e-13)
        np.testing.assert_array_equal(sign, expected_sign)
        assert np.shape(sign) == np.shape(value) == np.shape(expected)
        unsigned = fastce.logsumexp(a, axis=axis, b=b, keepdims=keepdims)
        np.testing.assert_array_equal(unsigned, np.where(sign < 0, np.nan, value))


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([1.0, 2.0], [0, 0]),
        ([np.inf, np.nan, 2.0], [0, 0, 1]),
        ([1.0, 1.0], [1, -1]),
        ([1.0, 2.0], [-1, 0]),
        ([1.0, 2.0], [np.inf, 0]),
        ([1.0, 2.0], [np.nan, 0]),
        ([np.inf, np.inf], [1, -1]),
        ([np.inf, 0.0], [-1, 1]),
        ([-np.inf, -np.inf], [-1, 1]),
        ([-np.inf], [-1]),
        ([np.nan, 1.0], [1, 1]),
        ([0.0, -40.0], [1, -1]),
        ([0.0, -40.0], [1, 2]),
        ([3.06409428, 0.37251854, 3.87471931], [1.88190708, 2.84174795, -0.85016884]),
    ],
)
def test_special_cases_of_b_are_those_of_scipy(a, b):
    value, sign = fastce.logsumexp(a, b=b, return_sign=True)
    with np.errstate(all="ignore"):
        expected, expected_sign = scipy.special.logsumexp(a, b=b, return_sign=True)
    np.testing.assert_allclose(value, expected, rtol=1e-14)
    np.testing.assert_array_equal(sign, expected_sign)
    # Nothing has no sign, though SciPy 1.15 gives it one: its logarithm is -inf.
    np.testing.assert_array_equal(fastce.logsumexp(a, b=b), np.nan if sign < 0 and value > -np.inf else value)


@pytest.mark.parametrize("row", [[1.0, 2.0], [-np.inf], [np.inf, 1.0], [np.nan, 1.0], [-np.inf, 3.0]])
def test_sign_without_b(row):
    value, sign = fastce.logsumexp(row, return_sign=True)
    expected, expected_sign = scipy.special.logsumexp(row, return_sign=True)
    np.testing.assert_allclose(value, expected, rtol=1e-15)
    np.testing.assert_array_equal(sign, expected_sign)


def test_b_larger_than_a_is_broadcast_too():
    assert fastce.logsumexp(np.zeros((4, 1, 2, 1)), b=np.ones((3, 1, 5))) == pytest.approx(math.log(120), rel=1e-15)


def test_b_that_does_not_broadcast_is_an_error_with_both_shapes():
    with pytest.raises(ValueError, match=r"(?s)\(2, 3\).*\(3, 2\)|\(3, 2\).*\(2, 3\)"):
        fastce.logsumexp(np.zeros((2, 3)), b=np.ones((3, 2)))


@pytest.mark.parametrize("a", ["f2", "f4", "f8", "i4"])
@pytest.mark.parametrize("b", ["f2", "f4", "f8", "i8"])
def test_a_and_b_are_promoted_as_in_scipy(a, b):
    a, b = np.array([1, 2], a), np.array([1, 3], b)
    result, expected = fastce.logsumexp(a, b=b), scipy.special.logsumexp(a, b=b)
    assert result.dtype == expected.dtype
    exact = scipy_of("logsumexp", a, b=b.astype(np.float64))
    assert naive.ulp_error(result, exact) <= 2  # 1 of fastce, and SciPy's own where both are float64


# --------------------------------------------------------------------------------------------- dtypes
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(50,), (30, 9), (4, 2000)])
def test_float16_is_read_and_returned(name, shape, rng):
    x = rng.normal(0, 2, shape).astype(np.float16)
    assert_close(name, run(name, x, axis=-1), x, axis=-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(50,), (30, 9), (4, 2000)])
def test_bfloat16_is_read_and_returned(name, shape, rng):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    x = rng.normal(0, 2, shape).astype(bfloat16)
    assert_close(name, run(name, x, axis=-1), x, axis=-1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["?", "i1", "u1", "i2", "i4", "i8", "u8", ">i4"])
def test_integers_and_bool_become_float64(name, dtype, rng):
    x = rng.integers(0, 2 if dtype == "?" else 10, (6, 7)).astype(dtype)
    assert_close(name, run(name, x, axis=1), x, axis=1, dtype=np.float64)


def test_large_integers_are_rounded_once():
    x = np.array([2**63, 2**63 + 2**11], np.uint64)
    assert fastce.logsumexp(x) == float(2**63 + 2**11)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [np.complex64, np.complex128, np.longdouble])
def test_complex_and_longdouble_are_handed_to_scipy(name, dtype, rng):
    x = rng.normal(0, 2, (4, 5)).astype(dtype)
    if x.dtype.kind == "c":
        x += 1j * rng.normal(0, 2, (4, 5))
    result, expected = run(name, x, axis=1), getattr(scipy.special, name)(x, axis=1)
    assert result.dtype == expected.dtype
    np.testing.assert_array_equal(result, expected)


@pytest.mark.parametrize("b", [np.array([1, 1j]), np.array([1, 2], np.longdouble)])
def test_complex_and_longdouble_b_are_handed_to_scipy(b):
    result, expected = fastce.logsumexp([1.0, 2.0], b=b), scipy.special.logsumexp([1.0, 2.0], b=b)
    assert type(result) is type(expected)
    assert result == expected


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", [3, 3.0, np.float32(3), np.array(3.0), [3.0], [[1, 2], [3, 4]], (1.5, 2), range(4)])
def test_scalars_lists_and_0d_arrays(name, x):
    result, expected = run(name, x), getattr(scipy.special, name)(x)
    assert type(result) is type(expected)
    assert_close(name, result, x, dtype=expected.dtype)


def test_full_reductions_are_numpy_scalars():
    assert type(fastce.logsumexp(np.float32([[1, 2]]))) is np.float32
    assert all(type(part) is np.float64 for part in fastce.logsumexp([1.0, 2.0], return_sign=True))


@pytest.mark.filterwarnings("ignore:the matrix subclass:PendingDeprecationWarning")
@pytest.mark.parametrize("name", NAMES)
def test_matrix_is_treated_as_an_array(name):
    x = np.array([[1.0, 2.0], [3.0, 5.0]])
    result = run(name, np.matrix(x), axis=1)
    assert type(result) is np.ndarray
    assert_same_bits(result, run(name, x, axis=1))


# ---------------------------------------------------------------------------------------- memory layouts
def misaligned(x):
    raw = bytearray(x.nbytes + 1)
    result = np.frombuffer(raw, x.dtype, x.size, offset=1).reshape(x.shape)
    result[...] = x
    assert not result.flags.aligned
    return result


def read_only(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def strided(x):
    wide = np.full((*x.shape[:-1], 3 * x.shape[-1]), 9, x.dtype)
    wide[..., 1::3] = x
    return wide[..., 1::3]


def spaced_rows(x):
    wide = np.full((x.shape[0], 2, *x.shape[1:-1], x.shape[-1] + 3), 9, x.dtype)
    wide[:, 1, ..., : x.shape[-1]] = x
    return wide[:, 1, ..., : x.shape[-1]]


LAYOUTS = {
    "read-only": read_only,
    "Fortran": np.asfortranarray,
    "negative strides": lambda x: x[::-1, ..., ::-1].copy()[::-1, ..., ::-1],
    "every third element": strided,
    "rows with gaps": spaced_rows,
    "permuted axes": lambda x: np.moveaxis(np.moveaxis(x, 0, 1).copy(), 1, 0),
    "misaligned": misaligned,
    "byte-swapped": lambda x: x.astype(x.dtype.newbyteorder()),
    "misaligned and byte-swapped": lambda x: misaligned(x.astype(x.dtype.newbyteorder())),
}


@covering({"name": NAMES, "dtype": [np.float16, np.float32, np.float64], "layout": LAYOUTS})
def test_any_layout_gives_the_bits_of_a_plain_copy(name, dtype, layout, rng):
    for shape in [(37, 20), (3, 1500), (700, 4), (5, 6, 7)]:
        x = rng.normal(0, 4, shape).astype(dtype)
        twin = LAYOUTS[layout](x)
        before = twin.tobytes()
        for axis in [None, 0, -1]:
            ours, plain = run(name, twin, axis=axis), run(name, x, axis=axis)
            if axis is not None and shape[axis] > NARROW:  # then the layout decides which kernel it is
                eps = np.finfo(dtype).eps
                np.testing.assert_allclose(ours.astype(float), plain.astype(float), rtol=4 * eps, atol=2 * eps)
            else:
                assert_same_bits(ours, plain)
        assert twin.tobytes() == before, "the input was written to"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_axes_at_all_are_rows_of_one_element_in_any_layout(name, layout, rng):
    for shape in [(5, 6), (2, 3, 4), (2, 3, 4, 5), (2, 1, 3, 1, 300)]:
        x = rng.normal(0, 4, shape)
        expected = {"softmax": np.ones(shape), "log_softmax": np.zeros(shape)}.get(name, x)
        np.testing.assert_allclose(run(name, LAYOUTS[layout](x), axis=()), expected, rtol=4 * np.finfo(float).eps)


@pytest.mark.parametrize("name", NAMES)
def test_zero_strides_give_the_bits_of_a_plain_copy(name, rng):
    row, column = rng.normal(0, 4, (1, 3000)), rng.normal(0, 4, (50, 1))
    for source, shape in [(row, (5, 3000)), (column, (50, 20)), (1.5, (6, 7))]:
        x = np.broadcast_to(source, shape)
        for axis in [None, 0, 1]:
            assert_same_bits(run(name, x, axis=axis), run(name, x.copy(), axis=axis))


@pytest.mark.parametrize("name", NAMES)
def test_windows_that_share_memory_give_the_bits_of_a_plain_copy(name, rng):
    x = np.lib.stride_tricks.sliding_window_view(rng.normal(0, 4, 500), 40)
    for axis in [0, 1]:
        assert_same_bits(run(name, x, axis=axis), run(name, x.copy(), axis=axis))


@pytest.mark.parametrize("name", NAMES)
def test_memmap_opened_for_reading(name, tmp_path, rng):
    x = rng.normal(0, 4, (30, 500)).astype(np.float32)
    x.tofile(tmp_path / "logits")
    mapped = np.memmap(tmp_path / "logits", x.dtype, "r", shape=x.shape)
    result = run(name, mapped, axis=1)
    assert type(result) is np.ndarray
    assert_same_bits(result, run(name, x, axis=1))


def test_b_in_any_layout_gives_the_bits_of_a_plain_copy(rng):
    a, b = rng.normal(0, 4, (30, 20)), rng.normal(0, 1, (30, 20))
    expected = fastce.logsumexp(a, axis=1, b=b)
    for layout in LAYOUTS.values():
        assert_same_bits(fastce.logsumexp(a, axis=1, b=layout(b)), expected)


# ------------------------------------------------------------------------------------------------ out
WITH_OUT = ["softmax", "log_softmax"]
OUT_LAYOUTS = ["plain", "Fortran", "negative strides", "every third element", "rows with gaps", "misaligned"]


@covering({"name": WITH_OUT, "axis": [None, 0, 1, (0, 1)], "layout": OUT_LAYOUTS})
def test_out_receives_the_result_and_nothing_else_is_touched(name, axis, layout, rng):
    x = rng.normal(0, 4, (40, 33)).astype(np.float32)
    expected, before = run(name, x, axis=axis), x.copy()
    out = np.full(x.shape, 7, np.float32) if layout == "plain" else LAYOUTS[layout](np.full_like(x, 7))
    assert run(name, x, axis=axis, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, before)
    if layout == "every third element":
        assert np.all(np.delete(out.base, np.s_[1::3], axis=1) == 9)


@covering({"name": WITH_OUT, "axis": [None, 0, 1], "layout": OUT_LAYOUTS})
def test_out_may_be_the_input_itself(name, axis, layout, rng):
    x = rng.normal(0, 4, (40, 33))
    expected = run(name, x, axis=axis)
    x = x if layout == "plain" else LAYOUTS[layout](x)
    assert run(name, x, axis=axis, out=x) is x
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("name", WITH_OUT)
def test_out_may_be_another_view_of_exactly_the_input(name, rng):
    x = rng.normal(0, 4, (40, 33))
    expected = run(name, x, axis=1)
    run(name, x, axis=1, out=x[:])
    np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("dtype", ["f2", "i4"])
def test_out_for_other_dtypes(name, dtype):
    x = np.array([[1, 2, 3]], dtype)
    expected = run(name, x, axis=1)
    out = np.empty_like(expected)
    assert run(name, x, axis=1, out=out) is out
    assert_same_bits(out, expected)


def bad_outs(x):
    sevens, strides = np.full(100, 7, x.dtype), (x.itemsize, x.itemsize)
    return {
        "wrong shape": np.full((x.shape[0], x.shape[1] + 1), 7, x.dtype),
        "transposed shape": np.full(x.shape[::-1], 7, x.dtype),
        "one dimension too many": np.full((1, *x.shape), 7, x.dtype),
        "wrong dtype": np.full(x.shape, 7, np.float64),
        "integers": np.full(x.shape, 7, np.int32),
        "read-only": read_only(np.full(x.shape, 7, x.dtype)),
        "zero strides": np.broadcast_to(x.dtype.type(7), x.shape),
        "overlapping itself": np.lib.stride_tricks.as_strided(sevens, x.shape, strides),
        "a list": [[7.0] * x.shape[1]] * x.shape[0],
    }


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("case", bad_outs(np.zeros((2, 3), np.float32)))
def test_an_out_that_does_not_fit_is_an_error_and_nothing_is_written(name, case, rng):
    x = rng.normal(0, 4, (8, 5)).astype(np.float32)
    out = bad_outs(x)[case]
    with pytest.raises((ValueError, TypeError), match="out"):
        run(name, x, axis=1, out=out)
    assert np.all(np.asarray(out) == 7)


@pytest.mark.parametrize("name", WITH_OUT)
@pytest.mark.parametrize("shift", ["rows", "columns", "reversed", "transposed"])
def test_an_out_that_overlaps_the_input_in_part_is_an_error(name, shift, rng):
    memory = rng.normal(0, 4, (9, 9))
    before = memory.copy()
    x, out = {
        "rows": (memory[:-1], memory[1:]),
        "columns": (memory[:, 1:], memory[:, :-1]),
        "reversed": (memory, memory[::-1]),
        "transposed": (memory, memory.T),
    }[shift]
    with pytest.raises(ValueError, match="out"):
        run(name, x, axis=1, out=out)
    np.testing.assert_array_equal(memory, before)


@pytest.mark.parametrize("name", WITH_OUT)
def test_an_out_that_only_interleaves_with_the_input_is_fine(name, rng):
    memory = rng.normal(0, 4, (10, 14))
    x, out = memory[:, 0::2], memory[:, 1::2]
    expected, before = run(name, x, axis=1), x.copy()
    run(name, x, axis=1, out=out)
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(x, before)


# --------------------------------------------------------------------------------------------- errors
WRONG_KINDS = {
    "mask": np.ma.array([1.0, 2.0], mask=[False, True]),
    "object": np.array([1.0, 2.0], object),
    "str|<U": np.array(["1", "2"]),
    "bytes|S1": np.array([b"1", b"2"]),
    "datetime64": np.array(["2024-02-29"], "datetime64[D]"),
    "timedelta64": np.array([1], "timedelta64[s]"),
    "structured|void|dtype|'f8'": np.zeros(2, "f8,f8"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", WRONG_KINDS)
def test_arrays_of_the_wrong_kind_are_type_errors_that_say_so(name, kind):
    with pytest.raises(TypeError, match=kind) as error:
        run(name, WRONG_KINDS[kind])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("x", ["12", None, [None, 1.0], ["a"]])
def test_objects_that_are_no_numbers_are_type_errors(name, x):
    with pytest.raises(TypeError):
        run(name, x)


@pytest.mark.parametrize("name", NAMES)
def test_ragged_lists_are_value_errors(name):
    with pytest.raises(ValueError, match="inhomogeneous"):  # NumPy's word
        run(name, [[1.0, 2.0], [3.0]])


@pytest.mark.parametrize("b", [np.ma.array([1.0, 2.0], mask=[0, 1]), np.array([1, 2], object), ["a", "b"]])
def test_b_of_the_wrong_kind_is_a_type_error(b):
    with pytest.raises(TypeError):
        fastce.logsumexp([1.0, 2.0], b=b)


@pytest.mark.parametrize("name", NAMES)
def test_axis_out_of_range_and_axis_twice_are_value_errors(name):
    for axis in [2, -3, (0, 2)]:
        with pytest.raises(np.exceptions.AxisError):
            run(name, np.zeros((2, 3)), axis=axis)
    for axis in [(0, 0), (1, -1)]:
        with pytest.raises(ValueError, match="axis"):
            run(name, np.zeros((2, 3)), axis=axis)
    for axis in [0.5, "0"]:
        with pytest.raises(TypeError):
            run(name, np.zeros((2, 3)), axis=axis)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", NAMES)
def test_a_largest_element_far_above_the_first_ones_of_many(name, dtype, rng):
    # Beside each other, references of many classes are guessed from the first; some rows outgrow theirs, others do not.
    x = rng.normal(size=(NARROW + 44, 1100)).astype(dtype)
    far = rng.integers(0, x.shape[0], x.shape[1])
    x[far, np.arange(x.shape[1])] += rng.choice([0.0, 20.0, 26.0, 27.0, 28.0, 40.0, 700.0], x.shape[1]).astype(dtype)
    result = run(name, x, axis=0)
    assert_close(name, result, x, axis=0)
    alone = [run(name, np.ascontiguousarray(x[:, k : k + 20]), axis=0) for k in range(0, x.shape[1], 20)]
    assert_same_bits(result, np.concatenate(alone, axis=-1))


@pytest.mark.parametrize("shape", [(1 << 20, 2), (8, 2, 1 << 17)])
def test_logsumexp_of_many_rows_keeps_no_more_than_its_results(shape):
    x = np.zeros(shape, np.float32)
    size = fastce.logsumexp(x, axis=1).nbytes
    assert allocated(lambda: fastce.logsumexp(x, axis=1, n_threads=1)) < 1.5 * size


@pytest.mark.parametrize("name", NAMES)
def test_n_threads_must_be_a_positive_integer_or_none(name):
    for n_threads in [0, -1]:
        with pytest.raises(ValueError, match="n_threads"):
            run(name, [1.0], n_threads=n_threads)
    for n_threads in [True, 1.0, "2"]:
        with pytest.raises(TypeError, match="n_threads"):
            run(name, [1.0], n_threads=n_threads)
    assert_same_bits(run(name, [1.0, 2.0], n_threads=np.int64(2)), run(name, [1.0, 2.0]))


@pytest.mark.parametrize("name", NAMES)
def test_special_values_never_warn(name, recwarn):
    x = np.array([[np.nan, 1], [np.inf, -np.inf], [-np.inf, -np.inf], [3e38, -3e38]])
    for dtype in [np.float16, np.float32, np.float64]:
        with np.errstate(over="ignore"):  # of this conversion, not of fastce
            narrow = x.astype(dtype)
        with np.errstate(all="warn"):
            run(name, narrow, axis=1)
            run(name, narrow)
    assert not recwarn.list


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("classes", [17, 100, 256, 300, 5000])
def test_logsumexp_of_float64_near_0_keeps_what_the_logarithm_of_many_classes_rounds_away(rng, classes, axis):
    """Rows of log probabilities: half an ulp of log(5000) alone is 4 eps."""
    rows = 40 if classes <= 300 else 4
    x = rng.normal(size=(rows, classes)) * rng.uniform(0, 2, (rows, 1))
    x[: rows // 2] = 0.0
    x[: rows // 4, 0] = rng.uniform(0, 8, rows // 4)
    x += rng.uniform(-0.3, 0.3, (rows, 1)) - np.log(np.exp(x).sum(1, keepdims=True))
    ours = fastce.logsumexp(x if axis == 1 else np.ascontiguousarray(x.T), axis=axis)
    with mpmath.workdps(40):
        for number, row in zip(ours, x, strict=True):
            exact = mpmath.log(mpmath.fsum(mpmath.exp(mpmath.mpf(float(u))) for u in row))
            assert abs(mpmath.mpf(float(number)) - exact) <= (2.0 if classes <= 256 else 2.5) * 2.0**-52


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("classes", [16, 17, 21, 32, 33])
def test_logsumexp_of_rows_near_zero_beside_large_ones(rng, classes, dtype):
    x = (rng.normal(size=(3000, classes)) + rng.choice([-30, -3, -1, 0, 4.4, 4.6, 20], (3000, 1))).astype(dtype)
    found = fastce.logsumexp(x, axis=1)
    if dtype == "float32":
        wide = np.sort(x, axis=1).astype(np.float64)
        truth = wide[:, -1] + np.log1p(np.exp(wide[:, :-1] - wide[:, -1:]).sum(axis=1))
        bound = np.maximum(np.spacing(np.abs(found)), 2 * np.finfo(dtype).eps * (np.abs(found) < 1))
        assert (np.abs(found - truth) <= bound).all()
    order = rng.permutation(len(x))
    np.testing.assert_array_equal(fastce.logsumexp(x[order], axis=1), found[order], "a row's bits are its own")
    np.testing.assert_array_equal(fastce.logsumexp(np.ascontiguousarray(x.T), axis=0), found)
